"""Keyframe maps: build one from a bag or folder, look at it, check, merge, thin and export it.

l2m map build BAG_OR_FOLDER --out office.l2m      track, keep keyframes, close loops
l2m map info office.l2m                           what it holds
l2m map check office.l2m [--repair]               read all of it; save what is left
l2m map merge A.l2m B.l2m --out C.l2m             B into A by the places they share
l2m map thin office.l2m --keep 500                drop the most redundant keyframes
l2m map export office.l2m --colmap DIR            or --ply FILE, --nerfstudio DIR
l2m map view office.l2m                           in the Rerun viewer
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from l2m_ros.commands.options import BACKENDS, add_force, real, whole
from l2m_ros.commands.replay import add_parameter_arguments, values_of
from l2m_ros.errors import InvalidInput
from l2m_ros.files import local, without_password
from l2m_ros.output_paths import check_outputs, refuse_existing

A_MAP: dict[str, Any] = {"metavar": "MAP", "help": "a .l2m file, or postgresql://..."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = _action(actions, "build", "track a bag or folder, keep keyframes, close loops: a map")
    build.add_argument(
        "recording",
        type=Path,
        metavar="BAG_OR_FOLDER",
        help="a ROS bag, or a folder with images/ and meta.json",
    )
    build.add_argument("--out", required=True, metavar="MAP", help="a file, or postgresql://...")
    build.add_argument("--every", type=whole(1), default=1, metavar="N", help="take each Nth image")
    build.add_argument(
        "--every-m", type=float, default=0.12, help="metres between keyframes (default 0.12)"
    )
    build.add_argument(
        "--features-mb", type=float, help="store at most so many MB of features (default 60)"
    )
    build.add_argument("--max-keyframes", type=whole(0), default=0, help="0 (default): no bound")
    build.add_argument("--world", help="name of the truth's frame, if the folder has none")
    add_parameter_arguments(build)  # of a bag: base_from_camera and others
    build.add_argument("--append", action="store_true", help="add to a map that is there")
    add_force(build)
    _model(build)
    info = _action(actions, "info", "print what a map holds")
    info.add_argument("map", **A_MAP)
    info.add_argument("--json", action="store_true", help="one JSON object instead of words")
    check = _action(actions, "check", "read all of a map")
    check.add_argument("map", **A_MAP)
    check.add_argument(
        "--repair",
        action="store_true",
        help="save what can be read, bring it to today's format, describe it for --model",
    )
    _model(check)
    merge = _action(actions, "merge", "merge two maps that share places")
    merge.add_argument("a", metavar="A", help="its frame is kept")
    merge.add_argument("b", metavar="B", help="is brought into A's frame")
    merge.add_argument("--out", required=True, metavar="C", help="a file, or postgresql://...")
    add_force(merge)
    _model(merge)
    thin = _action(actions, "thin", "drop the most redundant keyframes")
    thin.add_argument("map", **A_MAP)
    thin.add_argument("--keep", type=whole(1), required=True, metavar="N", help="so many stay")
    _model(thin)
    export = _action(actions, "export", "write a map for other programs")
    export.add_argument("map", **A_MAP)
    export.add_argument("--colmap", type=Path, metavar="DIR", help="cameras, images, points")
    export.add_argument("--ply", type=Path, metavar="FILE", help="a cloud of coloured points")
    export.add_argument("--nerfstudio", type=Path, metavar="DIR", help="transforms.json, images")
    export.add_argument(
        "--voxel-m",
        type=real(0.0, 1000.0),
        default=0.02,
        help="one point in each cube of this size, metres (default 0.02)",
    )
    add_force(export)
    view = _action(actions, "view", "show a map in the Rerun viewer")
    view.add_argument("map", **A_MAP)
    view.add_argument(
        "--save", type=Path, metavar="FILE.rrd", help="write a file instead of showing it"
    )
    add_force(view)


def _action(actions: Any, name: str, words: str) -> Any:
    return actions.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="matcher by name (default: the map's, else lite)")
    parser.add_argument("--backend", default="auto", choices=BACKENDS)


def run(args: argparse.Namespace) -> int:
    return int(ACTIONS[args.action](args))


def _matcher(args: argparse.Namespace, meta: dict[str, str]) -> Any:
    from l2m_ros.mapping.meta import model_of
    from l2m_ros.matching.catalogue import DEFAULT_MODEL, load_matcher

    return load_matcher(args.model or model_of(meta, DEFAULT_MODEL), backend=args.backend)


def _build(args: argparse.Namespace) -> int:
    from itertools import islice

    from l2m_ros.bags.mapping import BuildOptions, build_map
    from l2m_ros.bags.recording import open_recording
    from l2m_ros.bags.replay import without_effect
    from l2m_ros.mapping.options import MapperOptions, PickerOptions
    from l2m_ros.mapping.store import open_map
    from l2m_ros.parameters.table import tracker_options
    from l2m_ros.progress import track

    check_outputs([local(args.out)], [args.recording, args.params_file])
    values = values_of(args)
    if ignored := without_effect(values):
        raise InvalidInput(f"{', '.join(ignored)}: not of the building of a map; see the options")
    mapper = MapperOptions(max_keyframes=args.max_keyframes)
    if args.features_mb is not None:
        mapper = replace(mapper, features_mb=args.features_mb)
    options = BuildOptions(mapper, PickerOptions(args.every_m), tracker_options(values))
    with (
        open_recording(args.recording, world=args.world, values=values) as recording,
        _target(args.out, append=args.append, force=args.force) as target,
    ):
        store = open_map(target, create=True)
        try:
            if not args.append:
                _refuse_keyframes(store, args.out, "add --append, or name another map")
            built = build_map(
                recording,
                store,
                _matcher(args, store.meta()),
                options,
                lambda shots: track(
                    islice(shots, 0, None, args.every),
                    "tracking",
                    total=-(-recording.count // args.every),
                ),
                lambda ids: track(ids, "closing loops"),
            )
        finally:
            store.close()
    print(
        f"{without_password(args.out)}: {built.keyframes} keyframes of {built.frames} frames, "
        f"{built.placed} placed, {built.loops} loops"
    )
    return 0 if built.placed else 1


@contextmanager
def _target(out: str, *, append: bool | None = None, force: bool) -> Iterator[str]:
    """Where to build: beside the name and renamed at the end; what fails leaves nothing. `append`
    is None where nothing can be added to a map that is there."""
    if "://" in out or append:
        yield out
        return
    from l2m_ros.mapping import sqlite

    path = Path(out)
    remedy = "--force" if append is None else "--append or --force"
    refuse_existing(path, force=force, remedy=remedy)
    partial = path.with_name(f".{path.name}.partial")
    for file in (path, partial):
        sqlite.refuse_in_use(file)
    try:
        sqlite.remove(partial)  # a killed run's
        yield str(partial)
        sqlite.replace_map(partial, path)
    finally:
        sqlite.remove(partial)


def _refuse_keyframes(store: Any, name: str, remedy: str) -> None:
    """A server's map cannot be replaced: nothing is renamed there."""
    if store.ids():
        raise InvalidInput(f"{without_password(name)} holds keyframes already: {remedy}")


