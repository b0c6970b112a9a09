"""Posed images from wherever they are: a folder, a saved keyframe map, a bag with truth.

load_captures(Path("redkitchen"))      a folder (see `captures`)
load_captures(Path("office.l2m"))      the placed keyframes of a map, with their depth
load_captures(Path("drive.mcap"))      a bag whose truth says where each image was taken
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from l2m_ros.errors import InvalidInput
from l2m_ros.files import BAG_SUFFIXES
from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray, Frame
from l2m_ros.workshop.gaussians.captures import Capture, Captures, load_folder, spread, undistorted

MAP_SUFFIX = ".l2m"


def load_captures(
    source: Path, *, longest_px: int = 320, limit: int = 200, only: Collection[str] | None = None
) -> Captures:
    """At most `limit` images, spread over the source, shrunk to `longest_px`.

    With `only`, just the images of these names, however many.
    """
    if source.suffix == MAP_SUFFIX and source.is_file():
        return _of_map(source, longest_px, limit, only)
    if source.suffix in BAG_SUFFIXES or (source / "metadata.yaml").is_file():
        return _of_bag(source, longest_px, limit, only)
    return load_folder(source, longest_px=longest_px, limit=limit, only=only)


def _of_map(source: Path, longest_px: int, limit: int, only: Collection[str] | None) -> Captures:
    from l2m_ros.mapping.store import open_map

    store = open_map(str(source))
    try:
        names = {f"{id:06d}": id for id in sorted(store.poses())}
        chosen = spread(sorted(names), limit, only, source, "placed keyframes")
        items = []
        for name in chosen:
            keyframe = store.keyframe(names[name])
            assert keyframe.map_from_camera is not None
            items.append(_capture(name, keyframe.frame(), keyframe.map_from_camera, longest_px))
    finally:
        store.close()
    return Captures(source, items, metric=True)


def _of_bag(source: Path, longest_px: int, limit: int, only: Collection[str] | None) -> Captures:
    from l2m_ros.bags.recording import open_recording

    with open_recording(source) as recording:
        stamps = [str(shot.frame.stamp_ns) for shot in recording.shots() if shot.truth is not None]
        if not stamps:
            raise InvalidInput(
                f"{source}: no topic says where its images were taken (/ground_truth/pose or "
                "/truth): make a map of it (`l2m map build`) and give the map"
            )
        chosen = set(spread(stamps, limit, only, source, "images with truth"))
        items = [
            _capture(str(shot.frame.stamp_ns), shot.frame, shot.truth, longest_px)
            for shot in recording.shots()
            if shot.truth is not None and str(shot.frame.stamp_ns) in chosen
        ]
    return Captures(source, items, metric=True)


def _capture(name: str, frame: Frame, world_from_camera: FloatArray, longest_px: int) -> Capture:
    pose = se3.inverse(world_from_camera)
    return undistorted(name, frame.rgb, frame.camera, pose, frame.depth).shrunk(longest_px)
