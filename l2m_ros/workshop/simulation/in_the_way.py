"""What stands between a camera and the scene: a part of the robot, people, burnt-in letters.

Each has a texture of its own, so that it matches as well as the scene does, and moves otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray, Camera, Frame

Mask = npt.NDArray[np.bool_]

PART_ROWS = 0.3  # of the image's height
PART_M = 0.35  # from the camera; further for a stereo pair that would see it at two sides
PASSER_WIDTH, PASSER_M = 0.4, 0.9  # of the image; how near
IN_FRONT = 0.8  # of the distance to what is nearest: nothing hides what it stands behind
PASSER_WIDTHS_S = 0.5  # how fast: image widths a second
PASSER_PERIOD_S, PASSER_S = 6.0, 2.8  # one of each so many seconds
MOST_DISPARITY = 0.15  # of the image's width
GREY_NOISE, DEPTH_NOISE = 1.5, 0.01


class Layer:
    """A textured sheet before the camera, drawn at (x, y) pixels of its left or upper corner."""

    def __init__(self, rgb: ByteArray, shown: Mask, distance_m: float) -> None:
        self._rgb, self._shown, self._distance_m = rgb, shown, distance_m

    def before(self, frame: Frame, x: float, y: float, rng: np.random.Generator) -> Frame:
        """The frame with it; its depth is known where the frame has depth."""
        seen, shown = self._drawn(frame.rgb, x, y, rng)
        changes: dict[str, Any] = {"rgb": seen}
        if frame.depth is not None:
            at_m = min(self._distance_m, IN_FRONT * _nearest_m(frame))
            noisy_m = at_m * (1 + DEPTH_NOISE * rng.standard_normal(frame.depth.shape))
            changes["depth"] = np.where(shown, noisy_m, frame.depth).astype(np.float32)
        if frame.right_rgb is not None:
            right_x = x - disparity_px(frame, self._distance_m)
            changes["right_rgb"] = self._drawn(frame.right_rgb, right_x, y, rng)[0]
        return replace(frame, **changes)

    def _drawn(
        self, rgb: ByteArray, x: float, y: float, rng: np.random.Generator
    ) -> tuple[ByteArray, Mask]:
        size = rgb.shape[1], rgb.shape[0]
        move = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
        shown = cv2.warpAffine(self._shown.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST)
        sheet = cv2.warpAffine(self._rgb, move, size, borderMode=cv2.BORDER_REPLICATE)
        noisy = sheet + GREY_NOISE * rng.standard_normal(rgb.shape)
        layer = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        return np.where(shown[..., None] > 0, layer, rgb), shown > 0


def _nearest_m(frame: Frame) -> float:
    """Of the scene, but for a few pixels; infinite where depth is not known."""
    known = np.zeros(0) if frame.depth is None else frame.depth[np.isfinite(frame.depth)]
    return float(np.percentile(known, 5)) if len(known) else np.inf


def disparity_px(frame: Frame, distance_m: float) -> float:
    if frame.right_from_camera is None:
        return 0.0
    return float(frame.camera.K[0, 0] * abs(frame.right_from_camera[0, 3]) / distance_m)


def beyond(frame: Frame, distance_m: float) -> float:
    """The distance, or more where a stereo pair would see what is there at two sides."""
    least_m = disparity_px(frame, 1.0) / (MOST_DISPARITY * frame.camera.width)
    return max(distance_m, least_m)


def robot_part(frame: Frame, rng: np.random.Generator) -> Layer:
    """The robot's own shell or a gripper, in the lower part of each image, always the same."""
    width, rows = frame.camera.width, round(PART_ROWS * frame.camera.height)
    rgb = _sheet(2 * width, rows, (70, 75, 80), 40.0, rng)
    for _ in range(40):  # screws
        at = tuple(int(v) for v in rng.uniform(0, (2 * width, rows)))
        cv2.circle(rgb, at, max(2, width // 110), (20, 20, 25), -1)
    return Layer(rgb, _part(width, rows), beyond(frame, PART_M))


def robot_place(frame: Frame) -> tuple[float, float]:
    """Where its sheet lies: pixels of the corner."""
    return -frame.camera.width / 4, frame.camera.height - round(PART_ROWS * frame.camera.height)


def robot_mask(frame: Frame) -> Mask:
    """(H, W) where the part is not."""
    width, height = frame.camera.size
    part = _part(width, round(PART_ROWS * height)).astype(np.uint8)
    move = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    move[:, 2] = robot_place(frame)
    return cv2.warpAffine(part, move, (width, height), flags=cv2.INTER_NEAREST) == 0


def _part(width: int, rows: int) -> Mask:
    """(rows, 2 width): its upper edge is no straight line."""
    edge = 0.25 * rows * (1 + np.sin(np.arange(2 * width) / width * 5.0))
    return np.asarray(np.arange(rows)[:, None] > edge)


def passer_by(frame: Frame, rng: np.random.Generator) -> Layer:
    width, height = round(PASSER_WIDTH * frame.camera.width), frame.camera.height
    colour = tuple(int(c) for c in rng.integers(60, 190, 3))
    rgb = _sheet(width, height, colour, 30.0, rng)
    stripes = (np.arange(height) // max(4, height // 40)) % 2 == 0
    rgb[stripes] = (rgb[stripes] * 0.7).astype(np.uint8)
    v, u = np.mgrid[:height, :width]
    narrow = 0.25 + 0.75 * np.clip(v / (0.35 * height), 0, 1)  # a head, then shoulders
    shown = np.abs(u - width / 2) < narrow * width / 2
    return Layer(rgb, shown, beyond(frame, PASSER_M))


def burnt_in(camera: Camera, rgb: ByteArray, seconds: float) -> ByteArray:
    """The image with the letters that video servers write into it."""
    out, scale = np.ascontiguousarray(rgb).copy(), camera.width / 640
    words = {0.08: f"CAM 01   2024-05-17 10:32:{seconds % 60:05.2f}", 0.95: "FRONT  640x480  AUTO"}
    for at, text in words.items():
        place = (round(0.03 * camera.width), round(at * camera.height))
        for colour, thick in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            thickness = max(1, round(thick * scale))
            cv2.putText(
                out, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale, colour, thickness
            )  # fmt: skip
    return out


def _sheet(
    width: int, height: int, colour: tuple[int, ...], contrast: float, rng: np.random.Generator
) -> ByteArray:
    """Cloth or plastic: spots of two sizes."""
    white = (rng.standard_normal((height, width)) for _ in range(2))
    sizes = (4e-3 * width, 2e-2 * width)
    blurred = [cv2.GaussianBlur(w, (0, 0), size) for w, size in zip(white, sizes, strict=True)]
    spots = sum(spot / np.std(spot) for spot in blurred)
    return np.clip(np.array(colour) + contrast * spots[..., None], 0, 255).astype(np.uint8)
