"""Motion from depths that networks read from single images: exact answers, bad input, honesty."""

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.lifted import LiftedMotion, LiftedOptions, lifted_motion
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.synthetic import World, trial
from l2m_ros.types import Correspondences, Lost, LostReason, MatchDepths, MetricPose

POSE = se3.exp(np.array([0.4, -0.1, 0.3, 0.1, -0.3, 0.05]))


def cloud(count=120, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.uniform(1.5, 6, count)
    return np.stack([rng.uniform(-0.5, 0.5, count) * z, rng.uniform(-0.4, 0.4, count) * z, z], 1)


def moved(x):
    return x @ POSE[:3, :3].T + POSE[:3, 3]


def test_a_known_motion_is_found_among_wrong_depths():
    x = cloud()
    y = moved(x)
    y[:60] *= np.random.default_rng(1).uniform(1.2, 2.0, (60, 1))
    found = lifted_motion(x, y, np.ones(120))
    assert np.abs(found.pose - POSE).max() < 1e-9
    assert found.inliers[60:].all()
    assert not found.inliers[:50].all()
    assert abs(found.log_size) < 0.01


def test_the_same_points_give_the_same_answer_in_any_run():
    x, y = cloud(), moved(cloud()) + np.random.default_rng(2).normal(0, 0.05, (120, 3))
    first, second = (lifted_motion(x, y, np.ones(120)) for _ in range(2))
    assert np.array_equal(first.pose, second.pose)


def test_at_least_as_many_inliers_as_drawing_by_chance():
    """2,000 random triples, refined alike, against every triple of the best pairs."""
    from l2m_ros.geometry import lifted

    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = cloud(150, seed)
        y = moved(x)
        y *= np.exp(rng.normal(0, 0.05, (150, 1)))
        y[:90] = cloud(90, seed + 50)
        confidence = rng.uniform(0.2, 1, 150)
        found = lifted_motion(x, y, confidence)
        corners = np.array([rng.choice(150, 3, replace=False) for _ in range(2000)])
        R, t = lifted.procrustes(x[corners], y[corners])
        best = int(np.argmax(lifted._soft(lifted.distances(R, t, x, y), 0.3)))
        pose = lifted._refined(R[best], t[best], x, y, LiftedOptions())
        by_chance = float(lifted._soft(lifted.distances(*pose, x, y), 0.15))
        assert found.score >= 0.95 * by_chance


def test_how_far_the_two_depths_disagree_as_a_whole():
    x = cloud()
    y = moved(1.0 * x) * 1.04
    found = lifted_motion(x, y, np.ones(120))
    assert found.log_size == pytest.approx(np.log(1.04), abs=2e-3)


# --- bad input --------------------------------------------------------------------------------


def test_depths_of_zero_or_below_and_nan_are_left_out():
    x = cloud()
    y = moved(x)
    x[:10] *= -1
    x[10:20] *= 0
    y[20:30] = np.nan
    y[30:40] = np.inf
    found = lifted_motion(x, y, np.ones(120))
    assert np.abs(found.pose - POSE).max() < 1e-9
    assert not found.inliers[:40].any()
    assert found.inliers[40:].all()


@pytest.mark.parametrize("usable", [0, 1, 2])
def test_fewer_than_three_matches_are_lost_in_words(usable):
    x = cloud()
    x[usable:, 2] = -1
    lost = lifted_motion(x, moved(cloud()), np.ones(120))
    assert lost.reason is LostReason.TOO_FEW_MATCHES
    assert f"{usable} of 120 matches have a positive depth" in lost.detail
    assert lifted_motion(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)).reason


def test_identical_images_did_not_move():
    x = cloud()
    found = lifted_motion(x, x, np.ones(120))
    assert np.abs(found.pose - np.eye(4)).max() < 1e-12
    assert found.log_size == 0
    assert found.spread < 1e-12  # not 0 on every processor


def test_points_on_one_line_are_degenerate():
    x = np.linspace(1, 3, 20)[:, None] * np.array([[0.1, 0.2, 1.0]])
    lost = lifted_motion(x, moved(x), np.ones(20))
    assert lost.reason is LostReason.DEGENERATE


def test_points_without_a_common_motion_are_lost():
    lost = lifted_motion(cloud(12, 1), cloud(12, 2) * 9, np.ones(12))
    assert lost.reason is LostReason.TOO_FEW_INLIERS


