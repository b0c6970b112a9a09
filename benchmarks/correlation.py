"""Local correlation at L2M's sizes: the network's form beside plain grid sampling.

    python benchmarks/correlation.py [--device cuda] [--threads 1]

Each form runs in a process of its own, so that its peak memory is its own. On the CPU the
time is processor time of one thread (other work on the machine does not count; waiting threads
would), on a GPU wall time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import refusals  # noqa: F401

# Stride, channels, rows = columns, radius: first pass at 560, second at 864.
CASES = [(16, 512, 40, 7), (8, 512, 70, 3), (4, 256, 140, 2), (8, 512, 108, 3), (4, 256, 216, 2)]
FORMS = {"plain": "local_correlation_plain", "fast": "local_correlation"}
REPEATS = 3
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(*json.loads(args.one), args.device, args.threads)))
        return
    print(f"{'stride':>6} {'map':>13} {'window':>7} | {'plain':>18} | {'fast':>18} | time  memory")
    for case in CASES:
        plain, fast = (in_own_process(case, form, args) for form in FORMS)
        print(line(case, plain, fast), flush=True)


def in_own_process(case: tuple[int, ...], form: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", json.dumps([*case, form])]
    command += ["--device", args.device, "--threads", str(args.threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def line(case: tuple[int, ...], plain: dict[str, float], fast: dict[str, float]) -> str:
    stride, channels, side, radius = case
    window = f"{2 * radius + 1}x{2 * radius + 1}"
    cells = f"{channels}x{side}x{side}"
    figures = [f"{f['ms']:8.0f} ms {f['mib']:5.0f} MiB" for f in (plain, fast)]
    ratios = f"{plain['ms'] / fast['ms']:4.1f}x {plain['mib'] / max(fast['mib'], 1):5.1f}x"
    return f"{stride:>6} {cells:>13} {window:>7} | {figures[0]} | {figures[1]} | {ratios}"


def measured(
    stride: int, channels: int, side: int, radius: int, form: str, device: str, threads: int
) -> dict[str, float]:
    import torch

    from l2m_ros.networks.shared import correlation
    from l2m_ros.networks.shared.grid import centre_grid

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    query, support = torch.randn(2, 1, channels, side, side, device=device)
    flow = 0.9 * centre_grid(side, side, query)[None] + 0.02 * torch.randn(
        1, 2, side, side, device=device
    )
    run = getattr(correlation, FORMS[form])
    with torch.inference_mode():
        run(query[:, :, :8, :8], support[:, :, :8, :8], flow[:, :, :8, :8], 1)  # loads kernels
        before = peak_bytes(device)
        times = []
        for _ in range(REPEATS):
            start = clock(device)
            run(query, support, flow, radius)
            times.append(clock(device) - start)
    return {"ms": 1e3 * min(times), "mib": (peak_bytes(device) - before) / MIB}


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(device: str) -> int:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
