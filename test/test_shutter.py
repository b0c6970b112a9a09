"""A rolling shutter: what it does to matches, what the residuals show of it, what is learnt."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.image_motion import ImageMotion
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.tracking.depth_trust import DepthVerdict, judge
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.place import Place
from l2m_ros.tracking.readout import ShutterWatch
from l2m_ros.tracking.trust import TrustOptions
from l2m_ros.types import Camera, Correspondences, Frame, MetricPose, ShutterHint

READOUT_S = 0.03
F, W, H = 300.0, 320, 240
CAMERA = Camera(W, H, np.array([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1.0]]))
KEYFRAME_TWIST = np.array([0.3, -0.1, 0.1, 0.1, 0.5, 0.2])
QUERY_TWIST = np.array([-0.4, 0.2, 0.1, -0.3, -0.6, 0.1])


def seen_by(points, world_from_camera, twist, readout_s):
    """(N, 2) pixels of points (N, 3) under a rolling shutter, each at its own row's time."""
    rho = np.zeros(len(points))
    for _ in range(8):
        pixels = np.empty((len(points), 2))
        for i, point in enumerate(points):
            pose = world_from_camera @ se3.exp(twist * rho[i] * readout_s)
            x = se3.inverse(pose) @ np.append(point, 1.0)
            pixels[i] = F * x[:2] / x[2] + (W / 2, H / 2)
        rho = (pixels[:, 1] + 0.5) / H - 0.5
    return pixels


@pytest.fixture(scope="module")
def rolled():
    """(matches, keyframe, query, truth): a wavy wall 2 m away, in a keyframe that moves."""
    rng = np.random.default_rng(3)
    u, v = np.meshgrid(np.arange(W), np.arange(H))
    depth = (2.0 + 0.4 * np.sin(u / 40.0) + 0.3 * np.cos(v / 30.0)).astype(np.float32)
    px = rng.uniform([10, 10], [W - 11, H - 11], (300, 2))
    z = np.array([2.0 + 0.4 * np.sin(a / 40.0) + 0.3 * np.cos(b / 30.0) for a, b in px])
    points = np.column_stack([(px - (W / 2, H / 2)) / F * z[:, None], z])
    truth = se3.exp(np.array([0.08, -0.03, 0.05, 0.02, -0.04, 0.01]))
    keyframe_px = seen_by(points, np.eye(4), KEYFRAME_TWIST, READOUT_S)
    query_px = seen_by(points, truth, QUERY_TWIST, READOUT_S)
    noisy = keyframe_px + 0.1 * rng.standard_normal(keyframe_px.shape)
    matches = Correspondences(query_px, noisy, np.ones(len(px)))
    grey = np.zeros((H, W, 3), np.uint8)  # of one colour: textures are not asked
    keyframe = Frame(grey, CAMERA, stamp_ns=0, depth=depth)
    return matches, keyframe, Frame(grey, CAMERA, stamp_ns=500_000_000), truth


def posed(rolled, readout_s, sigma_s=0.01, known=True, mono=False):
    """mono: the depth is a network's reading."""
    matches, keyframe, query, truth = rolled
    before = truth @ se3.inverse(se3.exp(0.1 * QUERY_TWIST))
    motion = (
        ImageMotion(KEYFRAME_TWIST, before, 0.1, np.zeros(6), readout_s, sigma_s) if known else None
    )
    evidence = ScaleEvidence(motion=motion)
    if mono:
        depth = {"mono_depth": keyframe.depth, "mono_sigma": 0.02, "mono_scale_sigma": 0.02}
        evidence = replace(evidence, **depth)
        keyframe = replace(keyframe, depth=None)
    pose = estimate_pose(matches, query, keyframe, PoseOptions(), evidence)
    assert isinstance(pose, MetricPose)
    assert pose.scale_source == ("mono_depth" if mono else "depth")
    error = se3.difference(pose.keyframe_from_camera, truth)
    return pose, error, float(error @ np.linalg.solve(pose.covariance, error))


