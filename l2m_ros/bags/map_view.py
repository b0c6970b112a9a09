"""A map in the Rerun viewer: keyframes with their pictures, edges by kind, points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rerun as rr

from l2m_ros.errors import BackendUnavailable
from l2m_ros.files import write_whole
from l2m_ros.mapping import codec
from l2m_ros.mapping.export import placed_keyframes, points
from l2m_ros.mapping.store import MapStore

COLOURS = {
    "odometry": (42, 120, 214),
    "loop": (230, 120, 30),
    "prior": (60, 160, 60),
    "motion": (120, 120, 120),
}
VOXEL_M = 0.02
FRUSTUM_M = 0.15


def show_map(store: MapStore, save: Path | None = None) -> None:
    """To a window, or to a file that the viewer opens later."""
    try:
        rr.init("l2m_ros", recording_id=store.address, spawn=save is None)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise BackendUnavailable(
            f"the Rerun viewer does not start ({reason}); --save FILE.rrd writes instead"
        ) from error
    # Rerun's own file is torn where the disk is full, and only a warning says so.
    recording = None if save is None else rr.memory_recording()
    _log(store)
    if save is not None and recording is not None:
        write_whole(save, recording.drain_as_bytes())


def _log(store: MapStore) -> None:
    poses = store.poses()
    for keyframe in placed_keyframes(store):
        name, pose = f"map/keyframes/{keyframe.id}", poses[keyframe.id][0]
        rr.log(name, rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]), static=True)
        lens = rr.Pinhole(
            image_from_camera=keyframe.camera.K,
            resolution=keyframe.camera.size,
            image_plane_distance=FRUSTUM_M,
        )
        rr.log(name, lens, static=True)
        picture = rr.EncodedImage(contents=keyframe.image, media_type=_media(keyframe.image))
        rr.log(name, picture, static=True)
    for kind, colour in COLOURS.items():
        ends = [
            np.stack([poses[e.a][0][:3, 3], poses[e.b][0][:3, 3]])
            for e in store.edges()
            if e.kind == kind and e.a in poses and e.b in poses
        ]
        rr.log(f"map/edges/{kind}", rr.LineStrips3D(ends, colors=[colour]), static=True)
    xyz, rgb = points(store, VOXEL_M)
    rr.log("map/points", rr.Points3D(xyz, colors=rgb, radii=VOXEL_M / 3), static=True)


def _media(image: bytes) -> str:
    return "image/png" if image.startswith(codec.PNG) else "image/jpeg"
