"""Simulate a robot, run the node on it over real DDS, compare its poses with the truth, and write
a report with pictures."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2m_ros.commands.options import as_json
from l2m_ros.errors import L2MError

if TYPE_CHECKING:
    from l2m_ros.node.output_recorder import RecordedOutputs
    from l2m_ros.workshop.evaluation.tracking_report import TrackedRun

RATE_HZ = 8.0  # what `lite` keeps up with beside the player on two cores
READY_S = 60.0  # loading and warming up a model on a busy machine
DISCOVERY_S = 10.0  # for the node to find the player's topics
STOP_S = 5.0
LAST_WORDS_S = 1.5  # for the last frame, and diagnostics once more
REMAPPED = {
    "image": "/camera/image_raw",
    "camera_info": "/camera/camera_info",
    "depth": "/camera/depth",
}


@dataclass(frozen=True)
class DemoOptions:
    """What is simulated, and who tracks it."""

    out: Path = Path("demo")
    scene: str = "room"
    path: str = "handheld"
    frames: int = 160
    model: str = "lite"
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    d = DemoOptions()
    parser.add_argument("--out", type=Path, default=d.out, help=f"folder (default: {d.out})")
    parser.add_argument("--scene", default=d.scene, help="room, corridor or yard")
    parser.add_argument("--path", default=d.path, help="handheld, drive, turn or loop")
    parser.add_argument("--frames", type=int, default=d.frames, help=f"default: {d.frames}")
    parser.add_argument("--model", default=d.model, help=f"matcher (default: {d.model})")
    parser.add_argument("--seed", type=int, default=d.seed)
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    options = DemoOptions(args.out, args.scene, args.path, args.frames, args.model, args.seed)
    bag = _simulated(options)
    tracked = _over_dds(options, bag)
    page = tracked.report().write(options.out / "report.html")
    print(as_json(tracked.figures()) if args.json else tracked.text())
    print(f"report: {page}", file=sys.stderr)
    return 0 if tracked.posed else 1


def _simulated(options: DemoOptions) -> Path:
    """The bag, rendered unless an earlier demo has left the same."""
    from l2m_ros.progress import track
    from l2m_ros.workshop.simulation.bag import write_bag
    from l2m_ros.workshop.simulation.faults import Faults
    from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

    name = f"{options.scene}_{options.path}_{options.frames}_{options.seed}.mcap"
    bag = options.out / name
    if not bag.exists():
        simulation = SimulationOptions(
            scene=options.scene,
            path=options.path,
            frames=options.frames,
            rate_hz=RATE_HZ,
            stereo=False,
            faults=Faults.named(["noise", "depth"]),
            seed=options.seed,
        )
        shots = track(simulate(simulation), "simulating", total=options.frames)
        write_bag(bag, shots)
    return bag


def _over_dds(options: DemoOptions, bag: Path) -> TrackedRun:
    """The node in a process of its own, the bag played at real time, its poses recorded."""
    from l2m_ros.node.output_recorder import OutputRecorder
    from l2m_ros.node.player import Player

    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    log = options.out / "node.log"
    with _node_process(options, log) as process, _spinning_node() as node:
        recorder = OutputRecorder(node)
        player = Player(node, bag, REMAPPED.values())
        _wait_until_active(recorder.recorded, process, log)
        _wait_until_connected(player)
        _play(player, recorder, bag)
        time.sleep(LAST_WORDS_S)
    return _run_of(options, bag, recorder.recorded)


@contextlib.contextmanager
def _spinning_node() -> Iterator[Any]:
    """A node of the demo's own, served by a thread."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
    node = rclpy.create_node("l2m_demo", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    try:
        yield node
    finally:
        executor.shutdown()
        spinning.join(STOP_S)
        node.destroy_node()
        rclpy.try_shutdown(context=context)


@contextlib.contextmanager
def _node_process(options: DemoOptions, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node under test; ended as Ctrl-C ends it."""
    arguments = ["--ros-args", "-p", f"model:={options.model}"]
    for name, topic in REMAPPED.items():
        arguments += ["-r", f"{name}:={topic}"]
    command = [sys.executable, "-m", "l2m_ros.node.main", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_active(
    recorded: RecordedOutputs, process: subprocess.Popen[bytes], log: Path
) -> None:
    """Until the node's own diagnostics say so."""
    deadline = time.monotonic() + READY_S
    while recorded.diagnostics.get("lifecycle") != "active":
        if process.poll() is not None or time.monotonic() > deadline:
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
            raise L2MError(f"the node did not start; {log} ends with: {tail}")
        time.sleep(0.1)


def _wait_until_connected(player: Any) -> None:
    """Until the node subscribes to every topic of the player: no message is lost."""
    deadline = time.monotonic() + DISCOVERY_S
    while missing := player.unsubscribed():
        if time.monotonic() > deadline:
            raise L2MError(f"the node does not subscribe to {', '.join(missing)}")
        time.sleep(0.1)


def _play(player: Any, recorder: Any, bag: Path) -> None:
    from l2m_ros.bags.reader import open_bag
    from l2m_ros.progress import progress

    with open_bag(bag) as opened:
        first_ns, last_ns = opened.span_ns()
    pictures = [first_ns + (last_ns - first_ns) * k // 4 for k in (1, 2, 3)]
    done_s = 0.0
    with progress((last_ns - first_ns) * 1e-9, "playing, seconds") as bar:

        def after_each(stamp_ns: int) -> None:
            nonlocal done_s
            now_s = (stamp_ns - first_ns) * 1e-9
            bar.update(now_s - done_s)
            done_s = now_s
            if pictures and stamp_ns >= pictures[0]:
                pictures.pop(0)
                recorder.request_picture()

        player.play(after_each=after_each)


def _run_of(options: DemoOptions, bag: Path, recorded: RecordedOutputs) -> TrackedRun:
    """What was recorded, beside the bag's truth."""
    import numpy as np

    from l2m_ros.bags.reader import open_bag
    from l2m_ros.bags.replay import GROUND_TRUTH, read_truth
    from l2m_ros.parameters.table import FORWARD_LOOKING, base_from_camera
    from l2m_ros.workshop.evaluation.tracking import PosedFrame
    from l2m_ros.workshop.evaluation.tracking_report import TrackedRun
    from l2m_ros.workshop.evaluation.trajectory import Trajectory

    with open_bag(bag) as opened:
        frames = opened.count(REMAPPED["image"])
        stamps, poses = read_truth(opened, GROUND_TRUTH)
        seconds = (stamps[-1] - stamps[0]) * 1e-9
    lead = f"{options.scene}, {options.path}: {frames} frames over real DDS, model {options.model}"
    tracked = TrackedRun("l2m_ros demo", lead, frames=frames)
    tracked.truth = Trajectory(np.array(stamps), np.array(poses))
    for stamp, (name, T, covariance) in sorted(recorded.relative.items()):
        if name in recorded.keyframes:
            tracked.posed.append(PosedFrame(stamp, recorded.keyframes[name], T, covariance))
    camera = base_from_camera({"base_from_camera": FORWARD_LOOKING})  # the node's default
    tracked.chained = [(ns, base @ camera) for ns, base in sorted(recorded.odometry.items())]
    tracked.keyframes = len(recorded.keyframes)
    tracked.pictures = [(rgb, "~/matches as the node draws it") for rgb in recorded.pictures]
    _add_diagnostics(tracked, recorded, frames)
    tracked.unposed_stamps_ns = sorted(set(stamps[1:]) - set(recorded.relative))
    if seconds > 0:
        tracked.rate_hz = len(recorded.relative) / seconds
    return tracked


def _add_diagnostics(tracked: TrackedRun, recorded: RecordedOutputs, frames: int) -> None:
    """Counts and latencies that only the node knows."""
    values = recorded.diagnostics
    for name, value in values.items():
        if name.startswith("scale_from_"):
            tracked.scale_sources[name.removeprefix("scale_from_")] += int(value)
        if name.startswith("unposed_"):
            tracked.unposed[name.removeprefix("unposed_")] += int(value)
    unseen = frames - len(tracked.posed) - sum(tracked.unposed.values())
    if unseen > 0:
        tracked.unposed["dropped (only the newest image waits)"] += unseen
    for name in values:
        if name.endswith("_ms_median"):
            stage = name.removesuffix("_ms_median")
            tracked.latency_ms[stage] = (float(values[name]), float(values[f"{stage}_ms_p95"]))