def test_the_residuals_show_the_readout_time(rolled):
    hint = posed(rolled, 0.0)[0].shutter
    assert hint.readout_s == pytest.approx(READOUT_S, abs=0.003)
    assert abs(hint.readout_s - READOUT_S) < 4 * hint.information**-0.5


def test_a_known_shutter_is_undone(rolled):
    without, with_it = posed(rolled, 0.0)[1], posed(rolled, READOUT_S)[1]
    assert np.linalg.norm(with_it[:3]) < 0.25 * np.linalg.norm(without[:3])
    assert np.linalg.norm(with_it[3:]) < 0.25 * np.linalg.norm(without[3:])
    again = posed(rolled, READOUT_S)[0].shutter  # what is left and what was undone
    assert again.readout_s == pytest.approx(READOUT_S, abs=0.003)


def test_a_known_shutter_is_undone_for_a_networks_metres_too(rolled):
    """They do not tell of it: two views bend to it, and said half of the time or none."""
    (_, without, _), (pose, with_it, nees) = (posed(rolled, s, mono=True) for s in (0.0, READOUT_S))
    assert pose.shutter is None
    assert np.linalg.norm(with_it[3:]) < 0.25 * np.linalg.norm(without[3:])
    assert nees < 20.0


def test_a_shutter_bends_poses_by_the_querys_depth_alike(rolled):
    """Where the keyframe has none: nothing was undone, nor admitted."""
    matches, keyframe, query, truth = rolled
    there = Correspondences(matches.keyframe_px, matches.query_px, matches.confidence)
    back = se3.inverse(truth)
    before = back @ se3.inverse(se3.exp(0.1 * KEYFRAME_TWIST))
    errors = []
    for readout_s in (0.0, READOUT_S):
        motion = ImageMotion(QUERY_TWIST, before, 0.1, np.zeros(6), readout_s, 0.002)
        evidence = ScaleEvidence(motion=motion)
        pose = estimate_pose(there, keyframe, query, PoseOptions(), evidence)
        assert isinstance(pose, MetricPose) and pose.scale_source == "depth"
        assert pose.shutter.readout_s == pytest.approx(READOUT_S, abs=0.004)
        errors.append(np.linalg.norm(se3.difference(pose.keyframe_from_camera, back)[3:]))
    assert errors[1] < 0.25 * errors[0]


def test_a_shutter_of_an_unknown_time_is_admitted(rolled):
    assert posed(rolled, 0.0, sigma_s=1e-6)[2] > 3 * posed(rolled, 0.0, sigma_s=READOUT_S)[2]


def test_what_a_shutter_may_do_in_a_fast_turn_does_not_contradict_depth(rolled):
    """Rows are pixels apart, and no pose puts them together; the depth is right."""
    known, unknown = (posed(rolled, 0.0, sigma_s=s)[0].depth_check for s in (1e-6, READOUT_S))
    assert judge(known, TrustOptions()) is DepthVerdict.CONTRADICTED  # of a global shutter
    assert judge(unknown, TrustOptions()) is DepthVerdict.CONFIRMED


def test_a_shutter_excuses_no_wrong_depth(rolled):
    """Mirrored, it stays contradicted."""
    matches, keyframe, query, truth = rolled
    mirrored = replace(keyframe, depth=np.ascontiguousarray(keyframe.depth[:, ::-1]))
    check = posed((matches, mirrored, query, truth), 0.0, sigma_s=0.01)[0].depth_check
    assert judge(check, TrustOptions()) is DepthVerdict.CONTRADICTED


def test_a_shutter_counts_only_beyond_the_noise(rolled):
    """Whoever turns slowly is judged as with a global shutter."""
    checks = [posed(rolled, 0.0, sigma_s=s)[0].depth_check for s in (1e-6, 1e-4)]
    assert checks[0].left_over == pytest.approx(checks[1].left_over, rel=1e-6)


def test_without_the_motion_there_is_no_hint(rolled):
    assert posed(rolled, 0.0, known=False)[0].shutter is None


