"""Pairs of real photographs that a strong matcher matched: `l2m teach` writes them.

    maker = TaughtPairs([Path("taught")], seed=0)
    pair = maker.pair(17, width=320, height=256, difficulty=0.5)

Light, season and cameras differ as no lifting makes them differ. The teacher's verified matches
are sparse; triangles between neighbouring ones carry them to the pixels inside, where the
triangle looks like a piece of surface in both images. All other pixels have no verdict.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay, QhullError

from l2m_ros.errors import InvalidInput
from l2m_ros.files import inside, read_json
from l2m_ros.images import read_array, read_rgb
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.camera_effects import EffectOptions, camera_effects
from l2m_ros.workshop.lifting.homographies import within
from l2m_ros.workshop.lifting.motion import centred, rotation
from l2m_ros.workshop.lifting.pairs import Pair, Warp
from l2m_ros.workshop.lifting.views import BoolArray
from l2m_ros.workshop.training.posed_pairs import shown

LISTING = "taught.json"
LONGEST_SHARE = 0.08  # of the image's diagonal: a longer side may span two surfaces
STRETCH = 6.0  # of a triangle's area between the images, beyond what most have
IMAGES_KEPT = 64


@dataclass(frozen=True)
class Taught:
    """One pair: two images and the file of their matches, (N, 4) pixels: a's x, y, then b's."""

    a: Path
    b: Path
    matches: Path


class TaughtPairs:
    """Pairs of the folders' listings; pair number i is the same every time."""

    def __init__(
        self, folders: Sequence[Path], seed: int = 0, effects: EffectOptions | None = None
    ) -> None:
        self.seed, self.effects = seed, effects or EffectOptions()
        self._pairs = [pair for folder in folders for pair in listed_pairs(folder)]
        self._images: OrderedDict[Path, ByteArray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair:
        rng = np.random.default_rng((self.seed, 9, index))
        hard = difficulty * rng.random() ** 0.5
        taught = self._pairs[int(rng.integers(len(self._pairs)))]
        matches = read_matches(taught.matches)
        seen, points = [], []
        for path, pixels in ((taught.a, matches[:, :2]), (taught.b, matches[:, 2:])):
            rgb, shown_from_source = _turned(rng, self._image(path), (width, height), hard)
            seen.append(camera_effects(rng, rgb, self.effects, 0.3 + 0.3 * hard))
            points.append(cv2.perspectiveTransform(pixels[:, None], shown_from_source)[:, 0])
        both = within(points[0], width, height) & within(points[1], width, height)
        a, b = (one[both] for one in points)
        warps = between(a, b, (width, height)), between(b, a, (width, height))
        overlap = float(np.sqrt(warps[0][1].mean() * warps[1][1].mean()))
        pair = Pair(seen[0], seen[1], *warps[0], *warps[1], overlap, None, None)
        return pair.swapped() if rng.random() < 0.5 else pair

    def _image(self, path: Path) -> ByteArray:
        if path not in self._images:
            self._images[path] = read_rgb(path)
            if len(self._images) > IMAGES_KEPT:
                self._images.popitem(last=False)
        return self._images[path]


def listed_pairs(folder: Path) -> list[Taught]:
    path = folder / LISTING
    try:
        entries = read_json(path)["pairs"]
        found = [
            Taught(
                inside(folder / "images", entry["a"]),
                inside(folder / "images", entry["b"]),
                inside(folder / "matches", entry["matches"]),
            )
            for entry in entries
        ]
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: is not what `l2m teach` writes ({error!r})") from error
    if not found:
        raise InvalidInput(f"{path}: lists no pairs: teach from photographs that overlap")
    return found


def read_matches(path: Path) -> npt.NDArray[np.float32]:
    matches = read_array(path)
    if matches.ndim != 2 or matches.shape[1] != 4 or not np.isfinite(matches).all():
        raise InvalidInput(f"{path}: expected finite matches (N, 4), got {matches.shape}")
    return matches.astype(np.float32)


def _turned(
    rng: np.random.Generator, rgb: ByteArray, size: tuple[int, int], hard: float
) -> tuple[ByteArray, FloatArray]:
    """The image as another camera at its place sees it, and shown_from_source (3x3)."""
    (width, height), (source_height, source_width) = size, rgb.shape[:2]
    assumed = centred(0.9 * max(source_width, source_height), source_width, source_height)
    shrink = max(width / source_width, height / source_height)
    focal = assumed[0, 0] * shrink * (1.02 + 0.5 * hard * rng.random())
    turn = rng.normal(0.0, 1.0, 3) * np.array([0.05, 0.06, 0.1]) * (0.2 + hard)
    source_from_shown = assumed @ rotation(turn)[:3, :3] @ np.linalg.inv(centred(focal, *size))
    seen, _ = shown(rgb, source_from_shown, size, shrink)
    return seen, np.linalg.inv(source_from_shown)


def between(a: FloatArray, b: FloatArray, size: tuple[int, int]) -> Warp:
    """(warp, visible, unknown) of a's pixels, from points (N, 2) of a and where b has them."""
    width, height = size
    warp = np.zeros((height, width, 2), np.float32)
    known = np.zeros((height, width), bool)
    try:
        corners = Delaunay(a).simplices if len(a) >= 4 else np.empty((0, 3), int)
    except QhullError:  # all on one line
        corners = np.empty((0, 3), int)
    for triangle in corners[_like_surface(a[corners], b[corners], size)]:
        _fill(warp, known, a[triangle], b[triangle])
    return warp, known, ~known


def _like_surface(a: FloatArray, b: FloatArray, size: tuple[int, int]) -> BoolArray:
    """Triangles (T, 3, 2) with short sides in both images, not mirrored, stretched as others."""
    if not len(a):
        return np.empty(0, bool)
    longest = LONGEST_SHARE * float(np.hypot(*size))
    short = np.ones(len(a), bool)
    for one, slack in ((a, 1.0), (b, 2.0)):
        sides = np.linalg.norm(one - np.roll(one, 1, axis=1), axis=2)
        short &= sides.max(axis=1) < slack * longest
    area_a, area_b = _area(a), _area(b)
    ratio = np.where(np.abs(area_a) > 0.5, area_b / np.where(area_a == 0, 1, area_a), 0.0)
    usual = np.median(ratio[short]) if short.any() else 1.0
    alike: BoolArray = short & (ratio > usual / STRETCH) & (ratio < usual * STRETCH) & (usual > 0)
    return alike


def _area(triangles: FloatArray) -> FloatArray:
    """(T,) twice the signed area."""
    one, other = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]


def _fill(warp: npt.NDArray[np.float32], known: BoolArray, a: FloatArray, b: FloatArray) -> None:
    """Pixels of one triangle of a get b's pixels by its affine map."""
    left, top = np.floor(a.min(axis=0)).astype(int)
    right, below = np.ceil(a.max(axis=0)).astype(int) + 1
    x, y = np.meshgrid(np.arange(left, right), np.arange(top, below))
    points = np.stack([x, y, np.ones_like(x)], axis=-1).astype(float)
    shares = points @ np.linalg.inv(np.column_stack([a, np.ones(3)]))  # barycentric
    held = (shares >= -1e-9).all(axis=-1)
    rows, columns = y[held], x[held]
    warp[rows, columns] = shares[held] @ b
    known[rows, columns] = True
