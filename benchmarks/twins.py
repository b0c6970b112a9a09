"""Corridors built alike: is a camera in one of them ever found in the map of another?

python benchmarks/loop.py --metres 60 --width 320 --kept loop60.l2m
python benchmarks/twins.py loop60.l2m --scene-seeds 0,7,8

The map is of the corridor with scene seed 0. With another seed its walls, doors, lamps and
furniture are the same; notices, posters, the numbers of doors, bricks and the view from the window
differ. Of the map's own corridor (seed 0, other noise) images should be found, of all others none.
Ends with 1 where one is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import blas  # noqa: F401
import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.store import open_map
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

OWN = 0  # scene seed of the map


def images(scene_seed: int, count: int, every_s: float, width: int) -> SimulationOptions:
    """The drive of `loop.py`, one image every so often."""
    return SimulationOptions(
        scene="corridor",
        path="drive",
        frames=count,
        width=width,
        height=3 * width // 4,
        rate_hz=1.0 / every_s,
        stereo=False,
        faults=Faults.named(["noise", "depth"]),
        scene_seed=scene_seed,
    )


def ask(relocalizer: Relocalizer, options: SimulationOptions, *, verbose: bool) -> int:
    """How many of a corridor's images are found; prints it, and how far off its own ones are."""
    map_from_world: FloatArray | None = None
    found, off_m = 0, []
    for shot in simulate(options):
        outcome = relocalizer.localize(shot.frame)
        if verbose:
            words = "found" if isinstance(outcome, Localized) else outcome.detail
            print(f"  seed {options.scene_seed}, {shot.time_s:.1f} s: {words}", flush=True)
        if not isinstance(outcome, Localized):
            continue
        found += 1
        if options.scene_seed == OWN:
            if map_from_world is None:  # the first one says how the map lies
                map_from_world = outcome.map_from_camera @ se3.inverse(shot.world_from_camera)
            place = map_from_world @ shot.world_from_camera
            off_m.append(np.linalg.norm(place[:3, 3] - outcome.map_from_camera[:3, 3]))
    far = f", at most {max(off_m):.3f} m from the first one's world" if off_m else ""
    print(f"seed {options.scene_seed}: {found} of {options.frames} localized{far}", flush=True)
    return found


def whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map", type=Path)
    parser.add_argument("--scene-seeds", type=whole_numbers, default=[OWN, 7, 8])
    parser.add_argument("--count", type=int, default=16, help="images of each corridor")
    parser.add_argument("--every-s", type=float, default=13.3)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    store = open_map(str(args.map), write=False)
    relocalizer = Relocalizer(Places(store, load_matcher("lite")))
    wrong = 0
    for seed in args.scene_seeds:
        options = images(seed, args.count, args.every_s, args.width)
        found = ask(relocalizer, options, verbose=args.verbose)
        wrong += found if seed != OWN else 0
    store.close()
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
