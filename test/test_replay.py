"""A simulated bag replayed without a ROS graph: figures, files, and the same bits each time."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from l2m_ros import cli
from l2m_ros.bags.reader import open_bag
from l2m_ros.bags.recording import open_recording
from l2m_ros.bags.replay import find_topics, read_truth
from l2m_ros.errors import InvalidInput
from l2m_ros.parameters.file import parameter_values
from l2m_ros.parameters.table import PARAMETERS, base_from_camera
from l2m_ros.tracking.odometry import step as odometry_step
from l2m_ros.workshop.evaluation.trajectory import Trajectory, read_tum, write_tum
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.sensor_faults import spoil
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

FRAMES = 8


@pytest.fixture(scope="module", params=[".mcap", pytest.param(".db3", marks=pytest.mark.slow)])
def bag(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / f"room{request.param}"
    options = SimulationOptions(frames=FRAMES, width=320, height=240, stereo=False)
    write_bag(path, simulate(options))
    return path


def replay(capsys, *argv):
    try:
        code = cli.main(["replay", *map(str, argv)])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr()


def test_poses_against_the_truth_of_the_bag(bag, capsys, tmp_path):
    out = tmp_path / "poses.tum"
    code, said = replay(capsys, bag, "--model", "sift", "--json", "--out", out)
    assert code == 0, said.err
    figures = json.loads(said.out)
    assert figures["frames"] == FRAMES
    assert figures["posed"] == FRAMES - 1
    assert figures["poses"]["translation_median_mm"] < 10
    assert figures["trajectory"]["ate_rmse_m"] < 0.02
    written = read_tum(out)
    assert len(written) == FRAMES - 1
    with open_bag(bag) as opened:
        stamps, poses = read_truth(opened, "/ground_truth/pose")
    assert (written.stamps_ns == stamps[1:]).all()
    truth = tmp_path / "groundtruth.txt"  # as TUM names it
    write_tum(truth, Trajectory(np.array(stamps), np.array(poses)))
    code, said = replay(capsys, bag, "--model", "sift", "--json", "--truth", truth)
    again = json.loads(said.out)["poses"]
    assert again["translation_median_mm"] == pytest.approx(
        figures["poses"]["translation_median_mm"], abs=1e-3
    )


def test_twice_the_same_bits(bag, capsys, tmp_path):
    texts = []
    for name in ("a.tum", "b.tum"):
        replay(capsys, bag, "--model", "orb", "--out", tmp_path / name)
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]


def test_where_few_frames_have_a_pose_it_says_why(bag, capsys):
    words = ("--model", "sift", "-p", "depth:=ignore", "-p", "right:=ignore", "-p", "odom:=ignore")
    code, said = replay(capsys, bag, *words)
    assert code == 1
    assert f"{FRAMES - 1} frames: tracking: matched, but without metres" in said.out
    assert "frames: " not in replay(capsys, bag, "--model", "sift")[1].out


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_poses_as_a_bag(bag, capsys, tmp_path, suffix):
    out = tmp_path / f"poses{suffix}"
    assert replay(capsys, bag, "--model", "orb", "--out-bag", out)[0] == 0
    with open_bag(out) as written:
        assert written.count("/l2m/pose") == FRAMES - 1
        message = next(m for _, m in written.messages(["/l2m/relative"]))
        assert message.header.frame_id == "l2m_keyframe/0"
        assert message.child_frame_id == "camera_optical_frame"
        assert np.linalg.eigvalsh(np.reshape(message.pose.covariance, (6, 6))).min() > 0
    code, said = replay(capsys, bag, "--model", "orb", "--out-bag", out)
    assert code == 2
    assert "--force" in said.err


def test_topics_are_found_by_type_and_name(bag):
    with open_bag(bag) as opened:
        topics = find_topics(opened, {})
        assert topics.image == "/camera/image_raw"
        assert topics.camera_info == "/camera/camera_info"
        assert topics.depth == "/camera/depth"
        assert topics.odom == "/odom"
        assert topics.right_image is None
        with pytest.raises(InvalidInput, match=r"no topic /nowhere; it holds .*/camera/depth"):
            find_topics(opened, {"image": "/nowhere"})


def test_parameters_of_a_file_and_of_the_command_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("l2m:\n  ros__parameters:\n    model: sift\n    tracking: {min_inliers: 33}\n")
    values = parameter_values(path, {"tracking.max_sigma_m": "2", "model": "orb"})
    assert values["model"] == "orb"
    assert values["tracking.min_inliers"] == 33
    assert values["tracking.max_sigma_m"] == 2.0
    assert set(values) == set(PARAMETERS)
    with pytest.raises(InvalidInput, match=r"did you mean tracking\.min_inliers"):
        parameter_values(None, {"tracking.min_inlier": "3"})
    path.write_text("model: sift\n")
    with pytest.raises(InvalidInput, match="ros__parameters"):
        parameter_values(path)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere.mcap"], "no such bag"),
        ([__file__], "not a bag"),
        (["{folder}"], "holds no metadata.yaml"),
        (["{scene}"], "a folder of images with meta.json"),
        (["{bag}", "--out", "poses.csv"], ".tum"),
        (["{bag}", "--param", "model=orb"], "NAME:=VALUE"),
        (["{bag}", "--model", "sfit"], "sift"),
        (["{bag}", "--truth", "/nowhere"], "no topic /nowhere"),
        (["{bag}", "--image", "/camera/depth"], "is taken for --image and --depth"),
    ],
)
def test_refusals_in_one_line(bag, capsys, tmp_path, argv, words):
    names = {"bag": bag, "folder": tmp_path, "scene": tmp_path / "scene"}
    names["scene"].mkdir()
    (names["scene"] / "meta.json").write_text("{}")
    code, said = replay(capsys, *(text.format(**names) for text in argv))
    assert code == 2
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_the_report_holds_the_pictures(bag, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert replay(capsys, bag, "--model", "orb", "--report", page)[0] == 0
    text = page.read_text()
    assert text.count("data:image/png") == 3
    assert "NEES" in text


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """A robot on wheels, its odometry silent for half of the time; the camera is not its base."""
    path = tmp_path_factory.mktemp("driven") / "run.mcap"
    options = SimulationOptions(path="drive", frames=12, width=160, height=120, rate_hz=2.0,
                                stereo=False)  # fmt: skip
    write_bag(path, spoil(simulate(options), ["odom_gaps", "odom_constant"]))
    return path


def test_what_the_diagnostics_would_say_is_counted(driven, capsys):
    figures = json.loads(replay(capsys, driven, "--model", "orb", "--json")[1].out)
    said = figures["diagnostics"]
    assert figures["frames"] == 12  # those that waited for odometry at the end, too
    assert any("odom pauses" in words or "away from the image" in words for words in said)
    assert any("covariance is constant" in words for words in said)
    assert all(not any(digit in words for digit in "123456789") for words in said)


def test_where_the_camera_is_mounted_comes_from_the_bag(driven, capsys, tmp_path):
    options = ["--model", "orb", "-p", "base_from_tf:=true", "--out-bag", tmp_path / "out.mcap"]
    assert replay(capsys, driven, *options)[0] == 0
    with open_bag(tmp_path / "out.mcap") as bag:
        message = next(m for _, m in bag.messages(["/l2m/odometry"]))
        chain = [m for _, m in bag.messages(["/l2m/chain"])]
    assert (message.header.frame_id, message.child_frame_id) == ("odom", "base_link")
    # The camera sits 0.45 m above the base; odom begins where the base is.
    assert abs(message.pose.pose.position.z) < 0.05
    assert "first frame" in chain[0].message
    code, said = replay(capsys, driven, "-p", "base_from_tf:=true", "-p", "frames.base:=torso")
    assert code == 2 and "/tf_static does not connect camera_optical_frame to torso" in said.err


def test_parameters_without_effect_are_named(bag, capsys):
    given = ["-p", "publish_tf:=true", "-p", "queue:=all", "-p", "map.period_s:=3.0"]
    said = replay(capsys, bag, "--model", "orb", *given)[1]
    assert "replay ignores publish_tf, map.period_s: there is no graph" in said.err


def test_odometry_of_nan_is_left_out_and_the_replay_goes_on(capsys, tmp_path):
    """As in the node: one bad message costs itself, not the run."""
    options = SimulationOptions(frames=4, width=160, height=120, stereo=False)
    shots = list(simulate(options))
    for index in (1, 2):
        shots[index] = replace(shots[index], odom_covariance=np.full((6, 6), np.nan))
    write_bag(tmp_path / "nan.mcap", shots)
    code, said = replay(capsys, tmp_path / "nan.mcap", "--model", "sift", "--json")
    assert code == 0, said.err
    assert said.err.count("a message on /odom left out: odom holds NaN") == 1
    assert "... and 1 more messages for the same reasons" in said.err
    assert json.loads(said.out)["frames"] == 4
    with open_recording(tmp_path / "nan.mcap") as recording:  # what a map is built of
        assert len(list(recording.shots())) == 4


def test_images_after_the_end_of_odometry_are_in_a_recording_too(tmp_path):
    """Lossless inputs wait for odometry: what waited at the end of the bag was left out."""
    options = SimulationOptions(frames=4, width=160, height=120, stereo=False)
    shots = [replace(shot, odom_published=k < 2) for k, shot in enumerate(simulate(options))]
    write_bag(tmp_path / "ended.mcap", shots)
    with open_recording(tmp_path / "ended.mcap") as recording:
        assert len(list(recording.shots())) == 4


def test_a_recording_knows_where_the_camera_is_on_the_base(tmp_path):
    """A map took the wheels' way ahead for one to the right: it was built as if base and camera
    were one."""
    options = SimulationOptions(frames=3, width=160, height=120, stereo=False)
    shots = list(simulate(options))
    write_bag(tmp_path / "a.mcap", shots)
    with open_recording(tmp_path / "a.mcap") as recording:
        base, found = shots[0].base_from_camera, list(recording.shots())
    np.testing.assert_allclose(found[0].base_from_camera, base, atol=1e-6)  # of /tf_static
    step = odometry_step(found[0].odometry, found[2].odometry, base_from_camera=base).a_from_b
    true = np.linalg.inv(shots[0].world_from_camera) @ shots[2].world_from_camera
    assert np.linalg.norm(step[:3, 3] - true[:3, 3]) < 0.2 * np.linalg.norm(true[:3, 3])
    values = parameter_values(None, {"frames.base": "elsewhere"})
    with open_recording(tmp_path / "a.mcap", values=values) as recording:
        (first, *_) = recording.shots()
    np.testing.assert_allclose(first.base_from_camera, base_from_camera(values))  # the default
    values = parameter_values(None, {"base_from_camera": "[1.0, 0, 0, 0, 0, 0, 1.0]"})
    with open_recording(tmp_path / "a.mcap", values=values) as recording:
        (first, *_) = recording.shots()
    assert first.base_from_camera[0, 3] == 1.0
    values = parameter_values(None, {"base_from_tf": "true", "frames.base": "torso"})
    refused = pytest.raises(InvalidInput, match="does not connect camera_optical_frame to torso")
    with open_recording(tmp_path / "a.mcap", values=values) as recording, refused:
        next(recording.shots())


def test_what_a_matcher_published_is_no_input():
    """`ros2 bag record -a`: its own odometry would agree with it about everything."""
    types = {
        "/camera/image": "sensor_msgs/msg/Image",
        "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
        "/odom": "nav_msgs/msg/Odometry",
        "/l2m/odometry": "nav_msgs/msg/Odometry",
        "/robot1/l2m/odometry": "nav_msgs/msg/Odometry",
        "/l2m/keyframe": "sensor_msgs/msg/Image",
        "/l2m/matches": "sensor_msgs/msg/Image",
    }
    found = find_topics(SimpleNamespace(types=types, path="all.mcap"), {})
    assert (found.image, found.odom) == ("/camera/image", "/odom")
