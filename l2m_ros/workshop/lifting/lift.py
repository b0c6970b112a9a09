"""`l2m lift`: a folder of photographs becomes shards of views with exact correspondences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.progress import progress
from l2m_ros.types import ByteArray, FloatArray, resized_K
from l2m_ros.workshop.jobs.runners import HERE, Runner
from l2m_ros.workshop.jobs.store import Store, store_of
from l2m_ros.workshop.lifting.camera_effects import EffectOptions, camera_effects
from l2m_ros.workshop.lifting.checks import check_fractions, check_shards, check_views
from l2m_ros.workshop.lifting.depth import DepthSource, ProceduralDepth
from l2m_ros.workshop.lifting.holes import Filler, inpaint
from l2m_ros.workshop.lifting.homographies import mapped, planar_warp, random_homographies, within
from l2m_ros.workshop.lifting.motion import MotionRange, centred, first_camera, second_camera
from l2m_ros.workshop.lifting.pairs import warp_between
from l2m_ros.workshop.lifting.photographs import find_photographs, read_photograph
from l2m_ros.workshop.lifting.procedural import FARTHEST
from l2m_ros.workshop.lifting.relighting import PRESETS, random_lighting, relight
from l2m_ros.workshop.lifting.shards import (
    MAX_SIDE_PX,
    Sample,
    pack,
    quantised,
    shard_name,
)
from l2m_ros.workshop.lifting.sky import SkyMask, sky_by_rule
from l2m_ros.workshop.lifting.views import BoolArray, Relief, View, render


@dataclass(frozen=True)
class LiftOptions:
    """What is made of each photograph."""

    views: int = 2
    width: int = 320
    height: int = 240
    difficulty: float = 1.0
    homographies: float = 0.15  # share of photographs that become planes
    relight: float = 0.5  # share of views under new light
    field_of_view_deg: tuple[float, float] = (38.0, 85.0)  # of the photograph's longer side
    photographs_per_shard: int = 64
    seed: int = 0
    workers: int = 2  # threads; OpenCV, NumPy and zlib do their work outside of Python's lock
    motion: MotionRange = field(default_factory=MotionRange)
    effects: EffectOptions = field(default_factory=EffectOptions)

    def __post_init__(self) -> None:
        check_views(self.views)
        check_shards(self.width, self.height, self.photographs_per_shard)
        check_fractions(self, "difficulty", "homographies", "relight")
        if self.workers < 1:
            raise InvalidInput(f"--workers {self.workers}: a run takes at least 1")


@dataclass(frozen=True)
class LiftingParts:
    """The parts that lifting is done with; assembled by the caller."""

    depth: DepthSource = field(default_factory=ProceduralDepth)
    sky: SkyMask = sky_by_rule
    fill: Filler = inpaint
    chosen: dict[str, str] = field(default_factory=dict)  # what was asked for in their place


@dataclass
class LiftReport:
    """What a run did."""

    shards_written: int = 0
    shards_kept: int = 0
    photographs: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (photograph, why)


def lift_folder(
    photographs: Path,
    out: Path | str,
    options: LiftOptions = LiftOptions(),
    workshop: LiftingParts = LiftingParts(),
    runner: Runner = HERE,
) -> LiftReport:
    """Every photograph of the folder, shard by shard; shards that are there are kept.

    `out` is a folder or an address of fsspec's. The runner says where the shards are made.
    """
    paths = find_photographs(photographs)
    root = photographs if photographs.is_dir() else photographs.parent
    store = store_of(out)
    _claim(store, root, paths, options, workshop.chosen)
    job = LiftJob(paths, root, options, workshop, store)
    report, missing = LiftReport(), []
    with progress(len(paths), "lifting") as bar:
        for number in range(-(-len(paths) // options.photographs_per_shard)):
            if store.has_shard(f"{shard_name(number)}.tar"):
                report.shards_kept += 1
                bar.update(len(job.indices(number)), "kept")
            else:
                missing.append(number)
        for number, made in runner.run(job, missing):
            report.shards_written += 1
            report.photographs += made.photographs
            report.skipped += made.skipped
            bar.update(len(job.indices(number)), shard_name(number))
    return report


@dataclass(frozen=True)
class LiftJob:
    """Makes and stores the shard of a number, in whatever process it is called."""

    paths: list[Path]
    root: Path
    options: LiftOptions
    parts: LiftingParts
    store: Store

    def indices(self, number: int) -> range:
        """Of the photographs of a shard."""
        step = self.options.photographs_per_shard
        return range(number * step, min((number + 1) * step, len(self.paths)))

    def __call__(self, number: int) -> LiftReport:
        with ThreadPoolExecutor(self.options.workers) as pool:
            try:
                made = list(pool.map(self._lifted_or_reason, self.indices(number)))
            except BaseException:  # an interrupt: do not wait for the rest of the shard
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        samples = [one for one in made if isinstance(one, Sample)]
        skipped = [one for one in made if not isinstance(one, Sample)]
        summary = {
            "photographs": [sample.meta["photograph"] for sample in samples],
            "skipped": [{"photograph": name, "reason": reason} for name, reason in skipped],
        }
        name = shard_name(number)
        self.store.write(f"{name}.json", json.dumps(summary, indent=1).encode())
        self.store.write(f"{name}.tar", pack(samples))
        return LiftReport(photographs=len(samples), skipped=skipped)

    def _lifted_or_reason(self, index: int) -> Sample | tuple[str, str]:
        """The sample, or (photograph, why not): one damaged photograph does not end a run."""
        name = str(self.paths[index].relative_to(self.root))
        try:
            return lift_photograph(self.paths, index, name, self.options, self.parts)
        except InvalidInput as error:
            return name, str(error)


def _claim(
    store: Store, root: Path, paths: list[Path], options: LiftOptions, chosen: dict[str, str]
) -> None:
    """Prepare the place; refuse to mix two runs in it."""
    plan: dict[str, object] = {
        "options": asdict(replace(options, workers=1)),  # the result does not depend on them
        "photographs": [str(path.relative_to(root)) for path in paths],
    }
    if chosen:
        plan["parts"] = chosen
    text = json.dumps(plan, indent=1, sort_keys=True).encode()
    store.prepare()
    if store.read("lift.json") not in (None, text):
        raise InvalidInput(
            f"{store.name}: holds the shards of a run with other photographs, other options "
            "or another source of depth (lift.json says which): name another --out, or remove it"
        )
    store.write("lift.json", text)


def lift_photograph(
    paths: Sequence[Path], index: int, name: str, options: LiftOptions, workshop: LiftingParts
) -> Sample:
    """Views and correspondences of photograph number `index`; depends on nothing else drawn."""
    rng = np.random.default_rng((options.seed, index))
    # Larger ones could not be stored: `source_i` reaches MAX_SIDE_PX.
    longest = min(round(1.5 * max(options.width, options.height)), MAX_SIDE_PX)
    rgb = read_photograph(paths[index], longest)
    if min(rgb.shape[:2]) < 16:
        raise InvalidInput(f"{paths[index]}: {rgb.shape[1]}x{rgb.shape[0]} is too small to lift")
    other = _other_photograph(paths, index, rng, options)
    height, width = rgb.shape[:2]
    angle = np.deg2rad(rng.uniform(*options.field_of_view_deg))
    K = centred(max(width, height) / 2 / np.tan(angle / 2), width, height)
    # Easier photographs stay in the mixture, as in `pairs`.
    hard = options.difficulty * rng.random() ** 0.5
    make = _planar if rng.random() < options.homographies else _lifted
    relief, views, geometry, warps = make(rng, rgb, name, K, hard, options, workshop)
    meta = {
        "photograph": name,
        "width": width,
        "height": height,
        "K": K.tolist(),
        "kind": "homography" if relief is None else "scene",
        "views": geometry,
        "steps_per_px": 64,
        "origin_px": -64.0,
    }
    images = {"photo": rgb}
    for i, view in enumerate(views):
        images[f"view{i}"] = _picture(rng, rgb, relief, view, other, hard, options, workshop)
    return Sample(f"{index:08d}", meta, images, _arrays(relief, views, warps))


Warps = dict[str, tuple[FloatArray, BoolArray, BoolArray]]
Made = tuple["Relief | None", list[View], list[dict[str, object]], Warps]


def _lifted(
    rng: np.random.Generator,
    rgb: ByteArray,
    name: str,
    K: FloatArray,
    hard: float,
    options: LiftOptions,
    workshop: LiftingParts,
) -> Made:
    """Views of the photograph in depth: the first turned and zoomed, the others moved."""
    lifted = workshop.depth.lift(rgb, name, K, rng)
    sky = workshop.sky(rgb)
    # Sky is far away, and neither it nor depth that was made up is supervised.
    w = np.where(sky, np.float32(FARTHEST), lifted.inverse_depth)
    relief = Relief.from_inverse_depth(w, K, sky | ~lifted.known)
    size, motion = (options.width, options.height), options.motion.at(hard)
    K_a, a_from_photo = first_camera(rng, relief, *size, motion)
    cameras = [(K_a, a_from_photo)]
    for _ in range(options.views - 1):
        moved = second_camera(rng, relief, K_a, a_from_photo, *size, motion)
        cameras.append((moved.K_b, moved.b_from_grid))
    views = [render(relief, K_v, T, *size) for K_v, T in cameras]
    geometry = [{"K": k.tolist(), "view_from_photograph": t.tolist()} for k, t in cameras]
    warps = {
        f"{i}_{j}": warp_between(relief, views[i], views[j], *cameras[j])
        for i, j in _neighbours(options.views)
    }
    return relief, views, geometry, warps


def _planar(
    rng: np.random.Generator,
    rgb: ByteArray,
    name: str,
    K: FloatArray,
    hard: float,
    options: LiftOptions,
    workshop: LiftingParts,
) -> Made:
    """Free homographies of the photograph."""
    size, photo = (options.width, options.height), rgb.shape[1::-1]
    least = options.motion.at(hard).least_overlap
    maps = random_homographies(rng, size, photo, hard, least, options.views)
    sources = [mapped(H, *size) for H in maps]
    none = np.zeros((options.height, options.width), bool)
    views = [
        View(source, np.ones(none.shape, np.float32), inside, inside, none)
        for source, inside in ((s, within(s, *photo)) for s in sources)
    ]
    warps = {
        f"{i}_{j}": planar_warp(np.linalg.inv(maps[j]) @ maps[i], sources[i], photo)
        for i, j in _neighbours(options.views)
    }
    return None, views, [{"photograph_from_view": H.tolist()} for H in maps], warps


def _neighbours(views: int) -> list[tuple[int, int]]:
    """Pairs whose warps are stored: each view with the next, both ways."""
    forward = [(i, i + 1) for i in range(views - 1)]
    return forward + [(j, i) for i, j in forward]


def _picture(
    rng: np.random.Generator,
    rgb: ByteArray,
    relief: Relief | None,
    view: View,
    other: ByteArray,
    hard: float,
    options: LiftOptions,
    workshop: LiftingParts,
) -> ByteArray:
    """What the view's camera takes: its own light, holes filled, its own exposure."""
    if relief is not None and rng.random() < options.relight:
        preset = str(rng.choice(list(PRESETS), p=[0.7, 0.15, 0.15]))
        rgb = relight(rgb, *_coarse(relief), random_lighting(rng, preset), rng)
    image = cv2.remap(rgb, view.source_px, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image = workshop.fill(image, ~view.painted, other)
    return camera_effects(rng, image, options.effects, 0.4 + 0.6 * hard)


def _coarse(relief: Relief) -> tuple[FloatArray, FloatArray]:
    """Depth and K at a third of the size: light and shadows are smooth, and 9 times cheaper."""
    height, width = relief.inverse_depth.shape
    size = width // 3, height // 3
    K = resized_K(relief.K, (width, height), size)
    return cv2.resize(relief.inverse_depth, size), K


def _other_photograph(
    paths: Sequence[Path], index: int, rng: np.random.Generator, options: LiftOptions
) -> ByteArray:
    """Content for large holes: another photograph, or this one if the other is damaged."""
    size = (options.width, options.height)
    chosen = int(rng.integers(len(paths)))
    try:
        return cv2.resize(read_photograph(paths[chosen], 2 * max(size)), size)
    except InvalidInput:
        return cv2.resize(read_photograph(paths[index], 2 * max(size)), size)


def _arrays(relief: Relief | None, views: list[View], warps: Warps) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if relief is not None:
        arrays["depth"] = 1.0 / relief.inverse_depth
    for i, view in enumerate(views):
        if relief is not None:
            depth = 1.0 / np.maximum(view.inverse_depth, np.float32(1e-6))
            arrays[f"depth_{i}"] = np.where(view.seen, depth, np.nan).astype(np.float32)
        arrays[f"source_{i}"] = quantised(view.source_px)
        arrays[f"seen_{i}"], arrays[f"unlabelled_{i}"] = view.seen, view.unlabelled
    for name, (warp, visible, unknown) in warps.items():
        arrays[f"warp_{name}"] = quantised(warp)
        arrays[f"visible_{name}"], arrays[f"unknown_{name}"] = visible, unknown
    return arrays
