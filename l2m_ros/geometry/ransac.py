"""RANSAC by PoseLib, and a test whether its consensus could be chance.

PoseLib's LO-RANSAC runs on some of the matches: the model that 300 agree on is the one that 2,000
agree on, in a fifth of the time (0.7 ms). They are drawn by how well each is located: of views far
apart, half of the vague matches are wrong. All of them enter the refinement afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import poselib
from scipy.special import bdtrc

from l2m_ros.geometry import se3
from l2m_ros.geometry.rays import RayPairs, homogeneous
from l2m_ros.types import FloatArray

# Normalised coordinates are the pixels of this camera.
UNIT_CAMERA = {"model": "PINHOLE", "width": 1, "height": 1, "params": [1.0, 1.0, 0.0, 0.0]}
MAX_TRIALS = 10_000  # models that a search may have tried
MAX_ACCIDENT = 1e-4  # expected number of equally good models among random matches
POINTS_SAMPLE, RAYS_SAMPLE = 3, 5  # matches that a minimal solver takes


@dataclass(frozen=True)
class Search:
    """Settings of one RANSAC search."""

    threshold: float  # normalised units
    seed: int
    matches: int  # drawn for the search
    min_iterations: int = 30
    max_iterations: int = MAX_TRIALS

    def ransac(self, error: str) -> Mapping[str, Any]:
        return {
            error: self.threshold,
            "seed": self.seed,
            "min_iterations": self.min_iterations,
            "max_iterations": self.max_iterations,
        }

    def bundle(self) -> Mapping[str, Any]:
        # The refinement over all matches follows: a few steps put it into its basin.
        return {"loss_type": "TRUNCATED", "loss_scale": self.threshold, "max_iterations": 5}

    def draw(self, pairs: RayPairs) -> RayPairs:
        """Without replacement, each with a chance by the inverse of its pixel's sigma."""
        if len(pairs) <= self.matches:
            return pairs
        rng = np.random.default_rng(self.seed)
        # The least of exponential times, each with its match's rate.
        xx, _, yy = pairs.noise
        times = rng.standard_exponential(len(pairs)) * np.sqrt(xx + yy)
        return pairs.select(np.sort(np.argpartition(times, self.matches)[: self.matches]))


def find_absolute(pairs: RayPairs, search: Search) -> FloatArray:
    """keyframe_from_camera from the side that knows more depths."""
    in_keyframe = np.flatnonzero(np.isfinite(pairs.keyframe_m))
    in_query = np.flatnonzero(np.isfinite(pairs.query_m))
    if len(in_keyframe) >= len(in_query):
        drawn = search.draw(pairs.select(in_keyframe))
        return se3.inverse(_absolute(drawn.query, drawn.keyframe, drawn.keyframe_m, search))
    drawn = search.draw(pairs.select(in_query))
    return _absolute(drawn.keyframe, drawn.query, drawn.query_m, search)


def _absolute(seen: FloatArray, ray: FloatArray, depth_m: FloatArray, search: Search) -> FloatArray:
    """b_from_a for points lifted in a and seen in b."""
    pose, _ = poselib.estimate_absolute_pose(
        seen.T,
        (homogeneous(ray) * depth_m).T,
        UNIT_CAMERA,
        search.ransac("max_reproj_error"),
        search.bundle(),
    )
    return se3.transform(np.asarray(pose.R), np.asarray(pose.t))


def find_relative(pairs: RayPairs, search: Search) -> FloatArray:
    """keyframe_from_camera with a translation of length 1."""
    drawn = search.draw(pairs)
    pose, _ = poselib.estimate_relative_pose(
        drawn.query.T,
        drawn.keyframe.T,
        UNIT_CAMERA,
        UNIT_CAMERA,
        search.ransac("max_epipolar_error"),
        search.bundle(),
    )
    return _with_length_1(pose)


def relative_near(pairs: RayPairs, T: FloatArray, search: Search) -> FloatArray:
    """keyframe_from_camera with a translation of length 1, near T: no search, 0.3 ms, not 2."""
    drawn, start = search.draw(pairs), poselib.CameraPose()
    start.R, start.t = T[:3, :3], T[:3, 3]
    pose, _ = poselib.refine_relative_pose(
        drawn.query.T, drawn.keyframe.T, start, UNIT_CAMERA, UNIT_CAMERA, search.bundle()
    )
    return _with_length_1(pose)


def _with_length_1(pose: Any) -> FloatArray:
    t = np.asarray(pose.t)
    length = float(np.linalg.norm(t))
    return se3.transform(np.asarray(pose.R), t / length if length > 0 else np.array([0.0, 0, 1]))


def find_homography(pairs: RayPairs, search: Search) -> FloatArray:
    """H with (k, 1) ~ H (q, 1)."""
    drawn = search.draw(pairs)
    H, _ = poselib.estimate_homography(
        drawn.query.T, drawn.keyframe.T, search.ransac("max_reproj_error"), search.bundle()
    )
    return np.asarray(H)


def accidental(inliers: int, matches: int, *, sample: int, probability: float) -> bool:
    """Whether random matches would give as many inliers.

    Beyond the sample that made the model, each random match is an inlier with `probability`; the
    tail of that binomial times the models that may have been tried is the expected number.
    """
    if inliers <= sample:
        return True
    tail = bdtrc(inliers - sample - 1, matches - sample, min(probability, 1.0))
    return bool(tail * min(comb(matches, sample), MAX_TRIALS) > MAX_ACCIDENT)
