"""Covariances against the errors that happen, and the effective number against its definition."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from l2m_ros import compiled
from l2m_ros.geometry import se3
from l2m_ros.geometry.covariance import independent_fraction, jackknife
from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.rays import Noise
from l2m_ros.geometry.refine import Fit, Part
from l2m_ros.geometry.robust import calibration
from l2m_ros.geometry.synthetic import SMALL, World, trial
from l2m_ros.types import Correspondences, RelativePose

TRIALS = 36
SENSOR = DepthNoise(0.002, 0.002)


def nees(world, options=None, trials=TRIALS):
    """(per degree of freedom, interval of chi-square at 99.9 %)."""
    found, dof = [], 6
    for seed in range(trials):
        t = trial(world, seed)
        pose = estimate_pose(
            t.matches,
            t.query,
            t.keyframe,
            options or PoseOptions.exactly_calibrated(depth_noise=world.depth_noise),
        )
        truth = t.keyframe_from_camera.copy()
        if isinstance(pose, RelativePose):
            truth[:3, 3] /= np.linalg.norm(truth[:3, 3])
            dof = 5
        e = se3.difference(pose.keyframe_from_camera, truth)
        found.append(e @ np.linalg.pinv(pose.covariance, rcond=1e-9, hermitian=True) @ e)
    n = dof * trials
    return np.mean(found) / dof, stats.chi2.ppf([0.0005, 0.9995], n) / n


@pytest.mark.parametrize(
    "world",
    [
        World("outliers", matches=250, outliers=0.6),
        World("depth noise", matches=250, depth_noise=SENSOR),
        World("few", matches=20),
        World("no depth", matches=250, outliers=0.3, keyframe_depth=False),
    ],
    ids=lambda world: world.name,
)
def test_errors_are_as_large_as_the_covariance_says(world):
    average, (low, high) = nees(world)
    assert low < average < high


@pytest.mark.parametrize("length_px", [20.0, 60.0])
def test_correlated_matches_do_not_make_it_over_confident(length_px):
    average, (_, high) = nees(World("smooth", correlation_px=length_px), trials=TRIALS // 2)
    assert average < 1.5 * high


def test_an_uncertain_depth_scale_shows_along_the_translation():
    t = trial(World("scale"), 0)
    plain, vague = (
        estimate_pose(
            t.matches, t.query, t.keyframe, PoseOptions.exactly_calibrated(depth_scale_sigma=s)
        )
        for s in (0.0, 0.05)
    )
    shift = vague.keyframe_from_camera[:3, 3]
    added = vague.covariance - plain.covariance
    assert np.allclose(added[:3, :3], 0.05**2 * np.outer(shift, shift), rtol=1e-6)
    assert np.allclose(added[3:], 0)


def fit_with(error, weights=None):
    n = error.shape[1]
    return Fit(
        pose=np.eye(4),
        information=np.eye(7),
        free=np.arange(0),
        weights=np.ones(n) if weights is None else weights,
        parts=[
            Part(
                np.arange(n),
                error,
                np.zeros((7, *error.shape)),
                np.zeros((2, *error.shape)),
                np.zeros(error.shape),
                np.ones(n),
            )
        ],
        noise=Noise(),
        noise_rows=float(n),
        weight_factor=1.0,
        shift_m=0.0,
    )


def test_independent_errors_all_count():
    rng = np.random.default_rng(0)
    shares = [
        independent_fraction(
            fit_with(rng.normal(size=(2, 1500))), rng.uniform(-0.5, 0.5, (2, 1500))
        )
        for _ in range(100)
    ]
    assert np.median(shares) == 1.0 and np.mean(shares) > 0.97


def test_matches_none_of_which_agrees_are_no_error():
    """A rival motion may keep none of the matches: expected, and not to be raised out of."""
    rng = np.random.default_rng(0)
    error, query = rng.normal(size=(2, 40)), rng.uniform(-0.5, 0.5, (2, 40))
    fit = fit_with(error, weights=np.zeros(40))
    assert independent_fraction(fit, query) == 1.0
    assert not jackknife(fit, query, np.eye(7)).any()


def test_copies_count_once():
    """Groups of ten matches at one place with one error: a tenth is effective."""
    rng = np.random.default_rng(1)
    places, errors = rng.uniform(-0.5, 0.5, (2, 300)), rng.normal(size=(2, 300))
    share = independent_fraction(
        fit_with(np.repeat(errors, 10, axis=1)), np.repeat(places, 10, axis=1)
    )
    assert share == pytest.approx(0.1, rel=0.35)


def test_calibration_of_the_weights_by_sampling():
    """What quadrature says of Gaussian inliers is what sampled ones do."""
    rng = np.random.default_rng(2)
    for rows, half in ((1, 9.0), (2, 12.0), (3, 14.5)):
        e = rng.normal(size=(400_000, rows))
        w = 1 / (1 + np.exp(0.5 * ((e**2).sum(axis=1) - half)))
        left, loss = calibration(rows)
        assert (w[:, None] * e**2).sum() / (rows * w.sum()) == pytest.approx(left, abs=0.005)
        assert 0.98 < loss < 1.02


def test_covariance_is_about_the_keyframes_axes():
    """Moving the keyframe frame moves the covariance as se3.transport_covariance says."""
    world = World("axes", matches=250, depth_noise=SENSOR)
    errors, claimed = [], []
    for seed in range(60):
        t = trial(world, seed)
        pose = estimate_pose(t.matches, t.query, t.keyframe, PoseOptions.exactly_calibrated())
        errors.append(se3.difference(pose.keyframe_from_camera, t.keyframe_from_camera))
        claimed.append(pose.covariance)
    seen, said = np.cov(np.array(errors).T), np.mean(claimed, axis=0)
    # The strongest correlations have the right sign: order and frame are not mixed up.
    sd_seen, sd_said = np.sqrt(np.diag(seen)), np.sqrt(np.diag(said))
    assert np.allclose(sd_seen / sd_said, 1.0, atol=0.35)
    a, b = seen / np.outer(sd_seen, sd_seen), said / np.outer(sd_said, sd_said)
    strong = np.abs(b) > 0.6
    assert strong.sum() > 6 and np.allclose(a[strong], b[strong], atol=0.3)


def test_what_a_region_errs_together_has_to_be_told():
    """One shift in each of 12 regions, drawn: smooth enough for the pose to bend to it."""
    shared_px, own_px = 0.1, 0.5
    honest, naive = [], []
    for seed in range(TRIALS // 2):
        rng = np.random.default_rng(seed)
        t = trial(World("regions", sigma_px=1e-3), seed)
        size = np.array(t.query.camera.size)
        column, row = np.clip(t.matches.query_px / size * (4, 3), 0, (3.99, 2.99)).astype(int).T
        common = rng.normal(0, shared_px, (12, 2))[row * 4 + column]
        own = rng.normal(0, own_px, common.shape)
        matches = Correspondences(
            t.matches.query_px, t.matches.keyframe_px + common + own, t.matches.confidence
        )
        for nees, told in ((honest, shared_px), (naive, 0.0)):
            options = PoseOptions.exactly_calibrated(common_px=told)
            pose = estimate_pose(matches, t.query, t.keyframe, options)
            error = se3.difference(pose.keyframe_from_camera, t.keyframe_from_camera)
            nees.append(error @ np.linalg.solve(pose.covariance, error))
    assert np.mean(honest) < 8.0 < np.mean(naive)


def test_a_plane_in_a_part_of_the_image_with_holes_in_its_depth():
    """A monitor: a quarter of the image, depth on 45 % of it, one error in each of 48 regions."""
    noise, honest, naive = DepthNoise(0.001, 0.002), [], []
    for seed in range(10):
        world = World("monitor", surface="plane", sigma_px=0.3, depth_noise=noise)
        t, rng = trial(world, seed), np.random.default_rng(seed)
        middle = (
            np.abs((t.matches.keyframe_px + 0.5) / t.query.camera.size - 0.5).max(axis=1) < 0.25
        )
        matches, size = t.matches.select(np.flatnonzero(middle)), t.keyframe.depth.shape
        depth = t.keyframe.depth + _patches(rng.normal(0, 1, (6, 8)), size) * noise.sigma_m(3.0)
        depth[_patches(rng.random((12, 16)), size) < 0.55] = np.nan
        keyframe = replace(t.keyframe, depth=depth.astype(np.float32))
        for nees, told in ((honest, 1.0), (naive, 0.0)):
            options = PoseOptions.exactly_calibrated(depth_noise=noise, depth_shared=told)
            pose = estimate_pose(matches, t.query, keyframe, options)
            error = se3.difference(pose.keyframe_from_camera, t.keyframe_from_camera)
            nees.append(error @ np.linalg.solve(pose.covariance, error))
    assert np.mean(honest) < 9.0 and np.mean(honest) < 0.6 * np.mean(naive)


def test_what_a_rolling_shutter_moves_is_admitted():
    """The query's rows were taken over 20 ms while the camera moved on."""
    t, moving_s, readout_s = trial(World("shutter", sigma_px=0.05), 0), 0.5, 0.02
    query = replace(t.query, stamp_ns=t.keyframe.stamp_ns + round(moving_s * 1e9))
    rows = (t.matches.query_px[:, 1] / query.camera.height - 0.5)[:, None]
    flow_px = (t.matches.query_px - t.matches.keyframe_px) / moving_s
    bent = replace(t.matches, query_px=t.matches.query_px + flow_px * rows * readout_s)
    squared = {}
    for told_s in (0.0, 0.01):
        options = PoseOptions.exactly_calibrated(shutter_sigma_s=told_s)
        pose = estimate_pose(bent, query, t.keyframe, options)
        error = se3.difference(pose.keyframe_from_camera, t.keyframe_from_camera)
        squared[told_s] = error @ np.linalg.solve(pose.covariance, error)
    assert squared[0.01] < 6.0 and squared[0.01] < 0.5 * squared[0.0]


