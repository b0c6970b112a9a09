"""Constants fitted on one half of a recording and judged on the other."""

import pytest

from l2m_ros.commands.calibrate import preset, text
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.synthetic import World, trial
from l2m_ros.parameters.file import parameter_values
from l2m_ros.workshop.evaluation import calibration
from l2m_ros.workshop.evaluation.calibration import Sample
from l2m_ros.workshop.evaluation.tracking import TruthSigma

WORLD = World("calibration", matches=100, sigma_px=0.3)  # errors of each match alone
CAUTIOUS = PoseOptions(common_px=1.0)


def sample(seed):
    t = trial(WORLD, seed)
    return Sample(t.matches, t.query, t.keyframe, t.keyframe_from_camera)


@pytest.fixture(scope="module")
def done():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "LEAST_POSES", 12)
        patch.setattr(calibration, "MOST_FITTED", 3)
        return calibration.calibrate([sample(k) for k in range(24)], CAUTIOUS, TruthSigma())


def test_caution_that_the_errors_do_not_ask_for_is_taken_back(done):
    assert done.poses == (12, 12)
    assert done.parameters["pose.common_px"] < 0.5
    before, after = done.held_out
    assert before < 0.3 and 1.5 < after < 11.0


def test_the_preset_is_a_parameter_file(done, tmp_path):
    path = tmp_path / "preset.yaml"
    path.write_text(preset(done, "a.mcap"))
    values = parameter_values(path)
    assert values["pose.common_px"] == done.parameters["pose.common_px"]
    assert "held out" in path.read_text() and "held out" in text(done)


def test_a_truth_that_is_better_than_it_says_is_taken_for_what_it_is():
    found = [sample(k) for k in range(12)]
    assert calibration.truth_share(found, PoseOptions(common_px=0.05), TruthSigma(0.05, 1.0)) < 0.2
    assert calibration.truth_share(found, CAUTIOUS, TruthSigma()) == 1.0


def test_too_few_poses_are_refused():
    with pytest.raises(InvalidInput, match="longer recording"):
        calibration.calibrate([sample(0)] * 10, CAUTIOUS, TruthSigma())
