"""The table of parameters: checked values, one home per default, and documentation that agrees."""

import itertools
from pathlib import Path

import pytest
import yaml

from l2m_ros.errors import InvalidInput
from l2m_ros.parameters.docs import markdown, matcher_yaml
from l2m_ros.parameters.table import (
    PARAMETERS,
    base_from_camera,
    depth_reader_options,
    matcher_options,
    tracker_options,
    unknown_names,
    validation_error,
)
from l2m_ros.tracking.options import TrackerOptions

ROOT = Path(__file__).parent.parent
DEFAULTS = {p.name: p.default for p in PARAMETERS.values()}
FOR_OTHERS = {"nav2.yaml", "robot_localization.yaml"}  # other nodes' parameters; test_robots.py
PRESETS = sorted(p for p in (ROOT / "config").glob("*.yaml") if p.name not in FOR_OTHERS)


def test_defaults_pass_their_own_checks():
    assert validation_error(DEFAULTS) is None


def test_defaults_are_those_of_the_tracker():
    ours, theirs = tracker_options(DEFAULTS), TrackerOptions()
    assert (ours.gates, ours.keyframes, ours.pose) == (theirs.gates, theirs.keyframes, theirs.pose)
    assert ours == theirs


@pytest.mark.parametrize("p", PARAMETERS.values(), ids=lambda p: p.name)
def test_every_parameter_is_described_and_bounded(p):
    assert len(p.description) > 10 and not p.description.endswith(".")
    if type(p.default) in (int, float):
        assert p.low is not None and p.high is not None and p.low <= p.default <= p.high
        assert p.validation_error(type(p.default)(p.high)) is None
        assert str(p.name) in p.validation_error(type(p.default)(p.high + 1))
        assert "at least" in p.validation_error(type(p.default)(p.low - 1))
    if p.choices:
        assert p.default in p.choices
        assert f"did you mean {p.choices[0]}?" in p.validation_error(p.choices[0][:-1])


def test_a_parameter_of_another_type_is_refused():
    assert "takes a whole number" in PARAMETERS["threads"].validation_error("many")
    assert "takes a number" in PARAMETERS["sync.slop_s"].validation_error(True)
    assert "must be a number" in PARAMETERS["sync.slop_s"].validation_error(float("nan"))


def test_every_tracking_parameter_arrives():
    """Each changed value must change the options: none is declared in vain."""
    for name, p in PARAMETERS.items():
        if name == "tracking.mask":  # a file: test_second_motion.py
            continue
        if name.startswith(("tracking.", "keyframes.", "pose.")):
            changed = p.high if p.default != p.high else p.low
            if isinstance(p.default, bool):
                changed = not p.default
            values = {**DEFAULTS, name: type(p.default)(changed)}
            assert tracker_options(values) != tracker_options(DEFAULTS), name


def test_camera_on_its_base():
    forward = base_from_camera(DEFAULTS)
    assert (forward[:3, 2].round(9) == [1, 0, 0]).all()  # the optical axis is the base's x
    assert (forward[:3, 0].round(9) == [0, -1, 0]).all()
    with pytest.raises(InvalidInput, match="7 numbers"):
        base_from_camera({"base_from_camera": [0.0] * 6})
    assert "base_from_camera" in validation_error({**DEFAULTS, "base_from_camera": [0.0] * 7})


def test_a_camera_on_the_floor_is_an_error_in_words():
    """It was an exception of `tracker_options`: set while the node ran, it ended the node."""
    values = {**DEFAULTS, "pose.floor_below_base_m": 0.0}  # base_from_camera's z is 0
    assert "above the floor" in validation_error(values)
    assert validation_error({**values, "base_from_tf": True}) is None
    mounted = [0.0, 0.0, 0.3, *DEFAULTS["base_from_camera"][3:]]
    assert validation_error({**values, "base_from_camera": mounted}) is None


def test_only_what_was_set_goes_to_the_matcher():
    assert matcher_options(DEFAULTS) == {"backend": "auto"}
    values = {**DEFAULTS, "threads": 2, "model_width": 320, "model_height": 240}
    assert matcher_options(values) == {"backend": "auto", "threads": 2, "size": (320, 240)}
    values["precision"] = "bf16"
    assert matcher_options(values)["precision"] == "bf16"
    read = depth_reader_options({**values, "mono_depth": "lite_depth"})
    assert read == {"backend": "auto", "threads": 2}  # a depth head knows no bf16
    assert matcher_options({**values, "model": "orb"}) == {}  # a preset for networks does not harm


def test_unknown_names_get_the_nearest_right_spelling():
    given = ["model", "use_sim_time", "qos_overrides./a.subscription.depth", "keyframe.inliers_min"]
    assert unknown_names(given) == ["keyframe.inliers_min (did you mean keyframes.inliers_min?)"]


def test_documentation_agrees_with_the_table():
    """Written anew by: python -m l2m_ros.parameters.docs"""
    assert (ROOT / "docs/parameters.md").read_text() == markdown()
    assert (ROOT / "config/matcher.yaml").read_text() == matcher_yaml()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_configuration_files_hold_known_values_that_fit(path):
    """As `--params-file` takes them, under the wildcard, so that any node name and namespace do."""
    tree = yaml.safe_load(path.read_text())
    assert list(tree) == ["/**"]
    values = flat(tree["/**"]["ros__parameters"])
    assert unknown_names(values) == []
    ours = {name: value for name, value in values.items() if name in PARAMETERS}
    assert validation_error({**DEFAULTS, **ours}) is None


def test_matcher_yaml_explains_every_value():
    path = ROOT / "config/matcher.yaml"
    values = flat(yaml.safe_load(path.read_text())["/**"]["ros__parameters"])
    assert {name: values.get(name) for name in DEFAULTS} == DEFAULTS
    lines = path.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if ":" in line and not line.lstrip().startswith("#") and not line.rstrip().endswith(":"):
            assert "#" in line or before.lstrip().startswith("#"), line


def flat(tree: dict, prefix: str = "") -> dict:
    values = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        values.update(flat(value, f"{prefix}{name}.") if inner else {prefix + name: value})
    return values
