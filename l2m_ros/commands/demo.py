"""Simulate a robot, run the node on it over real DDS, compare its poses with the truth, start the
node anew elsewhere in the room to be found in the map of the first drive, and write a report."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from l2m_ros.commands.options import add_force, as_json
from l2m_ros.output_paths import check_folder, refuse_existing

if TYPE_CHECKING:
    from l2m_ros.node.output_recorder import RecordedOutputs
    from l2m_ros.types import FloatArray
    from l2m_ros.workshop.evaluation.map_report import FoundAgain
    from l2m_ros.workshop.evaluation.tracking_report import TrackedRun

RATE_HZ = 6.0  # what `lite` keeps up with beside the player on two cores
MAP_EVERY_M = 0.4  # between keyframes: a room needs few
LATER_FRAMES, LATER_RATE = 40, 0.5  # the second drive
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

    @property
    def map_path(self) -> Path:
        return self.out / f"{self.scene}.l2m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    d = DemoOptions()
    parser.add_argument("--out", type=Path, default=d.out, help=f"folder (default: {d.out})")
    parser.add_argument("--scene", default=d.scene, help="room, corridor or yard")
    parser.add_argument("--path", default=d.path, help="handheld, drive, turn or loop")
    parser.add_argument("--frames", type=int, default=d.frames, help=f"default: {d.frames}")
    parser.add_argument("--model", default=d.model, help=f"matcher (default: {d.model})")
    parser.add_argument("--seed", type=int, default=d.seed)
    add_force(parser)
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    options = DemoOptions(args.out, args.scene, args.path, args.frames, args.model, args.seed)
    check_folder(args.out)
    # Map and report are made anew: in a folder that no demo has left, they may be somebody's.
    left_by_demo = any(args.out.glob("*_*_[0-9]*_[0-9]*.mcap"))
    refuse_existing(args.out, force=args.force or left_by_demo)
    bag = _simulated(options)
    tracked = _run_of(options, bag, _over_dds(options, bag))
    page, figures, text = tracked.report(), tracked.figures(), tracked.text()
    if _maps_work():
        _build_map(options, bag)
        again = _found_again(options, bag)
        again.show(page)
        figures["map"] = again.figures()
        text += f"\n\n{again.text()}"
    written = page.write(options.out / "report.html")
    print(as_json(figures) if args.json else text)
    print(f"report: {written}", file=sys.stderr)
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


def _over_dds(options: DemoOptions, bag: Path) -> RecordedOutputs:
    """The node tracks the whole drive."""
    from l2m_ros.node.session import Session, play_at_node

    log = options.out / "node.log"
    session = Session(bag, REMAPPED, {"model": options.model}, log, pictures=3)
    return play_at_node(session)


def _build_map(options: DemoOptions, bag: Path) -> None:
    """A map of the drive: built beside the tracker it would take half of two cores from it."""
    from l2m_ros.bags.mapping import BuildOptions, build_map
    from l2m_ros.bags.recording import open_recording
    from l2m_ros.mapping.options import PickerOptions
    from l2m_ros.mapping.store import open_map
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.progress import track

    for old in options.out.glob(f"{options.map_path.name}*"):  # with SQLite's log beside it
        old.unlink()
    store = open_map(str(options.map_path), create=True)
    try:
        with open_recording(bag) as recording:
            build_map(
                recording,
                store,
                load_matcher(options.model),
                BuildOptions(picker=PickerOptions(MAP_EVERY_M)),
                lambda shots: track(islice(shots, 0, None, 2), "mapping", recording.count // 2),
                lambda ids: track(ids, "closing loops"),
            )
    finally:
        store.close()


def _maps_work() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("faiss", "gtsam"))


def _found_again(options: DemoOptions, mapped: Path) -> FoundAgain:
    """The node started anew at another place of the room, with nothing but the map."""
    from l2m_ros.node.session import Pause, Session, play_at_node
    from l2m_ros.workshop.evaluation.map_report import found_again

    later = replace(options, frames=LATER_FRAMES, seed=options.seed + 1)
    bag = _simulated(later)
    parameters = {
        "model": options.model,
        "map.mode": "localize",
        "map.path": str(options.map_path),
        "map.period_s": "0.5",
    }
    log = options.out / "node_again.log"
    pause = Pause(lambda recorded: int(recorded.diagnostics.get("map_localized", "0")) > 0)
    recorded = play_at_node(Session(bag, REMAPPED, parameters, log, LATER_RATE, pause=pause))
    base = _base_from_camera()
    return found_again(
        options.map_path, recorded.map_poses, mapped, bag, base, recorded.first_in_map_s
    )


def _base_from_camera() -> FloatArray:
    from l2m_ros.parameters.table import FORWARD_LOOKING, base_from_camera

    return base_from_camera({"base_from_camera": FORWARD_LOOKING})  # the node's default


def _run_of(options: DemoOptions, bag: Path, recorded: RecordedOutputs) -> TrackedRun:
    """What was recorded, beside the bag's truth."""
    import numpy as np

    from l2m_ros.bags.reader import open_bag
    from l2m_ros.bags.replay import GROUND_TRUTH, read_truth
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
    camera = _base_from_camera()
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
