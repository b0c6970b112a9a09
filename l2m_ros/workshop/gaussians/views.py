"""Two new views of a scene with exact correspondences.

An anchor camera is an input camera moved aside; it plays the part of the photograph in
`lifting`: from its depth come the two cameras (the same curriculum of orbits, free motion,
turns, roll and zoom). Both are rendered, screened, and labelled by plane depth and pose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.gaussians.labels import BoolArray, Labels, label_between
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.neighbours import SKY
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.gaussians.rendering import Rendering, render, surely
from l2m_ros.workshop.gaussians.screening import LEAST_ALPHA, Screening, screening_of
from l2m_ros.workshop.lifting.motion import Cameras, MotionRange, rotation, sample_cameras
from l2m_ros.workshop.lifting.views import Relief

IntArray = npt.NDArray[np.int32]
ASIDE, TURNED_DEG = 0.35, 15.0  # of the median depth: the anchor at difficulty 1
TRIES = 40  # cameras drawn for one pair before it is made easier
EASED = (1.0, 0.5, 0.25, 0.0)  # shares of its difficulty; then the scene is given up
LEAST_LABELLED = 0.08  # share of a's pixels that must be visible in b
ANCHOR_PX = 320  # longest side


@dataclass(frozen=True, eq=False)
class NewView:
    """A rendered view; depth is in the world's units, 0 = unknown."""

    view: PosedCamera
    rgb: ByteArray
    depth: FloatArray  # (H, W)
    sure: BoolArray  # (H, W): the planes that a pixel blends agree on its depth
    dominant: IntArray  # (H, W) the Gaussian of the largest weight, -1 = none
    drawn: BoolArray  # (N,) the Gaussians that touch the view


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two views, their labels both ways, and the anchor that they were drawn around."""

    name: str  # of the input view that the anchor was moved away from
    anchor: NewView
    views: tuple[NewView, NewView]
    labels: tuple[Labels, Labels]  # 0 -> 1, 1 -> 0
    cameras: Cameras  # its "grid" is the anchor; lengths in `distance`
    distance: float  # median depth of the anchor
    rejected: list[str]  # why cameras drawn before were rejected


class SceneViews:
    """A scene that pairs of views are drawn from."""

    def __init__(
        self,
        gaussians: Gaussians,
        inputs: dict[str, PosedCamera],
        rasterizer: Rasterizer,
        motion: MotionRange | None = None,
    ) -> None:
        if not inputs:
            raise InvalidInput("a scene needs the cameras that it was built from")
        self.gaussians, self.rasterizer = gaussians, rasterizer
        self.motion = motion or MotionRange()
        self.names, self.inputs = list(inputs), list(inputs.values())
        self.screening: Screening = screening_of(gaussians, self.inputs, rasterizer)

    def pair(
        self, rng: np.random.Generator, width: int, height: int, difficulty: float
    ) -> ViewPair:
        """Drawn until a pair passes; an easier one where the scene takes no camera so far away.

        Raises if it takes none at all: the same pair would end a training again and again.
        """
        rejected: list[str] = []
        for share in EASED:
            for _ in range(TRIES):
                made = self._drawn(rng, width, height, share * difficulty, rejected)
                if isinstance(made, ViewPair):
                    return made
                rejected.append(made)
        raise self._too_poor(rejected)

    def views(
        self, rng: np.random.Generator, width: int, height: int, difficulty: float, count: int
    ) -> list[tuple[NewView, float]]:
        """`count` views as those of pairs, each beside the median depth of its anchor.

        A view that passes is kept whether its partner passes or not.
        """
        found: list[tuple[NewView, float]] = []
        rejected: list[str] = []
        while len(found) < count:
            hard = difficulty * rng.random() ** 0.5
            anchor = self._anchor(rng, hard)
            if isinstance(anchor, str):
                rejected.append(anchor)
            else:
                _, view, distance = anchor
                cameras = self._cameras(rng, view, distance, width, height, hard)
                for posed in self._posed(view, cameras, distance, (width, height)):
                    looked, why = self._looked(posed)
                    if why:
                        rejected.append(why)
                    else:
                        found.append((looked, distance))
            if len(rejected) > TRIES * (1 + len(found)):
                raise self._too_poor(rejected)
        return found[:count]

    def _too_poor(self, rejected: list[str]) -> InvalidInput:
        counts = {reason.partition(":")[0]: 0 for reason in rejected}
        for reason in rejected:
            counts[reason.partition(":")[0]] += 1
        return InvalidInput(
            f"{len(rejected)} pairs of cameras in a row were rejected ({counts}): the scene is too "
            "poor away from its input views; lower --difficulty or build it from more of them"
        )

    def _anchor(self, rng: np.random.Generator, hard: float) -> tuple[str, NewView, float] | str:
        """An input view, what is seen beside it, its median depth; or why it will not do."""
        index = int(rng.integers(len(self.inputs)))
        anchor, why = self._looked(self._moved_aside(rng, self.inputs[index], hard))
        if why:
            return why
        known = anchor.depth > 0
        if known.mean() < 0.3:
            return "valid share: too little of the anchor has depth"
        return self.names[index], anchor, float(np.median(anchor.depth[known]))

    def _cameras(
        self, rng: np.random.Generator, anchor: NewView, distance: float, width: int, height: int,
        hard: float,
    ) -> Cameras:  # fmt: skip
        known = anchor.depth > 0
        inverse = np.where(known, distance / np.where(known, anchor.depth, 1.0), 1.0)
        relief = Relief.from_inverse_depth(np.clip(inverse, 0.02, 50.0), anchor.view.camera.K)
        return sample_cameras(rng, relief, width, height, self.motion.at(hard))

    @staticmethod
    def _posed(
        anchor: NewView, cameras: Cameras, distance: float, size: tuple[int, int]
    ) -> Iterator[PosedCamera]:
        for K, from_anchor in (
            (cameras.K_a, cameras.a_from_grid), (cameras.K_b, cameras.b_from_grid),
        ):  # fmt: skip
            pose = from_anchor.copy()
            pose[:3, 3] *= distance
            yield PosedCamera(Camera(*size, K), pose @ anchor.view.camera_from_world)

    def _drawn(
        self, rng: np.random.Generator, width: int, height: int, hard: float, rejected: list[str]
    ) -> ViewPair | str:
        found = self._anchor(rng, hard)
        if isinstance(found, str):
            return found
        name, anchor, distance = found
        cameras = self._cameras(rng, anchor, distance, width, height, hard)
        views = []
        for posed in self._posed(anchor, cameras, distance, (width, height)):
            view, why = self._looked(posed)
            if why:
                return why
            views.append(view)
        a, b = views
        labels = (
            label_between(a.depth, a.view, b.depth, b.view, a.sure, b.sure),
            label_between(b.depth, b.view, a.depth, a.view, b.sure, a.sure),
        )
        if min(label.visible.mean() for label in labels) < LEAST_LABELLED:
            return "overlap: too little is seen by both"
        return ViewPair(name, anchor, (a, b), labels, cameras, distance, list(rejected))

    @torch.no_grad()
    def _looked(self, view: PosedCamera) -> tuple[NewView, str | None]:
        far = SKY * self.screening.distance
        rendering = render(self.rasterizer, self.gaussians, view, far=far, spread=True)
        depth = rendering.plane_depth
        sound = (rendering.solid > LEAST_ALPHA) & (depth < far)
        return (
            NewView(
                view,
                (rendering.colour.clamp(0, 1) * 255).round().byte().cpu().numpy(),
                torch.where(sound, depth, 0.0).cpu().numpy().astype(np.float32),
                surely(rendering),
                _dominant(rendering),
                rendering.raster.drawn.cpu().numpy(),
            ),
            self.screening.reason(rendering, view),
        )

    def _moved_aside(self, rng: np.random.Generator, view: PosedCamera, hard: float) -> PosedCamera:
        """An input camera, turned and moved; at difficulty 0 nearly itself."""
        longest = max(view.size)
        if longest > ANCHOR_PX:
            width, height = (round(side * ANCHOR_PX / longest) for side in view.size)
            view = view.resized(width, height)
        step = rng.standard_normal(3)
        step *= ASIDE * hard * rng.random() * self.screening.distance / np.linalg.norm(step)
        axis = rng.standard_normal(3)
        turn = rotation(np.deg2rad(TURNED_DEG) * hard * rng.random() * axis / np.linalg.norm(axis))
        turn[:3, 3] = step
        return PosedCamera(view.camera, turn @ view.camera_from_world)


def _dominant(rendering: Rendering) -> IntArray:
    found = rendering.raster.dominant
    if found is None:  # gsplat does not tell
        return np.full(rendering.alpha.shape, -1, np.int32)
    return found.cpu().numpy().astype(np.int32)


def unlabelled(view: NewView) -> BoolArray:
    """(H, W): drawn, but without depth to label by."""
    return np.asarray((view.depth <= 0) | ~view.sure)
