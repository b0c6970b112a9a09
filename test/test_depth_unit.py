"""Depth whose unit changes midway: what looks as large as before is not ten times as far."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.tracking.depth_unit import DepthUnit
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, Correspondences, Frame, MetricPose
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

CAMERA = Camera(64, 48, np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]]))
PX = np.stack(np.meshgrid(np.arange(20.0, 44, 2), np.arange(14.0, 34, 2)), -1).reshape(-1, 2)
SEEN = Correspondences(PX, PX, np.ones(len(PX)))
SCENE = np.random.default_rng(1).uniform(2, 8, (48, 64)).astype(np.float32)
OTHER = np.random.default_rng(2).uniform(2, 80, (48, 64)).astype(np.float32)


def frame(depth):
    return Frame(np.zeros((48, 64, 3), np.uint8), CAMERA, np.asarray(depth, np.float32))


@pytest.mark.parametrize(
    ("depth", "pairs", "taken_back"),
    [
        (SCENE, SEEN, 1),
        (SCENE * 10, SEEN, 10),
        (SCENE * 0.001, SEEN, 0.001),
        (SCENE * 13, SEEN, 10),  # the camera went back, too
        (SCENE * 4, SEEN, 1),
        (OTHER, SEEN, 1),  # of another scene
        (SCENE * 10, SEEN.select(np.arange(50)), 1),  # few matches
    ],
)
def test_a_power_of_ten_that_all_matches_share_is_another_unit(depth, pairs, taken_back):
    unit, now = DepthUnit(), frame(depth)
    unit.begin(now)
    used = unit.of(now, frame(SCENE), pairs).depth
    np.testing.assert_allclose(used, now.depth / np.float32(taken_back), rtol=1e-5)
    assert (unit.words is None) is (taken_back == 1)
    np.testing.assert_allclose(unit.begin(now).depth, used)  # where nothing is matched


@pytest.mark.parametrize("factor", [10.0, 0.001])
def test_poses_go_on_in_the_first_unit_of_depth_until_it_is_back(factor):
    options = SimulationOptions(frames=18, width=240, height=180, rate_hz=8.0, stereo=False)
    shots = list(simulate(options))
    matcher = OracleMatcher(stride=4, noise_px=0.3)
    list(matcher.watch(shots))
    tracker = Tracker(matcher)
    truth = {shot.frame.stamp_ns: shot.world_from_camera for shot in shots}
    for number, shot in enumerate(shots):
        other = 6 <= number < 12
        told = replace(shot.frame, depth=shot.frame.depth * np.float32(factor if other else 1.0))
        result = tracker.process(told)
        words = result.remarks.get("depth unit")
        assert (words is not None and f"depth comes as {factor:g} times" in words) is other
        if number:
            assert isinstance(result.outcome, MetricPose)
            a, b = (truth[f.stamp_ns] for f in (result.keyframe.frame, shot.frame))
            off_m = result.outcome.keyframe_from_camera[:3, 3] - (np.linalg.inv(a) @ b)[:3, 3]
            assert np.linalg.norm(off_m) < 0.02
