"""Draw the matches between two images, and the warp and its certainty where they are dense.

l2m view-pair A.jpg B.jpg --matcher sift --out pair.jpg
l2m view-pair SCENE --pair 3 --matcher sift        a pair of an evaluation scene, lines coloured
                                                   by their true error where depth gives it
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from l2m_ros.commands.options import as_json, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.drawing import LINES
    from l2m_ros.matching.catalogue import DEFAULT_MODEL

    parser.add_argument("images", nargs="+", type=Path, metavar="A B | SCENE")
    parser.add_argument(
        "--pair", type=whole(0), default=0, metavar="N", help="of a scene (default 0)"
    )
    parser.add_argument(
        "--matcher", default=DEFAULT_MODEL, metavar="NAME",
        help="sift, orb, akaze, dis, or a model (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--backend", default="auto", help="engine of a network (default auto)")
    parser.add_argument(
        "--size", type=whole(0), default=640, metavar="PX",
        help="longest side of the images (default 640; 0 = as they are)",
    )  # fmt: skip
    parser.add_argument(
        "--lines", type=whole(0), default=LINES, help="matches drawn (default %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("pair.jpg"), help="picture (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.errors import InvalidInput
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.output_paths import check_outputs
    from l2m_ros.workshop.evaluation.pictures import picture_of, picture_of_files, write_picture
    from l2m_ros.workshop.evaluation.scenes import load_scene

    if len(args.images) > 2:
        raise InvalidInput("view-pair takes two images, or one scene and --pair N")
    check_outputs([args.out], args.images)
    matcher = load_matcher(args.matcher, backend=args.backend)
    size_px = args.size or None
    if len(args.images) == 1:
        scene = load_scene(args.images[0])
        shown = picture_of(scene, args.pair, matcher, size_px=size_px, lines=args.lines)
    else:
        shown = picture_of_files(*args.images, matcher, size_px=size_px, lines=args.lines)
    write_picture(args.out, shown.picture)
    figures: dict[str, Any] = {"matcher": args.matcher, "picture": str(args.out), **shown.figures}
    print(as_json(figures, indent=None) if args.json else _words(figures))
    return 0


def _words(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
        if value is not None
    )
