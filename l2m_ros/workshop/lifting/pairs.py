"""Pairs of views with exact correspondences, made from single photographs, on the fly.

    source = PairSource("photos", PairOptions(width=320, height=240), seed=0)
    pair = source.sample(17)             # the same pair for the same index, always
    pair = source.sample(17, difficulty=0.3)

NumPy and OpenCV only, so that worker processes need no torch. Photographs given as files are
read when they are drawn: 100,000 of them need no memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, FloatArray, resized_K
from l2m_ros.workshop.lifting.camera_effects import EffectOptions, camera_effects
from l2m_ros.workshop.lifting.checks import check_fractions
from l2m_ros.workshop.lifting.homographies import mapped, planar_warp, random_homographies, within
from l2m_ros.workshop.lifting.motion import Cameras, MotionRange, centred, sample_cameras
from l2m_ros.workshop.lifting.photographs import (
    check_size,
    find_photographs,
    photograph_bytes,
    read_photograph,
)
from l2m_ros.workshop.lifting.procedural import procedural_inverse_depth
from l2m_ros.workshop.lifting.relighting import PRESETS, random_lighting, relight_quickly
from l2m_ros.workshop.lifting.sky import sky_by_rule
from l2m_ros.workshop.lifting.views import (
    FAR_AWAY_PX,
    BoolArray,
    Relief,
    View,
    project,
    render,
    sample,
)

SAME_SURFACE_PX = 0.5  # a label must meet the point that the other view shows this closely
OWN_CONTENT = 0.4  # share of holes filled with the same photograph's content from elsewhere
FILL_PHOTOGRAPHS = 192  # whose content fills holes and occluders (44 MB at 320x240)


# (warp (H, W, 2), visible (H, W), unknown (H, W)) from one view to the other
Warp = tuple[npt.NDArray[np.float32], BoolArray, BoolArray]


@dataclass(frozen=True)
class PairOptions:
    """What pairs look like; every probability lies in [0, 1]."""

    width: int = 320
    height: int = 240
    difficulty: float = 1.0  # upper end of the curriculum; sample() may override it
    homographies: float = 0.15  # share of pairs that are a plane under a free homography
    occluders: float = 0.35  # chance per view of a foreign thing in front
    swap: float = 0.5  # chance that a and b change places: either may have the holes
    sky: bool = True  # leave out of supervision what the rule of `sky` calls sky
    relighting: float = 0.1  # chance per view of new lamps and cast shadows on the lifted scene
    field_of_view_deg: tuple[float, float] = (38.0, 85.0)  # of the photograph's longer side
    motion: MotionRange = field(default_factory=MotionRange)
    effects: EffectOptions = field(default_factory=EffectOptions)

    def __post_init__(self) -> None:
        if self.width < 32 or self.height < 32:
            raise InvalidInput(f"pairs of {self.width}x{self.height}: at least 32x32 is needed")
        check_fractions(self, "difficulty", "homographies", "occluders", "swap", "relighting")


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and where each pixel of one lies in the other.

    `warp` is finite everywhere and meaningful where `visible`; nothing of b is supervised
    where `unknown`: there the truth is neither "visible" nor "not visible" for sure (cells
    across a depth jump, the rim of outlines).
    """

    rgb_a: ByteArray  # (H, W, 3)
    rgb_b: ByteArray  # (H, W, 3)
    warp: npt.NDArray[np.float32]  # (H, W, 2) pixel of b for each pixel of a
    visible: BoolArray  # (H, W) pixels of a whose point b shows
    unknown: BoolArray  # (H, W) pixels of a without a verdict
    warp_ba: npt.NDArray[np.float32]  # (H, W, 2) pixel of a for each pixel of b
    visible_b: BoolArray
    unknown_b: BoolArray
    overlap: float  # sqrt(share of a visible in b * share of b visible in a)
    cameras: Cameras | None  # None for a homography
    homography: FloatArray | None  # 3x3 b_from_a in pixels, None for a scene with depth
    depth_a: FloatArray | None = None  # (H, W) in units of the scene's median depth
    depth_b: FloatArray | None = None

    def swapped(self) -> Pair:
        """The pair the other way round."""
        cameras = self.cameras
        if cameras is not None:
            cameras = Cameras(
                cameras.K_b, cameras.K_a, cameras.b_from_grid, cameras.a_from_grid, cameras.overlap
            )
        inverse = None if self.homography is None else np.linalg.inv(self.homography)
        return Pair(
            self.rgb_b, self.rgb_a,
            self.warp_ba, self.visible_b, self.unknown_b,
            self.warp, self.visible, self.unknown,
            self.overlap, cameras, inverse, self.depth_b, self.depth_a,
        )  # fmt: skip


