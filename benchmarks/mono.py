"""Metres from one camera alone, on recordings of real cameras: how far off, and how well it knows.

python benchmarks/mono.py SEQUENCES --mono-depth HEAD [--only NAME] [--every 1] [--plot F.png]
python benchmarks/mono.py SEQUENCES --camera-height 1.65 --only kitti_1

SEQUENCES as for benchmarks/sequences.py; depth, right images and odometry are not used. A row a
recording: frames posed in metres, median error of the scale, NEES; then, keyframe by keyframe, the
log of the scale's error and the sigma that was stated, which --plot draws, and how far neighbours'
readings err together (a card's `image_correlation`).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import blas  # noqa: F401
import cv2
import numpy as np
from sequences import View, bare, recordings_in, views

from l2m_ros.geometry.pose import PoseOptions
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.mono_depth import load_depth_reader
from l2m_ros.parameters.table import FORWARD_LOOKING, base_from_camera
from l2m_ros.progress import track
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.tracker import Tracker, TrackerOptions
from l2m_ros.types import FloatArray
from l2m_ros.workshop.evaluation.tracking import PosedFrame, TruthSigma, pose_errors, summarize
from l2m_ros.workshop.evaluation.trajectory import Trajectory

LEAST_DEPTHS = 500  # pixels whose depth a sensor knows


@dataclass(frozen=True)
class ScaleRow:
    """One keyframe: the median log of depth read over depth measured, and what was stated."""

    chain: int
    log_error: float
    sigma: float  # of the log
    image_sigma: float  # the part that other keyframes make smaller
    alone: float  # the log error of what the image alone says


class Remembering:
    """A reader that remembers what it read last, before a chain corrected it."""

    def __init__(self, reader):
        self.reader, self.last = reader, None

    def read(self, rgb, camera, features):
        self.last = self.reader.read(rgb, camera, features)
        return self.last


def keyframe_scale(keyframe, alone, view: View) -> ScaleRow | None:
    mono, truth = keyframe.mono_depth, view.frame.depth
    if mono is None or truth is None:
        return None
    errors = []
    for depth in (mono.depth, alone.depth):
        ratio = np.log(depth / truth)
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio) < LEAST_DEPTHS:
            return None
        errors.append(float(np.median(ratio)))
    return ScaleRow(keyframe.chain, errors[0], mono.scale_sigma, mono.image_sigma, errors[1])


def level(height_m: float) -> FloatArray:
    """base_from_camera of a camera that looks straight ahead, its base on the floor."""
    base = base_from_camera({"base_from_camera": FORWARD_LOOKING})
    base[2, 3] = height_m
    return base


def correlation(rows: list[ScaleRow]) -> float:
    """Of neighbouring keyframes' own readings, about the recording's mean: a card's."""
    off, chain = _column(rows, "alone"), _column(rows, "chain")
    off -= off.mean()
    both = chain[1:] == chain[:-1]
    return float((off[1:] * off[:-1])[both].mean() / (off * off).mean())


def follow(folder: Path, args: argparse.Namespace, matcher, reader) -> tuple[str, list[ScaleRow]]:
    meta = json.loads((folder / "meta.json").read_text())
    # The gate on metres would pick the poses that are thought too short: the scale's own is used.
    options = TrackerOptions(
        pose=PoseOptions(max_scale_sigma=args.max_scale_sigma), gates=GateOptions(max_sigma_m=1e3)
    )
    if args.camera_height:
        options = replace(options, base_from_camera=level(args.camera_height), floor_below_base_m=0)
    reader = Remembering(reader) if reader else None
    tracker, posed, why, rows = Tracker(matcher, options, reader), [], Counter(), []
    stamps, truth, segment, inputs, sigmas = [], [], {}, {}, []
    for view in track(views(folder, args.every), folder.name):
        stamp_ns = view.frame.stamp_ns
        stamps.append(stamp_ns)
        truth.append(view.world_from_camera)
        segment[stamp_ns], inputs[stamp_ns] = view.segment, view
        result = tracker.process(bare(view.frame))
        if result.new_keyframe and result.keyframe is not None:
            kept = tracker.keyframe or result.keyframe
            alone = reader.last if reader else None
            row = keyframe_scale(kept, alone, inputs[kept.frame.stamp_ns])
            rows += [row] if row else []
        if result.pose is None:
            why[result.why_not_posed] += 1
            continue
        kept_ns = result.keyframe.frame.stamp_ns
        if segment[kept_ns] == view.segment:
            pose = result.pose
            sigmas.append(pose.scale_sigma)
            posed.append(PosedFrame(stamp_ns, kept_ns, pose.keyframe_from_camera, pose.covariance))
    of_truth = meta.get("pose_sigma", {"m": 0.0, "deg": 0.0})  # a simulator's has none
    sigma = TruthSigma(of_truth["m"], of_truth["deg"])
    s = summarize(
        pose_errors(posed, Trajectory(np.array(stamps), np.array(truth)), sigma), len(stamps)
    )
    share = 100.0 * (len(stamps) - why.total()) / len(stamps)
    stated = 100 * float(np.median(sigmas)) if sigmas else np.nan
    return (
        f"{folder.name:<16}{share:8.1f}{s.scale_median_percent:10.1f}{stated:10.1f}"
        f"{s.rotation_median_deg:9.3f}{s.nees_mean:8.2f}{s.wrong_poses:7d}  {dict(why)}",
        rows,
    )


