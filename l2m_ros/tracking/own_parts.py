"""A part of the robot that is always in view: a gripper, a bumper, the edge of its shell.

It looks the same in every image while all else moves, and its matches agree that nothing moved.
What has detail, has not changed for several images in which much else has, and is near, is such a
part and is not matched, until it changes.

    images 0.2 s apart, thinned -> has this sample detail, and does it look the same, at the same
    depth? -> counted while the view moves -> often enough: a part of the robot

A camera that stands sees the same, too, where something passes; one that drives straight on sees
far things stay. With depth, what stays must be near, and odometry must say that the camera moves,
or what stays must be nearer than what moves: who passes hides what is behind. Without depth
odometry must say that the camera turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.matching.mask import Mask
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.thinned import ACROSS, CHANGED, Samples, has_detail
from l2m_ros.types import FloatArray, Frame

Counts = npt.NDArray[np.int8]

APART_NS, LONGEST_NS = 200_000_000, 1_000_000_000  # images that are compared
SAME_GREY, SAME_DEPTH = 6.0, 0.04  # grey levels; of the distance
MOVES = 0.25  # of the samples with detail change in a view that moves
OFTEN, MOST = 6, 10  # counted
TOGETHER = 0.6  # of the samples with detail about one that looks the same by no accident
LEAST = 0.01  # of the image
NEAREST_M = 1.0  # parts of a robot are nearer than this to its camera
NEARER = 0.6  # ... and, without odometry, than this part of the distance of what moves
FAR = 0.1  # of what stays may be farther
MOVED_M, MOVED_RAD = 0.03, 0.05  # by odometry, from one image to the other
WIDE, BESIDE = np.ones((9, 9), np.uint8), np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Look:
    """An image, thinned."""

    stamp_ns: int
    grey: npt.NDArray[np.float32]  # (h, w)
    depth_m: FloatArray | None  # (h, w), NaN = unknown
    odometry: OdometrySample | None


class OwnParts:
    """Watches the images of one camera."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._before: Look | None = None
        self._count: Counts | None = None
        self._size = (0, 0)
        self.used: Mask | None = None  # (H, W) without the robot's parts; None: none was found

    @property
    def words(self) -> str | None:
        if self.used is None:
            return None
        share = 100 * (1.0 - float(self.used.mean()))
        return (
            f"{share:.0f} % of the image stay as they are while the view moves, and are not "
            "matched: a part of the robot (tracking.mask leaves it out from the first image on)"
        )

    def see(self, frame: Frame, odometry: OdometrySample | None) -> None:
        if frame.camera.size != self._size:
            self.reset()
            self._size = frame.camera.size
        before = self._before
        since_ns = APART_NS if before is None else frame.stamp_ns - before.stamp_ns
        if 0 <= since_ns < APART_NS:
            return
        now = _look(frame, odometry)
        if self._count is None:
            self._count = np.zeros(now.grey.shape, np.int8)
        if before is not None and 0 < since_ns <= LONGEST_NS:
            _compare(before, now, self._count)
            self.used = _used(self._count, frame.camera.size)
        self._before = now


def _compare(before: Look, now: Look, count: Counts) -> None:
    """Counts what stays as it is while the view moves; what changes is counted out."""
    detail = has_detail(before.grey) | has_detail(now.grey)
    off = np.abs(now.grey - before.grey)
    same, changed = detail & (off < SAME_GREY), detail & (off > CHANGED)
    if before.depth_m is not None and now.depth_m is not None:
        apart = np.abs(now.depth_m / before.depth_m - 1)
        same &= ~(apart > SAME_DEPTH)  # where depth is unknown, the image tells
    same &= _share(same) > TOGETHER * _share(detail)
    count[off > CHANGED] = np.maximum(count[off > CHANGED] - 3, 0)
    if changed.sum() < MOVES * detail.sum() or not _moves(before, now, same, changed):
        return
    count[same] = np.minimum(count[same] + 1, MOST)


def _used(count: Counts, size: tuple[int, int]) -> Mask | None:
    part = cv2.morphologyEx((count >= OFTEN).astype(np.uint8), cv2.MORPH_CLOSE, WIDE)
    part = cv2.morphologyEx(part, cv2.MORPH_OPEN, BESIDE)
    if part.mean() < LEAST:
        return None
    wide = cv2.dilate(part, BESIDE)
    return cv2.resize(wide, size, interpolation=cv2.INTER_NEAREST) == 0


def _look(frame: Frame, odometry: OdometrySample | None) -> Look:
    width, height = frame.camera.size
    size = ACROSS, max(1, round(ACROSS * height / width))
    grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    depth = None
    if frame.depth is not None:
        depth = cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST)
    return Look(frame.stamp_ns, small, depth, odometry)


def _share(some: Samples) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.blur(some.astype(np.float32), (5, 5)))


def _moves(before: Look, now: Look, same: Samples, changed: Samples) -> bool:
    """Whether what stays would not, if it were of the scene."""
    moved, turned = _by_odometry(before.odometry, now.odometry)
    if before.depth_m is None or now.depth_m is None:
        return bool(turned)
    stays = now.depth_m[same & np.isfinite(now.depth_m)]
    most_m = NEAREST_M
    if moved is None:
        passes = np.fmax(now.depth_m, before.depth_m)[changed]
        passes = passes[np.isfinite(passes)]
        most_m = min(most_m, NEARER * float(np.median(passes))) if len(passes) else 0.0
    return moved is not False and len(stays) > 0 and bool((stays > most_m).mean() < FAR)


def _by_odometry(
    before: OdometrySample | None, now: OdometrySample | None
) -> tuple[bool | None, bool | None]:
    """Whether the camera moves, and whether it turns; None where nothing tells."""
    if before is None or now is None:
        return None, None
    way = se3.inverse(before.odom_from_base) @ now.odom_from_base
    turned = se3.angle_rad(way[:3, :3]) > MOVED_RAD
    return bool(turned or np.linalg.norm(way[:3, 3]) > MOVED_M), bool(turned)
