"""How fast the simulated world renders, on one core.

    python benchmarks/simulation.py [--frames 30] [--json]

Each row is one scene and one set of outputs at 640x480: frames a second of wall time and of
processor time (what one undisturbed core would reach), and where the time goes.
"""

from __future__ import annotations

# ruff: noqa: E402
import os

import refusals  # noqa: F401

# One core for this process and for the threads that numpy and OpenCV start when imported.
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import time

import cv2

from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.optics import pixel_rays
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate
from l2m_ros.workshop.simulation.truth import true_match
from l2m_ros.workshop.simulation.world import make_world

MODES = {
    "rgb + depth": {"stereo": False},
    "rgb + depth + right": {"stereo": True},
    "rgb + depth, all faults": {"stereo": False, "faults": Faults.named(["all"])},
}


def measure(scene: str, mode: str, frames: int) -> dict[str, object]:
    options = SimulationOptions(scene=scene, path="loop", frames=frames, **MODES[mode])
    wall, busy, shots = time.perf_counter(), time.process_time(), 0
    for shot in simulate(options):
        last, shots = shot, shots + 1
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    rays = pixel_rays(last.frame.camera).rays.reshape(-1, 3)
    view = last.viewpoint.view()
    return {
        "scene": scene,
        "mode": mode,
        "frames_per_s_wall": round(shots / wall, 1),
        "frames_per_s_core": round(shots / busy, 1),
        "ray_casting_ms": round(1e3 * _timed(lambda: view.first_hit(rays)), 1),
        "true_match_ms": round(1e3 * _timed(lambda: true_match(last, last)), 1),
    }


def _timed(work) -> float:
    """Processor seconds, the best of three."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--scenes", nargs="*", default=["room", "corridor", "yard"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for scene in args.scenes:
        start = time.process_time()
        make_world(scene)
        built_s = time.process_time() - start
        rows += [measure(scene, mode, args.frames) | {"built_s": built_s} for mode in MODES]
    if args.json:
        print(json.dumps(rows))
        return
    print("| scene | outputs, 640x480 | frames/s wall | frames/s core | rays ms | true_match ms |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['scene']} | {r['mode']} | {r['frames_per_s_wall']} | {r['frames_per_s_core']} "
            f"| {r['ray_casting_ms']} | {r['true_match_ms']} |"
        )
    print("building:", ", ".join(f"{r['scene']} {r['built_s']:.1f} s" for r in rows[:: len(MODES)]))


if __name__ == "__main__":
    main()
