"""What a large map costs: size, opening, a first pose, a query anywhere and around a hint.

python benchmarks/map_scale.py office.l2m RECORDING --others PHOTOGRAPHS... [--keyframes 10000]

The map is made large by other places: parts of photographs, no two the same, some mirrored, each
under the depth of one of the map's keyframes and 50 m from the next. They are encoded and described
by the matcher as keyframes are, with words learnt from all of the large map, so retrieval has real
rivals. The originals come last and their features are not stored, as those of most keyframes of a
large map are not. `--kept FOLDER` keeps the large maps (10,000 keyframes take ten minutes to make).
`--encoded N` encodes N of the other places only; the rest is described by the left cells of one of
these and the right cells of another one, which is quicker.
Processor time beside wall time: on a busy machine only the first says something.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import blas  # noqa: F401
import cv2
import numpy as np

from l2m_ros.bags.recording import Shot, open_recording
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.images import read_rgb
from l2m_ros.mapping import codec
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.meta import LOOK_ALIKES, OWN_DETAIL
from l2m_ros.mapping.options import Hint
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.records import StoredCells
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.store import MapStore, open_map
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import ByteArray, Camera, FloatArray, Frame, Lost

APART_M = 50.0  # between the other places
LEAST_PART = 0.55  # of the side of a photograph
QUERIES = 16
PICTURES = (".jpg", ".jpeg", ".png", ".ppm")


def pictures(folders: list[Path]) -> list[Path]:
    """Colour pictures at or below folders of photographs or recordings."""
    files = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in PICTURES)
    files = [p for p in files if "depth" not in p.parts]
    for folder in folders:
        if not any(p.is_relative_to(folder) for p in files):
            raise InvalidInput(f"{folder} holds no pictures ({', '.join(PICTURES)}): name another")
    return files


def parts(folders: list[Path], size: tuple[int, int], count: int) -> Iterator[ByteArray]:
    """`count` parts of photographs; those of one photograph follow each other."""
    files = pictures(folders)
    rng = np.random.default_rng(0)
    for number, path in enumerate(files):
        each = count // len(files) + (number < count % len(files))
        picture = read_rgb(path) if each else None
        for part in range(each):
            yield _part(picture, size, rng, mirrored=part % 2 == 1)


def _part(
    picture: ByteArray, size: tuple[int, int], rng: np.random.Generator, *, mirrored: bool
) -> ByteArray:
    height, width = picture.shape[:2]
    scale = rng.uniform(LEAST_PART, 1.0) * min(width / size[0], height / size[1])
    w, h = max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)
    x, y = rng.integers(width - w + 1), rng.integers(height - h + 1)
    part = picture[y : y + h, x : x + w, :: -1 if mirrored else 1]
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)


def grown(
    source_path: str,
    path: str,
    count: int,
    others: list[Path],
    matcher: Matcher,
    encoded: int | None,
) -> None:
    """A map of `count` keyframes: other places, then the originals. One that was begun goes on."""
    source, store = open_map(source_path, write=False), open_map(path, create=True)
    store._connection.execute("PRAGMA synchronous = OFF")  # nobody drives while it is made
    meta, source_ids = source.meta(), source.poses()
    if len(store.ids()) < count:
        add_places(source, store, count, others)
    source.close()
    drive = DriveRecorder(store, matcher, describe_anew=True)
    drive.keep_features()
    if encoded is not None:
        compose_cells(store, drive, encoded, len(source_ids))
    drive.learn_vocabulary()
    store.set_meta({name: meta[name] for name in (OWN_DETAIL, LOOK_ALIKES) if name in meta})
    store.close()


def compose_cells(store: MapStore, drive: DriveRecorder, encoded: int, originals: int) -> None:
    """`encoded` of the other places are encoded, the rest look as halves of two of those."""
    ids = store.ids()[:-originals]
    model, checksum = drive.matcher.name, drive.places.checksum
    known = [id for id in ids if store.cells(id, model, checksum) is not None]  # of a run before
    spread = ids[:: max(len(ids) // encoded, 1)]
    chosen = list(dict.fromkeys([*known, *spread]))[:encoded]
    grids = [cells_of(store, drive, id) for id in chosen]
    rng = np.random.default_rng(1)
    for id in sorted(set(ids) - set(chosen)):
        left, right = (grids[i] for i in rng.choice(len(grids), 2, replace=False))
        grid = left.copy()
        grid[:, grid.shape[1] // 2 :] = right[:, grid.shape[1] // 2 :]
        store.put_cells(id, StoredCells(model, checksum, grid))


def cells_of(store: MapStore, drive: DriveRecorder, id: int) -> FloatArray:
    drive._local(id)  # encoded and stored, unless it is
    kept = store.cells(id, drive.matcher.name, drive.places.checksum)
    assert kept is not None, "this matcher has no cells"
    return kept.grid


def add_places(source: MapStore, store: MapStore, count: int, others: list[Path]) -> None:
    store.remove(store.ids())
    placed = [source.keyframe(id) for id in source.poses()]
    originals = [replace(keyframe, depth=_packed(keyframe)) for keyframe in placed]
    number = count - len(originals)
    for n, rgb in enumerate(parts(others, originals[0].camera.size, number)):
        pose = se3.transform(np.eye(3), np.array([APART_M * (n + 1), 0.0, 0.0]))
        under = originals[n % len(originals)]
        store.add(replace(under, image=codec.encode_image(rgb), map_from_camera=pose))
    for keyframe in originals:
        store.add(keyframe)


def _packed(keyframe: Any) -> bytes | None:
    """Depth as maps are written today; the source may be older."""
    if keyframe.depth is None:
        return None
    depth_m = codec.decode_depth(keyframe.depth, keyframe.depth_scale_m)
    return codec.encode_depth(depth_m, keyframe.depth_scale_m)


def timed(what: str, action: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    spent = (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
    print(f"  {what:<34} {spent[0]:7.0f} ms, {spent[1]:7.0f} ms of processor", flush=True)
    return result


def asked(shots: list[Shot], localize: Callable[[Shot], Localized | Lost]) -> str:
    """Times of the images that were found, by how many keyframes agreed, and of those that were
    not: half take no longer than the median, none longer than the most."""
    spent: dict[str, list[tuple[float, float]]] = {}
    stages, lost = [], []
    for shot in shots:
        wall, cpu = time.perf_counter(), time.process_time()
        outcome = localize(shot)
        both = (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
        kind = "lost"
        if isinstance(outcome, Localized):
            stages.append(outcome.stages_ms)
            kind = f"found by {len(outcome.keyframes)}"
            spent.setdefault("found", []).append(both)
        else:
            lost.append(f"\n    {shot.name}: {outcome.reason.value}, {outcome.detail}")
        spent.setdefault(kind, []).append(both)
    by_stage = {
        name: round(float(np.median([s.get(name, 0.0) for s in stages])))
        for name in (stages[0] if stages else ())
    }
    kinds = "; ".join(f"{kind} {_spent(spent[kind])}" for kind in sorted(spent))
    return f"{len(stages)} of {len(shots)} found: {kinds}; wall by stage {by_stage}{''.join(lost)}"


def _spent(both: list[tuple[float, float]]) -> str:
    wall, cpu = np.array(both).T
    return (
        f"({len(both)}) {np.median(wall):.0f} ms, most {wall.max():.0f}, of processor "
        f"{np.median(cpu):.0f} and {cpu.max():.0f}"
    )


def queries(recording: Path, map_path: str) -> list[Shot]:
    """Images spread over the recording, none of which is a keyframe of the map."""
    source = open_map(map_path, write=False)
    taken = {source.keyframe(id).stamp_ns for id in source.ids()}
    source.close()
    with open_recording(recording) as opened:
        others = [shot for shot in opened.shots() if shot.frame.stamp_ns not in taken]
    if not others:
        raise InvalidInput(f"{recording}: each image is a keyframe of the map: name another drive")
    step = max(len(others) // (QUERIES + 1), 1)
    return others[step // 2 :: step]


def elsewhere(folders: list[Path], camera: Camera) -> list[Shot]:
    """Pictures of no place in the map, under its camera."""
    if not folders:
        return []
    files = pictures(folders)
    chosen = files[:: max(len(files) // QUERIES, 1)][:QUERIES]
    rgb = (cv2.resize(read_rgb(p), camera.size, interpolation=cv2.INTER_AREA) for p in chosen)
    return [Shot(Frame(image, camera), p.name) for image, p in zip(rgb, chosen, strict=True)]


def measure(
    path: str, model: str, shots: list[Shot], foreign: list[Shot], options: dict[str, int]
) -> None:
    size_mb = Path(path).stat().st_size / 1e6
    matcher = timed("load the model", lambda: load_matcher(model, **options))
    store = timed("open the file", lambda: open_map(path, write=False))
    places = timed("read places and descriptors", lambda: Places(store, matcher))
    relocalizer = Relocalizer(places)
    timed("first pose", lambda: relocalizer.localize(shots[0].frame))
    answers = {}

    def anywhere(shot: Shot) -> Localized | Lost:
        places.forget(list(places.poses))  # each query pays for its keyframes
        answers[shot.name] = relocalizer.localize(shot.frame)
        return answers[shot.name]

    print(f"  {size_mb:.0f} MB; query anywhere {asked(shots[1:], anywhere)}", flush=True)
    if foreign:
        print(f"  pictures of elsewhere {asked(foreign, anywhere)}", flush=True)
    wide = np.diag([0.3**2] * 3 + [0.1**2] * 3)
    hints = {
        name: Hint(found.map_from_camera, wide)
        for name, found in answers.items()
        if isinstance(found, Localized)
    }
    known = [shot for shot in shots if shot.name in hints]
    places.forget(list(places.poses))
    for words in ("with a hint", "the same, its keyframe in memory"):
        around = asked(known, lambda shot: relocalizer.localize(shot.frame, hints[shot.name]))
        print(f"  {words} {around}", flush=True)
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="photographs")
    parser.add_argument("--elsewhere", type=Path, nargs="*", default=[], help="asked as well")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--threads", type=int, help="of a network")
    parser.add_argument("--encoded", type=int, help="other places that are encoded (default: all)")
    parser.add_argument("--keyframes", type=int, action="append")
    parser.add_argument("--kept", type=Path, help="folder for the large maps")
    args = parser.parse_args()
    pictures([*args.others, *args.elsewhere])
    for count in args.keyframes or [1000, 10_000]:
        print(f"{count} keyframes", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = (args.kept or Path(folder)) / f"large{count}.l2m"
            if not path.exists():
                make(args, count, path)
            options = {} if args.threads is None else {"threads": args.threads}
            shots = queries(args.recording, args.map)
            foreign = elsewhere(args.elsewhere, shots[0].frame.camera)
            measure(str(path), args.model, shots, foreign, options)


def make(args: argparse.Namespace, count: int, path: Path) -> None:
    part = path.with_suffix(".part")
    matcher = load_matcher(args.model)
    timed(
        "make the map",
        lambda: grown(args.map, str(part), count, args.others, matcher, args.encoded),
    )
    part.rename(path)


if __name__ == "__main__":
    main()
