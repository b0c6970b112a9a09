"""Fit the noise of a camera (and matcher) on the first half of a recording with truth, so that
covariances hold; report the second half before and after; write a preset for --params-file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from l2m_ros.commands.options import add_force, add_truth_arguments, as_json
from l2m_ros.commands.replay import (
    add_tracking_arguments,
    tracked_frames,
    truth_of,
    values_of,
)
from l2m_ros.errors import InvalidInput
from l2m_ros.files import write_whole
from l2m_ros.output_paths import check_outputs, refuse_existing

if TYPE_CHECKING:
    from l2m_ros.tracking.result import TrackResult
    from l2m_ros.workshop.evaluation.calibration import Calibrated
    from l2m_ros.workshop.evaluation.trajectory import Trajectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="a bag, or a folder with meta.json, with depth or "
                        "a right image")  # fmt: skip
    add_tracking_arguments(parser)
    add_truth_arguments(parser)
    parser.add_argument("--out", type=Path, help="YAML of the parameters that changed")
    add_force(parser)
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.parameters.table import tracker_options
    from l2m_ros.workshop.evaluation.calibration import calibrate, samples
    from l2m_ros.workshop.evaluation.tracking import TruthSigma

    check_outputs([args.out], [args.bag, args.params_file])
    refuse_existing(args.out, force=args.force)
    sigma, pose = TruthSigma.parse(args.truth_sigma), tracker_options(values_of(args)).pose
    folder = (args.bag / "meta.json").is_file()
    results, truth = _of_folder(args) if folder else _of_bag(args)
    done = calibrate(samples(results, truth), pose, sigma)
    if args.out is not None:
        write_whole(args.out, preset(done, args.bag.name))
    print(as_json(done.__dict__) if args.json else text(done))
    return 0


def _of_bag(args: argparse.Namespace) -> tuple[Iterable[TrackResult], Trajectory]:
    truth = truth_of(args)
    if truth is None:
        raise InvalidInput("calibration compares with the truth: give --truth TOPIC or FILE")
    return (frame.result for frame in tracked_frames(args)), truth


def _of_folder(args: argparse.Namespace) -> tuple[Iterable[TrackResult], Trajectory]:
    import numpy as np

    from l2m_ros.bags.recording import open_recording
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.parameters.table import matcher_options, tracker_options
    from l2m_ros.progress import track
    from l2m_ros.tracking.tracker import Tracker
    from l2m_ros.workshop.evaluation.trajectory import Trajectory

    values = values_of(args)
    tracker = Tracker(
        load_matcher(values["model"], **matcher_options(values)), tracker_options(values)
    )
    results, stamps, poses = [], [], []
    with open_recording(args.bag) as recording:
        for shot in track(recording.shots(), "tracking", total=recording.count):
            results.append(tracker.process(shot.frame))
            if shot.truth is not None:
                stamps.append(shot.frame.stamp_ns)
                poses.append(shot.truth)
    if not stamps:
        raise InvalidInput(f"{args.bag}: meta.json holds no world_from_camera to compare with")
    return results, Trajectory(np.array(stamps), np.array(poses))


def text(done: Calibrated) -> str:
    lines = [
        f"{done.poses[0]} poses fitted, mean NEES {done.fitted[0]:.2f} -> {done.fitted[1]:.2f}",
        f"{done.poses[1]} poses held out, mean NEES {done.held_out[0]:.2f} -> "
        f"{done.held_out[1]:.2f} (6 is honest), beyond 5 sigma {done.wrong[0]} -> {done.wrong[1]}",
    ]
    if done.truth_share < 1.0:
        lines.append(f"the truth errs by {100 * done.truth_share:.0f} % of its stated sigma")
    lines += [f"{name}: {value:g}" for name, value in done.parameters.items()]
    return "\n".join(lines if done.parameters else [*lines, "the constants stay as they are"])


def preset(done: Calibrated, source: str) -> str:
    """A parameter file, with its figures in the head."""
    head = [f"# l2m calibrate {source}"] + [f"# {line}" for line in text(done).splitlines()[:2]]
    body = [f"    {name}: {value!r}" for name, value in done.parameters.items()]
    return "\n".join([*head, "/**:", "  ros__parameters:", *body, ""])
