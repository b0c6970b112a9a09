"""Lift photographs to 3D and render training views with exact correspondences."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from l2m_ros.commands.options import (
    add_runner_arguments,
    as_json,
    defaults_shown,
    draw_shards,
    place,
    size_of,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photographs", type=Path, help="a folder of photographs, or one")
    parser.add_argument(
        "--out", type=place, required=True, metavar="DIR|URL",
        help="for the shards: a folder, or s3://..., gs://... by fsspec",
    )  # fmt: skip
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--depth", metavar="DIR|procedural", default="procedural",
        help="depth maps with the photographs' paths, or 'procedural' (default): made-up "
        "planes, rooms, hills and objects",
    )  # fmt: skip
    depth.add_argument("--disparity", type=Path, metavar="DIR", help="disparity maps instead")
    depth.add_argument(
        "--depth-model", type=Path, metavar="FILE.onnx",
        help="a monocular network that gives disparity, fed as Depth Anything V2 is",
    )  # fmt: skip
    parser.add_argument(
        "--sky-model", type=Path, metavar="FILE.onnx", help="a sky network instead of the rule"
    )
    parser.add_argument("--no-sky", action="store_true", help="there is no sky (indoors)")
    parser.add_argument(
        "--fill", default="inpaint", metavar="HOW",
        help="holes: 'inpaint' (default), 'photograph' (another one's content), or the folder "
        "of a diffusers inpainting pipeline",
    )  # fmt: skip
    from l2m_ros.workshop.lifting.lift import LiftOptions

    d = LiftOptions()
    add = defaults_shown(parser)
    add("--views", type=int, default=d.views, help="per photograph")
    add("--size", type=size_of("WxH"), default=(d.width, d.height), metavar="WxH", help="of views")
    add("--difficulty", type=float, default=d.difficulty, help="0 to 1")
    add("--homographies", type=float, default=d.homographies, help="fraction of photographs")
    add("--relight", type=float, default=d.relight, help="fraction of views")
    add("--per-shard", type=int, default=d.photographs_per_shard, help="photographs")
    add("--workers", type=int, default=d.workers, help="threads of each process")
    add_runner_arguments(parser)
    add("--seed", type=int, default=d.seed, help="of every choice")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the first 12 pairs with their matches"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.files import check_input_folder, check_readable, local, without_password
    from l2m_ros.images import check_picture
    from l2m_ros.output_paths import check_outputs
    from l2m_ros.workshop.jobs.runners import runner_of
    from l2m_ros.workshop.lifting.lift import LiftOptions, lift_folder

    width, height = args.size
    options = LiftOptions(
        views=args.views,
        width=width,
        height=height,
        difficulty=args.difficulty,
        homographies=args.homographies,
        relight=args.relight,
        photographs_per_shard=args.per_shard,
        seed=args.seed,
        workers=args.workers,
    )
    check_outputs([args.picture], [args.photographs], [local(args.out)])
    check_picture(args.picture)
    check_input_folder(args.disparity)
    check_input_folder(None if args.depth == "procedural" else Path(args.depth))
    for model in (args.depth_model, args.sky_model):
        check_readable(model)
    runner = runner_of(args.ray, args.processes)
    report = lift_folder(args.photographs, args.out, options, _workshop(args), runner)
    for name, reason in report.skipped:
        print(f"l2m lift: skipped {name}: {reason}", file=sys.stderr)
    if args.picture and report.photographs + report.shards_kept:
        draw_shards(args.out, args.picture)
    if args.json:
        print(as_json(vars(report), indent=None))
    else:
        print(
            f"{without_password(args.out)}: {report.photographs} photographs in "
            f"{report.shards_written} new shards, "
            f"{report.shards_kept} shards kept, {len(report.skipped)} photographs skipped"
        )
    return 1 if report.shards_written and not report.photographs else 0


def _workshop(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The parts that the arguments name."""
    from l2m_ros.workshop.lifting import depth, holes, sky
    from l2m_ros.workshop.lifting.lift import LiftingParts

    if args.depth_model:
        source: depth.DepthSource = depth.MonocularDepth(args.depth_model)
    elif args.disparity:
        source = depth.DepthFiles(args.disparity, disparity=True)
    elif args.depth != "procedural":
        source = depth.DepthFiles(Path(args.depth))
    else:
        source = depth.ProceduralDepth(0.35 + 0.65 * min(max(args.difficulty, 0.0), 1.0))
    mask = sky.SkyModel(args.sky_model) if args.sky_model else sky.sky_by_rule
    fill = holes.FILLERS.get(args.fill) or holes.load_diffusion(args.fill)
    return LiftingParts(source, sky.no_sky if args.no_sky else mask, fill, _chosen(args))


def _chosen(args: argparse.Namespace) -> dict[str, str]:
    """The options that name a part other than the usual one."""
    usual = {"depth": "procedural", "fill": "inpaint", "no_sky": False}
    names = ("depth", "disparity", "depth_model", "sky_model", "no_sky", "fill")
    given = {name: vars(args)[name] for name in names}
    return {name: str(v) for name, v in given.items() if v not in (None, usual.get(name))}
