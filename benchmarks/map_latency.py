"""Does a map that is built beside it slow tracking down? Blocks with and without it, in turn.

python benchmarks/map_latency.py RECORDING [--model lite] [--hz 5] [--seconds 150] [--real-time]

The same frames are tracked in every block, at a camera's pace, each from a fresh start, so that
only the map differs; blocks alternate, so that what else the machine does falls on both. With the
map, its process takes keyframes, closes loops, optimises, and saves half-way through each block.
Ends with 1 where the median frame takes 5 % longer with the map. For a machine that does nothing
else; where others work on it, --real-time (as root) puts tracking before them and the map between
the two, by real-time priorities instead of the idle class: the order is the same, and nobody else
comes in between. Others get little of the machine meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import blas  # noqa: F401
import numpy as np

from l2m_ros.bags.recording import Shot, open_recording
from l2m_ros.errors import InvalidInput
from l2m_ros.mapping.map_process import MapProcess, Spec
from l2m_ros.mapping.options import BUILD, OnlineOptions
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import FloatArray

GAP_NS = 1_000_000_000  # between blocks, so that stamps advance
MOST_SLOWER = 1.05
TRACKING_PRIORITY, MAP_PRIORITY = 10, 1
IDLE_S = 20.0  # that the map may take between blocks; what it has not done then falls on the next


def block(
    tracker: Tracker, shots: Sequence[Shot], offset_ns: int, hz: float, beside: MapProcess | None
) -> tuple[list[float], float]:
    """Milliseconds of each frame, as tracking's thread sees them, and processor milliseconds a
    frame of the whole process: what is sent to the map included."""
    tracker.reset()
    spent_ms, begun_s, used_s = [], time.perf_counter(), time.process_time()
    for number, shot in enumerate(shots):
        frame = replace(shot.frame, stamp_ns=shot.frame.stamp_ns + offset_ns)
        time.sleep(max(0.0, begun_s + number / hz - time.perf_counter()))
        started_s = time.perf_counter()
        with contextlib.nullcontext() if beside is None else beside.hold.frame():
            result = tracker.process(frame)
            if beside is not None:
                beside.submit(result)
        spent_ms.append((time.perf_counter() - started_s) * 1e3)
        if beside is not None and number == len(shots) // 2:
            beside.ask("save")
    return spent_ms, (time.process_time() - used_s) * 1e3 / len(shots)


def settle(beside: MapProcess, timeout_s: float) -> list[str]:
    """Until the map has done what it was given; what went wrong meanwhile."""
    end_s, wrong = time.monotonic() + timeout_s, []
    while not beside.is_idle and time.monotonic() < end_s:
        wrong += [m.values["error"] for m in beside.answers(0.1) if "error" in m.values]
    return wrong


def slower(on: FloatArray, off: FloatArray) -> tuple[float, float, float]:
    """How much longer a frame takes with the map: ratio, and where 95 % of resampled blocks lie.
    Frame by frame, as frames differ by more than the map makes of them."""
    rng = np.random.default_rng(0)
    ratio = lambda a, b: float(np.median(np.median(a, axis=0) / np.median(b, axis=0)))  # noqa: E731
    drawn = [
        ratio(on[rng.integers(0, len(on), len(on))], off[rng.integers(0, len(off), len(off))])
        for _ in range(500)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return ratio(on, off), float(low), float(high)


def run_before_others(pid: int, priority: int) -> None:
    """Real-time scheduling of a process and of the threads that it will start."""
    try:
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(priority))
    except PermissionError as error:
        raise InvalidInput(
            f"--real-time needs the right to it: run it as root ({error})"
        ) from error


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--threads", type=int, default=0, help="of tracking; 0 = as the node has")
    parser.add_argument("--frames", type=int, default=25, help="in a block")
    parser.add_argument("--hz", type=float, default=5.0, help="of the camera")
    parser.add_argument(
        "--nice", type=int, default=OnlineOptions().nice, help="of the map's process"
    )
    parser.add_argument("--seconds", type=float, default=150.0, help="in all")
    parser.add_argument("--real-time", action="store_true", help="others work on this machine")
    args = parser.parse_args()
    if args.real_time:
        run_before_others(0, TRACKING_PRIORITY)
    end_s = time.monotonic() + args.seconds
    with open_recording(args.recording) as recording:
        shots = list(islice(recording.shots(), args.frames))
    if len(shots) < 2:
        raise InvalidInput(f"{args.recording} holds {len(shots)} images: name one with two or more")
    own = {"threads": args.threads} if args.threads else {}
    tracker = Tracker(load_matcher(args.model, **own))
    length_ns = shots[-1].frame.stamp_ns - shots[0].frame.stamp_ns + GAP_NS
    spent: dict[bool, list[list[float]]] = {True: [], False: []}
    used: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        options = OnlineOptions(path=f"{folder}/map.l2m", mode=BUILD, nice=args.nice)
        beside = MapProcess(Spec(args.model, {"threads": 1}, options))
        wrong = settle(beside, 60.0)
        if args.real_time and beside.pid is not None:
            run_before_others(beside.pid, MAP_PRIORITY)
        block(tracker, shots[:5], 0, args.hz, None)  # warm
        number, longest_s = 0, 0.0
        while number < 4 or time.monotonic() + longest_s < end_s:
            begun_s = time.monotonic()
            for mapped in (False, True) if number % 4 == 0 else (True, False):
                number += 1
                given = beside if mapped else None
                spent_ms, used_ms = block(tracker, shots, number * length_ns, args.hz, given)
                spent[mapped].append(spent_ms)
                used[mapped].append(used_ms)
                wrong += settle(beside, IDLE_S)
            longest_s = max(longest_s, time.monotonic() - begun_s)
        dropped, version = beside.dropped, beside.version
        beside.stop(10.0)
    on, off = (np.array(spent[mapped]) for mapped in (True, False))
    ratio, low, high = slower(on, off)
    p95 = [np.percentile(part, 95) for part in (off, on)]
    print(
        f"{args.recording.name}, {args.model}, {args.hz:g} images a second, {len(on)} blocks of "
        f"{args.frames} with the map (nice {args.nice}) and {len(off)} without: median "
        f"{np.median(off):.1f} and {np.median(on):.1f} ms, p95 {p95[0]:.1f} and {p95[1]:.1f} ms; "
        f"processor time of this process {np.median(used[False]):.1f} and "
        f"{np.median(used[True]):.1f} ms a frame; "
        f"the map changed {version} times, {dropped} keyframes dropped"
    )
    for words in wrong:
        print(f"  {words}")
    verdict = "PASSED" if ratio < MOST_SLOWER and not wrong else "FAILED"
    print(
        f"{verdict}: with the map a frame takes {ratio:.3f} of its time ({low:.3f} to {high:.3f})"
    )
    return 0 if verdict == "PASSED" else 1


if __name__ == "__main__":
    raise SystemExit(main())
