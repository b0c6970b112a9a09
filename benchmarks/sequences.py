"""How true the tracker's poses are on recordings of real cameras: a row a sequence and source.

python benchmarks/sequences.py SEQUENCES [--model lite] [--only NAME] [--every 1] [--reference]

SEQUENCES holds one folder a recording: images/, depth/<stem>.png (16 bit, metres = value x
depth_scale, 0 = unknown) or L_*/R_* pairs, and meta.json with K, cameras[name] =
{world_from_camera, stamp_s, depth_stamp_s, segment, odom} and pose_sigma {m, deg}. Each is tracked
with its depth or right image, with its odometry alone, and with neither.

The truth's own sigma is added to NEES and wrong poses. `alone` is NEES without it, `best` what an
exactly honest covariance would have with it (`workshop.evaluation.honesty`: below 6 where the truth
is better than it says); frames of two segments are not compared. RPE
and ATE are evo's of the chained poses: root mean square, from frame to frame, and after Umeyama's
alignment without scale. The drift is the last pose's error, the first laid on the truth; `end` is
the same in its own sigmas, on the worst of six axes, at the last pose of the first chain and of the
truth's first segment.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import blas  # noqa: F401
import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.parameters.file import parameter_values
from l2m_ros.parameters.table import tracker_options
from l2m_ros.progress import track
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.result import TrackResult
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, FloatArray, Frame, RelativePose
from l2m_ros.workshop.evaluation.honesty import honesty
from l2m_ros.workshop.evaluation.tracking import (
    Margin,
    PosedFrame,
    TruthSigma,
    pose_errors,
    summarize,
)
from l2m_ros.workshop.evaluation.trajectory import Trajectory, trajectory_error

STEREO_MARGIN = Margin(m=0.2, deg=0.5)
SOURCES = ("depth", "stereo", "odometry", "none")
ODOM_COVARIANCE = np.diag([0.01] * 3 + [1e-4] * 3)  # constant, as drivers publish it
HEAD = (
    "recording       source      posed %   med mm  p95 mm  med deg p95 deg    NEES  1st 2nd half"
    "  alone  best  wrong harmful  RPE mm   ATE mm  drift %  length m   end  not posed"
)


@dataclass(frozen=True, eq=False)
class View:
    """One frame of a recording with its truth."""

    frame: Frame
    world_from_camera: FloatArray
    segment: int
    odometry: OdometrySample | None = None


@dataclass(eq=False)
class Run:
    """What tracking a recording gave."""

    stamps: list[int] = field(default_factory=list)
    truth: list[FloatArray] = field(default_factory=list)
    posed: list[PosedFrame] = field(default_factory=list)
    chained: list[tuple[int, FloatArray]] = field(default_factory=list)
    end_sigmas: float = np.nan  # how far the chain's end is off, on its worst axis
    why: Counter[str] = field(default_factory=Counter)
    turns_deg: list[float] = field(default_factory=list)  # errors of relative poses
    directions_deg: list[float] = field(default_factory=list)


def meta_of(folder: Path) -> dict:
    return json.loads((folder / "meta.json").read_text())


def views(folder: Path, every: int) -> Iterator[View]:
    meta = meta_of(folder)
    cameras = meta["cameras"]
    names = sorted(name for name in cameras if not name.startswith("R_"))
    for number, name in list(enumerate(names))[::every]:
        facts = cameras[name]
        rgb = _rgb(folder / "images" / name)
        camera = Camera(rgb.shape[1], rgb.shape[0], np.array(facts.get("K", meta.get("K")), float))
        frame = Frame(rgb, camera, stamp_ns=round(facts.get("stamp_s", number / 10) * 1e9))
        frame = replace(frame, **_scale(folder, meta, name))
        if "depth_stamp_s" in facts:
            late_s = float(facts["depth_stamp_s"]) - float(facts["stamp_s"])
            frame = replace(frame, depth_late_s=late_s)
        odometry = None
        if "odom" in facts:  # of the camera itself
            odometry = OdometrySample(frame.stamp_ns, np.array(facts["odom"]), ODOM_COVARIANCE)
        yield View(frame, np.array(facts["world_from_camera"]), facts.get("segment", 0), odometry)


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


def sources_of(folder: Path) -> list[str]:
    """Those that a recording can be tracked with."""
    meta = meta_of(folder)
    own = "stereo" if meta.get("stereo_baseline_m") else "depth"
    odom = any("odom" in facts for facts in meta["cameras"].values())
    return [own, *(["odometry"] if odom else []), "none"]


def _without(view: View, source: str) -> tuple[Frame, OdometrySample | None]:
    """The frame with this source of metres alone."""
    if source in ("depth", "stereo"):
        return view.frame, None
    return bare(view.frame), view.odometry if source == "odometry" else None


def bare(frame: Frame) -> Frame:
    """Without anything that gives metres."""
    return replace(frame, depth=None, right_rgb=None, right_camera=None, right_from_camera=None)


def tracked(
    folder: Path, matcher: Matcher, options: TrackerOptions, source: str, every: int
) -> Run:
    tracker, run, truth, segment = Tracker(matcher, options), Run(), {}, {}
    first: tuple[View, TrackResult] | None = None
    for view in track(views(folder, every), f"{folder.name} {source}"):
        frame, odometry = _without(view, source)
        stamp_ns = frame.stamp_ns
        run.stamps.append(stamp_ns)
        run.truth.append(view.world_from_camera)
        truth[stamp_ns], segment[stamp_ns] = view.world_from_camera, view.segment
        result = tracker.process(frame, odometry)
        if result.odom_from_camera is not None:
            run.chained.append((stamp_ns, result.odom_from_camera))
            first = first or (view, result)
            begun = first[0].segment, first[1].keyframe.chain
            if (view.segment, result.keyframe.chain) == begun:
                run.end_sigmas = _sigmas(*first, view, result)
        kept_ns = None if result.keyframe is None else result.keyframe.frame.stamp_ns
        if result.pose is None:
            run.why[result.why_not_posed] += 1
            if isinstance(result.outcome, RelativePose) and segment[kept_ns] == view.segment:
                true = np.linalg.inv(truth[kept_ns]) @ truth[stamp_ns]
                _add_relative(run, result.outcome, true)
            continue
        if segment[kept_ns] == view.segment:
            pose = result.pose
            run.posed.append(
                PosedFrame(stamp_ns, kept_ns, pose.keyframe_from_camera, pose.covariance)
            )
    return run


def _sigmas(first: View, began: TrackResult, view: View, result: TrackResult) -> float:
    """Odom's error since the first pose in its own sigmas, on the worst of six axes."""
    way = se3.inverse(began.odom_from_camera) @ result.odom_from_camera
    true = se3.inverse(first.world_from_camera) @ view.world_from_camera
    sigmas = np.sqrt(np.diag(result.odom_covariance))
    return float((np.abs(se3.difference(way, true)) / sigmas).max())


