"""Two-view geometry and odometry, each as sure as it is."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.fusion import FREEDOM, fused
from l2m_ros.geometry.scale import TranslationPrior

TRUE = se3.exp(np.array([0.2, 0.02, 0.05, 0.02, 0.1, -0.03]))
ODOMETRY_M, ODOMETRY_RAD = 0.012, 0.003
# A yaw and a motion to the side move the pixels nearly alike: their errors go together.
YAW_RAD, SIDE_RAD, OTHER_RAD = 0.03, 0.2, 0.002


def view_covariance():
    Q = OTHER_RAD**2 * np.eye(6)
    along = np.array([0.0, SIDE_RAD, 0.0, YAW_RAD, 0.0, 0.0])
    return Q + np.outer(along, along)


def unit(T):
    return se3.transform(T[:3, :3], T[:3, 3] / np.linalg.norm(T[:3, 3]))


def drawn(rng):
    """(view, prior) with errors of their covariances."""
    Q = view_covariance()
    error = np.linalg.cholesky(Q) @ rng.normal(size=6)
    view = unit(se3.perturb(unit(TRUE), error))
    t = TRUE[:3, 3] + ODOMETRY_M * rng.normal(size=3)
    R = se3.rotation(ODOMETRY_RAD * rng.normal(size=3)) @ TRUE[:3, :3]
    return view, TranslationPrior(t, ODOMETRY_M**2 * np.eye(3), R, ODOMETRY_RAD**2 * np.eye(3))


def start_of(view, prior):
    length = float(view[:3, 3] @ prior.translation_m)
    return se3.transform(view[:3, :3], length * view[:3, 3])


def test_the_turn_of_odometry_settles_what_the_matches_leave_open():
    rng, Q = np.random.default_rng(1), view_covariance()
    with_turn, without, nees, squared = [], [], [], []
    for _ in range(200):
        view, prior = drawn(rng)
        bare = replace(prior, rotation=None, rotation_covariance=None)
        for given, errors in ((prior, with_turn), (bare, without)):
            found = fused(start_of(view, given), view, Q, given)
            off = se3.difference(found.pose, TRUE)
            errors.append(np.linalg.norm(off[3:]))
        both = fused(start_of(view, prior), view, Q, prior)
        off = se3.difference(both.pose, TRUE)
        nees.append(off @ np.linalg.solve(both.covariance, off))
        squared.append(both.squared)
    assert np.median(with_turn) < 0.5 * np.median(without)
    assert 2.0 < np.mean(nees) < 6.5  # never surer than it is
    assert np.mean(squared) == pytest.approx(FREEDOM, rel=0.25)


def test_the_pose_is_no_surer_for_the_turn():
    view, prior = unit(TRUE), drawn(np.random.default_rng(0))[1]
    prior = replace(prior, translation_m=TRUE[:3, 3], rotation=TRUE[:3, :3])
    bare = replace(prior, rotation=None, rotation_covariance=None)
    both, alone = (fused(TRUE, view, view_covariance(), given) for given in (prior, bare))
    assert both.covariance == pytest.approx(alone.covariance, rel=1e-6)
    assert both.squared == pytest.approx(0.0, abs=1e-12)
    assert both.pose == pytest.approx(TRUE)


def test_where_they_disagree_the_covariance_grows():
    view, prior = unit(TRUE), drawn(np.random.default_rng(0))[1]
    turned = replace(prior, rotation=se3.rotation(np.array([0.0, 0.03, 0.0])) @ TRUE[:3, :3])
    agreed = fused(TRUE, view, view_covariance(), replace(prior, rotation=TRUE[:3, :3]))
    apart = fused(TRUE, view, view_covariance(), turned)
    assert apart.squared > 5 * FREEDOM
    ratio = np.trace(apart.covariance) / np.trace(agreed.covariance)
    assert ratio == pytest.approx(apart.squared / FREEDOM, rel=0.3)


def test_where_they_disagree_odometrys_own_motion_is_admitted():
    """Also across the valley that the matches leave open, where their covariance is narrow."""
    view, prior = unit(TRUE), drawn(np.random.default_rng(0))[1]
    rolled = replace(prior, rotation=se3.rotation(np.array([0.0, 0.0, 0.02])) @ TRUE[:3, :3])
    found = fused(TRUE, view, view_covariance(), rolled)
    assert found.squared > 2 * FREEDOM
    off = se3.difference(se3.transform(rolled.rotation, rolled.translation_m), found.pose)
    assert off @ np.linalg.solve(found.covariance, off) < 2.5
