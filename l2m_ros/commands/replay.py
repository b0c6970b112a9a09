"""Track a recorded bag (mcap, sqlite3, ROS 1) without a ROS graph, faster than real time, with the
results that the node has with `queue: all`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2m_ros.commands.options import add_force, add_truth_arguments, as_json
from l2m_ros.errors import InvalidInput
from l2m_ros.output_paths import refuse_existing, refuse_overwriting

if TYPE_CHECKING:
    from l2m_ros.frames.inputs import Report
    from l2m_ros.frames.outputs import FrameResult
    from l2m_ros.workshop.evaluation.tracking_report import TrackedRun
    from l2m_ros.workshop.evaluation.trajectory import Trajectory

TRAJECTORIES = (".tum", ".kitti", ".txt")
TOPICS = ("image", "camera_info", "depth", "right_image", "right_camera_info", "odom")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path)
    add_tracking_arguments(parser)
    add_truth_arguments(parser)
    parser.add_argument(
        "--out", type=Path, help="write the poses of the camera: .tum, or .kitti / .txt"
    )
    parser.add_argument("--out-bag", type=Path, help="write the poses as a bag: .mcap or .db3")
    parser.add_argument("--report", type=Path, help="write an HTML page with pictures")
    parser.add_argument("--rerun", action="store_true", help="show it in the Rerun viewer")
    add_force(parser)
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")


def add_tracking_arguments(parser: argparse.ArgumentParser) -> None:
    """What says how a bag is tracked."""
    parser.add_argument("--model", help="matcher by name (the node's parameter `model`)")
    parser.add_argument("--backend", help="engine of a network (the node's parameter `backend`)")
    add_parameter_arguments(parser)
    for name in TOPICS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, metavar="TOPIC", help="found by its type if not given")


def add_parameter_arguments(parser: argparse.ArgumentParser) -> None:
    """What `values_of` reads."""
    parser.add_argument("--params-file", type=Path, help="YAML of the node's parameters")
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="set a parameter of the node; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    _check_outputs(args)
    tracked = _tracked(args)
    if args.out is not None:
        _write(args.out, tracked.trajectory())
    if args.report is not None:
        tracked.report().write(args.report)
    print(as_json(tracked.figures()) if args.json else tracked.text())
    return 0 if tracked.posed else 1


def _check_outputs(args: argparse.Namespace) -> None:
    if args.out is not None and args.out.suffix not in TRAJECTORIES:
        raise InvalidInput(f"--out {args.out}: the name ends in {', '.join(TRAJECTORIES)}")
    outputs = [args.out, args.out_bag, args.report]
    truth = None if args.truth is None else Path(args.truth)
    refuse_overwriting(outputs, [args.bag, args.params_file, truth])
    refuse_existing(*outputs, force=args.force)
    if args.out_bag is not None and args.out_bag.suffix not in (".mcap", ".db3"):
        raise InvalidInput(f"--out-bag {args.out_bag}: the name ends in .mcap or .db3")


def values_of(args: argparse.Namespace) -> dict[str, Any]:
    """The node's parameters, as the command line gives them."""
    from l2m_ros.parameters.file import parameter_values

    return parameter_values(args.params_file, _overrides(args))


def tracked_frames(
    args: argparse.Namespace, report: Report = lambda key, words: None
) -> Iterator[FrameResult]:
    """Every frame of the bag, tracked, with progress shown."""
    from l2m_ros.bags import replay as bags
    from l2m_ros.bags.reader import open_bag
    from l2m_ros.progress import track

    values = values_of(args)
    if ignored := bags.without_effect(values):
        print(f"replay ignores {', '.join(ignored)}: there is no graph", file=sys.stderr)
    with open_bag(args.bag) as bag:
        topics = bags.find_topics(bag, {name: getattr(args, name) for name in TOPICS})
        replayed = bags.replay(bag, topics, values, report)
        yield from track(replayed, "tracking", total=bag.count(topics.image))


def _tracked(args: argparse.Namespace) -> TrackedRun:
    from l2m_ros.bags.pose_bag import write_pose_bag
    from l2m_ros.workshop.evaluation.tracking import TruthSigma
    from l2m_ros.workshop.evaluation.tracking_report import TrackedRun

    tracked = TrackedRun(f"Replay of {args.bag.name}", " ".join(str(args.bag).split()))
    tracked.truth = truth_of(args)
    tracked.truth_sigma = TruthSigma.parse(args.truth_sigma)
    with contextlib.ExitStack() as stack:
        sinks = [lambda frame: add_frame(tracked, frame)]
        if args.out_bag is not None:
            bag = stack.enter_context(write_pose_bag(args.out_bag, force=args.force))
            sinks.append(bag.add)
        if args.rerun:
            from l2m_ros.bags.rerun_view import Viewer

            sinks.append(Viewer(tracked.title).show)
        for frame in tracked_frames(args, tracked.report_input):
            for sink in sinks:
                sink(frame)
    return tracked


def add_frame(run: TrackedRun, frame: FrameResult) -> None:
    """One more frame of the run."""
    from l2m_ros.tracking.remedies import problems
    from l2m_ros.workshop.evaluation.tracking import PosedFrame

    result, stamp_ns = frame.result, frame.stamp_ns
    run.frames += 1
    run.keyframes += result.new_keyframe
    run.add_stages(result.stages_ms)
    run.add_remarks(problems(result))
    if result.pose is not None:
        pose, kept = result.pose, result.keyframe.frame.stamp_ns
        run.posed.append(PosedFrame(stamp_ns, kept, pose.keyframe_from_camera, pose.covariance))
        run.scale_sources[pose.scale_source] += 1
    else:
        run.unposed[result.why_not_posed] += 1
        run.unposed_stamps_ns.append(stamp_ns)
    if frame.camera_in_odom is not None:
        run.chained.append((stamp_ns, frame.camera_in_odom[0]))


def truth_of(args: argparse.Namespace) -> Trajectory | None:
    """Of a TUM file, of a topic, or of the topic that a simulated bag brings along."""
    import numpy as np

    from l2m_ros.bags.reader import open_bag
    from l2m_ros.bags.replay import GROUND_TRUTH, read_truth
    from l2m_ros.workshop.evaluation.trajectory import Trajectory, read_tum

    if args.truth is not None and (Path(args.truth).suffix == ".tum" or Path(args.truth).is_file()):
        return read_tum(Path(args.truth))
    with open_bag(args.bag) as bag:
        topic = args.truth or (GROUND_TRUTH if GROUND_TRUTH in bag.types else None)
        if topic is None:
            return None
        stamps, poses = read_truth(bag, topic)
    return Trajectory(np.array(stamps), np.array(poses))


def _overrides(args: argparse.Namespace) -> dict[str, str]:
    """What the command line says of parameters, as text."""
    given = {name: getattr(args, name) for name in ("model", "backend")}
    overrides = {name: value for name, value in given.items() if value is not None}
    for text in args.param:
        name, separator, value = text.partition(":=")
        if not separator:
            raise InvalidInput(f"--param {text}: write it as NAME:=VALUE")
        overrides[name] = value
    return overrides


def _write(path: Path, trajectory: Trajectory) -> None:
    from l2m_ros.workshop.evaluation.trajectory import write_kitti, write_tum

    write = write_tum if path.suffix == ".tum" else write_kitti
    write(path, trajectory)
