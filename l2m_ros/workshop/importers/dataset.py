"""What an importer gives: frames of a recorded sequence, or pairs of single pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray, Frame


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of a sequence, undistorted, with the truth where it is known."""

    name: str  # of its picture in the evaluation layout
    frame: Frame
    world_from_camera: FloatArray | None  # 4x4, optical axes


@dataclass(frozen=True, eq=False)
class TruePair:
    """Two pictures and the truth between them."""

    a: Path
    b: Path
    K_a: FloatArray
    K_b: FloatArray
    b_from_a: FloatArray  # 4x4


@dataclass(frozen=True)
class Dataset:
    """A published layout: who publishes it, and how it is read."""

    published_at: str
    licence: str
    shots: Callable[[Path], Iterator[Shot]] | None = None
    pairs: Callable[[Path], Iterator[TruePair]] | None = None
    metric: bool = True
    depth_scale_m: float | None = None  # metres per unit of the depth pictures that are written
    notes: str = ""
    gaps: tuple[int, ...] = field(default=(5, 10, 20))  # frames between the pictures of a pair


class Path4x4:
    """Poses by stamp, interpolated; None outside of what was recorded and in gaps of it."""

    def __init__(self, stamps_ns: list[int], poses: list[FloatArray], largest_gap_ns: int) -> None:
        order = np.argsort(stamps_ns)
        self._stamps = np.array(stamps_ns)[order]
        self._poses = [poses[i] for i in order]
        self._largest_gap_ns = largest_gap_ns

    def at(self, stamp_ns: int) -> FloatArray | None:
        after = int(np.searchsorted(self._stamps, stamp_ns))
        if after < len(self._stamps) and self._stamps[after] == stamp_ns:
            return self._poses[after]
        if not 0 < after < len(self._stamps):
            return None
        before_ns, after_ns = int(self._stamps[after - 1]), int(self._stamps[after])
        if after_ns - before_ns > self._largest_gap_ns:
            return None
        weight = (stamp_ns - before_ns) / (after_ns - before_ns)
        return se3.interpolate(self._poses[after - 1], self._poses[after], weight)


def pose_from(values: list[float], *, where: str) -> FloatArray:
    """4x4 of x y z qx qy qz qw."""
    q = np.array(values[3:7])
    if len(values) != 7 or not np.isfinite(values).all() or abs(np.linalg.norm(q) - 1) > 0.01:
        raise InvalidInput(f"{where}: expected x y z qx qy qz qw, got {values}")
    rotation = se3.rotation_from_quaternion(q / np.linalg.norm(q))
    return se3.transform(rotation, np.array(values[:3]))


def needed(path: Path, what: str) -> Path:
    """The path, or a refusal that says what the layout has there."""
    if not path.exists():
        raise InvalidInput(f"{path} is missing: {what}")
    return path