class PairSource:
    """Draws pairs; `photographs` is a folder, a list of files, or images in memory."""

    def __init__(
        self,
        photographs: Sequence[ByteArray] | Sequence[str | Path] | str | Path,
        options: PairOptions = PairOptions(),
        seed: int = 0,
    ) -> None:
        self.options, self.seed = options, seed
        if isinstance(photographs, (str, Path)):
            photographs = find_photographs(photographs)
        if not photographs:
            raise InvalidInput("no photographs to make pairs of")
        self._images: list[Path | ByteArray] = []
        self.skipped: list[str] = []  # damaged files, and why
        for item in photographs:
            try:
                self._images.append(_checked(item))
            except InvalidInput as error:
                if isinstance(item, np.ndarray):
                    raise
                self.skipped.append(str(error))
        if not self._images:
            raise InvalidInput(f"every photograph is damaged, the first: {self.skipped[0]}")
        self._fill = _FillBank(self._images, options, seed)

    def of_size(self, width: int, height: int) -> PairSource:
        """The same photographs, not checked again, for pairs of another size."""
        other = copy.copy(self)
        other.options = replace(self.options, width=width, height=height)
        other._fill = _FillBank(self._images, other.options, self.seed)
        return other

    def __len__(self) -> int:
        """How many photographs there are; pairs are without end."""
        return len(self._images)

    def sample(self, index: int | np.random.Generator, difficulty: float | None = None) -> Pair:
        """Pair number `index` (deterministic with the seed), or the next of a generator."""
        rng = index
        if not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng((self.seed, int(index)))
        options = self.options
        # Easier pairs stay in the mixture at every stage of the curriculum.
        hardest = options.difficulty if difficulty is None else difficulty
        drawn = hardest * rng.random() ** 0.5
        rgb = _decoded(self._images[int(rng.integers(len(self._images)))], options)
        if rng.random() < options.homographies:
            pair = _planar_pair(rng, rgb, self._fill, options, drawn)
        else:
            pair = _lifted_pair(rng, rgb, self._fill, options, drawn)
        return pair.swapped() if rng.random() < options.swap else pair


def _lifted_pair(
    rng: np.random.Generator, rgb: ByteArray, fill: _FillBank, options: PairOptions, hard: float
) -> Pair:
    """A photograph on procedural depth, seen by two cameras."""
    grid_size = _grid_size(rgb, options)
    longer = max(grid_size)
    angle = np.deg2rad(rng.uniform(*options.field_of_view_deg))
    K = centred(longer / 2 / np.tan(angle / 2), *grid_size)
    small = cv2.resize(rgb, grid_size, interpolation=cv2.INTER_AREA)
    w = procedural_inverse_depth(rng, small, K, strength=0.35 + 0.65 * hard)
    relief = Relief.from_inverse_depth(w, K, sky_by_rule(small) if options.sky else None)
    size = (options.width, options.height)
    cameras = sample_cameras(rng, relief, *size, options.motion.at(hard))
    return pair_of(rng, rgb, relief, cameras, fill, options, hard)


def pair_of(
    rng: np.random.Generator,
    rgb: ByteArray,
    relief: Relief,
    cameras: Cameras,
    fill: _FillBank,
    options: PairOptions,
    hard: float,
) -> Pair:
    """The pair that two cameras see of a lifted photograph."""
    size = (options.width, options.height)
    a = render(relief, cameras.K_a, cameras.a_from_grid, *size)
    b = render(relief, cameras.K_b, cameras.b_from_grid, *size)
    warp, visible, unknown = warp_between(relief, a, b, cameras.K_b, cameras.b_from_grid)
    warp_ba, visible_b, unknown_b = warp_between(relief, b, a, cameras.K_a, cameras.a_from_grid)
    scale = rgb.shape[1] / relief.inverse_depth.shape[1]
    lit = [_relit(rng, rgb, relief, options) for _ in (a, b)]
    images = [
        _painted(rng, photo, view.source_px, view.painted, scale, fill)
        for photo, view in zip(lit, (a, b), strict=True)
    ]
    return _finished(
        rng, images, (warp, visible, unknown), (warp_ba, visible_b, unknown_b),
        fill, options, hard, cameras=cameras,
        depths=tuple(1.0 / np.maximum(v.inverse_depth, np.float32(1e-6)) for v in (a, b)),
    )  # fmt: skip