def test_depths_must_fit_their_matches():
    with pytest.raises(InvalidInput, match="2 depths of 3 matches"):
        Correspondences(
            np.zeros((3, 2)), np.zeros((3, 2)), np.ones(3),
            depths=MatchDepths(np.ones(2), np.ones(2), 0.1, 0.1),
        )  # fmt: skip
    with pytest.raises(InvalidInput, match="sigmas of depths"):
        MatchDepths(np.ones(2), np.ones(2), 0.0, 0.1)


# --- as a source of scale ---------------------------------------------------------------------

WORLD = World("network depth", matches=400, sigma_px=1.0, keyframe_depth=False, outliers=0.2)
SCALE, IMAGE, EACH = 0.08, 0.05, 0.05  # relative sigmas: of the place, of an image, of a depth


def with_depths(seed, world=WORLD, **also):
    """A trial whose depths err as a network's: by one factor a place, one an image, one a depth."""
    made = trial(world, seed)
    rng = np.random.default_rng([seed, 7])
    from l2m_ros.geometry.camera import unproject

    keyframe = made.depth_m
    X = unproject(world.camera, made.keyframe_px) * keyframe[:, None]
    T = np.linalg.inv(made.keyframe_from_camera)
    query = (X @ T[:3, :3].T + T[:3, 3])[:, 2]
    place = rng.normal(0, SCALE)

    def read(z):
        return z * np.exp(place + rng.normal(0, IMAGE) + rng.normal(0, EACH, len(z)))

    depths = MatchDepths(read(query), read(keyframe), SCALE, IMAGE, **also)
    matches = Correspondences(
        made.matches.query_px, made.matches.keyframe_px, made.matches.confidence, depths=depths
    )
    return made, matches


def nees(made, pose):
    off = se3.difference(made.keyframe_from_camera, pose.keyframe_from_camera)
    return float(off @ np.linalg.solve(pose.covariance, off))


@pytest.mark.parametrize(
    "motion",
    [WORLD.motion, (0.02, 0.0, 0.01, 0.03, -0.1, 0.02), (0.05, 0.0, 0.5, 0.0, 0.05, 0.0)],
    ids=["parallax", "hardly any", "forward"],
)
def test_covariance_knows_that_depths_err_together(motion):
    from dataclasses import replace

    world, found = replace(WORLD, motion=motion), []
    for seed in range(8):
        made, matches = with_depths(seed, world)
        pose = estimate_pose(matches, made.query, made.keyframe)
        assert isinstance(pose, MetricPose), pose
        assert pose.scale_source == "mickey"
        found.append(nees(made, pose))
    assert np.mean(found) < 9
    assert np.mean(found) > 2  # nor is it afraid


def test_depths_by_focal_length_hold_for_any_camera():
    made, matches = with_depths(3)
    f = float(made.query.camera.K[0, 0])
    depths = MatchDepths(
        matches.depths.query / f, matches.depths.keyframe / f, SCALE, IMAGE, per_focal=True
    )
    again = Correspondences(
        matches.query_px, matches.keyframe_px, matches.confidence, depths=depths
    )
    poses = [estimate_pose(m, made.query, made.keyframe) for m in (matches, again)]
    assert np.allclose(*(pose.keyframe_from_camera for pose in poses), atol=1e-6)


def test_without_usable_depths_there_is_a_direction_and_no_metres():
    made, matches = with_depths(3)
    depths = MatchDepths(-matches.depths.query, matches.depths.keyframe, SCALE, IMAGE)
    none = Correspondences(matches.query_px, matches.keyframe_px, matches.confidence, depths=depths)
    outcome = estimate_pose(none, made.query, made.keyframe)
    assert not isinstance(outcome, MetricPose | Lost)


def test_depths_follow_a_selection_and_a_reversal():
    _, matches = with_depths(1)
    chosen = matches.select(np.array([5, 2]))
    assert np.array_equal(chosen.depths.query, matches.depths.query[[5, 2]])
    assert np.array_equal(chosen.reversed().depths.query, matches.depths.keyframe[[5, 2]])


def test_a_motion_is_a_value():
    assert isinstance(lifted_motion(cloud(), moved(cloud()), np.ones(120)), LiftedMotion)
