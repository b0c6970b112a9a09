"""Residuals against numeric derivatives, and their noise against noise that was drawn."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.rays import Noise, RayPairs, homogeneous, ray_pairs
from l2m_ros.geometry.residuals import (
    FAR,
    epipolar_rows,
    infinity_rows,
    keyframe_depth_rows,
    query_depth_rows,
)
from l2m_ros.geometry.synthetic import FISHEYE, World, trial
from l2m_ros.types import Camera, Correspondences

POSE = se3.exp(np.array([0.3, -0.1, 0.2, 0.1, -0.2, 0.05]))
SIGMA_M = 0.02
NOISE = Noise(match=1.0, depth=1.0)


def exact_pairs(n=40, seed=0, query_depth=True, at_infinity=False):
    """Matches that fit POSE exactly; anisotropic noise of about 1 / 500."""
    rng = np.random.default_rng(seed)
    k = rng.uniform(-0.5, 0.5, (2, n))
    z = rng.uniform(2, 5, n)
    X = homogeneous(k) * (1e12 if at_infinity else z)
    Y = POSE[:3, :3].T @ (X - (0 if at_infinity else POSE[:3, 3:4]))
    noise = np.array([[1.2], [0.3], [0.8]]) * 4e-6 * rng.uniform(0.5, 2, n)
    known = Y[2] if query_depth else np.full(n, np.nan)
    return RayPairs(
        Y[:2] / Y[2],
        k,
        noise,
        np.zeros((3, n)),
        np.ones((2, n)),
        z,
        np.ones(n),
        known,
        np.ones(n),
        np.zeros((2, n)),
        np.zeros(n),
        DepthNoise(SIGMA_M, 0),
    )


def test_a_true_pose_leaves_no_residual():
    pairs = exact_pairs()
    for rows in (keyframe_depth_rows, query_depth_rows, epipolar_rows):
        assert np.abs(rows(pairs, POSE, None, NOISE, 0.0).error).max() < 1e-9
    rotation = se3.transform(POSE[:3, :3], np.zeros(3))
    far = exact_pairs(at_infinity=True)
    assert np.abs(infinity_rows(far, rotation, None, NOISE, 0.0).error).max() < 1e-6


@pytest.mark.parametrize("rows", [keyframe_depth_rows, query_depth_rows, epipolar_rows])
def test_derivatives_by_the_pose(rows):
    """At the truth the whitening's own change does not matter: e = 0 there."""
    pairs, h = exact_pairs(), 1e-6
    found = rows(pairs, POSE, None, NOISE, 0.0)
    axes = np.kron(np.eye(2), found.axes)
    J = np.einsum("ij,jrn->irn", axes, found.J[:6])
    for parameter in range(6):
        step = h * np.eye(6)[parameter]
        # The depth stays put, so that only the pose moves.
        plus, minus = (
            rows(pairs, se3.perturb(POSE, s), None, NOISE, 0.0).error for s in (step, -step)
        )
        numeric = -(plus - minus) / (2 * h)
        assert np.abs(numeric - J[parameter]).max() < 1e-4 * np.abs(J).max()


def test_derivatives_at_infinity():
    pairs, h = exact_pairs(at_infinity=True), 1e-6
    T = se3.transform(POSE[:3, :3], np.zeros(3))
    J = infinity_rows(pairs, T, None, NOISE, 0.0).J
    assert not J[:3].any()
    for parameter in range(3, 6):
        step = h * np.eye(6)[parameter]
        plus, minus = (
            infinity_rows(pairs, se3.perturb(T, s), None, NOISE, 0.0).error for s in (step, -step)
        )
        assert np.allclose(-(plus - minus) / (2 * h), J[parameter], atol=1e-4 * np.abs(J).max())


def test_derivative_by_a_shift_of_all_depths():
    pairs, h = exact_pairs(), 1e-6
    plus, minus = (
        keyframe_depth_rows(pairs, POSE, pairs.keyframe_m, NOISE, s).error for s in (h, -h)
    )
    J = keyframe_depth_rows(pairs, POSE, None, NOISE, 0.0).J[6]
    assert np.allclose(-(plus - minus) / (2 * h), J, atol=1e-4 * np.abs(J).max())


def drawn(pairs, rng):
    """The same matches with noise as the residuals assume it."""
    n = len(pairs)
    xx, xy, yy = pairs.noise
    a = np.sqrt(xx)
    e = rng.normal(size=(4, n))
    k = pairs.keyframe + np.stack([a * e[0], xy / a * e[0] + np.sqrt(yy - xy**2 / xx) * e[1]])
    return replace(
        pairs,
        keyframe=k,
        keyframe_m=pairs.keyframe_m + SIGMA_M * e[2],
        query_m=pairs.query_m + SIGMA_M * e[3],
    )