def _relit(
    rng: np.random.Generator, rgb: ByteArray, relief: Relief, options: PairOptions
) -> ByteArray:
    """The photograph, sometimes under new light: the gain is smooth, a coarse depth serves."""
    if rng.random() >= options.relighting:
        return rgb
    height, width = relief.inverse_depth.shape
    size = width // 4, height // 4
    small = cv2.resize(relief.inverse_depth, size)
    K = resized_K(relief.K, (width, height), size)
    preset = str(rng.choice(list(PRESETS), p=[0.7, 0.15, 0.15]))
    return relight_quickly(rgb, small, K, random_lighting(rng, preset), rng)


def warp_between(
    relief: Relief, a: View, b: View, K_b: FloatArray, b_from_grid: FloatArray
) -> Warp:
    """(warp of a's pixels into b, visible, unknown).

    Visible is proven: b shows the same point of the grid there. Not visible is certain where
    the point leaves b's image or something at least a jump nearer is shown. The rest is unknown.
    """
    height, width = b.seen.shape
    x, y = a.source_px[..., 0], a.source_px[..., 1]
    w = sample(relief.inverse_depth, x, y)
    bx, by, omega = project(relief, x, y, w, K_b, b_from_grid)
    inside = (omega > 0) & (bx >= 0) & (bx <= width - 1) & (by >= 0) & (by <= height - 1)
    shown_px = np.where(b.seen[..., None], b.source_px, np.float32(-FAR_AWAY_PX))
    shown = cv2.remap(shown_px, bx, by, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    off = np.maximum(np.abs(shown[..., 0] - x), np.abs(shown[..., 1] - y))
    visible = inside & a.seen & (off < SAME_SURFACE_PX)
    unknown = inside & a.painted & ~visible
    if b.nearest is not None:
        nearest = cv2.remap(b.nearest, bx, by, cv2.INTER_NEAREST)
        unknown &= nearest <= np.float32(1.1) * omega + np.float32(0.05)
    else:
        unknown &= cv2.remap(b.painted.view(np.uint8), bx, by, cv2.INTER_NEAREST) > 0
    return np.stack([bx, by], axis=-1), visible, unknown | a.unlabelled


def _planar_pair(
    rng: np.random.Generator, rgb: ByteArray, fill: _FillBank, options: PairOptions, hard: float
) -> Pair:
    """Two free homographies of the photograph (corners moved by up to a quarter)."""
    width, height = options.width, options.height
    h, w = rgb.shape[:2]
    least = options.motion.at(hard).least_overlap
    photo_from_a, photo_from_b = random_homographies(rng, (width, height), (w, h), hard, least)
    b_from_a = np.linalg.inv(photo_from_b) @ photo_from_a
    sources = [mapped(H, width, height) for H in (photo_from_a, photo_from_b)]
    ab = planar_warp(b_from_a, sources[0], (w, h))
    ba = planar_warp(np.linalg.inv(b_from_a), sources[1], (w, h))
    images = [_painted(rng, rgb, s, within(s, w, h), 1.0, fill) for s in sources]
    return _finished(rng, images, ab, ba, fill, options, hard, homography=b_from_a)


def _painted(
    rng: np.random.Generator,
    rgb: ByteArray,
    source_px: npt.NDArray[np.float32],
    painted: BoolArray,
    scale: float,
    fill: _FillBank,
) -> ByteArray:
    """The view's image: the photograph, and other content where it has holes."""
    grid = (source_px + np.float32(0.5)) * np.float32(scale) - np.float32(0.5)
    image = cv2.remap(rgb, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    other = fill.draw(rng)
    if rng.random() < OWN_CONTENT:
        # The photograph's own texture, elsewhere: like what is really behind things, and hard.
        other = cv2.resize(rgb[::-1, ::-1] if rng.random() < 0.5 else rgb, image.shape[1::-1])
    return cv2.copyTo(image, painted.view(np.uint8), other.copy())


def _finished(
    rng: np.random.Generator,
    images: list[ByteArray],
    ab: Warp,
    ba: Warp,
    fill: _FillBank,
    options: PairOptions,
    hard: float,
    *,
    cameras: Cameras | None = None,
    homography: FloatArray | None = None,
    depths: tuple[FloatArray | None, ...] = (None, None),
) -> Pair:
    """Foreign things in front, then each view's own light and camera."""
    (warp, visible, unknown), (warp_ba, visible_b, unknown_b) = ab, ba
    for view in (0, 1):
        if rng.random() >= options.occluders * (0.3 + 0.7 * hard):
            continue
        images[view], mask = _occluded(rng, images[view], fill)
        if view == 0:
            visible, unknown = visible & ~mask, unknown & ~mask
            visible_b = visible_b & ~_covered(mask, warp_ba)
        else:
            visible_b, unknown_b = visible_b & ~mask, unknown_b & ~mask
            visible = visible & ~_covered(mask, warp)
    strength = 0.4 + 0.6 * hard
    rgb_a, rgb_b = (camera_effects(rng, i, options.effects, strength) for i in images)
    overlap = float(np.sqrt(visible.mean() * visible_b.mean()))
    return Pair(
        rgb_a, rgb_b, warp, visible, unknown, warp_ba, visible_b, unknown_b,
        overlap, cameras, homography, *depths,
    )  # fmt: skip


def _covered(mask: BoolArray, warp: npt.NDArray[np.float32]) -> BoolArray:
    """Where the warp lands within a pixel of the mask."""
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.remap(grown, warp, None, cv2.INTER_NEAREST) > 0


def _occluded(
    rng: np.random.Generator, image: ByteArray, fill: _FillBank
) -> tuple[ByteArray, BoolArray]:
    """A blob of another photograph in front of the view, and where it is."""
    height, width = image.shape[:2]
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 10))))
    radius = rng.uniform(0.05, 0.22) * width * rng.uniform(0.5, 1.0, len(angles))
    centre = rng.uniform(0, 1, 2) * (width, height)
    outline = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [outline.astype(np.int32)], 1)
    out = image.copy()
    cv2.copyTo(fill.draw(rng), mask, out)
    return out, mask.view(bool)


