"""Posed images of a bag, to learn metres from: taken where its truth says, else its odometry.

    frames_of_bag(path)      groups of images; pairs are made within a group

Truth is a topic of poses of the camera (`recording.TRUTHS`). Odometry drifts, so images that are
far apart in time are of different groups.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from l2m_ros.bags.recording import Shot, open_recording
from l2m_ros.files import BAG_INFO, BAG_SUFFIXES, is_bag
from l2m_ros.geometry.camera import undistort_maps
from l2m_ros.geometry.se3 import angle_rad, compose, inverse
from l2m_ros.types import FloatArray, Frame
from l2m_ros.workshop.training.metric_data import PosedFrame, Size, resized

NEXT_M, NEXT_RAD = 0.1, np.radians(5.0)  # an image nearer to the one before shows nothing new
TRUSTED_S = 20.0  # of odometry: a wheel's per cent of a few metres is less than a head's own error
SAME_MOMENT_S = 0.02  # later depth is of another place
NO_POSES = (
    "no topic says where its images were taken: record the camera's true pose on "
    "/ground_truth/pose or /truth, or odometry (nav_msgs/Odometry) and /tf_static"
)


def bags_below(folder: Path) -> list[Path]:
    """The folder itself, or every bag in it: folders, and files that lie in none of those."""
    if is_bag(folder):
        return [folder]
    folders = {path.parent for path in folder.glob(f"**/{BAG_INFO}")}
    files = {path for end in BAG_SUFFIXES for path in folder.glob(f"**/*{end}") if path.is_file()}
    return sorted(folders | {path for path in files if path.parent not in folders})


def frames_of_bag(path: Path, size: Size) -> list[list[PosedFrame]]:
    """Empty where no topic tells the poses (NO_POSES)."""
    groups: list[list[PosedFrame]] = [[]]
    begun_ns = 0
    with open_recording(path) as recording:
        by_truth = recording.world is not None
        for shot in recording.shots():
            pose, group = _world_from_camera(shot, by_truth), groups[-1]
            late_s = (shot.frame.stamp_ns - begun_ns) * 1e-9
            if group and not by_truth and (pose is None or late_s > TRUSTED_S):
                groups.append(group := [])
            if pose is None or (group and not _apart(group[-1].world_from_camera, pose)):
                continue
            begun_ns = begun_ns if group else shot.frame.stamp_ns
            group.append(resized(_posed(shot.frame, pose), size))
    return [group for group in groups if group]


def _world_from_camera(shot: Shot, by_truth: bool) -> FloatArray | None:
    if by_truth:
        return shot.truth
    if shot.odometry is None:
        return None
    mounted = np.eye(4) if shot.base_from_camera is None else shot.base_from_camera
    return compose(shot.odometry.odom_from_base, mounted)


def _apart(before: FloatArray, now: FloatArray) -> bool:
    moved = compose(inverse(before), now)
    return bool(np.linalg.norm(moved[:3, 3]) >= NEXT_M or angle_rad(moved[:3, :3]) >= NEXT_RAD)


def _posed(frame: Frame, world_from_camera: FloatArray) -> PosedFrame:
    """Without its lens: a head learns through a pinhole camera."""
    rgb, camera = frame.rgb, frame.camera
    depth = frame.depth if abs(frame.depth_late_s) <= SAME_MOMENT_S else None
    if camera.distortion != "none":
        maps = undistort_maps(camera)
        rgb = np.asarray(cv2.remap(rgb, *maps, cv2.INTER_LINEAR), np.uint8)
        if depth is not None:  # depth of two surfaces has no mean
            depth = np.asarray(
                cv2.remap(
                    np.asarray(depth, np.float32), *maps, cv2.INTER_NEAREST,
                    borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"),
                )
            )  # fmt: skip
    return PosedFrame(rgb, camera.pinhole(), world_from_camera, depth)
