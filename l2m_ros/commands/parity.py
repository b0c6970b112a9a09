"""Compare a network, number for number, with golden tensors of the reference implementation.

The folder holds cases.json and the .npz files that it names; weights are drawn from their
names. Exit status 0 only if every golden tensor was compared and lies within its tolerance.

    l2m parity PICTURES --model l2m --precision bf16

compares a model in another precision with itself in single precision instead, on pairs of your
own: a scene or a folder of scenes, or any folder of pictures, each against the one before it. It
prints how far the warp moves where the model is certain. Exit status 0 only if 99 % of those pixels
move by less than 0.1 px of the network's input.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MODELS = ("l2m", "tinyroma", "lite", "mickey")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.commands.options import size_of, whole

    parser.add_argument(
        "folder", type=Path, metavar="DIR",
        help="golden data with cases.json; with --precision pictures or scenes",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="l2m", metavar="NAME",
        help=f"{', '.join(MODELS)}; with --precision any L2M by name or folder (default: l2m)",
    )  # fmt: skip
    parser.add_argument("--precision", choices=("bf16",), help="compare with fp32 by torch")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint instead of the card's")
    parser.add_argument(
        "--input", type=size_of("WxH"), metavar="WxH", help="input size (default: the card's)"
    )
    parser.add_argument("--limit", type=whole(1), metavar="N", help="at most N pairs (of a scene)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    report = _golden(args) if args.precision is None else _precisions(args)
    print(json.dumps(report.as_dict(), indent=1) if args.json else report.table())
    return 0 if report.passed else 1


def _golden(args: argparse.Namespace) -> Any:
    from l2m_ros.errors import InvalidInput
    from l2m_ros.matching.preprocess import resize
    from l2m_ros.workshop.parity.run import run_parity

    if args.model not in MODELS:
        raise InvalidInput(f"no golden data is read of {args.model!r}, known: {', '.join(MODELS)}")
    for name in ("weights", "input", "limit"):
        if getattr(args, name) is not None:
            raise InvalidInput(f"--{name} goes with --precision: golden cases say it themselves")
    return run_parity(args.folder, args.model, lambda rgb, w, h: resize(rgb, w, h, "bicubic"))


def _precisions(args: argparse.Namespace) -> Any:
    from l2m_ros.commands.options import show_log
    from l2m_ros.workshop.parity.precision import run_precision

    show_log()
    return run_precision(
        args.folder, args.model, args.precision,
        size=args.input, limit=args.limit, weights=args.weights,
    )  # fmt: skip
