"""Speed of the CPU rasterizer: 30,000 Gaussians at 320x240, and the ratio to what is asked for.

    python benchmarks/gaussians.py --threads 2

Wanted on two cores: 5 forward, or 2 forward + backward passes a second. Processor time is
printed too, since other work may run beside it.
"""

import argparse
import json
import os
import time

import numpy as np
import refusals  # noqa: F401
import torch

from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.choice import load_rasterizer
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.rendering import render

WANTED = {"forward": 5.0, "forward + backward": 2.0}


def room(n: int, seed: int = 0) -> Gaussians:
    """Flat Gaussians on the walls of a box around the camera, as a fitted room has them."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (n, 3))
    axis, side = rng.integers(0, 3, n), rng.choice([-1.0, 1.0], n)
    points[np.arange(n), axis] = side
    spread = np.sqrt(24 / n)  # area of the walls by Gaussian
    scales = np.full((n, 3), np.log(0.5 * spread))
    scales += rng.normal(0, 0.3, (n, 3))
    scales[np.arange(n), axis] = np.log(0.05 * spread)
    parts = (
        points * (3, 2, 4), scales, np.tile([1.0, 0, 0, 0], (n, 1)),
        rng.normal(1, 1, n), rng.normal(0, 0.5, (n, 4, 3)),
    )  # fmt: skip
    return Gaussians(*(torch.tensor(part, dtype=torch.float32) for part in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gaussians", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rasterizer", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU rasterizer")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    torch.set_num_threads(1)  # its operations are small: threads of theirs mostly wait
    K = np.array([[228.5, 0, 159.5], [0, 228.5, 119.5], [0, 0, 1]])
    pose = np.eye(4)
    pose[2, 3] = 3.0  # from one end of the room
    view = PosedCamera(Camera(320, 240, K), pose)
    gaussians, rasterizer = room(args.gaussians), load_rasterizer(args.rasterizer)
    for _, tensor in gaussians.tensors():
        tensor.requires_grad_(True)

    def forward() -> None:
        with torch.no_grad():
            render(rasterizer, gaussians, view)

    def both() -> None:
        rendering = render(rasterizer, gaussians, view)
        (rendering.colour.mean() + rendering.plane_depth.mean()).backward()

    figures = {}
    for name, work in {"forward": forward, "forward + backward": both}.items():
        work()  # compiles
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(args.repeats):
            work()
        wall_s = (time.perf_counter() - wall) / args.repeats
        cpu_s = (time.process_time() - cpu) / args.repeats
        figures[name] = {"per_s": 1 / wall_s, "cpu_s": cpu_s, "ratio": 1 / wall_s / WANTED[name]}
    if args.json:
        print(json.dumps(figures))
        return
    print(f"{args.rasterizer}, {args.gaussians} Gaussians, 320x240, {args.threads} threads")
    for name, figure in figures.items():
        print(
            f"{name:>20}: {figure['per_s']:.1f} a second ({figure['ratio']:.1f} x the wanted "
            f"{WANTED[name]:g}), {figure['cpu_s'] * 1e3:.0f} ms of processor time"
        )


if __name__ == "__main__":
    main()
