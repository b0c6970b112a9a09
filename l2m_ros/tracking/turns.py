"""How fast the camera turns, by the matches alone: for that no depth must be believed.

R      keyframe <- frame: the turn that most matches agree on, as if all were far away
turn   log(R of the frame before, inverse, times R) / seconds
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.types import Camera, Correspondences, FloatArray, Frame

MAX_APART_S = 0.12  # between two images: a mean over longer is not the turn of the moment
ROUNDS = 8  # of reweighting
MOST_OFF_RAD = 0.05  # median: matches that agree on a turn less show none
KEPT = 50  # frames


class Turns:
    """Remembers how the camera turned when frames were taken that may become keyframes."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, FloatArray]] = {}  # stamp and R of the last, by keyframe
        self._until: OrderedDict[int, FloatArray] = OrderedDict()  # turn up to a frame, by stamp
        self._from: dict[int, FloatArray] = {}  # ... and from a keyframe on, by its id
        self._before: dict[int, FloatArray] = {}  # ... up to it

    def see(self, keyframe: Keyframe, frame: Frame, pairs: Correspondences) -> None:
        """A frame was matched against a keyframe."""
        self._adopt(keyframe)
        R = turn_of_matches(pairs, frame.camera, keyframe.frame.camera)
        if R is None:
            return
        stamp_ns = frame.stamp_ns
        since_s = (stamp_ns - keyframe.frame.stamp_ns) * 1e-9
        before = self._seen.get(keyframe.id)
        if 0.0 < since_s <= MAX_APART_S:
            self._from.setdefault(keyframe.id, se3.rotation_log(R) / since_s)
            before = before or (keyframe.frame.stamp_ns, np.eye(3))
        if before is not None and 0 < stamp_ns - before[0] <= MAX_APART_S * 1e9:
            turn = se3.rotation_log(before[1].T @ R) / ((stamp_ns - before[0]) * 1e-9)
            if stamp_ns not in self._until:
                self._until[stamp_ns] = turn
                while len(self._until) > KEPT:
                    self._until.popitem(last=False)
        self._seen[keyframe.id] = stamp_ns, R

    def of_keyframe(self, keyframe: Keyframe) -> FloatArray | None:
        """(3,) rad/s while it was taken; None where that is not known."""
        known = [t[keyframe.id] for t in (self._before, self._from) if keyframe.id in t]
        return np.mean(known, axis=0) if known else None

    def of_frame(self, frame: Frame) -> FloatArray | None:
        """(3,) rad/s up to a frame."""
        return self._until.get(frame.stamp_ns)

    def forget_all_but(self, keyframes: set[int]) -> None:
        for of in (self._seen, self._from, self._before):
            for gone in of.keys() - keyframes:
                del of[gone]

    def _adopt(self, keyframe: Keyframe) -> None:
        until = self._until.get(keyframe.frame.stamp_ns)
        if until is not None and keyframe.id not in self._before:
            self._before[keyframe.id] = until


def turn_of_matches(pairs: Correspondences, query: Camera, keyframe: Camera) -> FloatArray | None:
    """3x3 keyframe <- query; None where most matches agree on no turn."""
    a, b = (
        unproject(camera, pixels)
        for camera, pixels in ((query, pairs.query_px), (keyframe, pairs.keyframe_px))
    )
    known = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1) & (pairs.confidence > 0)
    if np.count_nonzero(known) < 3:
        return None
    a, b = (x[known] / np.linalg.norm(x[known], axis=1, keepdims=True) for x in (a, b))
    weights = np.ones(len(a))
    for _ in range(ROUNDS):
        U, _, Vt = np.linalg.svd((b * weights[:, None]).T @ a)
        R = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
        off = np.linalg.norm(b - a @ R.T, axis=1)
        scale = max(float(np.median(off)), 1e-6)
        weights = 1.0 / (1.0 + (off / scale) ** 2) ** 2
    return R if scale <= MOST_OFF_RAD else None
