"""Bring public data into the layouts of this package: an evaluation scene, or a bag.

l2m scene import tum rgbd_dataset_freiburg1_desk --out desk          for `l2m evaluate desk`
l2m scene import kitti dataset/sequences/07 --out kitti07.mcap       for `l2m replay`
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from l2m_ros.commands.options import add_force, defaults_shown
from l2m_ros.errors import InvalidInput
from l2m_ros.files import BAG_SUFFIXES
from l2m_ros.output_paths import refuse_existing, refuse_overwriting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.workshop.importers.registry import DATASETS

    add = defaults_shown(parser)
    parser.add_argument("action", choices=["import"])
    parser.add_argument("layout", choices=list(DATASETS), help="the data set")
    parser.add_argument("source", type=Path, metavar="SRC", help="its folder, as published")
    parser.add_argument("--out", type=Path, required=True, help="a folder, NAME.mcap or NAME.db3")
    add("--every", type=int, default=1, help="take every n-th frame of a sequence")
    parser.add_argument("--limit", type=int, help="at most so many frames or pairs")
    parser.add_argument(
        "--gaps",
        metavar="N,N",
        help="frames between the pictures of a pair (default: by the data set)",
    )
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    try:
        return _import(args)
    except (ValueError, KeyError) as error:  # of numpy and csv, over rows that are no numbers
        raise InvalidInput(
            f"{args.source} is not as {args.layout} is published: {error}"
        ) from error


def _import(args: argparse.Namespace) -> int:
    from l2m_ros.progress import track
    from l2m_ros.workshop.importers import scene_folder
    from l2m_ros.workshop.importers.registry import DATASETS

    dataset = DATASETS[args.layout]
    if args.out.exists():  # a new folder beside what is published there harms nothing
        refuse_overwriting([args.out], [args.source])
    refuse_existing(args.out, force=args.force)
    if args.every < 1:
        raise InvalidInput(f"--every is {args.every}: it must be 1 (every frame) or more")
    bag = args.out.suffix in BAG_SUFFIXES
    if dataset.shots is None and dataset.pairs is not None:
        if bag:
            raise InvalidInput(f"{args.layout} is a list of pairs: there is no bag to make of it")
        pairs = track(islice(dataset.pairs(args.source), args.limit), "importing pairs")
        count = scene_folder.write_pairs(args.out, dataset, pairs, force=args.force)
    elif dataset.shots is not None:
        taken = islice(dataset.shots(args.source), 0, None, args.every)
        shots = track(islice(taken, args.limit), "importing frames")
        if bag:
            from l2m_ros.workshop.importers.sequence_bag import write_bag

            count = write_bag(args.out, dataset, shots, force=args.force)
        else:
            gaps = _gaps(args.gaps) or dataset.gaps
            count = scene_folder.write_sequence(args.out, dataset, shots, gaps, force=args.force)
    print(f"{args.out}: {count} {'frames' if bag else 'pairs'}; licence: {dataset.licence}")
    return 0


def _gaps(text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidInput(f"--gaps {text}: write whole numbers with commas, as 5,10,20")
    return tuple(int(part) for part in parts)
