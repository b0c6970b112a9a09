"""Depth by SIFT, which labels are judged by."""

from pathlib import Path

import numpy as np

from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.captures import Capture, Captures
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.gaussians.truth import (
    TRUTH_NEIGHBOURS,
    Truth,
    _among_others,
    seen_elsewhere,
)


def points(depth: np.ndarray, seed: int = 0) -> Truth:
    px = np.random.default_rng(seed).uniform(0, 300, (len(depth), 2))
    return Truth(px, depth)


def test_a_point_far_behind_all_around_it_is_left_out() -> None:
    depth = np.random.default_rng(1).normal(8.0, 0.05, 200)
    depth[17], depth[90] = 23.2, 12.2
    kept = _among_others(points(depth))
    assert len(kept.px) == len(kept.depth) == 198
    assert kept.depth.max() < 8.5


def test_something_small_before_a_wall_stays() -> None:
    wall = points(np.full(200, 8.0))
    small = Truth(np.array([[150.0, 150.0], [152.0, 150.0], [151.0, 152.0]]), np.full(3, 2.0))
    both = Truth(np.r_[wall.px, small.px], np.r_[wall.depth, small.depth])
    assert len(_among_others(both).px) == 203


def test_a_floor_that_runs_away_stays() -> None:
    px = np.random.default_rng(2).uniform(0, 300, (300, 2))
    floor = Truth(px, 200.0 / (10.0 + px[:, 1]))
    assert len(_among_others(floor).px) > 295


def test_few_points_have_no_neighbours_to_ask() -> None:
    few = points(np.linspace(1.0, 9.0, TRUTH_NEIGHBOURS))
    assert _among_others(few) is few


def test_without_depth_others_see_what_is_near_a_point_of_sift() -> None:
    camera = PosedCamera(Camera(80, 40, np.diag([50.0, 50, 1])), np.eye(4))
    items = [Capture(name, np.zeros((40, 80, 3), np.uint8), camera, None) for name in "ab"]
    captures = Captures(Path("."), items, True, frozenset("a"))
    truth = Truth(np.array([[10.2, 20.0], [79.4, 39.4]]), np.ones(2))
    (seen,) = seen_elsewhere(captures, {"a": truth})
    assert seen[20, 8:13].all() and seen[18:23, 10].all() and seen[39, 79]  # 2 px: 2.5 % of 80
    assert not seen[20, 13:].any() and not seen[20, :8].any() and seen.sum() == 13 + 6
    (none,) = seen_elsewhere(captures, {})
    assert none.shape == (40, 80) and not none.any()
