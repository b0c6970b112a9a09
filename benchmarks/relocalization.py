"""Where am I in the map? Real sequences: a map from one part, queries from the rest.

python benchmarks/relocalization.py SEQUENCES/redkitchen --kept build/maps [--model sift]
    --map blocks      from every other block of 20 frames; queries are the blocks between
    --map whole       from all frames; queries are the same frames, changed
    --cases same      queries as they are        roll30, roll45, ...   turned by so many degrees
            half      at half resolution         dark, bright   with gamma 2 and 0.5
            zoom2, zoom3 the middle, enlarged    corner2   the upper left quarter, enlarged
            negatives pictures of --negatives FOLDERS, none of which shows a place of the map
    --keep N          of the map's keyframes, the others thinned out: queries are far from them

--map-of lite describes the map of another matcher anew with this one, so that all are asked about
the same keyframes in the same places.

Maps and answers are kept in --kept, so a run that is cut, or told to stop after --part-s seconds,
goes on where it was; figures are of all answers there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import blas  # noqa: F401
import cv2
import numpy as np
from map_scale import pictures

from l2m_ros.bags.mapping import BuildOptions, build_map
from l2m_ros.bags.recording import Recording, Shot, open_recording
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.images import read_rgb
from l2m_ros.mapping.alignment import PoseError, error_figures, pose_error, world_from_map
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.relocalizer import Relocalizer
from l2m_ros.mapping.repair import describe_anew
from l2m_ros.mapping.store import MapStore, open_map
from l2m_ros.mapping.thinning import thin
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import Camera, Frame, Lost

BLOCK = 20
TURNS_DEG = (20, 30, 45, 60, 90, 120, 135, 180)
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


def zoomed(shot: Shot, zoom: float, middle: tuple[float, float] = (0.5, 0.5)) -> Shot:
    """A part of the image about `middle` (shares of width and height), as by a longer lens."""
    frame, camera = shot.frame, shot.frame.camera
    part = [round(side / zoom) for side in camera.size]
    left, top = (
        min(max(round(m * s - p / 2), 0), s - p)
        for m, s, p in zip(middle, camera.size, part, strict=True)
    )
    cut = np.s_[top : top + part[1], left : left + part[0]]
    rgb = cv2.resize(frame.rgb[cut], camera.size, interpolation=cv2.INTER_CUBIC)
    depth = frame.depth
    if depth is not None:
        depth = cv2.resize(depth[cut], camera.size, interpolation=cv2.INTER_NEAREST_EXACT)
    near = camera.cropped(x=left, y=top, width=part[0], height=part[1]).resized(*camera.size)
    return replace(shot, frame=replace(frame, rgb=rgb, depth=depth, camera=near))


def on_its_side(shot: Shot) -> Shot:
    """What a camera sees that lies on its side: the part of the picture that fits into one."""
    frame, camera = shot.frame, shot.frame.camera
    width = camera.height * camera.height // camera.width
    left = (camera.width - width) // 2
    cut = np.s_[:, left : left + width]
    K = camera.K
    turned = np.array(
        [[K[1, 1], 0, K[1, 2]], [0, K[0, 0], width - 1 - (K[0, 2] - left)], [0, 0, 1]]
    )
    lying = replace(camera, K=turned, width=camera.height, height=width)
    rgb = np.ascontiguousarray(np.rot90(frame.rgb[cut]))
    depth = None if frame.depth is None else np.ascontiguousarray(np.rot90(frame.depth[cut]))
    upright_from_lying = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    truth = None if shot.truth is None else shot.truth @ upright_from_lying
    return replace(shot, frame=replace(frame, rgb=rgb, depth=depth, camera=lying), truth=truth)


def with_gamma(gamma: float) -> Change:
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return lambda shot: replace(shot, frame=replace(shot.frame, rgb=table[shot.frame.rgb]))


CHANGES: dict[str, Change] = {
    "same": lambda shot: shot,
    **{f"roll{degrees}": partial(rolled, degrees=degrees) for degrees in TURNS_DEG},
    **{f"zoom{zoom}": partial(zoomed, zoom=zoom) for zoom in (2, 3)},
    "side": on_its_side,
    "corner2": partial(zoomed, zoom=2, middle=(0.0, 0.0)),
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


def kept_map(recording: Recording, matcher: Matcher, path: Path) -> MapStore:
    """The map at `path`, built unless an earlier run has."""
    if not path.exists():
        part = path.with_suffix(".part")
        for old in path.parent.glob(f"{part.name}*"):
            old.unlink()
        store = open_map(str(part), create=True)
        started = time.perf_counter()
        result = build_map(recording, store, matcher, BuildOptions())
        spent_s = time.perf_counter() - started
        size_mb = store.info().size_bytes / 1e6
        store.close()
        part.rename(path)
        print(f"  {path.name}: {result} in {spent_s:.0f} s, {size_mb:.0f} MB", flush=True)
    return open_map(str(path), write=False)


def described_map(other: Path, matcher: Matcher, path: Path) -> None:
    """The same keyframes and places at `path`, as this matcher sees them; unless it is there."""
    if path.exists():
        return
    if not other.exists():
        raise InvalidInput(f"{other} is not there: build it first, by --model of --map-of")
    part = path.with_suffix(".part")
    shutil.copyfile(other, part)
    describe_anew(str(part), lambda _: matcher)
    part.rename(path)


def thinned_map(whole: Path, matcher: Matcher, keep: int, path: Path) -> None:
    """The map at `path` with `keep` of its keyframes, those farthest from each other."""
    if path.exists():
        return
    part = path.with_suffix(".part")
    shutil.copyfile(whole, part)
    store = open_map(str(part), write=True)
    thin(DriveRecorder(store, matcher), keep)
    store.close()
    part.rename(path)


@dataclass
class Answers:
    """One line a query in a file; what is there is not asked again."""

    path: Path

    def __post_init__(self) -> None:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def ask(self, shots: Iterable[Shot], relocalizer: Relocalizer, until_s: float) -> None:
        known = {row["name"] for row in self.rows}
        with self.path.open("a") as file:
            for shot in shots:
                if shot.name in known:
                    continue
                if time.monotonic() > until_s:
                    return
                self.rows.append(row_of(shot, relocalizer))
                file.write(json.dumps(self.rows[-1]) + "\n")
                file.flush()


def row_of(shot: Shot, relocalizer: Relocalizer) -> dict[str, Any]:
    started = time.process_time()
    outcome = relocalizer.localize(shot.frame)
    row = {"name": shot.name, "ms": round((time.process_time() - started) * 1e3, 1)}
    if isinstance(outcome, Lost):
        return {**row, "lost": outcome.reason.value, "detail": outcome.detail}
    return {
        **row,
        "pose": outcome.map_from_camera.tolist(),
        "covariance": outcome.covariance.tolist(),
        "keyframes": outcome.keyframes,
        "truth": None if shot.truth is None else shot.truth.tolist(),
    }


def report(case: str, rows: list[dict[str, Any]], store: MapStore) -> None:
    found = [row for row in rows if "pose" in row]
    lost = [row for row in rows if "pose" not in row]
    align = world_from_map(store)
    errors = [error_of(row, align) for row in found if row["truth"] and align is not None]
    figures = error_figures(errors, len(rows))
    sigmas = np.sqrt(np.median([e.sigmas**2 for e in errors]) / 5.35) if errors else np.nan
    p95 = [np.percentile([v], 95) for v in ([e.m for e in errors], [e.deg for e in errors]) if v]
    print(
        f"  {case:<9} localized {len(found)}/{len(rows)}  median {figures['median_m']} m "
        f"{figures['median_deg']} deg  p95 {' '.join(f'{v:.3f}' for v in p95)}  "
        f"within {figures['within']}  wrong {figures['wrong']}  "
        f"error / sigma {sigmas:.2f} (1 = honest)  "
        f"found in {median_ms(found)} ms, lost in {median_ms(lost)} ms",
        flush=True,
    )


def median_ms(rows: list[dict[str, Any]]) -> str:
    """Of processor time."""
    return f"{np.median([row['ms'] for row in rows]):.0f}" if rows else "-"


def keyframe_errors(store: MapStore, truth_sigma: tuple[float, float]) -> None:
    """The map itself, as seen from its first keyframe, where its covariances are none."""
    places = store.poses()
    truth = {id: store.keyframe(id).truth for id in places}
    first = min(places)
    sigma_m, sigma_rad = truth_sigma[0], np.radians(truth_sigma[1])
    of_truth = 2 * np.diag([sigma_m**2] * 3 + [sigma_rad**2] * 3)  # at either end
    off, nees = [], []
    for id, (pose, P) in places.items():
        if id == first or truth[id] is None:
            continue
        seen = se3.compose(se3.inverse(places[first][0]), pose)
        d = se3.difference(seen, se3.compose(se3.inverse(truth[first]), truth[id]))
        off.append((np.linalg.norm(d[:3]), np.degrees(np.linalg.norm(d[3:]))))
        P = se3.transport_covariance(P, se3.inverse(places[first][0]))
        nees.append(d @ np.linalg.solve(P + of_truth, d) / 6)
    median_m, median_deg = np.median(off, axis=0)
    print(
        f"  keyframes from the first one: median {median_m:.4f} m {median_deg:.2f} deg, NEES / 6 "
        f"mean {np.mean(nees):.2f} median {np.median(nees):.2f} (1 = honest)",
        flush=True,
    )


def error_of(row: dict[str, Any], align: np.ndarray) -> PoseError:
    pose, covariance, truth = (np.array(row[key]) for key in ("pose", "covariance", "truth"))
    return pose_error(pose, covariance, truth, align)


def negatives(folders: list[Path], camera: Camera, every: int) -> Iterator[Shot]:
    """Pictures of elsewhere, under the camera of the map."""
    for path in pictures(folders)[::every]:
        rgb = cv2.resize(read_rgb(path), camera.size, interpolation=cv2.INTER_AREA)
        yield Shot(Frame(rgb, camera), str(path))


def refused(rows: list[dict[str, Any]], folders: Iterable[Path]) -> None:
    """In all, and for each folder of pictures, which is a kind of place."""
    for folder in folders:
        inside = [row for row in rows if Path(row["name"]).is_relative_to(folder)]
        count = sum("pose" in row for row in inside)
        print(f"    {folder.name}: {count} of {len(inside)} localized")
    found = [row["name"] for row in rows if "pose" in row]
    print(
        f"  negatives {len(found)} of {len(rows)} localized {found[:10]}  {median_ms(rows)} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sequences", type=Path, nargs="+")
    parser.add_argument("--kept", type=Path, default=Path("build/maps"))
    parser.add_argument("--model", default="lite")
    parser.add_argument("--map-of", metavar="MODEL", help="take that model's map, described anew")
    parser.add_argument("--map", choices=("blocks", "whole"), default="blocks")
    parser.add_argument("--keep", type=int, metavar="N", help="of the map's keyframes")
    parser.add_argument("--every", type=int, default=1, help="each Nth query")
    parser.add_argument("--cases", default="same")
    parser.add_argument("--part-s", type=float, default=float("inf"))
    both = {"type": float, "nargs": 2, "metavar": ("M", "DEG"), "default": (0.0, 0.0)}
    parser.add_argument("--truth-sigma", help="of a pose of the truth, by axis", **both)
    parser.add_argument("--negatives", type=Path, nargs="*", default=[])
    parser.add_argument("--negatives-every", type=int, default=1)
    args = parser.parse_args()
    until_s = time.monotonic() + args.part_s
    for case in args.cases.split(","):
        if case not in (*CHANGES, "negatives"):
            raise InvalidInput(f"--cases {case}: there are {', '.join(CHANGES)} and negatives")
        if case == "negatives" and not pictures(args.negatives):
            raise InvalidInput("--cases negatives takes pictures of elsewhere: --negatives FOLDERS")
    args.kept.mkdir(parents=True, exist_ok=True)
    matcher = load_matcher(args.model)
    for path in args.sequences:
        print(f"{path.name}, {args.model}, map of {args.map}", flush=True)
        with open_recording(path) as recording:
            run(recording, matcher, args, until_s)


def run(recording: Recording, matcher: Matcher, args: argparse.Namespace, until_s: float) -> None:
    stem = f"{recording.path.name}_{args.model}_{args.map}"
    blocks = args.map == "blocks"
    source = chosen(recording, in_block(0)) if blocks else recording
    asked = chosen(recording, in_block(1)) if blocks else recording
    if args.map_of:
        other = args.kept / f"{recording.path.name}_{args.map_of}_{args.map}.l2m"
        described_map(other, matcher, args.kept / f"{stem}.l2m")
    store = kept_map(source, matcher, args.kept / f"{stem}.l2m")
    keyframe_errors(store, args.truth_sigma)
    if args.keep:
        store.close()
        whole, stem = args.kept / f"{stem}.l2m", f"{stem}_{args.keep}"
        thinned_map(whole, matcher, args.keep, args.kept / f"{stem}.l2m")
        store = open_map(str(args.kept / f"{stem}.l2m"), write=False)
    relocalizer = Relocalizer(Places(store, matcher))
    for case in args.cases.split(","):
        answers = Answers(args.kept / f"{stem}_{case}.jsonl")
        if case == "negatives":
            camera = next(recording.shots()).frame.camera
            shots = negatives(args.negatives, camera, args.negatives_every)
            answers.ask(shots, relocalizer, until_s)
            refused(answers.rows, args.negatives)
        else:
            shots = map(CHANGES[case], islice(asked.shots(), 0, None, args.every))
            answers.ask(shots, relocalizer, until_s)
            report(case, answers.rows, store)
    store.close()


if __name__ == "__main__":
    main()