def _info(args: argparse.Namespace) -> int:
    from l2m_ros.mapping.sql import FORMAT
    from l2m_ros.mapping.store import open_map

    store = open_map(args.map)
    info = store.info()
    store.close()
    if args.json:
        print(json.dumps(asdict(info), indent=1))
        return 0
    older = (
        f", older: `l2m map check --repair` brings it to {FORMAT}" if info.format < FORMAT else ""
    )
    models = ", ".join(f"{name}: {count}" for name, count in info.with_features.items()) or "none"
    edges = ", ".join(f"{count} {kind}" for kind, count in info.edges.items()) or "none"
    print(
        f"{info.address} (format {info.format}{older}, {info.size_bytes / 1e6:.1f} MB)\n"
        f"  keyframes  {info.keyframes}, {info.placed} placed, {info.with_depth} with depth\n"
        f"  edges      {edges}\n"
        f"  features   {models}\n"
        f"  model      {info.meta.get('model', 'unknown')}\n"
        f"  world      {info.meta.get('world', 'none')}"
    )
    return 0


def _check(args: argparse.Namespace) -> int:
    from l2m_ros.mapping import repair

    if args.repair:
        saved = repair.repair(args.map)
        for line in saved.lines:
            print(line)
        if args.model or saved.keyframes:
            repair.describe_anew(args.map, lambda meta: _matcher(args, meta))
        return 0
    problems = repair.problems(args.map)
    for line in problems or ["whole"]:
        print(f"{without_password(args.map)}: {line}")
    return 1 if problems else 0


