"""Render a run of a robot through a metric world with ground truth.

--out NAME.mcap or NAME.db3 writes a ROS 2 bag; any other name writes a folder in the layout
of the evaluation scenes. Nothing is left behind if the run is interrupted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SCENES = ("room", "corridor", "yard")
PATHS = ("handheld", "drive", "turn", "loop")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, help="NAME.mcap, NAME.db3 or a folder")
    parser.add_argument("--scene", default="room", help=f"{', '.join(SCENES)} (default: room)")
    parser.add_argument(
        "--path", default="handheld", help=f"{', '.join(PATHS)} (default: handheld)"
    )
    parser.add_argument("--frames", type=int, default=200, help="default: 200")
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT (default: 640x480)")
    parser.add_argument("--hfov", type=float, default=70.0, help="degrees (default: 70)")
    parser.add_argument("--rate", type=float, default=15.0, help="frames a second (default: 15)")
    parser.add_argument(
        "--faults",
        default="none",
        help="comma-separated: exposure, blur, noise, lens, depth, drops, movers; or all, none",
    )
    parser.add_argument("--baseline", type=float, default=0.12, help="stereo, metres")
    parser.add_argument("--no-right", action="store_true", help="no right image: twice as fast")
    parser.add_argument("--depth-encoding", default="16UC1", help="16UC1 (mm) or 32FC1 (m)")
    parser.add_argument("--pairs", type=int, default=60, help="of a folder (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of path and noise")
    parser.add_argument("--scene-seed", type=int, default=0, help="of the world's textures")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.progress import track
    from l2m_ros.workshop.simulation.bag import STORAGES, write_bag
    from l2m_ros.workshop.simulation.folder import write_folder
    from l2m_ros.workshop.simulation.output import refuse_existing
    from l2m_ros.workshop.simulation.sequence import simulate

    options = _options(args)
    refuse_existing(args.out, force=args.force)
    bag = args.out.suffix in STORAGES
    stereo = options.stereo and bag
    said = f"{options.scene}, {options.path}, seed {options.seed}"
    shots = _Counted(track(simulate(options), "rendering", total=options.frames))
    if bag:
        custom = {"scene": options.scene, "path": options.path, "seed": str(options.seed)}
        write_bag(
            args.out,
            shots,
            depth_encoding=args.depth_encoding,
            force=args.force,
            custom_data=custom,
        )
    else:
        write_folder(
            args.out,
            shots,
            pairs=args.pairs,
            seed=options.seed,
            force=args.force,
            source=f"l2m simulate: {said}",
        )
    _report(args, options, shots.count, stereo)
    return 0


def _options(args: argparse.Namespace) -> Any:
    from l2m_ros.workshop.simulation.bag import STORAGES
    from l2m_ros.workshop.simulation.faults import Faults
    from l2m_ros.workshop.simulation.sequence import SimulationOptions

    names = [name.strip() for name in args.faults.split(",") if name.strip() not in ("", "none")]
    width, height = _size(args.size)
    return SimulationOptions(
        scene=args.scene,
        path=args.path,
        frames=args.frames,
        width=width,
        height=height,
        hfov_deg=args.hfov,
        rate_hz=args.rate,
        stereo=not args.no_right and args.out.suffix in STORAGES,
        baseline_m=args.baseline,
        faults=Faults.named(names),
        seed=args.seed,
        scene_seed=args.scene_seed,
    )


def _size(text: str) -> tuple[int, int]:
    from l2m_ros.errors import InvalidInput

    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise InvalidInput(f"--size reads WIDTHxHEIGHT, such as 640x480; got {text!r}")
    return int(width), int(height)


class _Counted:
    """An iterable that remembers how many items it gave."""

    def __init__(self, items: Any) -> None:
        self._items, self.count = items, 0

    def __iter__(self) -> Any:
        for item in self._items:
            self.count += 1
            yield item


def _report(args: argparse.Namespace, options: Any, frames: int, stereo: bool) -> None:
    figures = {
        "out": str(args.out),
        "kind": "bag" if args.out.suffix in (".mcap", ".db3") else "folder",
        "scene": options.scene,
        "path": options.path,
        "frames": frames,
        "dropped": options.frames - frames,
        "stereo": stereo,
    }
    if args.json:
        print(json.dumps(figures))
    else:
        print(f"{args.out}: {figures['kind']}, {frames} frames of {options.scene}/{options.path}")
