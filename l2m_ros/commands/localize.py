"""Find each image of a bag or folder in a map: no tracking, no hint.

Prints how many were localized, the time by stage and, where the images have a truth in the world
of the map's own, the errors. The folder's layout is that of `l2m map build`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2m_ros.commands.options import BACKENDS, add_force, whole
from l2m_ros.errors import InvalidInput
from l2m_ros.files import local
from l2m_ros.output_paths import check_outputs, refuse_existing

if TYPE_CHECKING:
    from l2m_ros.bags.mapping import Query
    from l2m_ros.mapping.store import MapStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("map", metavar="MAP", help="a .l2m file or postgresql://...")
    parser.add_argument("queries", type=Path, metavar="BAG_OR_FOLDER")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.tum", help="write the poses of the camera in the map"
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")
    parser.add_argument("--model", help="matcher by name (default: the map's)")
    parser.add_argument("--backend", default="auto", choices=BACKENDS)
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="PICTURE",
        help="black where the images show the robot itself, as tracking.mask",
    )
    parser.add_argument("--no-query-depth", action="store_true", help="use the map's depth only")
    parser.add_argument(
        "--every", type=whole(1), default=1, metavar="N", help="take each Nth image"
    )
    parser.add_argument("--world", help="name of the queries' truth, if the folder has none")
    parser.add_argument("--verbose", action="store_true", help="a line for each image")
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    from l2m_ros.bags.recording import open_recording
    from l2m_ros.mapping.meta import model_of
    from l2m_ros.mapping.places import Places
    from l2m_ros.mapping.relocalizer import Relocalizer
    from l2m_ros.mapping.store import open_map
    from l2m_ros.matching.catalogue import DEFAULT_MODEL, load_matcher

    if args.out is not None and args.out.suffix != ".tum":
        raise InvalidInput(f"--out {args.out}: the name ends in .tum")
    check_outputs([args.out], [local(args.map), args.queries, args.mask])
    refuse_existing(args.out, force=args.force)
    store = open_map(args.map)
    try:
        model = args.model or model_of(store.meta(), DEFAULT_MODEL)
        matcher = load_matcher(model, backend=args.backend)
        relocalizer = Relocalizer(Places(store, matcher))
        with open_recording(args.queries, world=args.world) as recording:
            queries = _localized(args, recording, relocalizer)
            figures = _figures(queries, store, recording.world)
            apart = _worlds_apart(queries, store, recording.world)
    finally:
        store.close()
    if args.out is not None:
        _write(args.out, queries)
    print(json.dumps(figures) if args.json else _words(figures))
    if apart:
        print(f"l2m localize: {apart}", file=sys.stderr)
    return 0 if figures["localized"] else 1


def _localized(args: argparse.Namespace, recording: Any, relocalizer: Any) -> list[Query]:
    from dataclasses import replace
    from itertools import islice

    from l2m_ros.bags.mapping import localize_all
    from l2m_ros.matching.mask import read_mask, without
    from l2m_ros.progress import track

    shots = islice(recording.shots(), 0, None, args.every)
    if args.no_query_depth:
        shots = (replace(s, frame=replace(s.frame, depth=None)) for s in shots)
    if args.mask is not None:
        used = read_mask(args.mask)
        shots = (replace(s, frame=without(s.frame, used)) for s in shots)
    queries = []
    total = -(-recording.count // args.every)
    for query in localize_all(
        track(shots, "localizing", total=total), relocalizer, time.perf_counter
    ):
        queries.append(query)
        if args.verbose:
            print(_line(query))
    return queries


def _line(query: Query) -> str:
    from l2m_ros.mapping.relocalizer import Localized

    label = query.name or f"{query.stamp_ns / 1e9:.3f}"
    if not isinstance(query.outcome, Localized):
        return f"{label}  {query.outcome.reason.value}: {query.outcome.detail}"
    x, y, z = query.outcome.map_from_camera[:3, 3]
    return f"{label}  {x:.3f} {y:.3f} {z:.3f} m in map, keyframes {query.outcome.keyframes}"


def _figures(queries: list[Query], store: MapStore, world: str | None) -> dict[str, Any]:
    from l2m_ros.mapping.alignment import NO_TRUTH, error_figures, pose_error, world_from_map
    from l2m_ros.mapping.meta import WORLD
    from l2m_ros.mapping.relocalizer import Localized

    found = [(q, q.outcome) for q in queries if isinstance(q.outcome, Localized)]
    same_world = world is not None and world == store.meta().get(WORLD)
    known = [q for q in queries if q.truth is not None]
    align = world_from_map(store) if same_world and known else None
    errors: dict[str, object] = dict(NO_TRUTH)
    if align is not None:
        each = [
            pose_error(outcome.map_from_camera, outcome.covariance, q.truth, align)
            for q, outcome in found
            if q.truth is not None
        ]
        errors = error_figures(each, len(queries))
    return {
        "frames": len(queries),
        "localized": len(found),
        **errors,
        "ms": _times(queries),
    }


def _worlds_apart(queries: list[Query], store: MapStore, world: str | None) -> str | None:
    """Why queries with a truth show no errors, where the map has a truth of another world."""
    from l2m_ros.mapping.meta import WORLD

    own = store.meta().get(WORLD)
    if own is None or own == world or all(query.truth is None for query in queries):
        return None
    return (
        f"no errors are shown: the images' truth is of the world {world!r}, the map's of {own!r}. "
        f"If both are one world, add --world {shlex.quote(str(own))}"
    )


def _times(queries: list[Query]) -> dict[str, float]:
    """Medians by stage over what was localized; `all` over every image."""
    import numpy as np

    from l2m_ros.mapping.relocalizer import Localized

    stages: dict[str, list[float]] = {}
    for query in queries:
        if isinstance(query.outcome, Localized):
            for stage, ms in query.outcome.stages_ms.items():
                stages.setdefault(stage, []).append(ms)
    medians = {stage: round(float(np.median(ms)), 1) for stage, ms in stages.items()}
    if queries:
        medians["all"] = round(float(np.median([q.ms for q in queries])), 1)
        medians["all_p95"] = round(float(np.percentile([q.ms for q in queries], 95)), 1)
    return medians


def _write(path: Path, queries: list[Query]) -> None:
    import numpy as np

    from l2m_ros.mapping.relocalizer import Localized
    from l2m_ros.workshop.evaluation.trajectory import Trajectory, write_tum

    found = [
        (q.stamp_ns, q.outcome.map_from_camera) for q in queries if isinstance(q.outcome, Localized)
    ]
    stamps = np.array([stamp for stamp, _ in found], np.int64)
    write_tum(path, Trajectory(stamps, np.array([pose for _, pose in found]).reshape(-1, 4, 4)))


def _words(figures: dict[str, Any]) -> str:
    share = 100.0 * figures["localized"] / max(figures["frames"], 1)
    lines = [f"localized {figures['localized']} of {figures['frames']} images ({share:.1f} %)"]
    if figures["median_m"] is not None:
        within = ", ".join(f"{name}: {value:.1f} %" for name, value in figures["within"].items())
        lines.append(
            f"median error {100 * figures['median_m']:.1f} cm, {figures['median_deg']:.2f} deg; "
            f"within {within}; wrong: {figures['wrong']}"
        )
    lines.append("ms: " + ", ".join(f"{name} {ms:g}" for name, ms in figures["ms"].items()))
    return "\n".join(lines)
