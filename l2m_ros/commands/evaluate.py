"""Measure matchers on scenes with ground truth: pose and homography accuracy, precision, time.

A scene is a folder with images/, meta.json and pairs.json (docs/evaluate.md); a folder of
scenes stands for all of them. `l2m simulate --out DIR` writes such a scene.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2m_ros.files import local, write_whole
from l2m_ros.output_paths import check_folder, check_outputs, refuse_existing, refuse_overwriting

STDOUT = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.commands.options import (
        add_force,
        add_precision,
        add_runner_arguments,
        add_second_look,
        place,
        whole,
    )
    from l2m_ros.matching.catalogue import DEFAULT_MODEL
    from l2m_ros.matching.sampling import METHODS
    from l2m_ros.workshop.evaluation.benchmark import BenchmarkOptions
    from l2m_ros.workshop.evaluation.solvers import SOLVERS

    defaults = BenchmarkOptions()
    parser.add_argument("scenes", nargs="*", type=Path, metavar="SCENE|FOLDER")
    parser.add_argument(
        "--matcher", action="append", metavar="NAME",
        help="sift, orb, akaze, dis, or a model; may be given several times "
        f"(default {DEFAULT_MODEL})",
    )  # fmt: skip
    parser.add_argument(
        "--solver", choices=list(SOLVERS), default=defaults.solver,
        help="essential: PoseLib's 5-point at 1 px (default); magsac: OpenCV's; pose: this "
        "package's own, with depth where there is one",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, default=defaults.size_px, metavar="PX",
        help=f"longest side of the images (default {defaults.size_px}; 0 = as they are)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="at most N pairs of each scene")
    parser.add_argument(
        "--max-matches", type=int, default=defaults.max_matches, metavar="N",
        help=f"at most so many are given to the solver (default {defaults.max_matches})",
    )  # fmt: skip
    parser.add_argument(
        "--sampling", choices=list(METHODS), default=defaults.sampling,
        help="how pairs of dense matches are drawn (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--subpixel", action=argparse.BooleanOptionalAction, default=defaults.subpixel,
        help="refine the pairs of dense matches by their patches of pixels, and leave out those "
        "that are not confirmed (default)",
    )  # fmt: skip
    add_second_look(parser, defaults.second_look)
    parser.add_argument("--seed", type=whole(0), default=defaults.seed)
    parser.add_argument("--backend", default="auto", help="engine of networks (default auto)")
    add_precision(parser)
    parser.add_argument(
        "--input", metavar="WxH", help="input size of networks (default: their model card's)"
    )
    parser.add_argument(
        "--json", nargs="?", type=Path, const=STDOUT, metavar="FILE",
        help="write the figures as JSON into FILE, or to stdout instead of the table",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table into FILE")
    parser.add_argument(
        "--map-free", type=Path, metavar="DIR",
        help="the Map-free benchmark's folder instead of scenes: its own figures, in metres",
    )  # fmt: skip
    parser.add_argument(
        "--submission", type=Path, metavar="ZIP", help="with --map-free: estimates for its site"
    )
    parser.add_argument(
        "--mono-depth", metavar="MODEL",
        help="with --map-free: metres of the reference by this model (lite_depth, or a folder)",
    )  # fmt: skip
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="recall curves, trajectories, matches as pictures"
    )
    add_force(parser)
    add_runner_arguments(parser)
    parser.add_argument(
        "--keep", type=place, metavar="DIR|URL",
        help="keep finished results here, so that an interrupted run goes on",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from l2m_ros.errors import InvalidInput
    from l2m_ros.matching.catalogue import DEFAULT_MODEL
    from l2m_ros.workshop.evaluation.benchmark import BenchmarkOptions
    from l2m_ros.workshop.evaluation.scenes import find_scenes
    from l2m_ros.workshop.evaluation.summary import markdown, report

    if args.json is not None and args.json.is_dir():  # `--json SCENE`: meant as a scene
        args.scenes, args.json = [*args.scenes, args.json], STDOUT
    figures_to = None if args.json == STDOUT else args.json
    files = [figures_to, args.markdown]
    check_outputs(files, [*args.scenes, args.map_free], [args.plots, local(args.keep)])
    zipped = args.submission is not None and args.submission.suffix == ".zip"
    if zipped:  # an archive may lie beside the benchmark's scenes
        check_outputs([args.submission], args.scenes)
    else:
        refuse_overwriting([args.submission], [*args.scenes, args.map_free])
        check_folder(args.submission)
    refuse_existing(*files, args.submission, args.plots, force=args.force)
    if args.map_free is not None:
        return _map_free(args)
    for name in ("mono_depth", "submission"):
        if getattr(args, name) is not None:
            raise InvalidInput(f"--{name.replace('_', '-')} is for --map-free: leave it out")
    if not args.scenes:
        raise InvalidInput("name a scene or a folder of scenes; `l2m scene import` makes them")
    if args.plots is not None:  # said before the work begins if matplotlib is missing
        import l2m_ros.workshop.evaluation.plots  # noqa: F401
    options = BenchmarkOptions(
        size_px=args.size or None,
        solver=args.solver,
        max_matches=args.max_matches,
        sampling=args.sampling,
        limit=args.limit,
        seed=args.seed,
        subpixel=args.subpixel,
        second_look=args.second_look,
    )
    scenes = find_scenes(args.scenes)
    names = args.matcher or [DEFAULT_MODEL]
    if args.ray is not None or args.processes > 1 or args.keep is not None:
        rows = _measured_elsewhere(scenes, names, options, args)
    else:
        matchers = _matchers(names, args)
        rows = _measured(scenes, matchers, options, args.plots)
    figures = report(rows, options)
    if args.json == STDOUT:
        print(json.dumps(figures, indent=1, allow_nan=False))
    else:
        print(markdown(figures), end="")
        if args.json is not None:
            _write(args.json, json.dumps(figures, indent=1, allow_nan=False) + "\n")
    if args.markdown is not None:
        _write(args.markdown, markdown(figures))
    return 0


def _map_free(args: argparse.Namespace) -> int:
    """The benchmark's figures of each matcher."""
    from l2m_ros.errors import InvalidInput
    from l2m_ros.matching.mono_depth import load_depth_reader
    from l2m_ros.progress import progress
    from l2m_ros.workshop.evaluation import mapfree

    names = [part for name in args.matcher or ["mickey"] for part in name.split(",") if part]
    if args.submission is not None and len(names) > 1:
        raise InvalidInput("--submission holds the estimates of one matcher: name one")
    scenes = mapfree.find_scenes(args.map_free)[: args.limit]
    found = {}
    for name, matcher in _matchers(names, args).items():
        reader = load_depth_reader(args.mono_depth or "", matcher, backend=args.backend)
        with progress(sum(len(scene.queries) for scene in scenes), f"{name}, queries") as bar:
            results = [
                mapfree.run_scene(scene, matcher, lambda: bar.update(1), reader) for scene in scenes
            ]
        if args.submission is not None:
            mapfree.write_submission(args.submission, results)
        found[name] = mapfree.figures(results)
    text = json.dumps(found, indent=1, allow_nan=False)
    if args.json == STDOUT:
        print(text)
        return 0
    print("\n".join(mapfree.table(name, values) for name, values in found.items()))
    if args.json is not None:
        _write(args.json, text + "\n")
    return 0


