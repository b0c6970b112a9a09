"""The essential matrix, its special cases, and what may not enter it."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.ransac import Search, accidental
from l2m_ros.geometry.rays import ray_pairs
from l2m_ros.geometry.refine import epipolar_terms, settle
from l2m_ros.geometry.rival_motions import motion_cost, motions
from l2m_ros.geometry.synthetic import PINHOLE, World, trial
from l2m_ros.geometry.triangulation import (
    epipolar_distance,
    plausible_depth,
    triangulated_depth,
)
from l2m_ros.geometry.two_view import TwoView, gric, relative_pose
from l2m_ros.types import Correspondences, Lost, LostReason

SEARCH = Search(2 / 500, seed=0, matches=300)


def view_of(world, seed=0, min_parallax_px=0.5):
    t = trial(world, seed)
    pairs = ray_pairs(t.matches, PINHOLE, PINHOLE)
    view = relative_pose(pairs, SEARCH, image_size=(1.28, 0.96), min_parallax=min_parallax_px / 500)
    return t, pairs, view


def unit(T):
    return se3.transform(T[:3, :3], T[:3, 3] / np.linalg.norm(T[:3, 3]))


def test_exact_matches_give_the_exact_pose():
    t, pairs, view = view_of(World("exact", sigma_px=0.0))
    assert isinstance(view, TwoView) and view.kind == "general"
    assert np.allclose(view.fit.pose, unit(t.keyframe_from_camera), atol=1e-6)
    z = triangulated_depth(pairs, t.keyframe_from_camera)
    assert np.allclose(z, t.depth_m, rtol=1e-9)
    assert epipolar_distance(pairs, t.keyframe_from_camera).max() < 1e-12


@pytest.mark.parametrize("outliers", [0.0, 0.3, 0.6])
def test_direction_with_outliers(outliers):
    t, _, view = view_of(World("outliers", outliers=outliers))
    off = se3.difference(view.fit.pose, unit(t.keyframe_from_camera))
    assert np.linalg.norm(off[:3]) < 0.01 and np.linalg.norm(off[3:]) < 0.002


def test_backward_motion_is_not_taken_for_forward():
    t, _, view = view_of(World("back", (0.0, 0.02, -0.4, 0.0, 0.02, 0.0), outliers=0.3))
    assert np.linalg.norm((view.fit.pose - unit(t.keyframe_from_camera))[:3, 3]) < 0.05


def test_half_a_turn_about_the_way_is_no_rival():
    """It has the same epipolar lines; its points lie ahead of one camera and behind the other."""
    _, pairs, view = view_of(World("twisted"))
    T = view.fit.pose
    twisted = T.copy()
    twisted[:3, :3] = se3.rotation(np.pi * T[:3, 3]) @ T[:3, :3]
    costs = [motion_cost(pairs, motion, view.fit.noise) for motion in (T, twisted)]
    assert epipolar_distance(pairs, twisted) == pytest.approx(epipolar_distance(pairs, T))
    assert costs[1] > costs[0] + 5 * len(pairs)


def test_a_plane_keeps_its_second_motion_only_where_it_is_as_likely():
    seen = 0
    for seed in range(6):
        t, _, view = view_of(World("plane", surface="plane", outliers=0.3), seed)
        assert view.kind == "planar"
        candidates = [view.fit.pose] + ([] if view.other is None else [view.other])
        off = min(
            np.linalg.norm(se3.difference(T, unit(t.keyframe_from_camera))) for T in candidates
        )
        assert off < 0.05
        seen += view.other is None
    assert seen >= 3


@pytest.mark.parametrize("correlation_px", [0.0, 20.0])
def test_chance_does_not_choose_between_the_two_motions_of_a_plane(correlation_px):
    """Their epipolar lines have other directions, so matches err from both by other amounts."""
    world = World("floor", (0.0, 0.02, 0.25, 0.01, 0.02, 0.0), surface="plane", matches=500)
    for seed in range(8):
        t, _, view = view_of(replace(world, correlation_px=correlation_px), seed)
        motions_kept = [view.fit.pose, *([] if view.other is None else [view.other])]
        off = [se3.difference(T, unit(t.keyframe_from_camera)) for T in motions_kept]
        assert min(np.linalg.norm(d) for d in off) < 0.15


def test_parallax_is_measured_without_the_noise():
    _, _, still = view_of(World("turn", (0.0, 0.0, 0.0, 0.05, -0.15, 0.03), sigma_px=1.0))
    assert still.kind == "rotation" and still.parallax * 500 < 0.4
    _, _, moving = view_of(World("move", sigma_px=1.0))
    assert moving.kind == "general" and moving.parallax * 500 > 5


def test_the_parallax_threshold_is_the_callers():
    world = World("little", (0.03, 0.0, 0.0, 0.02, -0.05, 0.0), sigma_px=0.2)
    assert view_of(world)[2].kind == "general"
    assert view_of(world, min_parallax_px=20.0)[2].kind == "rotation"


def test_gric_prefers_the_simplest_model_that_explains():
    rng = np.random.default_rng(0)
    one, two = rng.chisquare(1, 500), rng.chisquare(2, 500)
    assert gric(two, "rotation") < gric(two, "planar") < gric(one, "general")
    assert gric(one, "general") < gric(two + 20, "rotation")


def test_implausible_depths_are_turned_away():
    t = trial(World("near", sigma_px=0.0), 0)
    pairs = ray_pairs(t.matches, PINHOLE, PINHOLE)
    T = unit(t.keyframe_from_camera)
    everyone = np.ones(len(pairs), bool)
    assert plausible_depth(pairs, T, everyone, 1e-3).all()
    # The same query rays on their epipolar lines, at a tenth of the depth and behind the camera.
    for factor in (0.1, -0.5):
        X = np.vstack([pairs.keyframe, np.ones(len(pairs))]) * t.depth_m
        Y = T[:3, :3].T @ (X - t.keyframe_from_camera[:3, 3:4])
        moved = T[:3, :3] @ (factor * Y) + t.keyframe_from_camera[:3, 3:4]
        keyframe = pairs.keyframe.copy()
        keyframe[:, :20] = (moved[:2] / moved[2])[:, :20]
        bad = type(pairs)(**{**pairs.__dict__, "keyframe": keyframe})
        assert epipolar_distance(bad, T).max() < 1e-9
        kept = plausible_depth(bad, T, everyone, 1e-3)
        assert not kept[:20].any() and kept[20:].all()


def test_accidents():
    assert accidental(5, 5, sample=5, probability=0.01)  # a model's own sample proves nothing
    assert not accidental(30, 100, sample=5, probability=0.01)
    assert accidental(8, 100, sample=5, probability=0.05)


def test_too_few_agree():
    t = trial(World("none", outliers=1.0, matches=100), 0)
    pairs = ray_pairs(t.matches, PINHOLE, PINHOLE)
    lost = relative_pose(pairs, SEARCH, image_size=(1.28, 0.96), min_parallax=1e-3)
    assert isinstance(lost, Lost) and lost.reason is LostReason.TOO_FEW_INLIERS


def test_a_search_that_ends_in_another_minimum_is_led_to_the_lowest():
    world = World("aside", (0.05, 0.0, 0.0, 0.0, 0.0, 0.0), outliers=0.2)
    t, pairs, view = view_of(world)
    ahead_instead = se3.transform(view.turned[:3, :3], np.array([0.0, 0.0, 1.0]))
    terms = epipolar_terms(pairs)
    wrong = settle(pairs, ahead_instead, terms, view.fit.noise).pose  # a turn for the motion
    assert np.linalg.norm(se3.difference(wrong, unit(t.keyframe_from_camera))) > 1.0

    lowest, *others = motions(pairs, wrong, view.turned, view.fit.noise)
    assert not lowest.found and any(it.found for it in others)
    off = se3.difference(lowest.pose, unit(t.keyframe_from_camera))
    assert np.linalg.norm(off) < 0.05 and lowest.cost < min(it.cost for it in others) - 100


def test_a_minimum_that_is_about_as_likely_is_kept_beside():
    motion = (0.03, 0.0, 0.04, 0.0, 0.02, 0.0)
    world = World("shallow", motion, sigma_px=2.0, outliers=0.2, matches=200)
    views = [view_of(world, seed)[2] for seed in range(8)]
    assert 1 <= sum(view.other is not None for view in views) <= 4
    assert all(view.kind == "general" for view in views)
    exact = World("deep", sigma_px=0.3)
    assert view_of(exact)[2].other is None


@pytest.mark.parametrize("axis", [0, 1])
def test_vague_matches_that_err_alike_do_not_outvote_those_that_know(axis):
    rng = np.random.default_rng(0)
    t = trial(World("wide", (0.6, 0.0, 0.2, 0.0, -0.25, 0.0), matches=300), 0)
    exact = t.matches
    clear = ray_pairs(exact, PINHOLE, PINHOLE)
    turned = relative_pose(clear, SEARCH, image_size=(1.28, 0.96), min_parallax=1e-3).turned
    instead = se3.transform(turned[:3, :3], 0.4 * np.eye(3)[axis])
    wrong = trial(World("wrong", tuple(se3.log(instead)), matches=900), 1).matches
    vague_px = 6.0
    variance = np.concatenate([np.ones(len(exact)), np.full(len(wrong), vague_px**2)])
    both = Correspondences(
        np.concatenate([exact.query_px, wrong.query_px]),
        np.concatenate([exact.keyframe_px, rng.normal(wrong.keyframe_px, vague_px)]),
        np.ones(len(variance)),
        np.eye(2) / variance[:, None, None],
    )
    pairs = ray_pairs(both, PINHOLE, PINHOLE)
    view = relative_pose(pairs, SEARCH, image_size=(1.28, 0.96), min_parallax=1e-3)
    assert np.linalg.norm(se3.difference(view.fit.pose, unit(t.keyframe_from_camera))) < 0.02
