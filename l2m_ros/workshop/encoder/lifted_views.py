"""Views of a lifted photograph: some that features are gathered from, some that are new."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.lifting.camera_effects import EffectOptions, camera_effects
from l2m_ros.workshop.lifting.depth import DepthSource, ProceduralDepth
from l2m_ros.workshop.lifting.motion import (
    MotionRange,
    centred,
    first_camera,
    rotation,
    second_camera,
)
from l2m_ros.workshop.lifting.procedural import FARTHEST
from l2m_ros.workshop.lifting.sky import SkyMask, sky_by_rule
from l2m_ros.workshop.lifting.views import BoolArray, Relief, render

PROCEDURAL = ProceduralDepth()


@dataclass(frozen=True)
class ViewOptions:
    """How many views, and how far apart they are."""

    width: int = 256
    height: int = 192
    gathered: int = 3  # views whose features the Gaussians are fitted to
    new: int = 2  # views that nothing was fitted to
    moved_weight: float = 1.0  # of gathered views that have moved, beside the unmoved one's 1
    effects: float = 0.5  # share of the views that the student sees through another camera
    field_of_view_deg: tuple[float, float] = (45.0, 80.0)  # of the photograph's longer side
    motion: MotionRange = field(
        default_factory=lambda: MotionRange(
            rotation_deg=60.0, roll_deg=15.0, zoom=1.5, translation=0.8, least_overlap=0.25
        )
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.moved_weight <= 1.0:
            raise InvalidInput(f"moved_weight must lie in [0, 1], got {self.moved_weight}")
        if self.gathered < 2 or self.new < 0:
            raise InvalidInput(
                f"features are gathered from 2 views at least, got {self.gathered} and {self.new}"
            )


@dataclass(frozen=True, eq=False)
class PhotographView:
    """What one camera sees of the photograph."""

    camera: PosedCamera  # its world is the photograph's camera
    rgb: ByteArray  # (H, W, 3) as it is
    altered: ByteArray  # (H, W, 3) through another camera, for the student
    seen: BoolArray  # (H, W) True where the photograph is shown, and its depth is known


@dataclass(frozen=True, eq=False)
class LiftedPhotograph:
    relief: Relief
    rgb: ByteArray  # (h, w, 3), the relief's size
    views: list[PhotographView]  # the gathered ones first


def lifted(
    rng: np.random.Generator,
    rgb: ByteArray,
    name: str,
    options: ViewOptions,
    depth: DepthSource = PROCEDURAL,
    sky: SkyMask = sky_by_rule,
) -> LiftedPhotograph:
    """All views of a photograph, at random."""
    rgb = _of_area(rgb, options.width * options.height)
    relief = relief_of(rng, rgb, name, options.field_of_view_deg, depth, sky)
    size = options.width, options.height
    first = first_camera(rng, relief, *size, options.motion)
    cameras = [first]
    while len(cameras) < options.gathered + options.new:
        moved = second_camera(rng, relief, *first, *size, options.motion)
        cameras.append((moved.K_b, moved.b_from_grid))
    views = [view_of(relief, rgb, K, T, *size) for K, T in cameras]
    views = [_seen_through(rng, view, options.effects) for view in views]
    return LiftedPhotograph(relief, rgb, views)


def relief_of(
    rng: np.random.Generator,
    rgb: ByteArray,
    name: str,
    field_of_view_deg: tuple[float, float],
    depth: DepthSource,
    sky: SkyMask,
) -> Relief:
    height, width = rgb.shape[:2]
    angle = np.deg2rad(rng.uniform(*field_of_view_deg))
    K = centred(max(width, height) / 2 / np.tan(angle / 2), width, height)
    found, above = depth.lift(rgb, name, K, rng), sky(rgb)
    w = np.where(above, np.float32(FARTHEST), found.inverse_depth)
    return Relief.from_inverse_depth(w, K, above | ~found.known)


def view_of(
    relief: Relief, rgb: ByteArray, K: FloatArray, T: FloatArray, width: int, height: int
) -> PhotographView:
    """T = view_from_photograph. Holes show the photograph upside down: texture, nothing true."""
    view = render(relief, K, T, width, height)
    image = cv2.remap(rgb, view.source_px, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    other = cv2.resize(rgb[::-1], (width, height))
    image = cv2.copyTo(image, view.painted.view(np.uint8), other)
    return PhotographView(PosedCamera(Camera(width, height, K), T), image, image, view.seen)


def orbit(relief: Relief, angle_deg: float, azimuth_rad: float) -> FloatArray:
    """view_from_photograph of a camera turned about the point in the middle of the photograph.

    The axis lies in the image plane, at `azimuth_rad` from x; the point stays where it is.
    """
    rows, columns = relief.inverse_depth.shape
    block = relief.inverse_depth[rows // 3 : -(rows // 3), columns // 3 : -(columns // 3)]
    pivot = np.array([0.0, 0.0, 1.0 / float(np.median(block))])
    axis = np.array([np.cos(azimuth_rad), np.sin(azimuth_rad), 0.0])
    T = rotation(axis * np.deg2rad(angle_deg))
    T[:3, 3] = pivot - T[:3, :3] @ pivot
    return T


def _of_area(rgb: ByteArray, area_px: int) -> ByteArray:
    """The photograph in its own shape, about as large as a view."""
    height, width = rgb.shape[:2]
    scale = np.sqrt(area_px / (width * height))
    size = max(16, round(width * scale)), max(16, round(height * scale))
    small: ByteArray = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return small


def _seen_through(rng: np.random.Generator, view: PhotographView, share: float) -> PhotographView:
    if rng.random() >= share:
        return view
    altered = camera_effects(rng, view.rgb, EffectOptions(), 0.7)
    return PhotographView(view.camera, view.rgb, altered, view.seen)
