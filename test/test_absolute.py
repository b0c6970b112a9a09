"""Pose from matches with depth, as exact as its input."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.absolute import absolute_pose, one_depth
from l2m_ros.geometry.depth_image import NO_NOISE
from l2m_ros.geometry.ransac import Search, find_absolute
from l2m_ros.geometry.rays import ray_pairs
from l2m_ros.geometry.scale import Depths
from l2m_ros.geometry.synthetic import FISHEYE, PINHOLE, World, trial
from l2m_ros.types import Lost, LostReason

SEARCH = Search(2 / 500, seed=0, matches=300)


def pairs_of(world, sides="k", seed=0):
    """Matches with exact depth in the keyframe (k), the query (q), or each in half (kq)."""
    t = trial(world, seed)
    pairs = ray_pairs(t.matches, world.camera, world.camera)
    n = len(pairs)
    X = np.vstack([pairs.keyframe, np.ones(n)]) * t.depth_m
    z = (t.keyframe_from_camera[:3, :3].T @ (X - t.keyframe_from_camera[:3, 3:4]))[2]
    half = np.arange(n) % 2 == 0
    k = np.where(half if sides == "kq" else "k" in sides, t.depth_m, np.nan)
    q = np.where(~half if sides == "kq" else "q" in sides, z, np.nan)
    return t, pairs.with_depths(Depths(k, np.ones(n), q, np.ones(n), NO_NOISE), world.camera)


@pytest.mark.parametrize("sides", ["k", "q", "kq"])
@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE], ids=["pinhole", "fisheye"])
def test_exact_input_exact_pose(sides, camera):
    t, pairs = pairs_of(World("exact", sigma_px=0.0, camera=camera), sides)
    fit = absolute_pose(pairs, SEARCH, image_area=1.2)
    assert np.abs(fit.pose - t.keyframe_from_camera).max() < 1e-6
    assert (fit.weights > 0.5).all()


def test_the_search_alone_is_close():
    t, pairs = pairs_of(World("search", outliers=0.6))
    off = se3.difference(find_absolute(pairs, SEARCH), t.keyframe_from_camera)
    assert np.linalg.norm(off[:3]) < 0.03 and np.linalg.norm(off[3:]) < 0.01


def test_a_first_pose_in_place_of_the_search_bears_outliers():
    """Also where they are most: as of a rolling shutter that was undone."""
    t, pairs = pairs_of(World("outliers", outliers=0.7))
    fit = absolute_pose(pairs, SEARCH, image_area=1.2, initial=t.keyframe_from_camera)
    assert np.linalg.norm(se3.difference(fit.pose, t.keyframe_from_camera)) < 0.005
    assert fit.noise.match == pytest.approx(0.7**2, rel=0.2)


def test_the_refinement_uses_all_matches():
    """300 searched, 1,400 fitted: the error falls to less than two thirds."""
    searched, refined = [], []
    for seed in range(6):
        t, pairs = pairs_of(World("all", outliers=0.3, matches=2000), seed=seed)
        fit = absolute_pose(pairs, SEARCH, image_area=1.2)
        assert fit.noise.match == pytest.approx(0.7**2, rel=0.1)
        truth = t.keyframe_from_camera
        searched.append(np.linalg.norm(se3.difference(find_absolute(pairs, SEARCH), truth)))
        refined.append(np.linalg.norm(se3.difference(fit.pose, truth)))
    assert np.mean(refined) < 0.67 * np.mean(searched)


@pytest.mark.parametrize(("sigma_px", "low", "high"), [(0.1, 0.02, 0.1), (2.0, 1.0, 1.0)])
def test_texture_noise_shrinks_where_textured_matches_agree_better(sigma_px, low, high):
    """Texture is said to leave 0.5 px open; where matches err by more than they say it stays."""
    t = trial(World("sharp", sigma_px=sigma_px), 0)
    half_px = np.full(len(t.matches), 0.25)
    floor_px = np.stack([half_px, np.zeros_like(half_px), half_px])
    pairs = ray_pairs(t.matches, PINHOLE, PINHOLE, floor_px)
    n = len(pairs)
    depths = Depths(t.depth_m, np.ones(n), np.full(n, np.nan), np.ones(n), NO_NOISE)
    pairs = pairs.with_depths(depths, PINHOLE)
    fit = absolute_pose(pairs, SEARCH, image_area=1.2)
    assert low <= fit.noise.texture <= high
    blank = replace(pairs, textured=np.zeros(n, dtype=bool))  # which show nothing of the images
    assert absolute_pose(blank, SEARCH, image_area=1.2).noise.texture == 1.0


def test_depth_noise_grows_where_the_residuals_ask_for_it():
    t, pairs = pairs_of(World("grow", matches=2000))
    rng = np.random.default_rng(0)
    noisy = pairs.keyframe_m * (1 + 0.05 * rng.normal(size=len(pairs)))
    said = type(NO_NOISE)(0.0, 0.0, 0.01)
    n = len(pairs)
    depths = Depths(noisy, np.ones(n), np.full(n, np.nan), np.ones(n), said)
    fit = absolute_pose(pairs.with_depths(depths, PINHOLE), SEARCH, image_area=1.2)
    assert fit.noise.depth == pytest.approx(25, rel=0.35)  # 5 % where 1 % was said
    assert fit.noise.match == pytest.approx(0.7**2, rel=0.15)
    assert np.linalg.norm((fit.pose - t.keyframe_from_camera)[:3, 3]) < 0.01


def test_one_depth():
    _, pairs = pairs_of(World("wall", surface="wall"))
    lost = one_depth(pairs)
    assert isinstance(lost, Lost) and lost.reason is LostReason.DEGENERATE
    assert one_depth(pairs_of(World("hills"))[1]) is None
    # A single depth in whole millimetres, of a query that knows hardly any, tells of no sensor.
    few = pairs_of(World("hills"))[1]
    few.query_m[:3] = 2.0
    assert one_depth(few) is None