def draw(curves: dict[str, list[ScaleRow]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(5 * len(curves), 3.2), squeeze=False)
    for ax, (name, rows) in zip(axes[0], curves.items(), strict=True):
        error = _column(rows, "log_error")
        ax.plot(error, "o-", ms=3, label="log of depth read over measured")
        for part, colour in (("sigma", "tab:red"), ("image_sigma", "tab:orange")):
            sigma = _column(rows, part)
            ax.plot(sigma, colour, label=f"stated: {part.replace('_', ' ')}")
            ax.plot(-sigma, colour)
        for k in range(1, len(rows)):
            if rows[k].chain != rows[k - 1].chain:
                ax.axvline(k - 0.5, color="0.8")
        ax.set(title=name, xlabel="keyframe", ylim=(-1.3, 1.8))
    axes[0][0].legend(fontsize=7, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def paint(folders: list[Path], reader, path: Path) -> None:
    """Two images of each recording: colour, depth read, depth measured, one colour scale a row."""
    rows = []
    for folder in folders:
        seen = list(views(folder, 7))
        for view in (seen[len(seen) // 4], seen[2 * len(seen) // 3]):
            if view.frame.depth is None:
                continue
            mono = reader.read(view.frame.rgb, view.frame.camera, None)
            far_m = float(np.nanquantile(view.frame.depth, 0.98)) * 1.2
            parts = [view.frame.rgb, *(_coloured(d, far_m) for d in (mono.depth, view.frame.depth))]
            rows.append(np.hstack([cv2.resize(part, (280, 210)) for part in parts]))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def _coloured(depth: FloatArray, far_m: float) -> np.ndarray:
    level = np.clip(255 * np.nan_to_num(depth) / far_m, 0, 255).astype(np.uint8)
    shown = cv2.applyColorMap(255 - level, cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(np.isfinite(depth)[..., None], shown, 0).astype(np.uint8)


def _column(rows: list[ScaleRow], name: str) -> FloatArray:
    return np.array([getattr(row, name) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--mono-depth", default="", help="a model that reads metres")
    parser.add_argument(
        "--camera-height", type=float, help="metres above the floor, level, on wheels"
    )
    parser.add_argument("--model", default="lite")
    parser.add_argument("--only", help="recordings whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="every so many frames")
    parser.add_argument("--max-scale-sigma", type=float, default=PoseOptions().max_scale_sigma)
    parser.add_argument("--plot", type=Path, help="picture of the curves")
    parser.add_argument("--pictures", type=Path, help="depth read beside depth measured, no table")
    args = parser.parse_args()
    matcher = load_matcher(args.model)
    reader = load_depth_reader(args.mono_depth, matcher)  # None: no model was named
    folders = recordings_in(args.sequences, args.only)
    if args.pictures:
        paint(folders, reader, args.pictures)
        return
    print("recording        posed %   scale %  stated %  med deg    NEES  wrong  not posed")
    curves = {}
    for folder in folders:
        line, rows = follow(folder, args, matcher, reader)
        print(line, flush=True)
        curves |= {folder.name: rows} if rows else {}
    for name, rows in curves.items():
        print(name, " ".join(f"{r.chain}:{r.log_error:+.2f}/{r.sigma:.2f}" for r in rows))
        print(f"  neighbouring keyframes' own readings correlate by {correlation(rows):.2f}")
    if args.plot and curves:
        draw(curves, args.plot)


if __name__ == "__main__":
    main()
