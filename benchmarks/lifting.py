"""Pairs per second: NumPy on one core, torch on the CPU, torch on a GPU where there is one.

    python benchmarks/lifting.py PHOTOS [--size 320x240] [--batch 32] [--json]

The ratio is to the first row, measured in the same run. Figures are of one process; worker
processes add up until the cores are used.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import refusals  # noqa: F401

from l2m_ros.workshop.lifting.pairs import PairOptions, PairSource
from l2m_ros.workshop.lifting.photographs import find_photographs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--pairs", type=int, default=200, help="by NumPy (default 200)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    rows = list(measured(args, PairOptions(width, height)))
    if args.json:
        print(json.dumps(rows))
        return
    print(f"{'path':28}{'pairs/s':>10}{'ms/pair':>10}{'CPU ms':>9}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['path']:28}{row['pairs_per_s']:10.1f}{row['ms']:10.2f}"
            f"{row['cpu_ms']:9.2f}{row['pairs_per_s'] / rows[0]['pairs_per_s']:8.2f}"
        )


def measured(args: argparse.Namespace, options: PairOptions) -> Iterator[dict[str, object]]:
    cv2.setNumThreads(1)
    files = find_photographs(args.photographs)
    source = PairSource(files, options, seed=0)
    for i in range(5):
        source.sample(i)
    yield row(
        "NumPy + OpenCV, one core",
        args.pairs,
        lambda: [source.sample(i) for i in range(args.pairs)],
    )
    try:
        import torch
    except ModuleNotFoundError:
        return
    from l2m_ros.workshop.lifting.torch_pairs import TorchPairSource, load_photographs

    chosen = np.random.default_rng(0).permutation(len(files))[:256]
    photographs = load_photographs([files[i] for i in chosen])
    torch.set_num_threads(1)
    on_cpu = TorchPairSource(photographs, options)
    on_cpu.sample(2)
    yield row("torch, CPU, one thread", 8, lambda: on_cpu.sample(8))
    if not torch.cuda.is_available():
        return
    on_gpu = TorchPairSource(photographs.cuda(), options)

    def batches() -> None:
        for _ in range(args.batches):
            on_gpu.sample(args.batch)
        torch.cuda.synchronize()

    batches()
    yield row(f"torch, {torch.cuda.get_device_name()}", args.batch * args.batches, batches)


def row(path: str, pairs: int, work: Callable[[], object]) -> dict[str, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "path": path,
        "pairs_per_s": pairs / wall,
        "ms": 1e3 * wall / pairs,
        "cpu_ms": 1e3 * cpu / pairs,
    }


if __name__ == "__main__":
    main()
