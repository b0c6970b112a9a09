"""What an honest covariance looks like where the truth is better than it says."""

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.workshop.evaluation.honesty import honesty
from l2m_ros.workshop.evaluation.tracking import PosedFrame, TruthSigma
from l2m_ros.workshop.evaluation.trajectory import Trajectory

SIGMA = TruthSigma(0.006, 0.12)


def run(pose_sigma, true_sigma, claimed=1.0, n=240):
    """Poses whose covariance is right but for a factor; a truth that errs by its sigma's share."""
    rng = np.random.default_rng(5)
    P = np.diag([pose_sigma**2] * 3 + [(0.5 * pose_sigma) ** 2] * 3)
    whole = P + true_sigma**2 * SIGMA.covariance()
    posed = [
        PosedFrame(k, 0, se3.perturb(np.eye(4), rng.multivariate_normal(np.zeros(6), whole)),
                   claimed * P * rng.uniform(0.7, 1.4))
        for k in range(1, n)
    ]  # fmt: skip
    return posed, Trajectory(np.arange(n), np.tile(np.eye(4), (n, 1, 1)))


def test_a_truth_better_than_it_says_lowers_the_mean_of_an_honest_covariance():
    found = honesty(*run(0.003, 0.0), SIGMA)
    assert found.alone == pytest.approx(6.0, abs=1.0)
    assert found.stated < 2.0 and found.best == pytest.approx(found.stated, rel=0.3)
    assert max(found.truth_factor) <= 0.1


def test_a_truth_as_good_as_it_says_does_not():
    found = honesty(*run(0.003, 1.0), SIGMA)
    assert found.stated == pytest.approx(6.0, abs=1.0) and found.best == pytest.approx(6, abs=1.5)


def test_a_covariance_that_is_too_large_is_told_from_a_good_truth():
    found = honesty(*run(0.003, 0.0, claimed=9.0), SIGMA)
    assert max(found.pose_factor) < 0.2 and found.best > 2 * found.stated


def test_few_poses_say_nothing():
    posed, truth = run(0.003, 1.0)
    assert np.isnan(honesty(posed[:8], truth, SIGMA).best)