def _matchers(names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """By name, in the order given; all are loaded first, so that mistakes show at once."""
    from l2m_ros.commands.options import precision_option
    from l2m_ros.matching.catalogue import load_matcher

    listed = [part for name in names for part in name.split(",") if part]
    options = {
        "backend": args.backend, "size": _size(args.input), **precision_option(args.precision)
    }  # fmt: skip
    return {name: load_matcher(name, **options) for name in listed}


def _measured(
    scenes: list[Any], matchers: Mapping[str, Any], options: Any, plots: Path | None
) -> list[dict[str, Any]]:
    from l2m_ros.progress import progress
    from l2m_ros.workshop.evaluation.benchmark import Bench
    from l2m_ros.workshop.evaluation.summary import scene_summary

    rows = []
    scenes = [scene.limited(options.limit) for scene in scenes]
    total = len(matchers) * sum(len(scene.pairs) for scene in scenes)
    with progress(total, "pairs") as bar:
        for scene in scenes:
            results = {}
            for name, matcher in matchers.items():
                results[name] = []
                for result in Bench(scene, matcher, options).results():
                    results[name].append(result)
                    bar.update(note=f"{scene.name} {name}")
                rows.append(scene_summary(scene, name, results[name]))
            if plots is not None:
                from l2m_ros.workshop.evaluation.plots import write_plots

                write_plots(plots, scene, results, options.size_px)
    return rows


def _measured_elsewhere(
    scenes: list[Any], names: list[str], options: Any, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of every scene and matcher, made by processes or a cluster; times are theirs."""
    from l2m_ros.errors import InvalidInput
    from l2m_ros.progress import progress
    from l2m_ros.workshop.evaluation.distributed import EvaluationJob, measured
    from l2m_ros.workshop.jobs.runners import runner_of
    from l2m_ros.workshop.jobs.store import store_of

    if args.plots is not None:
        raise InvalidInput(
            "--plots are drawn in this process: leave out --processes, --ray, --keep"
        )
    listed = tuple(part for name in names for part in name.split(",") if part)
    job = EvaluationJob(
        tuple(scenes), listed, options, args.backend, _size(args.input),
        None if args.keep is None else store_of(args.keep), args.precision,
    )  # fmt: skip
    with progress(len(job), "scenes") as bar:
        return measured(job, runner_of(args.ray, args.processes), lambda: bar.update(1))


def _size(text: str | None) -> tuple[int, int] | None:
    from l2m_ros.errors import InvalidInput

    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidInput(f"--input is WIDTHxHEIGHT, for example 640x480, got {text!r}")
    return int(parts[0]), int(parts[1])


def _write(path: Path, text: str) -> None:
    write_whole(path, text)
    print(f"written: {path}", file=sys.stderr)
