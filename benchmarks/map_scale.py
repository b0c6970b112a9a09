"""What a large map costs: size, opening, a first pose, a query anywhere and around a hint.

python benchmarks/map_scale.py office.l2m RECORDING [--keyframes 1000 --keyframes 10000]

The map is made large by copies of its own keyframes: moved away, with random descriptors, so that
the originals are still what a query should find. Those come last and their features are not stored,
as those of most keyframes of a large map are not.
Processor time beside wall time: on a busy machine only the first says something.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.bags.recording import Shot, open_recording
from l2m_ros.mapping import codec
from l2m_ros.mapping.meta import CHECKSUM, MODEL
from l2m_ros.mapping.options import MAPPER, Hint
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.store import open_map
from l2m_ros.matching.catalogue import load_matcher

APART_M = 50.0  # between copies of the place
QUERIES = 8


def grown(source_path: str, path: str, count: int) -> None:
    """A map of `count` keyframes: changed copies, then the originals."""
    source, store = open_map(source_path, write=False), open_map(path, create=True)
    store._connection.execute("PRAGMA synchronous = OFF")  # nobody drives while it is copied
    meta = source.meta()
    store.set_meta({name: meta[name] for name in (MODEL, CHECKSUM)})
    ids, vectors = source.descriptors()
    placed = source.poses()
    originals = [(source.keyframe(i), v) for i, v in zip(ids, vectors, strict=True) if i in placed]
    depths = [_packed(keyframe) for keyframe, _ in originals]
    first = source.features(ids[0], meta[MODEL], meta[CHECKSUM])
    stored = round(MAPPER.features_mb * 1e6 / max(store_bytes(first), 1))
    rng = np.random.default_rng(0)
    by_id = {}
    for number in range(count):
        last = number >= count - len(originals)
        which = number % len(originals) if not last else number - count + len(originals)
        keyframe, vector = originals[which]
        if not last:
            vector = rng.normal(size=vector.shape).astype(np.float32)
            vector /= np.linalg.norm(vector)
        pose = keyframe.map_from_camera.copy()
        pose[0, 3] += 0.0 if last else APART_M * (1 + number // len(originals))
        moved = replace(keyframe, map_from_camera=pose, depth=depths[which])
        by_id[store.add(moved, features=first if number < stored and not last else None)] = vector
    store.put_descriptors(source.vocabulary(), by_id)
    store.close()
    source.close()


def _packed(keyframe: Any) -> bytes | None:
    """Depth as maps are written today; the source may be older."""
    if keyframe.depth is None:
        return None
    depth_m = codec.decode_depth(keyframe.depth, keyframe.depth_scale_m)
    return codec.encode_depth(depth_m, keyframe.depth_scale_m)


def store_bytes(features: Any) -> int:
    return 0 if features is None else sum(a.size * 2 for a in features.arrays.values())


def timed(what: str, action: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    spent = (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
    print(f"  {what:<34} {spent[0]:7.0f} ms, {spent[1]:7.0f} ms of processor", flush=True)
    return result


def median_ms(shots: list[Shot], localize: Callable[[Shot], Any]) -> str:
    wall, cpu, stages, found = [], [], [], 0
    for shot in shots:
        started = time.perf_counter(), time.process_time()
        outcome = localize(shot)
        wall.append((time.perf_counter() - started[0]) * 1e3)
        cpu.append((time.process_time() - started[1]) * 1e3)
        if isinstance(outcome, Localized):
            found += 1
            stages.append(outcome.stages_ms)
    by_stage = {
        name: round(float(np.median([s.get(name, 0.0) for s in stages])))
        for name in (stages[0] if stages else ())
    }
    return (
        f"{np.median(wall):.0f} ms, {np.median(cpu):.0f} ms of processor; {found} of {len(shots)} "
        f"localized; wall by stage {by_stage}"
    )


def measure(path: str, model: str, recording: Path) -> None:
    size_mb = Path(path).stat().st_size / 1e6
    with open_recording(recording) as opened:
        step = max(opened.count // QUERIES, 1)
        shots = list(islice(opened.shots(), step // 2, None, step))
    matcher = timed("load the model", lambda: load_matcher(model))
    store = timed("open the file", lambda: open_map(path, write=False))
    places = timed("read places and descriptors", lambda: Places(store, matcher))
    relocalizer = Relocalizer(places)
    timed("first pose", lambda: relocalizer.localize(shots[0].frame))
    anywhere = median_ms(shots[1:], lambda shot: relocalizer.localize(shot.frame))
    print(f"  {size_mb:.0f} MB; query anywhere {anywhere}", flush=True)
    hints = {}
    for shot in shots[1:]:
        found = relocalizer.localize(shot.frame)
        if isinstance(found, Localized):
            wide = np.diag([0.3**2] * 3 + [0.1**2] * 3)
            hints[shot.name] = Hint(found.map_from_camera, wide)
    known = [shot for shot in shots if shot.name in hints]
    around = median_ms(known, lambda shot: relocalizer.localize(shot.frame, hints[shot.name]))
    print(f"  with a hint {around}", flush=True)
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--keyframes", type=int, action="append")
    args = parser.parse_args()
    for count in args.keyframes or [1000, 10_000]:
        print(f"{count} keyframes", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/large.l2m"
            timed("copy keyframes", lambda path=path, n=count: grown(args.map, path, n))
            measure(path, args.model, args.recording)


if __name__ == "__main__":
    main()
