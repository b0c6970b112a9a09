"""How well answers of a map suit a truth given in another frame.

world_from_map    rotation and translation, no scale, from the map's own keyframes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping.store import MapStore
from l2m_ros.types import FloatArray

ROUNDS = 10  # of weighing and aligning
ARM_M = 1.0  # length of the axes by which rotations count beside positions
WRONG_SIGMAS, WRONG_M, WRONG_DEG = 5.0, 0.10, 5.0
WITHIN = {"5cm_5deg": (0.05, 5.0), "10cm_5deg": (0.10, 5.0)}


def world_from_map(store: MapStore) -> FloatArray | None:
    """None where fewer than two keyframes know their truth."""
    pairs = []
    for id, (pose, _) in store.poses().items():
        truth = store.keyframe(id).truth
        if truth is not None:
            pairs.append((truth, pose))
    if len(pairs) < 2:
        return None
    return aligned(np.stack([t for t, _ in pairs]), np.stack([p for _, p in pairs]))


def aligned(truth: FloatArray, poses: FloatArray) -> FloatArray:
    """4x4 with truth = result @ poses (N, 4, 4), by the origins and the tips of the axes.

    Keyframes that lie far off weigh little (Cauchy): they shall not bend the frame in which all
    other answers are judged.
    """
    tips = np.array([[0, 0, 0, 1], [ARM_M, 0, 0, 1], [0, ARM_M, 0, 1], [0, 0, ARM_M, 1]]).T
    weight = np.ones(len(poses))
    for _ in range(ROUNDS):
        T = _least_squares(poses @ tips, truth @ tips, weight)
        off_m = np.linalg.norm((T @ poses - truth)[:, :3, 3], axis=1)
        weight = 1.0 / (1.0 + (off_m / max(2.0 * float(np.median(off_m)), 1e-9)) ** 2)
    return T


def _least_squares(poses: FloatArray, truth: FloatArray, weight: FloatArray) -> FloatArray:
    """Rotation and translation between points (N, 4, K), each image with its weight."""
    a, b = (points[:, :3].swapaxes(1, 2).reshape(-1, 3) for points in (poses, truth))
    w = np.repeat(weight / weight.sum(), poses.shape[2])[:, None] / poses.shape[2]
    centre_a, centre_b = (w * a).sum(axis=0), (w * b).sum(axis=0)
    U, _, Vt = np.linalg.svd((w * (b - centre_b)).T @ (a - centre_a))
    R = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    return se3.transform(R, centre_b - R @ centre_a)


@dataclass(frozen=True)
class PoseError:
    """One answer against the truth."""

    m: float
    deg: float
    sigmas: float  # of its own covariance

    @property
    def wrong(self) -> bool:
        return self.sigmas > WRONG_SIGMAS and (self.m > WRONG_M or self.deg > WRONG_DEG)


def pose_error(
    map_from_camera: FloatArray, covariance: FloatArray, truth: FloatArray, align: FloatArray
) -> PoseError:
    T = se3.compose(align, map_from_camera)
    P = se3.transport_covariance(covariance, align)
    d = se3.difference(T, truth)
    sigmas = float(np.sqrt(d @ np.linalg.solve(P + 1e-12 * np.eye(6), d)))
    return PoseError(float(np.linalg.norm(d[:3])), float(np.degrees(np.linalg.norm(d[3:]))), sigmas)


def error_figures(errors: Sequence[PoseError], frames: int) -> dict[str, object]:
    """Medians over what was localized; shares in percent over all frames."""
    medians = {"median_m": None, "median_deg": None}
    if errors:
        medians = {
            "median_m": round(float(np.median([e.m for e in errors])), 5),
            "median_deg": round(float(np.median([e.deg for e in errors])), 4),
        }
    within = {
        name: round(100.0 * sum(e.m <= m and e.deg <= deg for e in errors) / max(frames, 1), 2)
        for name, (m, deg) in WITHIN.items()
    }
    return {**medians, "within": within, "wrong": sum(e.wrong for e in errors)}


NO_TRUTH: dict[str, object] = {
    "median_m": None, "median_deg": None, "within": None, "wrong": None,
}  # fmt: skip