class _FillBank:
    """Photographs at the pairs' size whose content fills what is unknown."""

    def __init__(self, images: Sequence[Path | ByteArray], options: PairOptions, seed: int) -> None:
        rng = np.random.default_rng(seed)
        count = min(len(images), FILL_PHOTOGRAPHS)
        chosen = rng.choice(len(images), count, replace=False)
        size = (options.width, options.height)
        self._images = [cv2.resize(_decoded(images[int(i)], options), size) for i in chosen]

    def draw(self, rng: np.random.Generator) -> ByteArray:
        image = self._images[int(rng.integers(len(self._images)))]
        return image[:, ::-1] if rng.random() < 0.5 else image


def _grid_size(rgb: ByteArray, options: PairOptions) -> tuple[int, int]:
    """(width, height) of the depth grid: the photograph's shape, the pair's area."""
    height, width = rgb.shape[:2]
    scale = np.sqrt(options.width * options.height / (width * height))
    return max(16, round(width * scale)), max(16, round(height * scale))


def _checked(item: ByteArray | str | Path) -> Path | ByteArray:
    """A file whose header is sound, or the image itself."""
    if isinstance(item, np.ndarray):
        if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8 or item.size == 0:
            raise InvalidInput(
                f"a photograph must be (H, W, 3) uint8, got {item.shape} {item.dtype}"
            )
        return item
    check_size(photograph_bytes(item), str(item))
    return Path(item)


def _decoded(item: Path | ByteArray, options: PairOptions) -> ByteArray:
    """RGB, at most 1.5 times the size of a pair: more would alias when it is resampled."""
    longest = round(1.5 * max(options.width, options.height))
    if isinstance(item, Path):
        return read_photograph(item, longest)
    height, width = item.shape[:2]
    if max(height, width) <= longest:
        return item
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(item, size, interpolation=cv2.INTER_AREA)
