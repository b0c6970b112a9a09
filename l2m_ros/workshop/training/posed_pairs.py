"""Pairs of posed images with depth: of rendered worlds (`l2m simulate`) or of an RGB-D recording.

    maker = PosedPairs([Path("worlds/bare_0"), ...], seed=0)    # folders as `l2m evaluate` reads
    pair = maker.pair(17, width=320, height=256, difficulty=0.5)

Each view is turned and zoomed a little by a homography of its own; the truth comes from depth and
poses. A point is visible where the other view's depth agrees, hidden where that is clearly
nearer, and without a verdict at depth edges and where either depth is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.progress import track
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.evaluation.scenes import Scene, find_scenes
from l2m_ros.workshop.evaluation.scenes import View as PosedView
from l2m_ros.workshop.lifting.camera_effects import EffectOptions, camera_effects
from l2m_ros.workshop.lifting.homographies import mapped, within
from l2m_ros.workshop.lifting.motion import centred, rotation
from l2m_ros.workshop.lifting.pairs import Pair, Warp

EDGE_SHARE = 0.08  # inverse depth that changes more between neighbours is an edge
AGREE_SHARE = 0.02  # of the inverse depth: the same surface
NEARER_SHARE = 0.06  # another surface, in front
CANDIDATES = 4  # pairs drawn, of which the one whose overlap suits best is taken


@dataclass(frozen=True, eq=False)
class _Shown:
    """A view as the network gets it, and what is known of every pixel of it."""

    rgb: ByteArray
    source_px: npt.NDArray[np.float32]  # (H, W, 2) place in the stored image
    shown_from_source: FloatArray  # 3x3
    inverse_depth: npt.NDArray[np.float32]  # of the stored image
    edge: npt.NDArray[np.uint8]  # of the stored image: no verdict here
    K: FloatArray  # of the stored image


class PosedPairs:
    """Pairs of the scenes' own lists (`pairs.json`); pair number i is the same every time."""

    def __init__(
        self, folders: Sequence[Path], seed: int = 0, effects: EffectOptions | None = None
    ) -> None:
        self.seed, self.effects = seed, effects or EffectOptions()
        scenes = [scene for scene in find_scenes(folders) if scene.kind == "pose"]
        self._pairs = [(scene, index) for scene in scenes for index in range(len(scene.pairs))]
        if not self._pairs:
            raise InvalidInput("the scenes hold homographies only: training takes depth and poses")
        # Once for all: a view that cannot be had must not end a run when it is drawn.
        named = {(i, n) for i, s in enumerate(scenes) for p in s.pairs for n in (p.a, p.b)}
        for number, name in track(sorted(named), "checking posed images"):
            scenes[number].check_view(name)

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair:
        rng = np.random.default_rng((self.seed, 8, index))
        hard = difficulty * rng.random() ** 0.5
        scene, number = self._chosen(rng, hard)
        listed = scene.pairs[number]
        a, b = (
            self._shown(rng, scene.view(name), (width, height), hard)
            for name in (listed.a, listed.b)
        )
        assert listed.b_from_a is not None
        ab = warp_between(a, b, listed.b_from_a)
        ba = warp_between(b, a, np.linalg.inv(listed.b_from_a))
        rgb_a, rgb_b = (
            camera_effects(rng, view.rgb, self.effects, 0.4 + 0.6 * hard) for view in (a, b)
        )
        overlap = float(np.sqrt(ab[1].mean() * ba[1].mean()))
        return Pair(rgb_a, rgb_b, *ab, *ba, overlap, None, None)

    def _chosen(self, rng: np.random.Generator, hard: float) -> tuple[Scene, int]:
        """Of some random pairs the one whose overlap is nearest to a drawn one."""
        wanted = 1.0 - hard * rng.uniform(0.2, 0.95)
        drawn = [self._pairs[i] for i in rng.integers(len(self._pairs), size=CANDIDATES)]
        return min(drawn, key=lambda one: abs(one[0].pairs[one[1]].overlap - wanted))

    def _shown(
        self,
        rng: np.random.Generator,
        view: PosedView,
        size: tuple[int, int],
        hard: float,
    ) -> _Shown:
        assert view.depth is not None and view.camera is not None
        K, (width, height) = view.camera.K, size
        inverse = np.nan_to_num(1.0 / view.depth, nan=0.0, posinf=0.0).astype(np.float32)
        shrink = max(width / view.size[0], height / view.size[1])
        focal = K[0, 0] * shrink * (1.05 + 0.6 * hard * rng.random())
        turn = rng.normal(0.0, 1.0, 3) * np.array([0.06, 0.08, 0.1]) * (0.2 + hard)
        source_from_shown = K @ rotation(turn)[:3, :3] @ np.linalg.inv(centred(focal, *size))
        rgb, source = shown(view.rgb, source_from_shown, size, shrink)
        return _Shown(rgb, source, np.linalg.inv(source_from_shown), inverse, edges_of(inverse), K)


