"""Tracked frames in the Rerun viewer: images, matches, 3D points, the camera's path."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import rerun as rr

from l2m_ros.errors import BackendUnavailable
from l2m_ros.frames.outputs import FrameResult, matches_picture, points_m
from l2m_ros.types import ByteArray, FloatArray

PATH_COLOUR = (42, 120, 214)
LEAST_FREE_BYTES = 16 << 20  # Rerun writes a file by itself, and tears it where the disk is full


class Viewer:
    """`show` a tracked frame, or log its parts; to a window, or to a file for the viewer.

    A file is whole once the viewer was closed.
    """

    def __init__(self, title: str, save: Path | None = None) -> None:
        self._save = save
        if save is not None:
            save.absolute().parent.mkdir(parents=True, exist_ok=True)
        try:
            rr.init("l2m_ros", recording_id=title, spawn=save is None)
            if save is not None:
                rr.save(str(save))
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            raise BackendUnavailable(
                f"the Rerun viewer does not start ({reason}); --save FILE.rrd writes instead"
            ) from error
        rr.log("world", rr.ViewCoordinates.FLU, static=True)
        self._path: list[FloatArray] = []

    def show(self, tracked: FrameResult) -> None:
        """Everything known of one tracked frame."""
        result = tracked.result
        self.at(tracked.stamp_ns)
        rr.log("state", rr.TextLog(f"{result.state.value}: {result.reason}"))
        if tracked.camera_in_odom is not None:
            K = result.frame.camera.K
            self.camera(tracked.camera_in_odom[0], K, result.frame.rgb)
        picture = matches_picture(tracked)
        if picture is not None:
            self.matches(picture)
        kept, pairs = result.keyframe, result.correspondences
        if kept is not None and pairs is not None and tracked.base_from_camera is not None:
            world_from_keyframe = tracked.base_from_camera @ kept.odom_from_keyframe
            self.points(points_m(pairs, kept, tracked), world_from_keyframe, pairs.confidence)

    def close(self) -> None:
        self._check_disk()
        rr.disconnect()

    def _check_disk(self) -> None:
        folder = None if self._save is None else self._save.absolute().parent
        if folder is not None and shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, "no space left", str(self._save))

    def at(self, stamp_ns: int) -> None:
        self._check_disk()
        rr.set_time("stamp", timestamp=np.datetime64(stamp_ns, "ns"))

    def camera(
        self, world_from_camera: FloatArray, K: FloatArray | None, rgb: ByteArray | None
    ) -> None:
        self._path.append(world_from_camera[:3, 3])
        rr.log("world/path", rr.LineStrips3D([np.array(self._path)], colors=[PATH_COLOUR]))
        rr.log(
            "world/camera",
            rr.Transform3D(translation=world_from_camera[:3, 3], mat3x3=world_from_camera[:3, :3]),
        )
        if K is not None and rgb is not None:
            size = (rgb.shape[1], rgb.shape[0])
            rr.log("world/camera", rr.Pinhole(image_from_camera=K, resolution=size))
            rr.log("world/camera", rr.Image(rgb).compress(jpeg_quality=80))

    def matches(self, rgb: ByteArray) -> None:
        rr.log("matches", rr.Image(rgb).compress(jpeg_quality=80))

    def points(
        self, xyz_m: FloatArray, world_from_points: FloatArray, confidence: FloatArray
    ) -> None:
        known = np.isfinite(xyz_m).all(axis=1)
        world = xyz_m[known] @ world_from_points[:3, :3].T + world_from_points[:3, 3]
        shade = np.rint(255 * confidence[known]).astype(np.uint8)
        colours = np.stack([255 - shade, shade, np.full_like(shade, 80)], axis=1)
        rr.log("world/points", rr.Points3D(world, colors=colours, radii=0.01))
