"""What one frame costs the processor from image to pose, by stage, several ways side by side.

    python benchmarks/frame_cost.py [--frames 24] [--path handheld] [--json]

Every frame of a simulated run with depth goes through one tracker a way, one after the other, so
that a busy machine slows all of them alike. Figures are processor time of the whole process, one
thread for the networks, medians over the frames: how long the machine's cores are taken, which
bounds the rate (cores * 1000 / sum, Hz) whatever else runs. Messages and publishing come on top
(benchmarks/node.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass

import blas  # noqa: F401
import cv2
import numpy as np

from l2m_ros import compiled, timing
from l2m_ros.engines.backend import engine_module
from l2m_ros.errors import BackendUnavailable
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.progress import track
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Frame
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

STAGES = ("encode", "match", "subpixel", "pose")


@dataclass(frozen=True)
class Way:
    """One way of computing a frame."""

    name: str
    backend: str
    by_numpy: bool


WAYS = (
    Way("onnxruntime, NumPy", "onnxruntime", True),
    Way("onnxruntime, compiled", "onnxruntime", False),
    Way("openvino, compiled", "openvino", False),
)


class ProcessorClock:
    """In place of `time` in `timing`: stages are then timed by what they take of the processor."""

    perf_counter = staticmethod(time.process_time)


def usable(way: Way) -> bool:
    try:
        engine_module(way.backend)
    except BackendUnavailable:
        return False
    return way.by_numpy or compiled.kernel("refine") is not None


def measure(frames: list[Frame], ways: list[Way], model: str) -> dict[str, dict[str, float]]:
    """Median milliseconds by way and stage; "sum" is all of `Tracker.process`, checks included."""
    options = TrackerOptions(subpixel=True)
    trackers = [Tracker(load_matcher(model, backend=w.backend, threads=1), options) for w in ways]
    spent: dict[str, dict[str, list[float]]] = {w.name: defaultdict(list) for w in ways}
    for number, frame in enumerate(track(frames, "tracking", len(frames))):
        for way, tracker in zip(ways, trackers, strict=True):
            with compiled.left_out() if way.by_numpy else contextlib.nullcontext():
                started_s = time.process_time()
                result = tracker.process(frame)
                whole_ms = (time.process_time() - started_s) * 1e3
            if number < 2 or result.new_keyframe:  # first calls, and keyframes' own work
                continue
            for stage in STAGES:
                spent[way.name][stage].append(result.stages_ms.get(stage, 0.0))
            spent[way.name]["sum"].append(whole_ms)
    return {
        name: {stage: float(np.median(ms)) for stage, ms in stages.items()}
        for name, stages in spent.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="lite")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--path", default="handheld")
    parser.add_argument("--cores", type=int, default=2, help="whose rate is told")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    timing.time = ProcessorClock  # type: ignore[attr-defined]
    scene = SimulationOptions(path=args.path, frames=args.frames, stereo=False)
    frames = [shot.frame for shot in track(simulate(scene), "rendering", args.frames)]
    rows = measure(frames, [way for way in WAYS if usable(way)], args.model)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'':24}" + "".join(f"{stage:>10}" for stage in (*STAGES, "sum", "ratio")) + "   Hz")
    first = next(iter(rows.values()))["sum"]
    for name, row in rows.items():
        cells = "".join(f"{row[stage]:10.1f}" for stage in (*STAGES, "sum"))
        rate_hz = args.cores * 1e3 / row["sum"]
        print(f"{name:24}{cells}{row['sum'] / first:10.2f}{rate_hz:5.1f}")


if __name__ == "__main__":
    main()