def _patches(values, size):
    """Each value over its block of an image."""
    v, u = (np.arange(n) * k // n for n, k in zip(size, values.shape, strict=True))
    return values[v][:, u]


def test_a_wrong_focal_length_is_what_the_covariance_admits():
    """The pose moves by what the covariance has grown by, in each of the six."""
    t = trial(World("calibration", sigma_px=0.05, matches=800), 0)
    exact = PoseOptions.exactly_calibrated()
    pose = estimate_pose(t.matches, t.query, t.keyframe, exact)
    longer = replace(t.query.camera, K=t.query.camera.K @ np.diag([1.001, 1.001, 1.0]))
    frames = replace(t.query, camera=longer), replace(t.keyframe, camera=longer)
    moved = estimate_pose(t.matches, *frames, exact).keyframe_from_camera
    apart = se3.difference(moved, pose.keyframe_from_camera)
    admitting = PoseOptions.exactly_calibrated(focal_sigma=0.001)
    P = estimate_pose(t.matches, t.query, t.keyframe, admitting).covariance
    grown = np.sqrt(np.diag(P - pose.covariance))
    assert grown == pytest.approx(np.abs(apart), rel=0.4)


def test_sums_over_regions_are_those_of_numpy():
    """The compiled sums against their twins, on a pose with depth in both images and a shutter."""
    pytest.importorskip("numba")
    given = trial(World("x", camera=SMALL, matches=300, query_depth=True, outliers=0.1), 0)
    query = replace(given.query, stamp_ns=given.keyframe.stamp_ns + 10**8)
    fast = estimate_pose(given.matches, query, given.keyframe)
    with compiled.left_out():
        slow = estimate_pose(given.matches, query, given.keyframe)
    scale = np.abs(slow.covariance).max()
    assert np.abs(fast.covariance - slow.covariance).max() < 1e-9 * scale
