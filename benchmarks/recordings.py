"""Recordings of real cameras as runs that a simulator could have given: for faults, and for bags.

    shots = recorded(folder, Variant(mirrored=True), first=0, count=80)

Also new recordings out of old ones, which nothing was tuned on: seen in a mirror (images, depth, K,
truth and odometry; the cameras of a stereo pair change places), and played backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from sequences import View, views

from l2m_ros.geometry import se3
from l2m_ros.types import Camera, FloatArray
from l2m_ros.workshop.simulation.path import BODY_FROM_OPTICAL
from l2m_ros.workshop.simulation.sequence import OPTICAL_FRAME, START_NS, SimulatedFrame

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])  # of the optical axes
BASE_FROM_CAMERA = BODY_FROM_OPTICAL
NO_ODOMETRY = np.diag([0.01] * 3 + [1e-4] * 3)


@dataclass(frozen=True)
class Variant:
    """What is made of a recording."""

    mirrored: bool = False
    backwards: bool = False

    @property
    def name(self) -> str:
        words = ["mirrored"] * self.mirrored + ["backwards"] * self.backwards
        return "+".join(words) or "as_it_is"


VARIANTS = {
    variant.name: variant
    for variant in (Variant(), Variant(True), Variant(False, True), Variant(True, True))
}


def recorded(
    folder: Path, variant: Variant, *, first: int = 0, count: int = 0, segment: int = 0
) -> list[SimulatedFrame]:
    """Frames of one segment; `first` and `count` are of the recording as it is."""
    taken = [view for view in views(folder, 1) if view.segment == segment]
    taken = taken[first : first + count] if count else taken[first:]
    stamps = [view.frame.stamp_ns for view in taken]
    if variant.backwards:
        taken = [_backwards(view) for view in taken[::-1]]
        stamps = [stamps[-1] - stamp for stamp in reversed(stamps)]
    if variant.mirrored:
        taken = [_mirrored(view) for view in taken]
    return [
        _shot(index, view, stamp - stamps[0])
        for index, (view, stamp) in enumerate(zip(taken, stamps, strict=True))
    ]


def _shot(index: int, view: View, since_ns: int) -> SimulatedFrame:
    frame = replace(view.frame, stamp_ns=START_NS + since_ns, frame_id=OPTICAL_FRAME)
    odometry = view.odometry
    odom_from_camera = view.world_from_camera if odometry is None else odometry.odom_from_base
    depth = frame.depth
    return SimulatedFrame(
        index=index,
        time_s=since_ns * 1e-9,
        frame=frame,
        world=cast(Any, None),  # a recording has none: faults that look at it anew are left out
        world_from_camera=view.world_from_camera,
        base_from_camera=BASE_FROM_CAMERA,
        odom_from_base=odom_from_camera @ se3.inverse(BASE_FROM_CAMERA),
        odom_covariance=NO_ODOMETRY if odometry is None else np.asarray(odometry.covariance),
        true_depth_m=np.full(frame.rgb.shape[:2], np.nan) if depth is None else depth,
        moving=False,
        odom_published=odometry is not None,
    )


def _backwards(view: View) -> View:
    return replace(view, frame=replace(view.frame, depth_late_s=-view.frame.depth_late_s))


def _mirrored(view: View) -> View:
    """In a mirror the right camera of a pair is the left one: truth and odometry are then its own.

    The covariance of odometry is diagonal here, so a mirror leaves it as it is.
    """
    frame, old_from_new = view.frame, np.eye(4)
    if frame.right_rgb is None:
        depth = None if frame.depth is None else np.ascontiguousarray(frame.depth[:, ::-1])
        seen = replace(frame, rgb=_flip(frame.rgb), camera=_flip_camera(frame.camera), depth=depth)
    else:
        assert frame.right_camera is not None and frame.right_from_camera is not None
        seen = replace(
            frame,
            rgb=_flip(frame.right_rgb),
            camera=_flip_camera(frame.right_camera),
            right_rgb=_flip(frame.rgb),
            right_camera=_flip_camera(frame.camera),
            right_from_camera=frame.right_from_camera,  # as far apart, along the same axis
        )
        old_from_new = se3.inverse(frame.right_from_camera)
    odometry = view.odometry
    if odometry is not None:
        moved = _flip_pose(odometry.odom_from_base @ old_from_new)
        odometry = replace(odometry, odom_from_base=moved)
    return replace(
        view,
        frame=seen,
        world_from_camera=_flip_pose(view.world_from_camera @ old_from_new),
        odometry=odometry,
    )


def _flip(rgb: Any) -> Any:
    return np.ascontiguousarray(rgb[:, ::-1])


def _flip_camera(camera: Camera) -> Camera:
    K = camera.K.copy()
    K[0, 2] = camera.width - 1 - K[0, 2]
    return replace(camera, K=K)


def _flip_pose(T: FloatArray) -> FloatArray:
    """Any world may be seen in a mirror along with the camera."""
    return np.asarray(MIRROR @ T @ MIRROR)
