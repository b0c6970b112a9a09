"""Render a run of a robot through a metric world with ground truth.

--out NAME.mcap or NAME.db3 writes a ROS 2 bag; any other name writes a folder in the layout
of the evaluation scenes. Nothing is left behind if the run is interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from l2m_ros.commands.options import add_force, as_json, defaults_shown, real, size_of, whole
from l2m_ros.files import BAG_SUFFIXES
from l2m_ros.output_paths import refuse_existing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.workshop.simulation.folder import LEAST_OVERLAP
    from l2m_ros.workshop.simulation.path import PATHS
    from l2m_ros.workshop.simulation.sensor_faults import SENSOR_FAULTS
    from l2m_ros.workshop.simulation.sequence import SimulationOptions
    from l2m_ros.workshop.simulation.world import SCENES

    d = SimulationOptions()
    add = defaults_shown(parser)
    add("--out", required=True, type=Path, help="NAME.mcap, NAME.db3 or a folder")
    add("--scene", default=d.scene, help=", ".join(SCENES))
    add("--path", default=d.path, help=", ".join(PATHS))
    add("--frames", type=int, default=d.frames, help="number of frames, before any are dropped")
    add("--size", type=size_of("WxH"), default=(d.width, d.height), metavar="WxH", help="of images")
    add("--hfov", type=float, default=d.hfov_deg, help="horizontal field of view, degrees")
    add("--rate", type=float, default=d.rate_hz, help="frames a second")
    parser.add_argument(
        "--faults",
        default="none",
        help="comma-separated: exposure, blur, noise, lens, depth, drops, movers; or all, none",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME",
        help="a sensor that misbehaves; may be repeated. "
        + "; ".join(
            f"{name}: {fault.words}".replace("%", "%%") for name, fault in SENSOR_FAULTS.items()
        ),
    )
    add("--baseline", type=float, default=d.baseline_m, help="of the stereo pair, metres")
    parser.add_argument("--no-right", action="store_true", help="no right image: twice as fast")
    add("--depth-encoding", default="16UC1", help="of a bag: 16UC1 (mm) or 32FC1 (m)")
    add("--pairs", type=whole(0), default=60, help="number of pairs of a folder")
    add(
        "--least-overlap",
        type=real(0.0, 1.0),
        default=LEAST_OVERLAP,
        help="least overlap of a folder's pairs",
    )
    add("--seed", type=int, default=d.seed, help="of path and noise")
    add("--scene-seed", type=int, default=d.scene_seed, help="of the world")
    add_force(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.progress import track
    from l2m_ros.workshop.simulation.folder import write_folder
    from l2m_ros.workshop.simulation.sensor_faults import spoil
    from l2m_ros.workshop.simulation.sequence import simulate

    options = _options(args)
    refuse_existing(args.out, force=args.force)
    bag = args.out.suffix in BAG_SUFFIXES
    stereo = options.stereo and bag
    said = f"{options.scene}, {options.path}, seed {options.seed}"
    rendered = track(simulate(options), "rendering", total=options.frames)
    shots = _Counted(spoil(rendered, args.fault, seed=options.seed))
    if bag:
        from l2m_ros.workshop.simulation.bag import write_bag

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
            least_overlap=args.least_overlap,
            seed=options.seed,
            force=args.force,
            source=f"l2m simulate: {said}",
            scene=f"simulated {args.scene}, seed {args.scene_seed}",
        )
    _report(args, options, shots.count, stereo)
    return 0


def _options(args: argparse.Namespace) -> Any:
    from l2m_ros.workshop.simulation.faults import Faults
    from l2m_ros.workshop.simulation.sequence import SimulationOptions

    names = [name.strip() for name in args.faults.split(",") if name.strip() not in ("", "none")]
    width, height = args.size
    return SimulationOptions(
        scene=args.scene,
        path=args.path,
        frames=args.frames,
        width=width,
        height=height,
        hfov_deg=args.hfov,
        rate_hz=args.rate,
        stereo=not args.no_right and args.out.suffix in BAG_SUFFIXES,
        baseline_m=args.baseline,
        faults=Faults.named(names),
        seed=args.seed,
        scene_seed=args.scene_seed,
    )


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
        "kind": "bag" if args.out.suffix in BAG_SUFFIXES else "folder",
        "scene": options.scene,
        "path": options.path,
        "frames": frames,
        "dropped": options.frames - frames,
        "stereo": stereo,
    }
    if args.json:
        print(as_json(figures, indent=None))
    else:
        print(f"{args.out}: {figures['kind']}, {frames} frames of {options.scene}/{options.path}")
