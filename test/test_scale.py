"""Depth at subpixel positions, and the sources of scale."""

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.depth_image import NO_NOISE, DepthNoise, sample_surface
from l2m_ros.geometry.scale import (
    SCALE_SOURCES,
    Depths,
    ScaleEvidence,
    ScaleRequest,
    TranslationPrior,
)
from l2m_ros.geometry.synthetic import SMALL, World, trial
from l2m_ros.types import Frame

SENSOR = DepthNoise(0.002, 0.002)


def plane(a, b, c, shape=(48, 64)):
    v, u = np.mgrid[: shape[0], : shape[1]].astype(float)
    return 1.0 / (a + b * u + c * v)


def test_planes_are_sampled_within_a_ten_thousandth():
    depth = plane(0.3, 0.001, -0.0005)
    pixels = np.random.default_rng(0).uniform(0, (63, 47), (200, 2))
    seen = sample_surface(depth, pixels, NO_NOISE)
    truth = 1.0 / (0.3 + 0.001 * pixels[:, 0] - 0.0005 * pixels[:, 1])
    assert np.abs(seen.z_m / truth - 1).max() < 1e-4
    assert ((seen.variance_factor >= 0.25) & (seen.variance_factor <= 1)).all()


def test_share_is_the_variance_that_interpolation_leaves():
    rng = np.random.default_rng(1)
    pixels = rng.uniform(0, (63, 47), (40, 2))
    draws = [
        sample_surface(
            3 + SENSOR.sigma_m(np.array(3.0)) * rng.normal(size=(48, 64)), pixels, SENSOR
        )
        for _ in range(600)
    ]
    seen = np.nanvar([drawn.z_m for drawn in draws], axis=0)
    assert np.allclose(
        seen / (SENSOR.sigma_m(np.array(3.0)) ** 2 * draws[0].variance_factor), 1, atol=0.3
    )


def test_nothing_is_interpolated_across_an_edge_or_beside_nan():
    depth = np.full((48, 64), 2.0)
    depth[:, 32:] = 4.0
    depth[10, 10] = np.nan
    pixels = np.array(
        [[31.4, 20.5], [31.0, 20.0], [30.6, 20.5], [32.5, 20.5], [9.5, 9.5], [10.5, 10.2], [12, 10]]
    )
    z = sample_surface(depth, pixels, SENSOR).z_m
    assert np.isnan(z[[0, 1, 4, 5]]).all()
    assert z[[2, 3, 6]].tolist() == [2.0, 4.0, 2.0]


def test_outside_of_the_image_there_is_no_depth():
    pixels = np.array([[-0.1, 5], [5, -0.1], [63.1, 5], [5, 47.1], [0, 0], [63, 47]])
    z = sample_surface(np.full((48, 64), 2.0), pixels, SENSOR).z_m
    assert np.isnan(z[:4]).all() and (z[4:] == 2.0).all()


def test_no_image_no_depth():
    assert np.isnan(sample_surface(None, np.zeros((3, 2)), SENSOR).z_m).all()


def test_noise_grows_with_the_square_of_depth():
    noise = DepthNoise(constant_m=0.01, quadratic_per_m=0.002, proportional=0.05)
    assert noise.sigma_m(np.array([1.0, 4.0])) == pytest.approx([0.062, 0.242])
    with pytest.raises(InvalidInput, match="negative"):
        DepthNoise(constant_m=-1)
    with pytest.raises(InvalidInput, match="negative"):
        DepthNoise(quadratic_per_m=np.nan)


def request(world=None, evidence=None, right_from_camera=None, **frames):
    t = trial(world or World("scale", matches=50), 0)
    keyframe = t.keyframe
    if right_from_camera is not None:
        keyframe = Frame(
            keyframe.rgb, keyframe.camera, None, keyframe.rgb, keyframe.camera, right_from_camera
        )
    return ScaleRequest(
        t.matches, t.query, frames.get("keyframe", keyframe), evidence or ScaleEvidence(), SENSOR, 0
    )


def test_every_source_is_silent_without_its_evidence():
    blind = World("blind", matches=20, keyframe_depth=False)
    assert list(SCALE_SOURCES) == [
        "depth", "stereo", "odometry", "floor", "mickey", "mono_depth", "scene",
    ]  # fmt: skip
    assert [source(request(blind)) for source in SCALE_SOURCES.values()] == [None] * 7


def test_depth_comes_from_either_frame():
    both = World("both", matches=50, camera=SMALL, query_depth=True)
    depths = SCALE_SOURCES["depth"](request(both))
    assert isinstance(depths, Depths)
    assert np.isfinite(depths.keyframe_m).sum() > 45 and np.isfinite(depths.query_m).sum() > 40
    assert depths.known >= np.isfinite(depths.keyframe_m).sum()
    one = SCALE_SOURCES["depth"](
        request(World("q", camera=SMALL, keyframe_depth=False, query_depth=True))
    )
    assert np.isnan(one.keyframe_m).all() and np.isfinite(one.query_m).any()


def test_stereo_noise_follows_from_the_baseline():
    right = np.eye(4)
    right[0, 3] = -0.1
    depth = np.full((480, 640), 4.0)
    depths = SCALE_SOURCES["stereo"](
        request(evidence=ScaleEvidence(stereo_depth=depth), right_from_camera=right)
    )
    # 0.25 px of disparity at f b = 500 px * 0.1 m.
    assert depths.noise.sigma_m(np.array(4.0)) == pytest.approx(0.25 * 16 / 50)
    assert (depths.keyframe_variance_factor == 1).all()


def test_odometry_is_a_prior_on_the_translation():
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    prior = SCALE_SOURCES["odometry"](
        request(evidence=ScaleEvidence(odometry=pose, odometry_covariance=np.eye(6) * 0.01))
    )
    assert isinstance(prior, TranslationPrior)
    assert prior.translation_m.tolist() == [1, 2, 3]
    assert np.allclose(prior.covariance, 0.01 * np.eye(3), atol=1e-7)


def test_evidence_is_checked():
    with pytest.raises(InvalidInput, match="go together"):
        ScaleEvidence(odometry=np.eye(4))
    with pytest.raises(InvalidInput, match="positive"):
        ScaleEvidence(mono_scale_sigma=0)


def test_slopes_are_seen_through_noise_or_not_at_all():
    v, u = np.mgrid[:48, :64].astype(float)
    depth = 2 + 0.01 * u - 0.02 * v
    pixels = np.random.default_rng(0).uniform(0, (63, 47), (50, 2))
    exact = sample_surface(depth, pixels, NO_NOISE).slope
    assert np.allclose(exact, [[0.01], [-0.02]])
    assert not sample_surface(depth, pixels, DepthNoise(0.1, 0.0)).slope.any()