# ---- learning ------------------------------------------------------------------------------------


def place(stamp_ns, T):
    return Place(stamp_ns, T, np.eye(6) * 1e-6, 1, 0, T, np.eye(6) * 1e-6)


def kept(id=0, stamp_ns=0):
    frame = Frame(np.zeros((H, W, 3), np.uint8), CAMERA, stamp_ns=stamp_ns)
    return Keyframe(id, 1, frame, None, np.eye(4), np.zeros((6, 6)))


def told(watch, estimates_s, sigma_s=0.004):
    """The watch after poses of these hints, 0.1 s after one another."""
    step, keyframe = se3.exp(np.array([0.01, 0, 0, 0, 0.02, 0])), kept()
    T, before = np.eye(4), place(0, np.eye(4))
    for k, value in enumerate(estimates_s, start=1):
        T = T @ step
        hint = ShutterHint(value, sigma_s**-2)
        pose = MetricPose(T, np.eye(6) * 1e-6, np.ones(1, bool), "depth", shutter=hint)
        watch.learn(keyframe, pose, before, k * 100_000_000)
        before = place(k * 100_000_000, T)
    return keyframe, before


def test_what_many_frames_show_is_undone():
    watch = ShutterWatch(0.01)
    rng = np.random.default_rng(0)
    keyframe, before = told(watch, READOUT_S + 0.004 * rng.standard_normal(30))
    assert watch.readout_s == pytest.approx(READOUT_S, abs=0.005)
    motion = watch.motion(keyframe, before, before.stamp_ns + 100_000_000)
    assert motion.readout_s == watch.readout_s and motion.readout_sigma_s < 0.003
    assert motion.twist_sigma[0] > 0.01
    assert motion.keyframe_twist[4] == pytest.approx(0.2, abs=1e-3)


def test_a_global_shutter_is_left_alone_and_claimed_surer():
    watch = ShutterWatch(0.01)
    keyframe, before = told(watch, 0.004 * np.random.default_rng(1).standard_normal(60))
    assert watch.readout_s == 0.0
    motion = watch.motion(keyframe, before, before.stamp_ns + 100_000_000)
    assert motion.readout_sigma_s < 0.004


def test_frames_that_contradict_each_other_teach_nothing():
    watch = ShutterWatch(0.01)
    told(watch, READOUT_S + 0.08 * np.random.default_rng(2).standard_normal(40), sigma_s=0.002)
    assert watch.readout_s == 0.0


def test_a_known_global_shutter_learns_nothing():
    watch = ShutterWatch(0.0)
    keyframe, before = told(watch, [READOUT_S] * 30)
    assert watch.readout_s == 0.0
    assert watch.motion(keyframe, before, before.stamp_ns + 100_000_000) is None


def test_a_frame_whose_velocity_is_unknown_may_move_as_fast_as_its_keyframe_did():
    """The mean since the keyframe is that of a hand that shakes: nearly nothing."""
    watch = ShutterWatch(0.01)
    keyframe, before = told(watch, [READOUT_S] * 30)
    motion = watch.motion(keyframe, before, before.stamp_ns + 1_000_000_000)
    assert motion.readout_s == 0.0 and motion.readout_sigma_s > 0.9 * READOUT_S
    assert np.linalg.norm(motion.twist_sigma[3:]) == pytest.approx(0.2, abs=1e-3)
    assert watch.motion(kept(1), before, before.stamp_ns + 1_000_000_000) is None
    known_s, late_ns = watch.readout_s, before.stamp_ns + 1_000_000_000
    hint = ShutterHint(0.09, 1e8)
    pose = MetricPose(np.eye(4), np.eye(6) * 1e-6, np.ones(1, bool), "depth", shutter=hint)
    watch.learn(keyframe, pose, before, late_ns)  # by a velocity that is not known
    assert watch.readout_s == known_s
    assert watch.motion(replace(kept(1), chain=2), before, before.stamp_ns + 1) is None
