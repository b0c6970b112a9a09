"""Trajectories: TUM and KITTI files, absolute and relative error as the `evo` library counts them.

A trajectory is poses world_from_body at stamps. Errors are of the translation in metres and of
the rotation in degrees:

    absolute  E_i = inverse(truth_i) @ align @ estimate_i
    relative  E_i = inverse(truth_i^-1 truth_{i+d}) @ (estimate_i^-1 estimate_{i+d})
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_text, write_whole
from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray

FARTHEST_M = 1e9  # a position beyond is a mistake of units or a broken file
MAX_STAMP_DIFFERENCE_S = 0.01  # evo's default
MAX_GAP_S = 0.1  # between two poses, none is made up across a longer one


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Poses in the order of their stamps."""

    stamps_ns: np.ndarray  # (N,) int64, rising
    poses: FloatArray  # (N, 4, 4) world_from_body

    def __post_init__(self) -> None:
        stamps = np.asarray(self.stamps_ns, dtype=np.int64)
        poses = np.asarray(self.poses, dtype=np.float64).reshape(-1, 4, 4)
        if len(stamps) != len(poses):
            raise InvalidInput(f"{len(stamps)} stamps but {len(poses)} poses")
        order = np.argsort(stamps, kind="stable")
        object.__setattr__(self, "stamps_ns", stamps[order])
        object.__setattr__(self, "poses", poses[order])

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def at(self, stamp_ns: int) -> FloatArray | None:
        """The pose at a stamp, between two that are at most MAX_GAP_S apart.

        Else the nearest one; None where none lies within MAX_STAMP_DIFFERENCE_S.
        """
        if not len(self):
            return None
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if 0 < after < len(self) and self.stamps_ns[after] != stamp_ns:
            first, last = (int(stamp) for stamp in self.stamps_ns[after - 1 : after + 1])
            if last - first <= MAX_GAP_S * 1e9:
                share = (stamp_ns - first) / (last - first)
                return se3.interpolate(self.poses[after - 1], self.poses[after], share)
        i = int(np.abs(self.stamps_ns - stamp_ns).argmin())
        near = abs(int(self.stamps_ns[i]) - stamp_ns) <= MAX_STAMP_DIFFERENCE_S * 1e9
        return self.poses[i] if near else None

    def sampled(self, stamps_ns: np.ndarray) -> Trajectory:
        """The poses at those of the stamps where `at` knows one."""
        known = [(int(ns), T) for ns in stamps_ns if (T := self.at(int(ns))) is not None]
        return Trajectory(np.array([ns for ns, _ in known]), np.array([T for _, T in known]))

    def length_m(self) -> float:
        return float(np.linalg.norm(np.diff(self.poses[:, :3, 3], axis=0), axis=1).sum())


def write_tum(path: Path, trajectory: Trajectory) -> None:
    """`stamp x y z qx qy qz qw`, stamps in seconds with all nine decimals."""
    quaternions = [se3.quaternion(T[:3, :3]) for T in trajectory.poses]
    lines = [
        f"{stamp // 10**9}.{stamp % 10**9:09d} " + " ".join(f"{v:.9f}" for v in (*t, *q))
        for stamp, t, q in zip(
            trajectory.stamps_ns, trajectory.poses[:, :3, 3], quaternions, strict=True
        )
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines))


def write_kitti(path: Path, trajectory: Trajectory) -> None:
    """The first three rows of each pose, twelve numbers a line."""
    rows = (" ".join(f"{v:.9e}" for v in T[:3].ravel()) for T in trajectory.poses)
    write_whole(path, "".join(f"{row}\n" for row in rows))


def read_tum(path: Path) -> Trajectory:
    stamps, poses = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.replace(",", " ").split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            _, *values = map(float, fields)
            stamps.append(_stamp_ns(fields[0]))
        except (ValueError, OverflowError) as error:
            raise InvalidInput(f"{path}:{number}: not numbers: {line[:60]!r}") from error
        if len(values) != 7 or not 0.5 < np.linalg.norm(values[3:]) < 2:
            raise InvalidInput(f"{path}:{number}: a TUM line is `stamp x y z qx qy qz qw`")
        if not 0 < stamps[-1] < 2**62 or not max(map(abs, values[:3])) < FARTHEST_M:
            raise InvalidInput(
                f"{path}:{number}: a stamp or position that cannot be: {line[:80]!r}"
            )
        T = np.eye(4)
        T[:3, :3] = Rotation.from_quat(values[3:]).as_matrix()
        T[:3, 3] = values[:3]
        poses.append(T)
    if not poses:
        raise InvalidInput(f"{path}: no poses; a TUM file has lines `stamp x y z qx qy qz qw`")
    return Trajectory(np.array(stamps), np.array(poses))