def _add_relative(run: Run, pose: RelativePose, true: FloatArray) -> None:
    R = pose.keyframe_from_camera[:3, :3] @ true[:3, :3].T
    run.turns_deg.append(float(np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1)))))
    d, t = pose.keyframe_from_camera[:3, 3], true[:3, 3]
    if pose.kind != "rotation" and np.linalg.norm(t) > 0:
        cosine = float(d @ t / np.linalg.norm(t))
        run.directions_deg.append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))


def row(folder: Path, run: Run, source: str) -> str:
    """The report card of one recording with one source."""
    meta = meta_of(folder)
    margin = STEREO_MARGIN if meta.get("stereo_baseline_m") else Margin()
    world = Trajectory(np.array(run.stamps), np.array(run.truth))
    share = 100.0 * (len(run.stamps) - run.why.total()) / len(run.stamps)
    head = f"{folder.name:<16}{source:<10}{share:9.1f}"
    if not run.posed:
        median = [f"{np.median(v):.3f}" if v else "-" for v in (run.turns_deg, run.directions_deg)]
        return (
            f"{head}  {len(run.turns_deg)} relative poses: rotation {median[0]} deg, direction "
            f"{median[1]} deg (medians)  {dict(run.why)}"
        )
    sigma = TruthSigma(meta["pose_sigma"]["m"], meta["pose_sigma"]["deg"])
    errors = pose_errors(run.posed, world, sigma)
    s = summarize(errors, len(run.stamps), margin)
    honest = honesty(run.posed, world, sigma)
    middle = np.median(run.stamps)
    halves = [errors.nees[part] for part in (errors.stamps_ns < middle, errors.stamps_ns >= middle)]
    first, second = (float(np.mean(half)) if len(half) else np.nan for half in halves)
    return (
        f"{head}{s.translation_median_mm:9.1f}{s.translation_p95_mm:8.1f}"
        f"{s.rotation_median_deg:9.3f}{s.rotation_p95_deg:8.3f}{s.nees_mean:8.2f}"
        f"{first:6.2f}{second:6.2f}{honest.alone:8.2f}{honest.best:6.2f}{s.wrong_poses:8d}{s.harmful_poses:8d}"
        f"{_trajectory_figures(run.chained, world)}{run.end_sigmas:6.1f}  {dict(run.why)}"
    )


