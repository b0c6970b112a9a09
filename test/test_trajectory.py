"""Trajectory errors, against the evo library and against closed forms."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.evaluation import trajectory as t


def wandering(seed, count=60):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = np.cumsum(rng.normal(0, 0.1, (count, 3)), axis=0)
    poses[:, :3, :3] = Rotation.from_rotvec(
        np.cumsum(rng.normal(0, 0.03, (count, 3)), axis=0)
    ).as_matrix()
    return t.Trajectory(np.arange(count) * 50_000_000 + 1_700_000_000_123_456_789, poses)


def perturbed(truth, seed):
    rng = np.random.default_rng(seed)
    poses = truth.poses.copy()
    poses[:, :3, 3] += rng.normal(0, 0.02, (len(truth), 3))
    poses[:, :3, :3] @= Rotation.from_rotvec(rng.normal(0, 0.01, (len(truth), 3))).as_matrix()
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec([0.3, -0.2, 1.0]).as_matrix()
    moved[:3, 3] = [4, 5, 6]
    return t.Trajectory(truth.stamps_ns, moved @ poses)


def test_the_same_numbers_as_evo():
    evo = pytest.importorskip("evo.core.metrics")
    from evo.core.trajectory import PoseTrajectory3D

    truth = wandering(1)
    estimate = perturbed(truth, 2)

    def as_evo(trajectory):
        return PoseTrajectory3D(
            poses_se3=list(trajectory.poses), timestamps=trajectory.stamps_ns * 1e-9
        )

    ours = t.trajectory_error(estimate, truth)
    reference, aligned = as_evo(truth), as_evo(estimate)
    aligned.align(reference)
    for relation, absolute, relative in (
        (evo.PoseRelation.translation_part, ours.ate_rmse_m, ours.rpe_rmse_m),
        (
            evo.PoseRelation.rotation_angle_deg,
            ours.ate_rotation_rmse_deg,
            ours.rpe_rotation_rmse_deg,
        ),
    ):
        ape, rpe = evo.APE(relation), evo.RPE(relation, delta=1, delta_unit=evo.Unit.frames)
        for metric, value in ((ape, absolute), (rpe, relative)):
            metric.process_data((reference, aligned))
            assert value == pytest.approx(metric.get_statistic(evo.StatisticsType.rmse), rel=1e-6)


def test_alignment_undoes_a_similarity():
    truth = wandering(3)
    T = np.eye(4)
    T[:3, :3] = 2.5 * Rotation.from_rotvec([1, 2, 3]).as_matrix()
    T[:3, 3] = [1, 2, 3]
    moved = truth.poses.copy()
    moved[:, :3, 3] = truth.poses[:, :3, 3] @ T[:3, :3].T + T[:3, 3]
    back = t.alignment(t.Trajectory(truth.stamps_ns, moved), truth, with_scale=True)
    assert back == pytest.approx(np.linalg.inv(T), abs=1e-9)


def test_tum_keeps_every_nanosecond(tmp_path):
    truth = wandering(4)
    t.write_tum(tmp_path / "a.tum", truth)
    back = t.read_tum(tmp_path / "a.tum")
    assert (back.stamps_ns == truth.stamps_ns).all()
    assert np.abs(back.poses - truth.poses).max() < 1e-8


def test_kitti_has_twelve_numbers_a_line(tmp_path):
    truth = wandering(5)
    t.write_kitti(tmp_path / "a.txt", truth)
    assert np.loadtxt(tmp_path / "a.txt").reshape(-1, 3, 4) == pytest.approx(truth.poses[:, :3])


@pytest.mark.parametrize("text", ["", "# only a comment\n", "1 2 3\n", "a b c d e f g h\n"])
def test_a_file_that_is_no_trajectory_is_refused(tmp_path, text):
    (tmp_path / "bad.tum").write_text(text)
    with pytest.raises(InvalidInput, match=r"bad\.tum"):
        t.read_tum(tmp_path / "bad.tum")


def test_association_by_the_nearest_stamp():
    truth = wandering(6)
    shifted = t.Trajectory(truth.stamps_ns[3:10] + 4_000_000, truth.poses[3:10])
    a, b = t.associate(shifted, truth)
    assert (b.stamps_ns == truth.stamps_ns[3:10]).all()
    assert len(a) == 7
    with pytest.raises(InvalidInput, match="clock"):
        t.associate(t.Trajectory(shifted.stamps_ns + 10**12, shifted.poses), truth)


def test_a_pose_between_two_stamps_is_interpolated():
    """At 1 m/s the nearest pose of a truth at 100 Hz is up to 5 mm off."""
    stamps = np.arange(10) * 10_000_000 + 10**18
    poses = np.tile(np.eye(4), (10, 1, 1))
    poses[:, 0, 3] = 0.01 * np.arange(10)
    truth = t.Trajectory(stamps, poses)
    assert truth.at(10**18 + 34_000_000)[0, 3] == pytest.approx(0.034)
    assert truth.at(10**18 + 30_000_000)[0, 3] == pytest.approx(0.03)
    assert truth.at(10**18 - 9_000_000)[0, 3] == 0.0  # before the first: the nearest
    assert truth.at(10**18 - 11_000_000) is None
    gaps = t.Trajectory(10**18 + 100 * (stamps - 10**18), poses)  # one a second: none between
    assert gaps.at(10**18 + 3_500_000_000) is None


def test_an_estimate_faster_than_the_truth_meets_each_true_pose_once():
    """As evo does: a true pose that is met twice would be a step of no length."""
    truth = wandering(3, 40)
    shifted = np.concatenate([truth.stamps_ns, truth.stamps_ns + 4_000_000])
    estimate = t.Trajectory(shifted, np.concatenate([truth.poses, truth.poses]))
    mine, theirs = t.associate(estimate, truth)
    assert (theirs.stamps_ns == truth.stamps_ns).all()
    assert (mine.stamps_ns == truth.stamps_ns).all()
    later = t.Trajectory(truth.stamps_ns + 4_000_000, truth.poses)
    assert t.associate(truth, later)[1].stamps_ns[0] == later.stamps_ns[0]
    sync = pytest.importorskip("evo.core.sync")
    from evo.core.trajectory import PoseTrajectory3D

    def as_evo(trajectory):
        return PoseTrajectory3D(
            poses_se3=list(trajectory.poses), timestamps=trajectory.stamps_ns * 1e-9
        )

    reference, aligned = sync.associate_trajectories(as_evo(truth), as_evo(estimate))
    assert reference.num_poses == aligned.num_poses == len(mine)
