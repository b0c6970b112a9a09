"""Sensors that misbehave: is a pose ever published that is wrong, and how often is there one?

python benchmarks/trust.py [--frames 60] [--only FAULT ...] [--scene room ...] [--model lite]

Every fault of `l2m simulate --fault` in every scene, through a bag and `l2m_ros.bags.replay` as the
node runs it. A pose is wrong if it is over 5 sigma and over 2 cm or 0.5 degrees from the truth.

A run is rendered once for all its faults and kept as NAME.npz in --cache; features and matches of
images that a fault leaves alone are computed once. Results are kept by fault, scene, frames and
model in --kept, and --minutes stops early, so that the whole may be run in portions; --again
measures anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import blas  # noqa: F401
import numpy as np

from l2m_ros.bags import replay as bags
from l2m_ros.bags.reader import open_bag
from l2m_ros.commands.replay import add_frame
from l2m_ros.files import write_whole
from l2m_ros.images import write_rgb
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Match, Matcher
from l2m_ros.parameters.file import parameter_values
from l2m_ros.parameters.table import Values
from l2m_ros.types import Features, Reference
from l2m_ros.workshop.evaluation.tracking_report import TrackedRun
from l2m_ros.workshop.evaluation.trajectory import Trajectory
from l2m_ros.workshop.simulation import in_the_way
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.sensor_faults import SENSOR_FAULTS, spoil
from l2m_ros.workshop.simulation.sequence import (
    Pictures,
    SimulatedFrame,
    SimulationOptions,
    simulate,
)

SCENES = ("room", "corridor", "yard")
NATURAL = ("noise", "depth")  # of good sensors, in every run
RATE_HZ = 10.0
# What the node is given: without depth where the fault is odometry's, or that would not matter.
DEPTH = {"right": "ignore"}
WHEELS = {"right": "ignore", "depth": "ignore", "base_from_tf": "true"}
# Faults that leave nothing to see, or no metres, for part of the time: no goal for what is posed.
UNOBSERVABLE = (
    "depth_other_camera",
    "depth_late",
    "frozen_frames",
    "dropped_halves",
    "lookalike",
    "odom_gaps",
    "odom_slip",
    "odom_wrong_frame",
    "robot_part",
    "passers_by",
)
MASKED = "_masked"  # `robot_part`, and the node is given a mask of it
GOAL_POSED = 95.0
HEAD = "fault               scene     posed%  wrong  5sig     NEES keys  most said in diagnostics"


class RememberingMatcher:
    """Features and matches of images that were seen before cost nothing: faults share images."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher, self.name = matcher, matcher.name
        self._features: dict[bytes, Features] = {}
        self._references: dict[int, Reference] = {}
        self._matches: dict[tuple[int, int], Match] = {}

    def encode(self, rgb: np.ndarray) -> Features:
        key = hashlib.blake2b(np.ascontiguousarray(rgb).tobytes(), digest_size=16).digest()
        if key not in self._features:
            self._features[key] = self._matcher.encode(rgb)
        return self._features[key]

    def reference(self, features: Features) -> Reference:
        if id(features) not in self._references:
            self._references[id(features)] = self._matcher.reference(features)
        return self._references[id(features)]

    def match(self, query: Features, reference: Reference) -> Match:
        key = id(query), id(reference)  # both are kept above, so that ids stay theirs
        if key not in self._matches:
            self._matches[key] = self._matcher.match(query, reference)
        return self._matches[key]


def runs(only: list[str], scenes: list[str]) -> list[tuple[str, str, str]]:
    """(scene, path, fault), in order; `none` and `none_odom` are the same without a fault."""
    faults = only or ["none", "none_odom", *SENSOR_FAULTS, "robot_part" + MASKED]
    of_wheels = [fault for fault in faults if "odom" in fault or fault == "lookalike"]
    others = [fault for fault in faults if fault not in of_wheels]
    return [
        (scene, path, fault)
        for scene in scenes
        for path, group in (("drive", of_wheels), ("handheld", others))
        for fault in group
    ]


