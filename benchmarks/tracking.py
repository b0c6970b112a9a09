"""How true the tracker's poses are on simulated runs with depth: a row a run.

python benchmarks/tracking.py [--model lite] [--frames 200] [--scene room] [--faults noise,depth]
[--subpixel]
"""

from __future__ import annotations

import argparse

import blas  # noqa: F401
import numpy as np

from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.progress import track
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.workshop.evaluation.tracking import PosedFrame, TrackingSummary, pose_errors, summarize
from l2m_ros.workshop.evaluation.trajectory import Trajectory
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

PATHS = ("handheld", "drive", "turn")


def tracked(
    matcher: Matcher, options: SimulationOptions, tracking: TrackerOptions
) -> TrackingSummary:
    """The report card of one run."""
    tracker, posed, stamps, truth = Tracker(matcher, tracking), [], [], []
    for shot in track(simulate(options), options.path, total=options.frames):
        result = tracker.process(shot.frame)
        stamps.append(shot.frame.stamp_ns)
        truth.append(shot.world_from_camera)
        if (pose := result.pose) is not None and result.keyframe is not None:
            kept_ns = result.keyframe.frame.stamp_ns
            posed.append(
                PosedFrame(stamps[-1], kept_ns, pose.keyframe_from_camera, pose.covariance)
            )
    return summarize(pose_errors(posed, Trajectory(np.array(stamps), np.array(truth))), len(stamps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--scene", default="room")
    parser.add_argument("--path", action="append", choices=PATHS, help="default: all")
    parser.add_argument("--faults", default="noise,depth")
    parser.add_argument("--subpixel", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    matcher = load_matcher(args.model)
    print(f"{args.model}, {args.scene}, faults: {args.faults}")
    print("run        posed %  median mm  p95 mm  median deg  p95 deg   NEES (95 % band)   wrong")
    for path in args.path or PATHS:
        options = SimulationOptions(
            scene=args.scene,
            path=path,
            frames=args.frames,
            rate_hz=10.0,
            stereo=False,
            faults=Faults.named(filter(None, args.faults.split(","))),
            seed=args.seed,
        )
        s = tracked(matcher, options, TrackerOptions(subpixel=args.subpixel))
        print(
            f"{path:<10} {s.posed_percent:7.1f} {s.translation_median_mm:10.1f}"
            f" {s.translation_p95_mm:7.1f} {s.rotation_median_deg:11.3f}"
            f" {s.rotation_p95_deg:8.3f} {s.nees_mean:6.2f} ({s.nees_low:.2f} to"
            f" {s.nees_high:.2f}) {s.wrong_poses:7d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