def shown(
    rgb: ByteArray, source_from_shown: FloatArray, size: tuple[int, int], shrink: float
) -> tuple[ByteArray, npt.NDArray[np.float32]]:
    """The image under a homography, blurred first where it gets smaller, and (H, W, 2) places."""
    source = mapped(source_from_shown, *size)
    if shrink < 0.75:
        rgb = cv2.GaussianBlur(rgb, (0, 0), 0.4 / shrink)
    seen = cv2.remap(rgb, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return seen, source


def edges_of(inverse: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """255 beside a depth edge and where depth is unknown."""
    square = np.ones((3, 3), np.uint8)
    nearest, farthest = cv2.dilate(inverse, square), cv2.erode(inverse, square)
    return np.where(nearest - farthest > EDGE_SHARE * nearest, 255, 0).astype(np.uint8)


def warp_between(a: _Shown, b: _Shown, b_from_a: FloatArray) -> Warp:
    """(warp of a's pixels into b, visible, unknown)."""
    height, width = a.source_px.shape[:2]
    x, y = a.source_px[..., 0], a.source_px[..., 1]
    w = cv2.remap(a.inverse_depth, a.source_px, None, cv2.INTER_LINEAR)
    known = within(a.source_px, *a.inverse_depth.shape[::-1]) & (w > 0)
    known &= cv2.remap(a.edge, a.source_px, None, cv2.INTER_NEAREST) == 0
    turn = (b.K @ b_from_a[:3, :3] @ np.linalg.inv(a.K)).astype(np.float32)
    shift = (b.K @ b_from_a[:3, 3]).astype(np.float32)
    u, v, z = (row[0] * x + row[1] * y + row[2] + s * w for row, s in zip(turn, shift, strict=True))
    ahead = z > 1e-3
    over = np.where(ahead, 1.0 / np.where(ahead, z, 1.0), 0.0).astype(np.float32)
    stored = np.stack([u * over, v * over], axis=-1)
    predicted = w * over  # the inverse depth that b would see
    warp = cv2.perspectiveTransform(
        np.clip(stored, -1e4, 1e4).reshape(-1, 1, 2), b.shown_from_source
    )
    warp = np.nan_to_num(warp.reshape(height, width, 2), nan=-1e4).clip(-1e4, 1e4)
    inside = ahead & within(warp, *b.rgb.shape[1::-1])
    there = within(stored, *b.inverse_depth.shape[::-1])
    met = cv2.remap(b.inverse_depth, stored, None, cv2.INTER_LINEAR)
    clear = there & (met > 0) & (cv2.remap(b.edge, stored, None, cv2.INTER_NEAREST) == 0)
    visible = known & inside & clear & (np.abs(met - predicted) < AGREE_SHARE * predicted)
    hidden = known & (~inside | (clear & (met > (1 + NEARER_SHARE) * predicted)))
    return warp.astype(np.float32), visible, ~visible & ~hidden