def rendered(scene: str, path: str, args: argparse.Namespace) -> list[SimulatedFrame]:
    """Once for all faults of a scene and path, and for the next time."""
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
    file = args.cache / f"{scene}_{path}_{args.frames}_{args.width}_{args.seed}.npz"
    if file.exists():
        with np.load(file) as arrays:
            parts = [arrays[name] for name in ("index", "rgb", "depth", "true_depth_m")]
        return list(simulate(options, {int(k): Pictures(*p) for k, *p in zip(*parts, strict=True)}))
    shots = list(simulate(options))
    args.cache.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        index=np.array([shot.index for shot in shots]),
        rgb=np.stack([shot.frame.rgb for shot in shots]),
        depth=np.stack([shot.frame.depth for shot in shots]),
        true_depth_m=np.stack([shot.true_depth_m for shot in shots]),
    )
    return shots


def measured(
    shots: list[SimulatedFrame], fault: str, matcher: Matcher, args: argparse.Namespace
) -> dict[str, Any]:
    """What `l2m replay` says of a run with the fault."""
    names = [] if fault.startswith("none") else [fault.removesuffix(MASKED)]
    mask = in_the_way.robot_mask(shots[0].frame) if fault.endswith(MASKED) else None
    values = parameter_values(None, WHEELS if "odom" in fault else DEPTH)
    run = TrackedRun(fault, "")
    return replayed(spoil(shots, names, seed=args.seed), values, matcher, run, mask)


def replayed(
    shots: Iterable[SimulatedFrame],
    values: Values,
    matcher: Matcher,
    run: TrackedRun,
    mask: np.ndarray | None = None,
) -> dict[str, Any]:
    """The figures of a run, through a bag and as the node runs it; mask: `tracking.mask`."""
    with tempfile.TemporaryDirectory() as folder:
        if mask is not None:
            drawn = Path(folder) / "mask.png"
            write_rgb(drawn, np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2))
            values = {**values, "tracking.mask": str(drawn)}
        path = Path(folder) / "run.mcap"
        write_bag(path, shots)
        with open_bag(path) as bag:
            run.truth = Trajectory(*map(np.array, bags.read_truth(bag, bags.GROUND_TRUTH)))
            topics = bags.find_topics(bag, {})
            for frame in bags.replay(bag, topics, values, run.report_input, matcher):
                add_frame(run, frame)
    return run.figures()


def row(fault: str, scene: str, figures: dict[str, Any]) -> str:
    p = {key: value or 0.0 for key, value in figures.get("poses", {}).items()}
    top = max(figures["diagnostics"].items(), key=lambda item: item[1], default=("", 0))
    return (
        f"{fault:<19} {scene:<9} {p.get('posed_percent', 0.0):6.1f} "
        f"{p.get('harmful_poses', 0):5.0f} {p.get('wrong_poses', 0):5.0f} "
        f"{p.get('nees_mean', float('nan')):8.2f} {figures['keyframes']:4d}  "
        f"{top[1]:3d} x {top[0][:70]}"
    )


def verdict(kept: dict[str, Any]) -> str:
    wrong = sum(f.get("poses", {}).get("harmful_poses") or 0 for f in kept.values())
    posed = sum(f["posed"] for f in kept.values())
    few = [
        name
        for name, f in kept.items()
        if name.split(" ")[0] not in UNOBSERVABLE
        and (f.get("poses", {}).get("posed_percent") or 0.0) < GOAL_POSED
    ]
    return (
        f"{len(kept)} runs, {wrong} of {posed} poses wrong (goal 0); below {GOAL_POSED:g} % posed "
        f"where the truth can be seen: {', '.join(few) or 'none'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lite", help="sift: no network, other errors")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="repeat it")
    parser.add_argument("--scene", action="append", choices=SCENES, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("trust.json"))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "l2m_trust")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so long")
    parser.add_argument("--again", action="store_true", help="also what is kept already")
    args = parser.parse_args()
    kept = json.loads(args.kept.read_text()) if args.kept.exists() else {}
    shown: dict[str, Any] = {}
    begun_s, at = time.monotonic(), None
    print(HEAD)
    for scene, path, fault in runs(args.only, args.scene or list(SCENES)):
        name = f"{fault} {scene} {args.frames} {args.width} {args.model} {args.seed}"
        if name not in kept or args.again:
            if time.monotonic() - begun_s > 60.0 * args.minutes:
                continue
            if at != (scene, path):
                at, shots = (scene, path), rendered(scene, path, args)
                matcher = RememberingMatcher(load_matcher(args.model))
            kept[name] = measured(shots, fault, matcher, args)
            write_whole(args.kept, json.dumps(kept, indent=1))
        shown[name] = kept[name]
        print(row(fault, scene, kept[name]), flush=True)
    print(verdict(shown))


if __name__ == "__main__":
    main()
