"""The tracker's report card, on poses whose errors are drawn from their own covariance."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from l2m_ros.commands.options import as_json
from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.evaluation.tracking import (
    Margin,
    PosedFrame,
    TruthSigma,
    pose_errors,
    summarize,
)
from l2m_ros.workshop.evaluation.tracking_report import TrackedRun
from l2m_ros.workshop.evaluation.trajectory import Trajectory


def world(count=400, seed=0):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.5, (count, 3))).as_matrix()
    poses[:, :3, 3] = rng.normal(0, 2, (count, 3))
    return Trajectory(np.arange(count) * 10**8, poses)


def posed(truth, claimed, error_scale, seed=1):
    rng = np.random.default_rng(seed)
    records = []
    for stamp, pose in zip(truth.stamps_ns[1:], truth.poses[1:], strict=True):
        T = np.linalg.inv(truth.poses[0]) @ pose
        error = error_scale * rng.multivariate_normal(np.zeros(6), claimed)
        T[:3, 3] += error[:3]
        T[:3, :3] = Rotation.from_rotvec(error[3:]).as_matrix() @ T[:3, :3]
        records.append(PosedFrame(int(stamp), 0, T, claimed))
    return records


CLAIMED = np.diag([1e-4, 2e-4, 4e-4, 1e-5, 1e-5, 3e-5])


def test_an_honest_covariance_lies_in_its_band():
    truth = world()
    summary = summarize(pose_errors(posed(truth, CLAIMED, 1.0), truth), frames=len(truth))
    assert summary.nees_low < summary.nees_mean < summary.nees_high
    assert summary.wrong_poses == 0
    assert summary.posed_percent == pytest.approx(100 * 399 / 400)


def test_overconfidence_shows():
    truth = world()
    summary = summarize(pose_errors(posed(truth, CLAIMED, 4.0), truth), frames=len(truth))
    assert summary.nees_mean == pytest.approx(16 * 6, rel=0.1)
    assert summary.nees_mean > summary.nees_high
    assert summary.wrong_poses > 0


def test_errors_in_metres_and_degrees():
    truth = world(3)
    T = np.linalg.inv(truth.poses[0]) @ truth.poses[1]
    T[:3, 3] += [0.03, 0, 0.04]
    T[:3, :3] = Rotation.from_rotvec([0, np.radians(2), 0]).as_matrix() @ T[:3, :3]
    errors = pose_errors([PosedFrame(10**8, 0, T, CLAIMED)], truth)
    assert errors.translation_m == pytest.approx([0.05])
    assert errors.rotation_deg == pytest.approx([2.0])


def test_a_stamp_without_truth_is_refused():
    with pytest.raises(InvalidInput, match="stamp 5000000000"):
        pose_errors([PosedFrame(5 * 10**9, 0, np.eye(4), CLAIMED)], world(3))


def test_nothing_posed_is_a_row_too():
    assert summarize(pose_errors([], world(3)), frames=3).posed == 0


def test_the_truths_own_error_is_added_to_the_covariance():
    truth, sigma = world(2000), TruthSigma(m=0.02, deg=1.0)
    rng = np.random.default_rng(2)
    records = posed(truth, CLAIMED, 1.0)
    for record in records:  # what a truth with this error makes of exact poses
        T = record.keyframe_from_camera
        T[:3, 3] += rng.normal(0, sigma.m, 3)
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(sigma.deg), 3)).as_matrix()
        T[:3, :3] = turn @ T[:3, :3]
    alone = summarize(pose_errors(records, truth), len(truth))
    added = summarize(pose_errors(records, truth, sigma), len(truth))
    assert alone.nees_mean > 2 * alone.nees_high
    assert added.nees_low < added.nees_mean < added.nees_high
    assert added.wrong_poses < alone.wrong_poses


def test_a_wrong_pose_within_the_margin_does_no_harm():
    truth = world()
    errors = pose_errors(posed(truth, CLAIMED * 1e-4, 10.0), truth)
    summary = summarize(errors, len(truth), Margin(m=0.02, deg=0.5))
    assert summary.wrong_poses > 300
    assert summary.harmful_poses == 0
    assert summarize(errors, len(truth), Margin(0.0, 0.0)).harmful_poses == summary.wrong_poses


@pytest.mark.parametrize("text", ["0.003", "a,b", "-1,0", "nan,0", "1,2,3"])
def test_a_sigma_that_is_none_is_refused(text):
    with pytest.raises(InvalidInput, match="sigma"):
        TruthSigma.parse(text)


def test_a_sigma_is_metres_and_degrees():
    assert TruthSigma.parse("0.003,0.2") == TruthSigma(m=0.003, deg=0.2)


def test_a_truth_that_begins_later_is_compared_from_there_on():
    truth = world()
    late = Trajectory(truth.stamps_ns[300:], truth.poses[300:])
    run = TrackedRun("", "", frames=400, posed=posed(truth, CLAIMED, 1.0), truth=late)
    run.posed += [
        PosedFrame(int(later), int(earlier), np.linalg.inv(A) @ B, CLAIMED)
        for earlier, later, A, B in zip(
            late.stamps_ns, late.stamps_ns[1:], late.poses, late.poses[1:], strict=False
        )
    ]
    figures = run.figures()
    assert figures["posed_without_truth"] == 399  # their keyframe is of the first frame
    assert figures["poses"]["posed"] == 99
    assert figures["poses"]["translation_p95_mm"] < 1e-6
    assert "399 posed frames" in dict(run.rows())["truth"]


def test_a_run_without_a_pose_has_its_figures_too():
    run = TrackedRun("", "", frames=4, truth=world(5))
    figures = json.loads(as_json(run.figures()))["poses"]
    assert (figures["posed_percent"], figures["wrong_poses"], figures["nees_mean"]) == (0, 0, None)
    assert "NEES (6 = honest)" not in dict(run.rows())


def test_a_truth_of_another_clock_leaves_the_other_figures():
    truth = world(5)
    run = TrackedRun("", "", frames=5, posed=posed(truth, CLAIMED, 1.0))
    run.truth = Trajectory(truth.stamps_ns + 10**15, truth.poses)
    assert "poses" not in run.figures()
    assert "clock" in dict(run.rows())["truth"]


def test_a_truth_between_the_images_is_compared_at_the_images():
    """A truth of 20 Hz whose stamps lie 25 ms off: the report would have ended in a refusal."""
    step = np.eye(4)
    stamps = np.arange(12) * 50_000_000 + 10**9
    truth = Trajectory(stamps, np.tile(step, (12, 1, 1)))
    truth.poses[:, 0, 3] = 1e-9 * (stamps - stamps[0])  # 1 m/s
    images = stamps[:-1] + 25_000_000
    run = TrackedRun("title", "lead", frames=len(images), truth=truth)
    for ns in images:
        pose = np.eye(4)
        pose[0, 3] = 1e-9 * (ns - images[0])
        run.posed.append(PosedFrame(int(ns), int(images[0]), pose, CLAIMED))
        run.chained.append((int(ns), pose))
    figures = run.figures()
    assert figures["poses"]["translation_median_mm"] < 1e-6
    assert figures["trajectory"]["poses"] == len(images)
    assert figures["trajectory"]["rpe_rmse_m"] < 1e-9
