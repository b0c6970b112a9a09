"""Build TensorRT engines ahead of time, or list those that are cached.

l2m engine build MODEL     builds what the first run would build (minutes), so that a robot starts
                           quickly; MODEL is a name or a folder that `l2m export` wrote
l2m engine info [FILE]     what each cached engine (or one file) was built from and for
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from l2m_ros.commands.options import show_log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("build", "info"))
    parser.add_argument(
        "what",
        nargs="?",
        metavar="MODEL|FILE",
        help="build: a model's name or folder; info: an engine file",
    )
    parser.add_argument(
        "--workspace-mib", type=int, default=2048, help="of TensorRT (default 2048)"
    )
    parser.add_argument(
        "--optimization-level", type=int, default=3, help="of TensorRT, 0 to 5 (default 3)"
    )
    parser.add_argument("--cache-dir", help="default: ~/.cache/l2m_ros/engines")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    show_log()
    found = _built(args) if args.action == "build" else _listed(args)
    if args.json:
        print(json.dumps({"engines": found}, indent=1))
        return 0
    for engine in found:
        print(engine["path"])
        for name, value in engine.items():
            if name != "path":
                print(f"  {name:<20} {value}")
    if not found:
        print("no engines here: l2m engine build MODEL")
    return 0


def _built(args: argparse.Namespace) -> list[dict[str, Any]]:
    from l2m_ros.engines.backend import BackendOptions, engine_module
    from l2m_ros.errors import InvalidInput
    from l2m_ros.matching.catalogue import DEFAULT_MODEL, find_card
    from l2m_ros.output_paths import check_folder

    if args.workspace_mib < 1:
        raise InvalidInput("--workspace-mib must be 1 or more")
    options = BackendOptions(
        device="cuda",
        workspace_mib=args.workspace_mib,
        optimization_level=args.optimization_level,
        cache_dir=args.cache_dir,
    )
    tensorrt = engine_module("tensorrt")
    card = find_card(args.what or DEFAULT_MODEL)
    tensorrt.check_usable(options)
    check_folder(tensorrt.cache_of(options).folder)
    found = []
    for stage in tensorrt.stages_of(card):
        key, plan = tensorrt.ensure_engine(card, stage, options)
        path = tensorrt.cache_of(options).path(key)
        if not path.is_file():
            raise InvalidInput(f"{path} could not be written: name another --cache-dir")
        found.append({"path": str(path), "mib": _mib(len(plan)), **asdict(key)})
    return found


def _listed(args: argparse.Namespace) -> list[dict[str, Any]]:
    from l2m_ros.engines.tensorrt.engine_cache import EngineCache, engines_folder, read_engine
    from l2m_ros.errors import ModelError

    paths = (
        [Path(args.what)] if args.what else EngineCache(engines_folder(args.cache_dir)).engines()
    )
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            key, engine = read_engine(path)
        except ModelError as error:
            if args.what:
                raise
            found.append({"path": str(path), "damaged": str(error)})
            continue
        found.append({"path": str(path), "mib": _mib(len(engine)), **asdict(key)})
    return found


def _mib(nbytes: int) -> float:
    return round(nbytes / 2**20, 2)