def _trajectory_figures(chained: list[tuple[int, FloatArray]], world: Trajectory) -> str:
    """RPE, ATE, and how far off the last pose is after the first was laid on the truth."""
    chain = Trajectory(np.array([at for at, _ in chained]), np.array([T for _, T in chained]))
    t = trajectory_error(chain, world)
    ends = [world.at(int(chain.stamps_ns[i])) for i in (0, -1)]
    way = np.linalg.inv(chain.poses[0]) @ chain.poses[-1]
    off_m = np.linalg.norm(way[:3, 3] - (np.linalg.inv(ends[0]) @ ends[1])[:3, 3])
    return (
        f"{1e3 * t.rpe_rmse_m:9.1f}{1e3 * t.ate_rmse_m:9.1f}{100 * off_m / t.length_m:9.2f}"
        f"{t.length_m:10.1f}"
    )


def reference_rows(folder: Path, every: int) -> Iterator[str]:
    """The same frames by other people's odometry, from frame to frame."""
    from reference_odometry import references

    for name, step in references().items():
        chained, before, posed, world_stamps, world = [], None, 0, [], []
        for view in track(views(folder, every), f"{folder.name} {name}"):
            T = chained[-1][1] if chained else np.eye(4)
            if before is not None:
                found = step(before, view.frame)
                posed += found is not None
                T = T if found is None else T @ found
            chained.append((view.frame.stamp_ns, T))
            world_stamps.append(view.frame.stamp_ns)
            world.append(view.world_from_camera)
            before = view.frame
        truth = Trajectory(np.array(world_stamps), np.array(world))
        figures = _trajectory_figures(chained, truth)
        share = 100.0 * posed / max(len(world) - 1, 1)
        yield f"{folder.name:<16}{name:<12}{share:7.1f}{'':<72}{figures}"


def recordings_in(sequences: Path, only: str | None) -> list[Path]:
    """The folders of those whose name contains `only`."""
    folders = [meta.parent for meta in sorted(sequences.glob("*/meta.json"))]
    found = [folder for folder in folders if not only or only in folder.name]
    if not found:
        named = f" whose name contains {only}" if only else ""
        raise InvalidInput(
            f"{sequences} holds no recording{named}: name a folder that holds a folder with "
            "meta.json for each"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--only", help="recordings whose name contains this")
    parser.add_argument("--source", action="append", choices=SOURCES, help="only these")
    parser.add_argument("--every", type=int, default=1, help="every so many frames")
    parser.add_argument("--params-file", type=Path, help="of the node, as l2m calibrate writes it")
    parser.add_argument("--reference", action="store_true", help="other people's odometry beside")
    args = parser.parse_args()
    matcher = load_matcher(args.model)
    options = replace(tracker_options(parameter_values(args.params_file)), base_from_camera=None)
    print(HEAD)
    for folder in recordings_in(args.sequences, args.only):
        for source in args.source or sources_of(folder):
            if source in sources_of(folder):
                run = tracked(folder, matcher, options, source, args.every)
                print(row(folder, run, source), flush=True)
        if args.reference:
            for line in reference_rows(folder, args.every):
                print(line, flush=True)


if __name__ == "__main__":
    main()