def associate(
    estimate: Trajectory, truth: Trajectory, max_difference_s: float = MAX_STAMP_DIFFERENCE_S
) -> tuple[Trajectory, Trajectory]:
    """The poses of both that share a stamp, nearest first within the difference allowed."""
    if not len(estimate) or not len(truth):
        raise InvalidInput("a trajectory without poses cannot be compared")
    # Each pose of the one that has fewer: no pose of the other is compared twice.
    if len(truth) < len(estimate):
        truth, estimate = _nearest(truth, estimate, max_difference_s)
    else:
        estimate, truth = _nearest(estimate, truth, max_difference_s)
    if not len(estimate):
        raise InvalidInput(
            f"no stamp of the estimate lies within {max_difference_s} s of the truth: "
            "are both of the same recording and clock?"
        )
    return estimate, truth


def _nearest(
    fewer: Trajectory, more: Trajectory, max_difference_s: float
) -> tuple[Trajectory, Trajectory]:
    """The poses of `fewer` that have one of `more` near in time, and those."""
    after = np.clip(np.searchsorted(more.stamps_ns, fewer.stamps_ns), 0, len(more) - 1)
    before = np.maximum(after - 1, 0)
    gap_before = np.abs(more.stamps_ns[before] - fewer.stamps_ns)
    gap_after = np.abs(more.stamps_ns[after] - fewer.stamps_ns)
    nearest = np.where(gap_before <= gap_after, before, after)
    kept = np.minimum(gap_before, gap_after) <= max_difference_s * 1e9
    return (
        Trajectory(fewer.stamps_ns[kept], fewer.poses[kept]),
        Trajectory(more.stamps_ns[nearest[kept]], more.poses[nearest[kept]]),
    )


def alignment(estimate: Trajectory, truth: Trajectory, *, with_scale: bool = False) -> FloatArray:
    """4x4 truth_from_estimate of least squared position error (Umeyama), scale on request."""
    a, b = estimate.poses[:, :3, 3], truth.poses[:, :3, 3]
    centre_a, centre_b = a.mean(axis=0), b.mean(axis=0)
    U, S, Vt = np.linalg.svd((b - centre_b).T @ (a - centre_a) / len(a))
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    R = U @ sign @ Vt
    variance = float(((a - centre_a) ** 2).sum() / len(a))
    scale = float((S * np.diag(sign)).sum() / variance) if with_scale and variance > 0 else 1.0
    T = np.eye(4)
    T[:3, :3] = scale * R
    T[:3, 3] = centre_b - scale * R @ centre_a
    return T


@dataclass(frozen=True)
class TrajectoryError:
    """Root mean squares, medians and maxima over the poses compared."""

    poses: int
    ate_rmse_m: float
    ate_median_m: float
    ate_max_m: float
    ate_rotation_rmse_deg: float
    rpe_rmse_m: float
    rpe_rotation_rmse_deg: float
    length_m: float


def trajectory_error(
    estimate: Trajectory,
    truth: Trajectory,
    *,
    align: bool = True,
    delta: int = 1,
    max_difference_s: float = MAX_STAMP_DIFFERENCE_S,
) -> TrajectoryError:
    """Errors of an estimate; `delta` poses apart for the relative one."""
    estimate, truth = associate(estimate, truth, max_difference_s)
    T = alignment(estimate, truth) if align else np.eye(4)
    absolute = se3.inverse(truth.poses) @ (T @ estimate.poses)
    relative = se3.inverse(_steps(truth.poses, delta)) @ _steps(estimate.poses, delta)
    distance = np.linalg.norm(absolute[:, :3, 3], axis=1)
    return TrajectoryError(
        poses=len(estimate),
        ate_rmse_m=_rms(distance),
        ate_median_m=float(np.median(distance)),
        ate_max_m=float(distance.max()),
        ate_rotation_rmse_deg=_rms(_angles_deg(absolute)),
        rpe_rmse_m=_rms(np.linalg.norm(relative[:, :3, 3], axis=1)),
        rpe_rotation_rmse_deg=_rms(_angles_deg(relative)),
        length_m=truth.length_m(),
    )


def _steps(poses: FloatArray, delta: int) -> FloatArray:
    return se3.inverse(poses[:-delta]) @ poses[delta:]


def _angles_deg(transforms: FloatArray) -> FloatArray:
    return np.degrees(se3.angles_rad(transforms[:, :3, :3]))


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")


def _stamp_ns(text: str) -> int:
    """Seconds as written, without the rounding of a float: epoch stamps have 19 digits."""
    if "e" in text.lower():
        return round(float(text) * 1e9)
    whole, _, fraction = text.partition(".")
    return int(whole) * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
