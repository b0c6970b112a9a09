"""Does a map that is built beside it slow tracking down? Blocks with and without it, in turn.

python benchmarks/map_latency.py RECORDING [--model lite] [--blocks 6]

The same frames are tracked in every block, so that only the map differs; blocks alternate, so that
what else the machine does falls on both. The map's thread has its own matcher on one CPU thread and
low priority, as in the node; in the blocks without it nothing is handed over and it waits.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from l2m_ros.bags.recording import Shot, open_recording
from l2m_ros.mapping.online import OnlineMap
from l2m_ros.mapping.options import BUILD, OnlineOptions
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.node.map_thread import NICE
from l2m_ros.tracking.tracker import Tracker

GAP_NS = 1_000_000_000  # between blocks, so that stamps advance


class MapBeside:
    """The map's thread of the node, without ROS."""

    def __init__(self, model: str, path: str) -> None:
        matcher = load_matcher(model, threads=1)
        self.online = OnlineMap(matcher, OnlineOptions(path=path, mode=BUILD))
        self.keyframes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self.online.open()
        while not self._stop.is_set():
            self.online.wait(0.1)
            self.online.step()
        self.keyframes = self.online.store.info().keyframes
        self.online.close()

    @property
    def is_idle(self) -> bool:
        return not self.online._picked

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def block(tracker: Tracker, shots: list[Shot], offset_ns: int, beside: MapBeside | None) -> list:
    """Milliseconds of each frame, as tracking's thread sees them."""
    spent_ms = []
    for shot in shots:
        frame = replace(shot.frame, stamp_ns=shot.frame.stamp_ns + offset_ns)
        started = time.perf_counter()
        result = tracker.process(frame)
        if beside is not None:
            beside.online.submit(result)
        spent_ms.append((time.perf_counter() - started) * 1e3)
    return spent_ms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--frames", type=int, default=30, help="in a block")
    parser.add_argument("--blocks", type=int, default=6, help="half of them with the map")
    args = parser.parse_args()
    with open_recording(args.recording) as recording:
        shots = list(islice(recording.shots(), args.frames))
    tracker = Tracker(load_matcher(args.model))
    length_ns = shots[-1].frame.stamp_ns - shots[0].frame.stamp_ns + GAP_NS
    spent: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        beside = MapBeside(args.model, f"{folder}/map.l2m")
        block(tracker, shots[:5], 0, None)  # warm
        for number in range(args.blocks):
            mapped = number % 2 == 1
            offset_ns = (number + 1) * length_ns
            spent[mapped] += block(tracker, shots, offset_ns, beside if mapped else None)
            while not beside.is_idle:  # its keyframes belong to this block
                time.sleep(0.05)
        beside.end()
    off, on = (np.array(spent[mapped]) for mapped in (False, True))
    ratio = np.median(on) / np.median(off)
    print(
        f"{args.recording.name}, {args.model}: {len(off)} frames each, {beside.keyframes} "
        f"keyframes; without {np.median(off):.1f} ms (p95 {np.percentile(off, 95):.1f}), with "
        f"{np.median(on):.1f} ms (p95 {np.percentile(on, 95):.1f}), ratio {ratio:.3f}"
    )


if __name__ == "__main__":
    main()
