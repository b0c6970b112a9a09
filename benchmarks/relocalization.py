"""Where am I in the map? Real sequences: a map from one part, queries from the rest.

python benchmarks/relocalization.py SEQUENCES/redkitchen [--model sift] [--every 4]
    blocks      map from every other block of 20 frames, queries from the blocks between
    roll30      map from all frames, queries turned by 30 degrees about the optical axis
    half        ... at half resolution      dark, bright   ... with gamma 2 and 0.5
    negatives   images of --negatives folders, none of which shows a place of the map
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.bags.mapping import BuildOptions, Query, build_map, localize_all
from l2m_ros.bags.recording import Recording, Shot, open_recording
from l2m_ros.geometry import se3
from l2m_ros.images import read_rgb
from l2m_ros.mapping.alignment import error_figures, pose_error, world_from_map
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.store import MapStore, open_map
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.progress import track
from l2m_ros.types import Camera, Frame

BLOCK = 20
PICTURES = (".jpg", ".jpeg", ".png", ".ppm")
Change = Callable[[Shot], Shot]


def rolled(shot: Shot, degrees: float = 30.0) -> Shot:
    """The image turned about the optical axis, as by a camera that was turned."""
    K, size = shot.frame.camera.K, shot.frame.camera.size
    turn = se3.rotation(np.array([0.0, 0.0, np.radians(degrees)]))
    H = K @ turn @ np.linalg.inv(K)  # pixels of the old camera -> of the turned one
    rgb = cv2.warpPerspective(shot.frame.rgb, H, size)
    depth = shot.frame.depth
    if depth is not None:
        unknown = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": float("nan")}
        depth = cv2.warpPerspective(depth, H, size, flags=cv2.INTER_NEAREST, **unknown)
    old_from_new = se3.transform(turn.T, np.zeros(3))
    truth = None if shot.truth is None else shot.truth @ old_from_new
    return replace(shot, frame=replace(shot.frame, rgb=rgb, depth=depth), truth=truth)


def halved(shot: Shot) -> Shot:
    frame = shot.frame
    width, height = (side // 2 for side in frame.camera.size)
    rgb = cv2.resize(frame.rgb, (width, height), interpolation=cv2.INTER_AREA)
    depth = frame.depth
    if depth is not None:
        depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    small = replace(frame, rgb=rgb, depth=depth, camera=frame.camera.resized(width, height))
    return replace(shot, frame=small)


def with_gamma(gamma: float) -> Change:
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return lambda shot: replace(shot, frame=replace(shot.frame, rgb=table[shot.frame.rgb]))


CHANGES: dict[str, Change] = {
    "same": lambda shot: shot,
    "roll30": rolled,
    "half": halved,
    "dark": with_gamma(2.0),
    "bright": with_gamma(0.5),
}


def in_block(parity: int) -> Callable[[int], bool]:
    return lambda index: index // BLOCK % 2 == parity


def chosen(recording: Recording, wanted: Callable[[int], bool]) -> Recording:
    """The frames whose index is wanted."""
    source = lambda: (s for i, s in enumerate(recording.shots()) if wanted(i))  # noqa: E731
    count = sum(map(wanted, range(recording.count)))
    return Recording(recording.path, count, recording.world, source)


def built(recording: Recording, matcher: Matcher, folder: str) -> MapStore:
    store = open_map(f"{folder}/{recording.count}.l2m", create=True)
    started = time.perf_counter()
    result = build_map(recording, store, matcher, BuildOptions())
    spent_s = time.perf_counter() - started
    print(f"  map: {result} in {spent_s:.0f} s, {store.info().size_bytes / 1e6:.0f} MB", flush=True)
    return store


def localized(shots: Iterable[Shot], store: MapStore, matcher: Matcher) -> list[Query]:
    return list(localize_all(shots, Relocalizer(Places(store, matcher)), time.perf_counter))


def report(case: str, shots: Iterable[Shot], total: int, store: MapStore, matcher: Matcher) -> None:
    queries = list(
        localize_all(
            track(shots, case, total), Relocalizer(Places(store, matcher)), time.perf_counter
        )
    )
    align = world_from_map(store)
    found = [(q, q.outcome) for q in queries if isinstance(q.outcome, Localized)]
    errors = [
        pose_error(o.map_from_camera, o.covariance, q.truth, align)
        for q, o in found
        if q.truth is not None and align is not None
    ]
    ms = np.median([q.ms for q in queries])
    figures = error_figures(errors, len(queries))
    sigmas = np.median([e.sigmas for e in errors]) if errors else float("nan")
    print(
        f"  {case:<8} localized {len(found)}/{len(queries)}  median {figures['median_m']} m "
        f"{figures['median_deg']} deg  within {figures['within']}  wrong {figures['wrong']}  "
        f"median sigmas {sigmas:.1f} (2.3 = honest)  {ms:.0f} ms",
        flush=True,
    )


def negatives(folders: Iterable[Path], camera: Camera, every: int) -> Iterator[Shot]:
    """Pictures of elsewhere, under the camera of the map."""
    files = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in PICTURES)
    for path in islice((p for p in files if "depth" not in p.parts), 0, None, every):
        rgb = cv2.resize(read_rgb(path), camera.size, interpolation=cv2.INTER_AREA)
        yield Shot(Frame(rgb, camera), path.name)


def refuse(shots: Iterator[Shot], store: MapStore, matcher: Matcher) -> None:
    queries = list(
        localize_all(
            track(shots, "negatives"), Relocalizer(Places(store, matcher)), time.perf_counter
        )
    )
    found = [q.name for q in queries if isinstance(q.outcome, Localized)]
    print(f"  negatives: {len(found)} of {len(queries)} localized {found[:10]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sequences", type=Path, nargs="+")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--every", type=int, default=1, help="each Nth query")
    parser.add_argument("--cases", default="blocks,roll30,half,dark,bright")
    parser.add_argument("--negatives", type=Path, nargs="*", default=[])
    parser.add_argument("--negatives-every", type=int, default=1)
    args = parser.parse_args()
    matcher = load_matcher(args.model)
    cases = args.cases.split(",")
    for path in args.sequences:
        print(f"{path.name}, {args.model}", flush=True)
        with open_recording(path) as recording, tempfile.TemporaryDirectory() as folder:
            if "blocks" in cases:
                store = built(chosen(recording, in_block(0)), matcher, folder)
                queries = chosen(recording, in_block(1))
                shots = islice(queries.shots(), 0, None, args.every)
                report("blocks", shots, -(-queries.count // args.every), store, matcher)
            others = [case for case in cases if case in CHANGES]
            if others or args.negatives:
                store = built(recording, matcher, folder)
            for case in others:
                shots = map(CHANGES[case], islice(recording.shots(), 0, None, args.every))
                report(case, shots, -(-recording.count // args.every), store, matcher)
            if args.negatives:
                camera = next(recording.shots()).frame.camera
                refuse(negatives(args.negatives, camera, args.negatives_every), store, matcher)


if __name__ == "__main__":
    main()