def _merge(args: argparse.Namespace) -> int:
    from l2m_ros.mapping.merge import merge
    from l2m_ros.mapping.store import open_map

    check_outputs([local(args.out)], [local(args.a), local(args.b)])
    if _same_map(args.a, args.b):
        raise InvalidInput(f"{without_password(args.a)} is both maps: name two")
    with _target(args.out, force=args.force) as target:
        a, b, out = open_map(args.a), open_map(args.b), open_map(target, create=True)
        try:
            _refuse_keyframes(out, args.out, "name another map")
            merged = merge(a, b, out, _matcher(args, a.meta()))
        finally:
            for store in (a, b, out):
                store.close()
    print(
        f"{without_password(args.out)}: {merged.keyframes} keyframes, {merged.placed} placed, "
        f"{merged.joins} loops between the two"
    )
    return 0 if merged.joins else 1


def _same_map(a: str, b: str) -> bool:
    if "://" in a or "://" in b:
        return a == b
    return Path(a).expanduser().resolve() == Path(b).expanduser().resolve()


def _thin(args: argparse.Namespace) -> int:
    from l2m_ros.mapping import thinning
    from l2m_ros.mapping.drive_recorder import DriveRecorder
    from l2m_ros.mapping.store import open_map

    store = open_map(args.map, write=True)
    try:
        gone = thinning.thin(DriveRecorder(store, _matcher(args, store.meta())), args.keep)
        left = len(store.ids())
    finally:
        store.close()
    print(f"{without_password(args.map)}: {len(gone)} keyframes dropped, {left} left")
    return 0


def _export(args: argparse.Namespace) -> int:
    from l2m_ros.mapping import export
    from l2m_ros.mapping.store import open_map

    check_outputs([args.ply], [local(args.map)], [args.colmap, args.nerfstudio])
    _ends_in(args.ply, ".ply")
    colmap = [args.colmap and args.colmap / name for name in ("images", "sparse")]
    nerfstudio = [
        args.nerfstudio and args.nerfstudio / name
        for name in ("images", "points.ply", "transforms.json")
    ]
    refuse_existing(args.ply, *colmap, *nerfstudio, force=args.force)
    store = open_map(args.map)
    try:
        wanted = [
            (args.colmap, export.write_colmap),
            (args.ply, export.write_ply),
            (args.nerfstudio, export.write_nerfstudio),
        ]
        if not any(path for path, _ in wanted):
            raise InvalidInput("say what to write: --colmap DIR, --ply FILE or --nerfstudio DIR")
        for path, write in wanted:
            if path is not None:
                print(f"{path}: {write(store, path, voxel_m=args.voxel_m)}")
    finally:
        store.close()
    return 0


def _ends_in(path: Path | None, suffix: str) -> None:
    """Refuses a name that a reader of this kind of file would not open."""
    if path is not None and path.suffix.lower() != suffix:
        raise InvalidInput(f"{path}: the name ends in {suffix}")


def _view(args: argparse.Namespace) -> int:
    from l2m_ros.mapping.store import open_map

    check_outputs([args.save], [local(args.map)])
    _ends_in(args.save, ".rrd")
    refuse_existing(args.save, force=args.force)
    from l2m_ros.bags.map_view import show_map

    store = open_map(args.map)
    try:
        show_map(store, args.save)
    finally:
        store.close()
    return 0


ACTIONS = {
    "build": _build,
    "info": _info,
    "check": _check,
    "merge": _merge,
    "thin": _thin,
    "export": _export,
    "view": _view,
}
