"""A node that was started anew in a map: where it said it was, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.bags.reader import open_bag
from l2m_ros.bags.replay import GROUND_TRUTH, read_truth
from l2m_ros.geometry import se3
from l2m_ros.mapping.alignment import PoseError, aligned, error_figures, pose_error
from l2m_ros.mapping.export import points
from l2m_ros.mapping.store import open_map
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.evaluation import map_plot
from l2m_ros.workshop.evaluation.report import Report

VOXEL_M = 0.04


@dataclass(frozen=True, eq=False)
class FoundAgain:
    """All poses of the camera in the world of the truth."""

    keyframes: FloatArray  # (K, 4, 4) of the map
    points_m: FloatArray  # (N, 3) of the map
    colours: ByteArray  # (N, 3)
    said: FloatArray  # (M, 4, 4) from the first fix on
    truth: FloatArray  # (T, 4, 4) of the whole second drive
    errors: list[PoseError]  # of `said`
    first_s: float | None  # from the first image to the first answer, by the clock on the wall

    def figures(self) -> dict[str, Any]:
        return {
            "keyframes": len(self.keyframes),
            "frames": len(self.truth),
            "localized": len(self.said),
            "first_pose_s": self.first_s,
            **error_figures(self.errors, len(self.truth)),
        }

    def rows(self) -> list[tuple[str, str]]:
        rows = [("keyframes of the map", str(len(self.keyframes)))]
        if self.first_s is None:
            return [*rows, ("found in the map", "no")]
        f = self.figures()
        off = f"{1e3 * f['median_m']:.1f} mm, {f['median_deg']:.2f} deg"
        return [
            *rows,
            ("found in the map", f"{self.first_s:.1f} s after the first image"),
            ("poses in the map", f"{len(self.said)} of {len(self.truth)} images"),
            ("error in the map", f"median {off}; wrong: {f['wrong']}"),
        ]

    def text(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows())

    def show(self, page: Report) -> None:
        """One more part of a report."""
        page.heading("Started anew elsewhere, found in the map").table(self.rows())
        page.plot(
            map_plot.figure(
                self.points_m,
                self.colours,
                keyframes=self.keyframes,
                truth=self.truth,
                said=self.said,
            ),
            "From above: points and keyframes of the map that the first drive built, the way of "
            "the second drive, and where the node said it was (~/map_pose).",
        )


def found_again(
    map_path: Path,
    said: Mapping[int, tuple[FloatArray, FloatArray]],
    mapped_bag: Path,
    bag: Path,
    base_from_camera: FloatArray,
    first_s: float | None,
) -> FoundAgain:
    """`said`: ~/map_pose by stamp, the base in the map; `first_s`: when the first of them came.

    The map is laid over the truth's world by its own keyframes, rotation and translation.
    """
    first_truth, truth = _truth_of(mapped_bag), _truth_of(bag)
    store = open_map(str(map_path), write=False)
    try:
        places = {i: pose for i, (pose, _) in store.poses().items()}
        stamps = {i: store.keyframe(i).stamp_ns for i in places}
        xyz, rgb = points(store, VOXEL_M)
    finally:
        store.close()
    poses = np.stack(list(places.values()))
    world_from_map = aligned(np.stack([first_truth[stamps[i]] for i in places]), poses)
    answers = {ns: _of_camera(*pose, base_from_camera) for ns, pose in sorted(said.items())}
    errors = [pose_error(T, P, truth[ns], world_from_map) for ns, (T, P) in answers.items()]
    return FoundAgain(
        world_from_map @ poses,
        xyz @ world_from_map[:3, :3].T + world_from_map[:3, 3],
        rgb,
        np.array([world_from_map @ T for T, _ in answers.values()]).reshape(-1, 4, 4),
        np.stack(list(truth.values())),
        errors,
        first_s,
    )


def _of_camera(
    map_from_base: FloatArray, P: FloatArray, base_from_camera: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The camera in the map of cameras: ~/map_pose is the base in the base where the map begins."""
    back = se3.inverse(base_from_camera)
    T, covariance = back @ map_from_base, se3.transport_covariance(P, back)
    zero = np.zeros((6, 6))
    return T @ base_from_camera, se3.compose_covariance(T, covariance, base_from_camera, zero)


def _truth_of(bag: Path) -> dict[int, FloatArray]:
    with open_bag(bag) as opened:
        stamps, poses = read_truth(opened, GROUND_TRUTH)
    return {int(stamp): np.asarray(pose) for stamp, pose in zip(stamps, poses, strict=True)}
