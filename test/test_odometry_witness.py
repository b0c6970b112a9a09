"""Something that fills the view moves: odometry and the matches of the rest say so together."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.synthetic import World, trial
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.odometry import OdometrySample, OdometryStep
from l2m_ros.tracking.odometry_witness import OdometryWitness
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.pose_checks import Before, PoseChecks
from l2m_ros.types import Correspondences, Lost, LostReason, MetricPose

CAMERA = (-0.15, 0.1, 0.05, -0.04, 0.12, 0.0)  # its motion; most matches follow another
SLIPPED = (0.1, -0.1, 0.3, 0.1, 0.0, 0.1)
P = np.diag([0.01**2] * 3 + [0.005**2] * 3)


def told(motion):
    T = motion if isinstance(motion, np.ndarray) else se3.exp(np.array(motion))
    return OdometryStep(T, P, None)


@pytest.fixture(scope="module")
def seen():
    """What a door shows that fills most of the view, and 120 matches of the rest."""
    door = trial(World("scene", matches=1000), 0)
    rest = trial(World("scene", motion=CAMERA, matches=120), 1).matches
    fields = ("query_px", "keyframe_px", "confidence")
    pairs = (np.concatenate([getattr(m, f) for m in (door.matches, rest)]) for f in fields)
    views = door.query, door.keyframe
    return Correspondences(*pairs), *views, estimate_pose(door.matches, *views)


def against(witness, seen, step, rest=120, two=False):
    """rest: how many matches there are beside those of the door."""
    pairs, query, keyframe, pose = seen
    pairs = pairs.select(np.arange(1000 + rest))
    inliers = np.append(pose.inliers, np.zeros(rest, bool))
    pose = replace(pose, inliers=inliers)
    views = query, keyframe
    posed = lambda part: estimate_pose(part, *views)  # noqa: E731
    return witness.against(pose, step, pairs, *views, posed, two_lately=two)


def test_odometry_and_the_rest_of_the_view_outweigh_what_fills_it(seen):
    lost = against(OdometryWitness(), seen, told(CAMERA))
    assert lost.reason is LostReason.TWO_MOTIONS and "odometry" in lost.detail


@pytest.mark.parametrize(
    "step, rest",
    [
        (None, 120),
        (told(SLIPPED), 120),  # what the rest says is another matter: `second_motion`
        (told(CAMERA), 0),
        (told(CAMERA), 30),  # too few to tell from bad matches
    ],
)
def test_odometry_alone_is_no_witness(seen, step, rest):
    assert against(OdometryWitness(), seen, step, rest) is None


def test_what_odometry_contradicts_is_not_believed_until_both_agree_on_a_way(seen):
    witness, pose = OdometryWitness(), seen[3].keyframe_from_camera
    assert against(witness, seen, told(CAMERA))
    assert against(witness, seen, told(CAMERA), rest=0)
    assert against(witness, seen, told(SLIPPED), rest=0)
    assert against(witness, seen, told(pose)) is None
    assert against(witness, seen, told(SLIPPED), rest=0) is None


def test_of_two_motions_that_were_seen_odometry_chooses_one_if_it_was_right_before(seen):
    witness, pose = OdometryWitness(), seen[3].keyframe_from_camera
    assert against(witness, seen, told(CAMERA), rest=0, two=True) is None  # it never agreed
    assert against(witness, seen, told(pose), rest=0) is None
    assert against(witness, seen, told(CAMERA), rest=0) is None
    assert against(witness, seen, told(CAMERA), rest=0, two=True)
    assert against(witness, seen, told(CAMERA), rest=0)


def test_agreeing_that_nothing_moved_says_nothing(seen):
    witness = OdometryWitness()
    assert against(witness, seen, told(CAMERA))
    pairs, query, keyframe, pose = seen
    stands = replace(pose, keyframe_from_camera=np.eye(4))
    assert against(witness, (pairs, query, keyframe, stands), told(np.eye(4))) is None
    assert against(witness, seen, told(SLIPPED), rest=0)


@pytest.mark.parametrize("motion, believed", [(CAMERA, False), (SLIPPED, True)])
def test_a_pose_passes_the_check(seen, motion, believed):
    """Odometry that agrees with nothing in view slips: depth is believed."""
    pairs, query, keyframe, _ = seen
    start, end = (
        OdometrySample(ns, T, np.zeros((6, 6)))
        for ns, T in ((0, np.eye(4)), (10**9, se3.exp(np.array(motion))))
    )
    kept = Keyframe(0, 0, keyframe, None, np.eye(4), np.zeros((6, 6)), odometry=start)
    frame = replace(query, stamp_ns=end.stamp_ns)
    matched = MatchedFrame(frame, end, kept, pairs, None)
    outcome, _ = PoseChecks(TrackerOptions()).pose(matched, Before(None, None))
    if believed:
        assert isinstance(outcome, MetricPose)
    else:
        assert isinstance(outcome, Lost) and outcome.reason is LostReason.TWO_MOTIONS
