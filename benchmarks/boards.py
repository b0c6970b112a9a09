"""Textured boards in the scene of a recording that stand, and then move: a door, a train, a person.

    shots = board(DOOR)(shots, rng)

Each is drawn where the true pose has it, into the image, the right image and depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.simulation.sequence import Shots

TEXTURE_PX = 400  # of the longer side
DEPTH_NOISE = 0.004  # relative


@dataclass(frozen=True)
class Board:
    """Upright, at a place in the first camera's axes; it begins to move at frame `starts`."""

    size_m: tuple[float, float]
    at_m: tuple[float, float, float]
    starts: int
    right_m: float = 0.0  # per frame
    turn_rad: float = 0.0  # per frame, about its own upright axis
    frames: int = 10**6  # for how long it moves

    def first_from_board(self, number: int) -> FloatArray:
        moved = min(max(0, number - self.starts), self.frames)
        x, y, z = self.at_m
        turned = se3.exp(np.array([0, 0, 0, 0, self.turn_rad * moved, 0]))
        return se3.transform(turned[:3, :3], np.array([x + self.right_m * moved, y, z]))


DOOR = Board((1.0, 2.2), (-0.3, 0.0, 1.3), starts=15, turn_rad=0.03, frames=30)
TURNTABLE = Board((1.2, 1.2), (0.0, 0.0, 1.2), starts=10, turn_rad=0.0175)
TRAIN = Board((20.0, 3.0), (10.1, 0.0, 1.6), starts=25, right_m=-0.05)
PERSON = Board((0.6, 1.8), (0.15, 0.0, 1.0), starts=25, right_m=0.06)


def board(it: Board) -> Callable[[Shots, np.random.Generator], Shots]:
    def apply(shots: Shots, rng: np.random.Generator) -> Shots:
        texture, first = _texture(it, rng), None
        for number, shot in enumerate(shots):
            frame = shot.frame
            first = shot.world_from_camera if first is None else first
            camera_from_board = (
                se3.inverse(shot.world_from_camera) @ first @ it.first_from_board(number)
            )
            rgb, there, depth_m = _drawn(frame.rgb, texture, it, frame.camera.K, camera_from_board)
            changes: dict[str, Any] = {"rgb": rgb}
            if frame.depth is not None:
                noisy = depth_m * (1 + DEPTH_NOISE * rng.standard_normal(depth_m.shape))
                changes["depth"] = np.where(there, noisy, frame.depth).astype(np.float32)
            if frame.right_rgb is not None and frame.right_camera is not None:
                right_from_board = np.asarray(frame.right_from_camera) @ camera_from_board
                K = frame.right_camera.K
                changes["right_rgb"] = _drawn(frame.right_rgb, texture, it, K, right_from_board)[0]
            yield replace(shot, frame=replace(frame, **changes))

    return apply


def _texture(it: Board, rng: np.random.Generator) -> ByteArray:
    width, height = (round(TEXTURE_PX * side / max(it.size_m)) for side in it.size_m)
    image = np.full((height, width, 3), 120.0, np.float32)
    for smooth_px, contrast in ((2, 25), (6, 30), (20, 35), (60, 30)):
        noise = rng.normal(size=image.shape).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), smooth_px)
        image += contrast * noise / noise.std()
    return np.clip(image, 0, 255).astype(np.uint8)


def _drawn(
    rgb: ByteArray, texture: ByteArray, it: Board, K: FloatArray, camera_from_board: FloatArray
) -> tuple[ByteArray, Any, FloatArray]:
    """The image with the board, where that is, and the depth of its plane."""
    height, width = rgb.shape[:2]
    rows, columns = texture.shape[:2]
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], -1)
    normal, at = camera_from_board[:3, 2], camera_from_board[:3, 3]
    with np.errstate(divide="ignore"):
        depth_m = (normal @ at) / (rays @ normal)
    (w, h) = it.size_m
    board_from_px = np.array(
        [[w / columns, 0, -w / 2], [0, h / rows, -h / 2], [0, 0, 0], [0, 0, 1]]
    )
    corners = np.array([[0, columns, columns, 0], [0, 0, rows, rows], [1, 1, 1, 1]])
    behind = (camera_from_board @ board_from_px @ corners)[2].min() < 0.1
    if behind:
        return rgb, np.zeros(rgb.shape[:2], bool), depth_m
    px_from_texture = K @ (camera_from_board @ board_from_px)[:3]
    share = cv2.warpPerspective(np.ones((rows, columns)), px_from_texture, (width, height))
    seen = cv2.warpPerspective(texture, px_from_texture, (width, height))
    mixed = rgb * (1 - share[..., None]) + seen * share[..., None]
    return mixed.astype(np.uint8), share > 0.5, depth_m
