"""Measure latency, throughput and peak memory of a matcher, stage by stage.

--size is WIDTHxHEIGHT here, as cameras state it (640x480): of the images and of the network's
input. --model, --backend and --size may be given several times; each combination then runs in
its own process, so that peak memory is its own. Weights do not matter for speed: without any
they are drawn at random.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from typing import Any

from l2m_ros.commands.options import BACKENDS, add_precision, as_json, show_log, size_of

COLUMNS = (
    "model", "backend", "width", "height", "encode", "reference", "match", "frames_per_s",
    "peak_memory_mib", "device_memory_mib",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="matcher by name or folder (default: lite)"
    )
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS, help="engine (default: auto)"
    )
    parser.add_argument(
        "--size",
        action="append",
        type=size_of("WxH"),
        metavar="WxH",
        help="of images and network (default: the card's)",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all cores")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_precision(parser)
    parser.add_argument(
        "--runs", type=int, default=20, help="measured frames (default 20, fewer if slow)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    models, backends = args.model or ["lite"], args.backend or ["auto"]
    jobs = list(itertools.product(models, backends, args.size or [None]))
    if len(jobs) == 1:
        show_log()
        results = [_measured(args, *jobs[0])]
    else:
        results = [_in_own_process(args, *job) for job in jobs]
    if args.json:
        print(as_json(results[0] if len(jobs) == 1 else {"results": results}))
    else:
        print(_table(results))
    return 1 if any("error" in result for result in results) else 0


def _measured(
    args: argparse.Namespace, model: str, backend: str, size: tuple[int, int] | None
) -> dict[str, Any]:
    from l2m_ros.matching.catalogue import NO_ENGINE, load_matcher
    from l2m_ros.workshop.evaluation.latency import BenchOptions, measure

    options: dict[str, Any] = {}
    if model not in NO_ENGINE:
        options = {
            "threads": args.threads, "device": args.device, "precision": args.precision,
            "untrained": True,
        }  # fmt: skip
    matcher = load_matcher(model, backend=backend, size=size, **options)
    card = getattr(matcher, "card", None)
    width, height = size or (card.input.size if card else (640, 480))
    result = measure(matcher, BenchOptions(width=width, height=height, runs=args.runs))
    return {**result.as_dict(), "threads": args.threads}


def _in_own_process(
    args: argparse.Namespace, model: str, backend: str, size: tuple[int, int] | None
) -> dict[str, Any]:
    command = [sys.executable, "-m", "l2m_ros.cli", "bench", "--json", "--model", model]
    command += ["--backend", backend, "--threads", str(args.threads), "--device", args.device]
    command += ["--precision", args.precision, "--runs", str(args.runs)]
    command += [*(["--size", f"{size[0]}x{size[1]}"] if size else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return {"model": model, "backend": backend, "error": last}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _table(results: list[dict[str, Any]]) -> str:
    rows = [list(COLUMNS)]
    failed = []
    for result in results:
        if "error" in result:
            failed.append(f"{result['model']} by {result['backend']}: {result['error']}")
            continue
        times = {row["stage"]: f"{row['median_ms']:.1f} ms" for row in result["stages"]}
        values = {**result, **times}
        rows.append(["-" if values[c] is None else str(values[c]) for c in COLUMNS])
    widths = [max(len(row[k]) for row in rows) for k in range(len(COLUMNS))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, *failed])