@pytest.mark.parametrize("rows", [keyframe_depth_rows, query_depth_rows, epipolar_rows])
@pytest.mark.parametrize("query_depth", [True, False])
def test_residuals_are_white_with_unit_variance(rows, query_depth):
    if rows is query_depth_rows and not query_depth:
        pytest.skip("needs the query's depth")
    pairs, rng = exact_pairs(query_depth=query_depth), np.random.default_rng(3)
    errors = np.stack(
        [rows(drawn(pairs, rng), POSE, None, NOISE, 0.0).error for _ in range(1500)]
    )  # (draws, r, N)
    covariance = np.einsum("drn,dsn->rs", errors, errors) / (errors.shape[0] * errors.shape[2])
    assert np.allclose(covariance, np.eye(len(covariance)), atol=0.03)


def test_on_a_slope_a_wrong_pixel_looks_up_another_depth():
    """Depth changes with the pixel: the residuals' covariance must follow."""
    pairs, rng = exact_pairs(query_depth=False), np.random.default_rng(5)
    steep = replace(pairs, slope=rng.uniform(-3, 3, (2, len(pairs))))
    errors = []
    for _ in range(1500):
        noisy = drawn(steep, rng)
        moved = ((noisy.keyframe - pairs.keyframe) * steep.slope).sum(axis=0)
        noisy = replace(noisy, keyframe_m=noisy.keyframe_m + moved)
        errors.append(keyframe_depth_rows(noisy, POSE, None, NOISE, 0.0).error)
    squares = np.einsum("drn,dsn->rs", errors, errors) / (1500 * len(pairs))
    assert np.allclose(squares, np.eye(2), atol=0.03)


def test_depth_noise_stays_along_the_epipolar_line():
    pairs = exact_pairs(query_depth=False)
    wrong = replace(pairs, keyframe_m=1.1 * pairs.keyframe_m)
    across, along = keyframe_depth_rows(wrong, POSE, None, NOISE, 0.0).error
    assert np.abs(across).max() < 0.05 * np.abs(along).max()


def test_the_best_depth_is_the_true_one_where_the_depth_is_vague():
    pairs = exact_pairs(query_depth=False)
    vague = replace(pairs, keyframe_m=1.1 * pairs.keyframe_m, depth_noise=DepthNoise(10.0, 0.0))
    depth_m = None
    for _ in range(4):
        depth_m = keyframe_depth_rows(vague, POSE, depth_m, NOISE, 0.0).depth_m
    assert np.abs(depth_m / pairs.keyframe_m - 1).max() < 1e-3


def test_points_behind_the_camera_weigh_nothing():
    pairs = exact_pairs()
    behind = se3.transform(np.diag([-1.0, 1, -1]), np.zeros(3)) @ POSE
    rows = keyframe_depth_rows(pairs, behind, None, NOISE, 0.0)
    assert (rows.error == FAR).all() and not rows.J.any()


# ---- pixels to rays ------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", [World("w").camera, FISHEYE])
def test_noise_follows_the_lens(camera):
    """A pixel's standard deviation, by moving the pixel."""
    px, h = np.array([[30.0, 40], [320, 240], [600, 450]]), 1e-3
    n = np.ones(3)
    xx, xy, yy = ray_pairs(Correspondences(px, px, n), camera, camera).noise
    du, dv = (
        (
            ray_pairs(Correspondences(px, px + h * e, n), camera, camera).keyframe
            - ray_pairs(Correspondences(px, px - h * e, n), camera, camera).keyframe
        )
        / (2 * h)
        for e in np.eye(2)
    )
    assert np.allclose(xx, du[0] ** 2 + dv[0] ** 2, rtol=1e-4)
    assert np.allclose(xy, du[0] * du[1] + dv[0] * dv[1], rtol=1e-4, atol=1e-12)
    assert np.allclose(yy, du[1] ** 2 + dv[1] ** 2, rtol=1e-4)


def test_precision_is_inverted_and_a_bad_one_drops_its_match():
    camera = Camera(640, 480, np.diag([500.0, 500, 1]))
    precision = np.array([[[4.0, 1], [1, 2]], [[1, 2], [2, 1]], [[np.nan, 0], [0, 1]]])
    px = np.zeros((3, 2))
    noise = ray_pairs(Correspondences(px, px, np.ones(3), precision), camera, camera).noise
    C = np.linalg.inv(precision[0]) / 500**2
    assert np.allclose(noise[:, 0], [C[0, 0], C[0, 1], C[1, 1]])
    assert np.isnan(noise[:, 1:]).any(axis=0).all()


def test_the_world_is_exact():
    t = trial(World("exact", sigma_px=0.0), 0)
    pairs = ray_pairs(t.matches, t.query.camera, t.keyframe.camera)
    X = homogeneous(pairs.keyframe) * t.depth_m
    Y = t.keyframe_from_camera[:3, :3].T @ (X - t.keyframe_from_camera[:3, 3:4])
    assert np.abs(Y[:2] / Y[2] - pairs.query).max() < 1e-12
