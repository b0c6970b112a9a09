"""Scenes of Gaussians: build one from posed images, check its labels, make training pairs.

  l2m splat build SOURCE --out scene.ply [--minutes 10]     fit Gaussians to posed images
  l2m splat check scene.ply [--json]                        how exact its labels are
  l2m splat pairs scene.ply --views 200 --out DIR           shards as `l2m lift` writes them

SOURCE is a folder with meta.json (a scene, a sequence, or what l2m simulate wrote), nerfstudio's
transforms.json or COLMAP's text files; a keyframe map (office.l2m); or a bag with truth.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2m_ros.errors import InvalidInput
from l2m_ros.files import local, without_password
from l2m_ros.output_paths import check_outputs, refuse_existing, refuse_overwriting

if TYPE_CHECKING:
    from l2m_ros.workshop.gaussians.captures import HoldOut

FEW_STEPS = 8  # of both branches, for each view: below, a fit has not settled


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|check|pairs")
    _build_arguments(actions.add_parser("build", help="fit Gaussians to posed images"))
    _check_arguments(actions.add_parser("check", help="measure the labels of a scene"))
    _pairs_arguments(actions.add_parser("pairs", help="shards of training pairs"))


def run(args: argparse.Namespace) -> int:
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "build": _build, "check": _check, "pairs": _pairs,
    }  # fmt: skip
    return actions[args.action](args)


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.commands.options import add_force, whole

    parser.add_argument("source", type=Path, metavar="SOURCE", help="posed images")
    parser.add_argument("--out", type=Path, required=True, metavar="SCENE.ply")
    parser.add_argument("--minutes", type=float, help="time for the fit (default: by --steps)")
    parser.add_argument("--steps", type=whole(1), default=2000, help="of the fit (default 2000)")
    parser.add_argument(
        "--gaussians", type=whole(1), default=30_000, help="at most (default 30000)"
    )
    parser.add_argument(
        "--size", type=whole(32, 1 << 16), default=320, help="longest side, px (default 320)"
    )
    parser.add_argument("--views", type=whole(3), default=200, help="images at most (default 200)")
    parser.add_argument(
        "--hold-out", type=_hold_out, default="8:4", metavar="EVERY:FIRST",
        help="views FIRST, FIRST + EVERY, ... are measured on and not trained on (default 8:4)",
    )  # fmt: skip
    parser.add_argument("--sh-degree", type=int, default=1, help="of the colours, 0 to 3")
    parser.add_argument("--matcher", default="lite", help="where depth is not known (lite)")
    parser.add_argument("--no-depth", action="store_true", help="leave known depth aside")
    parser.add_argument(
        "--no-plain", action="store_true",
        help="skip the scene without regularisers, which check compares with: 47 %% faster",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="held-out views: real, drawn, depth, normals"
    )
    add_force(parser)
    _shared(parser)


def _hold_out(text: str) -> HoldOut:
    from l2m_ros.workshop.gaussians.captures import HoldOut

    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form EVERY:FIRST, such as 8:4")
    try:
        return HoldOut(int(found[1]), int(found[2]))
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", type=Path, metavar="SCENE.ply")
    parser.add_argument("--source", type=Path, metavar="SOURCE", help="the images, if they moved")
    parser.add_argument(
        "--apart", type=float, metavar="SHARE",
        help="label pixels whose planes deviate by so much of their depth (default 0.01; 1: all)",
    )  # fmt: skip
    parser.add_argument(
        "--own-mask", action="store_true",
        help="each depth leaves out where its own scene's planes lie apart, not SCENE.ply's",
    )  # fmt: skip
    _shared(parser)


def _pairs_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.commands.options import add_runner_arguments, place, size_of, whole

    parser.add_argument("scene", type=Path, metavar="SCENE.ply")
    parser.add_argument(
        "--out", required=True, type=place, metavar="DIR|URL", help="for the shards"
    )
    parser.add_argument(
        "--views", type=whole(2, 10**7), default=200, help="new views, 2 a pair (default 200)"
    )
    parser.add_argument("--size", type=size_of("WxH"), default=(320, 240), help="default 320x240")
    parser.add_argument("--difficulty", type=float, default=1.0, help="0 to 1 (default 1)")
    parser.add_argument("--relight", type=float, default=0.3, help="share of views (default 0.3)")
    parser.add_argument("--per-shard", type=whole(1), default=64, help="pairs (default 64)")
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--source", type=Path, metavar="SOURCE", help="cameras of a foreign scene")
    add_runner_arguments(parser)
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the first 12 pairs with their matches"
    )
    _shared(parser)


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rasterizer", default="auto", help="auto (default), cpu, gsplat, gsplat2d"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")


def _build(args: argparse.Namespace) -> int:
    from l2m_ros.images import check_picture
    from l2m_ros.workshop.gaussians.build import BuildOptions, build_scene
    from l2m_ros.workshop.gaussians.fit import FitOptions

    outputs = [path for path in (args.out, args.picture) if path is not None]
    check_outputs(outputs, [])
    check_picture(args.picture)
    refuse_overwriting([path for path in outputs if path.exists()], [args.source])
    _refuse_a_scene(args.out, force=args.force)
    options = BuildOptions(
        longest_px=args.size,
        views=args.views,
        hold_out=args.hold_out,
        minutes=args.minutes,
        use_depth=not args.no_depth,
        matcher=args.matcher,
        sh_degree=args.sh_degree,
        plain=not args.no_plain,
        rasterizer=args.rasterizer,
        fit=FitOptions(steps=args.steps, max_gaussians=args.gaussians, seed=args.seed),
    )
    report = build_scene(args.source, args.out, options)
    if args.picture:
        _draw(args)
    if report.steps < FEW_STEPS * report.views:
        print(
            f"{report.steps} steps for {report.views} views are few: most pixels will have no "
            "label yet (l2m splat check says how many); give it more --minutes",
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps(vars(report)))
        return 0
    psnr = "no view held out" if report.psnr is None else f"PSNR {report.psnr:.2f} dB"
    beside = "" if report.psnr_plain is None else f" ({report.psnr_plain:.2f} unregularised)"
    print(
        f"{args.out}: {report.gaussians} Gaussians from {report.started_from}, {report.steps} "
        f"steps, {psnr}{beside} on {report.held_out} held-out views, {report.seconds:.0f} s"
    )
    return 0


def _refuse_a_scene(out: Path, *, force: bool) -> None:
    """What an unfinished build wrote is its own: the same command goes on."""
    from l2m_ros.workshop.gaussians.record import plain_path, resume_path

    goes_on = resume_path(out).is_file()
    refuse_existing(out, plain_path(out), out.with_suffix(".json"), force=force or goes_on)


def _draw(args: argparse.Namespace) -> None:
    from l2m_ros.images import write_rgb
    from l2m_ros.workshop.gaussians.choice import load_rasterizer
    from l2m_ros.workshop.gaussians.picture import scene_picture
    from l2m_ros.workshop.gaussians.ply import read_ply
    from l2m_ros.workshop.gaussians.record import read_record

    captures = read_record(args.out).captures(args.source)
    views = captures.held_out or captures.items
    picture = scene_picture(read_ply(args.out), views, load_rasterizer(args.rasterizer))
    write_rgb(args.picture, picture)


def _check(args: argparse.Namespace) -> int:
    from l2m_ros.workshop.gaussians.check import check_scene
    from l2m_ros.workshop.gaussians.choice import load_rasterizer
    from l2m_ros.workshop.gaussians.labels import APART
    from l2m_ros.workshop.gaussians.ply import read_ply
    from l2m_ros.workshop.gaussians.record import plain_path, read_record

    scene = read_ply(args.scene)
    captures = read_record(args.scene).captures(args.source)
    beside = plain_path(args.scene)
    plain = read_ply(beside) if beside.is_file() else scene
    rasterizer = load_rasterizer(args.rasterizer)
    apart = APART if args.apart is None else args.apart
    if not apart > 0:
        raise InvalidInput(f"--apart is a positive share of the depth, got {apart:g}")
    report = check_scene(scene, plain, captures, rasterizer, apart, args.own_mask)
    figures = report.as_json() | {"plain": beside.name if beside.is_file() else args.scene.name}
    if args.json:
        print(json.dumps(figures))
        return 0
    _print_check(args.scene, figures)
    return 0


def _pairs(args: argparse.Namespace) -> int:
    from l2m_ros.commands.options import draw_shards
    from l2m_ros.images import check_picture
    from l2m_ros.workshop.gaussians.pairs import SceneFile, SplatPairOptions, write_pairs
    from l2m_ros.workshop.jobs.runners import runner_of

    check_outputs([args.picture], [args.scene, args.source], [local(args.out)])
    check_picture(args.picture)
    options = SplatPairOptions(
        views=args.views,
        width=args.size[0],
        height=args.size[1],
        difficulty=args.difficulty,
        relight=args.relight,
        pairs_per_shard=args.per_shard,
        seed=args.seed,
    )
    scene = SceneFile(args.scene, args.rasterizer, args.source)
    runner = runner_of(args.ray, args.processes)
    report = write_pairs(scene, args.scene.name, args.out, options, runner)
    if args.picture:
        draw_shards(args.out, args.picture)
    if args.json:
        print(json.dumps(vars(report)))
        return 0
    why = ", ".join(f"{count} by {reason}" for reason, count in sorted(report.rejected.items()))
    print(
        f"{without_password(args.out)}: {report.pairs} pairs in {report.shards_written} new "
        "shards, "
        f"{report.shards_kept} shards kept; {report.overlap:.0%} of the pixels labelled; "
        f"cameras rejected: {why or 'none'}"
    )
    return 0


def _print_check(scene: Path, figures: dict[str, Any]) -> None:
    def written(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    print(f"{scene}: {figures['gaussians']} Gaussians, {figures['held_out']} held-out views, "
          f"depth compared with: {figures['truth']}")  # fmt: skip
    names = "".join(f"{n:>{w}}" for n, w in (("epipolar", 12), ("cycle", 12), ("depth", 10)))
    print(f"{'depth from':<20}{names}{'median':>10}{'labelled':>10}")
    for way, epipolar in figures["epipolar"].items():
        print(
            f"{way:<20}{written(epipolar, '.2e'):>12}{written(figures['cycle'][way], '.2e'):>12}"
            f"{written(figures['depth'][way], '.4f'):>10}"
            f"{written(figures['depth_median'][way], '.4f'):>10}{figures['labelled'][way]:>10.0%}"
        )
    print(
        f"PSNR {written(figures['psnr'], '.2f')} dB regularised, "
        f"{written(figures['psnr_plain'], '.2f')} dB without ({figures['plain']})\n"
        f"the {figures['seen']:.0%} that training views are known to see: "
        f"{written(figures['psnr_seen'], '.2f')} and "
        f"{written(figures['psnr_seen_plain'], '.2f')} dB; labelled "
        f"pixels: {written(figures['psnr_labelled'], '.2f')} and "
        f"{written(figures['psnr_labelled_plain'], '.2f')} dB"
    )
