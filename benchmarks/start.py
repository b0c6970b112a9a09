"""From the start of the node's process to active, and to its first pose, over real DDS.

    python benchmarks/start.py                       lite, best of 5
    python benchmarks/start.py --model orb --times 10

A camera with depth is publishing all the while, as on a robot. Seconds of wall clock and of the
process's processor time (all threads); the best shows the program, the worst the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

import refusals  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

from node_process import NodeProcess

PATIENCE_S = 120.0
PERIOD_S = 1 / 15


def processor_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def until(reached, process) -> tuple[float, float]:
    """(monotonic time, processor time) at which a condition came true."""
    end_s = time.monotonic() + PATIENCE_S
    while not reached():
        if process.poll() is not None or time.monotonic() > end_s:
            raise SystemExit("the node did not start")
        time.sleep(0.005)
    return time.monotonic(), processor_s(process.pid)


def start(node: NodeProcess, model: str) -> dict[str, float]:
    """One start: seconds to active and to the first pose."""
    node.bench.poses.clear()
    started_s = time.monotonic()
    node.start(f"model:={model}")
    active = until(lambda: any("activate: done" in line for line in node.lines), node.process)
    posed = until(lambda: node.bench.poses, node.process)
    node.end(signal.SIGINT, PATIENCE_S)
    return {
        "active_s": active[0] - started_s,
        "active_cpu_s": active[1],
        "pose_s": posed[0] - started_s,
        "pose_cpu_s": posed[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lite")
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    node, ended = NodeProcess(PATIENCE_S), threading.Event()

    def drive() -> None:
        while not ended.wait(PERIOD_S):
            node.bench.send()

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        runs = [start(node, args.model) for _ in range(args.times)]
    finally:
        ended.set()
        driver.join()
        node.close()
    print(f"{args.model}, {args.times} starts, load {os.getloadavg()[0]:.1f}")
    for name in runs[0]:
        values = sorted(run[name] for run in runs)
        print(f"  {name:<14} best {values[0]:.2f}  median {values[len(values) // 2]:.2f}  "
              f"worst {values[-1]:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
