"""Two-view poses found again in halves of the image: honest where blurred matches mislead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import pose_by_length, se3
from l2m_ros.geometry.covariance import regions
from l2m_ros.geometry.halves import BLOCKS, poses_of_halves, widened_by_halves
from l2m_ros.geometry.pose import PoseOptions, estimate_pose
from l2m_ros.geometry.ransac import Search
from l2m_ros.geometry.rays import ray_pairs
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.synthetic import World, keyframe_depth, trial
from l2m_ros.types import Correspondences, MetricPose, RelativePose

WORLD = World("halves", keyframe_depth=False)
SEARCH = Search(2.0 / WORLD.camera.K[0, 0], seed=0, matches=300)


def halves_of(t):
    pairs = ray_pairs(t.matches, t.query.camera, t.keyframe.camera)
    block = regions(t.matches.query_px, t.query.camera.size, BLOCKS)
    length_m = float(np.linalg.norm(WORLD.keyframe_from_camera[:3, 3]))
    return poses_of_halves(pairs, block, length_m, SEARCH)


def test_halves_of_good_matches_agree():
    T = WORLD.keyframe_from_camera
    halves = halves_of(trial(WORLD, 0))
    assert halves.shape == (6, 4, 4)
    apart = np.array([se3.difference(half, T) for half in halves])
    assert np.degrees(np.abs(apart[:, 3:])).max() < 1.0
    P = np.diag([0.05] * 3 + [0.01] * 3) ** 2
    assert np.array_equal(widened_by_halves(P, T, halves), P)


def test_a_pose_is_as_unsure_as_halves_differ():
    """Six halves 5 degrees to either side: a stated tenth of a degree was wrong."""
    T = WORLD.keyframe_from_camera
    turn = np.radians(5.0)
    halves = np.array([T @ se3.exp(np.array([0, 0, 0, 0, s * turn, 0])) for s in (1, -1) * 3])
    stated = np.diag([0.01] * 3 + [np.radians(0.1)] * 3) ** 2
    P = widened_by_halves(stated, T, halves)
    assert np.sqrt(np.linalg.eigvalsh(P[3:, 3:])[-1]) == pytest.approx(turn, rel=0.02)
    # A half that saw too little does not count; too few halves say nothing.
    lone = np.concatenate([halves, [T @ se3.exp(np.array([0, 0, 0, 0, 2.0, 0]))]])
    assert np.allclose(widened_by_halves(stated, T, lone), P)
    assert np.array_equal(widened_by_halves(stated, T, halves[:2]), stated)


def misled_in_half_of_the_image():
    """A trial, and its matches where some follow another motion, as a blurred image misleads."""
    t, other = trial(WORLD, 1), trial(World("other", (0.3, 0.05, 0.1, 0.05, 0.0, 0.02)), 1)
    follows = t.matches.query_px[:, 0] < 340
    strays = other.matches.select(np.flatnonzero(other.matches.query_px[:, 0] >= 340))
    query_px = np.concatenate([t.matches.query_px[follows], strays.query_px])
    keyframe_px = np.concatenate([t.matches.keyframe_px[follows], strays.keyframe_px])
    return t, Correspondences(query_px, keyframe_px, np.ones(len(query_px)))


def test_metres_off_a_network_admit_that_halves_of_the_image_disagree(monkeypatch):
    t, torn = misled_in_half_of_the_image()
    evidence = ScaleEvidence(mono_depth=keyframe_depth(WORLD), mono_scale_sigma=0.1)

    def posed(matches):
        pose = estimate_pose(matches, t.query, t.keyframe, PoseOptions(), evidence)
        assert isinstance(pose, MetricPose)
        return pose

    found, good = posed(torn), posed(t.matches)
    monkeypatch.setattr(pose_by_length, "widened_by_halves", lambda P, T, halves: P)
    alone = posed(torn)
    assert np.array_equal(found.keyframe_from_camera, alone.keyframe_from_camera)
    e = se3.difference(alone.keyframe_from_camera, WORLD.keyframe_from_camera)
    before, after = (e @ np.linalg.solve(p.covariance, e) for p in (alone, found))
    assert before > 2.0 * after
    unsure = [np.linalg.eigvalsh(p.covariance[3:, 3:])[-1] ** 0.5 for p in (alone, found)]
    assert np.degrees(unsure[0]) < 0.8 and np.degrees(unsure[1]) > 2.0  # of a turn of 5.7
    assert np.allclose(good.covariance, posed(t.matches).covariance, rtol=0.5)


def test_metres_off_a_network_take_half_of_the_matches():
    evidence = ScaleEvidence(mono_depth=keyframe_depth(WORLD), mono_scale_sigma=0.1)
    for outliers, kind in ((0.4, MetricPose), (0.6, RelativePose)):
        t = trial(replace(WORLD, outliers=outliers), 2)
        pose = estimate_pose(t.matches, t.query, t.keyframe, PoseOptions(), evidence)
        assert isinstance(pose, kind), outliers
    assert "metres of mono_depth take half" in pose.why_not_metric


def test_where_halves_disagree_odometry_chooses_the_turn(monkeypatch):
    """Halves 5 degrees to either side of the matches' turn: odometry's, known to 1, is taken."""
    t, T = trial(WORLD, 1), WORLD.keyframe_from_camera
    by_wheels = se3.perturb(T, np.array([0, 0, 0, 0, np.radians(1.0), 0]))
    known = np.diag([0.02] * 3 + [np.radians(1.0)] * 3) ** 2
    evidence = ScaleEvidence(odometry=by_wheels, odometry_covariance=known)

    def posed():
        pose = estimate_pose(t.matches, t.query, t.keyframe, PoseOptions(), evidence)
        assert isinstance(pose, MetricPose)
        turned = se3.difference(pose.keyframe_from_camera, by_wheels)[3:]
        return np.linalg.norm(turned), np.linalg.eigvalsh(pose.covariance[3:, 3:])[-1] ** 0.5

    def apart(pairs, block, length_m, search, near=None):
        turn = np.radians(5.0)
        return np.array([near @ se3.exp(np.array([0, 0, 0, 0, s * turn, 0])) for s in (1, -1) * 3])

    from_wheels, sigma = posed()
    monkeypatch.setattr(pose_by_length, "poses_of_halves", apart)
    from_wheels_then, sigma_then = posed()
    assert from_wheels_then < 0.5 * from_wheels
    assert sigma_then > 3.0 * sigma
