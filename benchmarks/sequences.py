"""How true the tracker's poses are on recordings of real cameras: a row a sequence and source.

python benchmarks/sequences.py SEQUENCES [--model lite] [--only NAME] [--every 1]

SEQUENCES holds one folder a recording: images/, depth/<stem>.png (16 bit, metres = value x
depth_scale, 0 = unknown) or L_*/R_* pairs, and meta.json with K, cameras[name] =
{world_from_camera, stamp_s, segment} and pose_sigma {m, deg}. The truth's own sigma is added to
NEES and wrong poses; frames of two segments are not compared. Run it on another matcher before
and after a change: it is the one command that shows whether covariances still hold.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.progress import track
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, FloatArray, Frame
from l2m_ros.workshop.evaluation.tracking import (
    Margin,
    PosedFrame,
    TruthSigma,
    pose_errors,
    summarize,
)
from l2m_ros.workshop.evaluation.trajectory import Trajectory, trajectory_error

STEREO_MARGIN = Margin(m=0.2, deg=0.5)


@dataclass(frozen=True, eq=False)
class View:
    """One frame of a recording with its truth."""

    frame: Frame
    world_from_camera: FloatArray
    segment: int


def views(folder: Path, every: int) -> Iterator[View]:
    meta = json.loads((folder / "meta.json").read_text())
    cameras = meta["cameras"]
    names = sorted(name for name in cameras if not name.startswith("R_"))
    for number, name in list(enumerate(names))[::every]:
        facts = cameras[name]
        rgb = _rgb(folder / "images" / name)
        camera = Camera(rgb.shape[1], rgb.shape[0], np.array(facts.get("K", meta.get("K")), float))
        frame = Frame(rgb, camera, stamp_ns=round(facts.get("stamp_s", number / 10) * 1e9))
        frame = replace(frame, **_scale(folder, meta, name))
        yield View(frame, np.array(facts["world_from_camera"]), facts.get("segment", 0))


def _scale(folder: Path, meta: dict, name: str) -> dict:
    """The right image of a stereo pair, or the depth image."""
    baseline_m = float(meta.get("stereo_baseline_m", 0.0))
    if baseline_m:
        right = "R_" + name[2:]
        rgb = _rgb(folder / "images" / right)
        K = np.array(meta["cameras"][right].get("K", meta.get("K")), float)
        right_from_camera = np.eye(4)
        right_from_camera[0, 3] = -baseline_m
        camera = Camera(rgb.shape[1], rgb.shape[0], K)
        return {
            "right_rgb": rgb,
            "right_camera": camera,
            "right_from_camera": right_from_camera,
        }
    path = folder / "depth" / f"{Path(name).stem}.png"
    z = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32) * meta["depth_scale"]
    return {"depth": np.where(z > 0, z, np.nan)}


def _rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def row(folder: Path, matcher: Matcher, every: int) -> str:
    """The report card of one recording."""
    meta = json.loads((folder / "meta.json").read_text())
    stereo = bool(meta.get("stereo_baseline_m"))
    tracker, posed, chained, why = Tracker(matcher), [], [], Counter()
    stamps, truth, segment = [], [], {}
    for view in track(views(folder, every), folder.name):
        stamp_ns = view.frame.stamp_ns
        stamps.append(stamp_ns)
        truth.append(view.world_from_camera)
        segment[stamp_ns] = view.segment
        result = tracker.process(view.frame)
        if result.odom_from_camera is not None:
            chained.append((stamp_ns, result.odom_from_camera))
        if result.pose is None:
            why[result.why_not_posed] += 1
            continue
        kept_ns = result.keyframe.frame.stamp_ns
        if segment[kept_ns] == view.segment:
            pose = result.pose
            posed.append(PosedFrame(stamp_ns, kept_ns, pose.keyframe_from_camera, pose.covariance))
    world = Trajectory(np.array(stamps), np.array(truth))
    sigma = TruthSigma(meta["pose_sigma"]["m"], meta["pose_sigma"]["deg"])
    errors = pose_errors(posed, world, sigma)
    s = summarize(errors, len(stamps), STEREO_MARGIN if stereo else Margin())
    chain = Trajectory(np.array([at for at, _ in chained]), np.array([T for _, T in chained]))
    t = trajectory_error(chain, world)
    share = 100.0 * (len(stamps) - why.total()) / len(stamps)
    return (
        f"{folder.name:<16}{'stereo' if stereo else 'depth':<8}{share:7.1f}"
        f"{s.translation_median_mm:9.1f}{s.translation_p95_mm:8.1f}"
        f"{s.rotation_median_deg:9.3f}{s.rotation_p95_deg:8.3f}{s.nees_mean:8.2f}"
        f"{s.wrong_poses:7d}{s.harmful_poses:8d}{1e3 * t.rpe_rmse_m:9.1f}"
        f"{1e3 * t.ate_rmse_m:9.1f}{t.length_m:8.1f}  {dict(why)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--only", help="recordings whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="every so many frames")
    args = parser.parse_args()
    matcher = load_matcher(args.model)
    print(
        "recording       source  posed %   med mm  p95 mm  med deg p95 deg    NEES  wrong"
        " harmful  RPE mm   ATE mm  length m  not posed"
    )
    for meta in sorted(args.sequences.glob("*/meta.json")):
        if not args.only or args.only in meta.parent.name:
            print(row(meta.parent, matcher, args.every), flush=True)


if __name__ == "__main__":
    main()
