"""Depth for keyframes without one, from a neighbour that sees the same and both places."""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping import codec
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.records import TRIANGULATED
from l2m_ros.tracking.scale_evidence import depth_of_match
from l2m_ros.types import FloatArray

NEIGHBOURS = 4  # of a keyframe without edges


def triangulate(drive: DriveRecorder) -> int:
    """How many placed keyframes got a depth."""
    count = 0
    for id in list(drive.places.poses):
        if drive.store.keyframe(id).depth is None and _triangulated(drive, id):
            count += 1
    return count


def _triangulated(drive: DriveRecorder, id: int) -> bool:
    depths = [_depth(drive, id, other) for other in _neighbours(drive, id)]
    best = max(depths, key=_known, default=None)
    if best is None or not _known(best):
        return False
    scale_m = drive.options.depth_scale_m
    drive.store.set_depth(id, codec.encode_depth(best, scale_m), scale_m, TRIANGULATED)
    drive.places.forget([id])
    return True


def _neighbours(drive: DriveRecorder, id: int) -> list[int]:
    poses = drive.places.poses
    linked = {e.b if e.a == id else e.a for e in drive.edges if id in (e.a, e.b)} - {id}
    around = [i for i in linked if i in poses] or drive.places.near(poses[id][0], NEIGHBOURS)
    return [other for other in around if other != id]


def _depth(drive: DriveRecorder, id: int, other: int) -> FloatArray:
    """Of `id`, from its match with one neighbour; NaN = unknown."""
    places = drive.places
    place, there = places.place(id), places.place(other)
    features = drive.arrays.features(id, place.frame.camera.size)
    match = drive.matcher.match(features, there.reference)
    other_from_id = se3.inverse(places.poses[other][0]) @ places.poses[id][0]
    return depth_of_match(match, place.frame.camera, there.frame.camera, other_from_id)


def _known(depth: FloatArray) -> int:
    return int(np.isfinite(depth).sum())
