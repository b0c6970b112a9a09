"""Compare a network, number for number, with golden tensors of the reference implementation.

The folder holds cases.json and the .npz files that it names; weights are drawn from their
names. Exit status 0 only if every golden tensor was compared and lies within its tolerance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

MODELS = ("l2m", "tinyroma", "lite", "mickey")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="golden data with cases.json")
    parser.add_argument("--model", choices=MODELS, default="l2m", help="default: l2m")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.matching.preprocess import resize
    from l2m_ros.workshop.parity.run import run_parity

    report = run_parity(args.folder, args.model, lambda rgb, w, h: resize(rgb, w, h, "bicubic"))
    print(json.dumps(report.as_dict(), indent=1) if args.json else report.table())
    return 0 if report.passed else 1
