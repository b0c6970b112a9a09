"""Sensors that misbehave: is a pose ever published that is wrong, and how often is there one?

python benchmarks/trust.py [--frames 200] [--only FAULT ...] [--scene room ...] [--kept trust.json]

Every fault of `l2m simulate --fault` in every scene, through `l2m replay` as the node runs it.
A pose is wrong if it is over 5 sigma and over 2 cm or 0.5 degrees from the truth. Results are kept
by fault, scene, frames and model in --kept, so that the whole may be run in portions; --again
measures anew.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from l2m_ros import cli
from l2m_ros.files import write_whole
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.sensor_faults import SENSOR_FAULTS, spoil
from l2m_ros.workshop.simulation.sequence import SimulatedFrame, SimulationOptions, simulate

SCENES = ("room", "corridor", "yard")
NATURAL = ("noise", "depth")  # of good sensors, in every run
RATE_HZ = 10.0
# What the node is given: without depth where the fault is odometry's, or that would not matter.
DEPTH = ("-p", "right:=ignore")
WHEELS = ("-p", "right:=ignore", "-p", "depth:=ignore", "-p", "base_from_tf:=true")
# Faults that leave nothing to see, or no metres, for part of the time: no goal for what is posed.
UNOBSERVABLE = (
    "depth_other_camera",
    "frozen_frames",
    "dropped_halves",
    "lookalike",
    "odom_gaps",
    "odom_slip",
    "odom_wrong_frame",
)
GOAL_POSED = 95.0


def runs(only: list[str], scenes: list[str]) -> list[tuple[str, str, str]]:
    """(fault, scene, path); `none` and `none_odom` are the same without a fault."""
    faults = only or ["none", "none_odom", *SENSOR_FAULTS]
    return [
        (fault, scene, "drive" if "odom" in fault or fault == "lookalike" else "handheld")
        for scene in scenes
        for fault in faults
    ]


def rendered(scene: str, path: str, args: argparse.Namespace) -> list[SimulatedFrame]:
    """Once for all faults of a scene."""
    options = SimulationOptions(
        scene=scene,
        path=path,
        frames=args.frames,
        width=args.width,
        height=args.width * 3 // 4,
        rate_hz=RATE_HZ,
        stereo=False,
        faults=Faults.named(NATURAL),
        seed=args.seed,
    )
    return list(simulate(options))


def measured(shots: list[SimulatedFrame], fault: str, args: argparse.Namespace) -> dict[str, Any]:
    """What `l2m replay` says of a run with the fault."""
    names = [] if fault.startswith("none") else [fault]
    sensors = WHEELS if "odom" in fault else DEPTH
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "run.mcap"
        write_bag(bag, spoil(shots, names, seed=args.seed))
        said, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            code = cli.main(["replay", str(bag), "--json", "--model", args.model, *sensors])
    if code > 1:  # 1: no frame was posed
        raise SystemExit(f"{fault}: {errors.getvalue()}")
    return json.loads(said.getvalue())


def row(fault: str, scene: str, figures: dict[str, Any]) -> str:
    p = {key: value or 0.0 for key, value in figures.get("poses", {}).items()}
    top = max(figures["diagnostics"].items(), key=lambda item: item[1], default=("", 0))
    return (
        f"{fault:<19} {scene:<9} {p.get('posed_percent', 0.0):6.1f} "
        f"{p.get('harmful_poses', 0):5.0f} {p.get('wrong_poses', 0):5.0f} "
        f"{p.get('nees_mean', float('nan')):8.2f}   {top[1]:3d} x {top[0][:70]}"
    )


def verdict(kept: dict[str, Any]) -> str:
    wrong = sum(f.get("poses", {}).get("harmful_poses") or 0 for f in kept.values())
    few = [
        name
        for name, f in kept.items()
        if name.split(" ")[0] not in UNOBSERVABLE
        and (f.get("poses", {}).get("posed_percent") or 0.0) < GOAL_POSED
    ]
    return (
        f"{len(kept)} runs, {wrong} wrong poses (goal 0); below {GOAL_POSED:g} % posed where the "
        f"truth can be seen: {', '.join(few) or 'none'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lite")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="repeat it")
    parser.add_argument("--scene", action="append", choices=SCENES, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("trust.json"))
    parser.add_argument("--again", action="store_true", help="also what is kept already")
    args = parser.parse_args()
    kept = json.loads(args.kept.read_text()) if args.kept.exists() else {}
    shown: dict[str, Any] = {}
    shots: tuple[tuple[str, str], list[SimulatedFrame]] | None = None
    print("fault               scene     posed%  wrong  5sig     NEES   most said in diagnostics")
    for fault, scene, path in sorted(runs(args.only, args.scene or list(SCENES)), key=_order):
        name = f"{fault} {scene} {args.frames} {args.width} {args.model} {args.seed}"
        if name not in kept or args.again:
            if shots is None or shots[0] != (scene, path):
                shots = (scene, path), rendered(scene, path, args)
            kept[name] = measured(shots[1], fault, args)
            write_whole(args.kept, json.dumps(kept, indent=1))
        shown[name] = kept[name]
        print(row(fault, scene, kept[name]), flush=True)
    print(verdict(shown))


def _order(run: tuple[str, str, str]) -> tuple[str, str]:
    """By scene and path, so that each is rendered once."""
    return run[1], run[2]


if __name__ == "__main__":
    main()
