"""Runs written down: ROS 2 bags as rosbag2 reads them, evaluation scenes, all or nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.folder import DEPTH_SCALE, write_folder
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate
from l2m_ros.workshop.simulation.truth import true_points

rosbag2 = pytest.importorskip("rosbags.rosbag2")

TYPES = {
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/odom": "nav_msgs/msg/Odometry",
    "/ground_truth/pose": "geometry_msgs/msg/PoseStamped",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/depth": "sensor_msgs/msg/Image",
    "/camera/right/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/right/image_raw": "sensor_msgs/msg/Image",
}
OPTIONS = SimulationOptions(width=160, height=120, frames=4, rate_hz=5.0, seed=4)


@pytest.fixture(scope="module")
def shots():
    return list(simulate(OPTIONS))


@pytest.fixture(scope="module", params=[".mcap", ".db3"])
def bag(request, shots, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bags") / f"run{request.param}"
    write_bag(path, shots, custom_data={"scene": "room"})
    return path


def messages(path: Path) -> dict[str, list]:
    """topic -> [(receive time, connection, raw CDR, message)]"""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)  # the oldest that must read it
    found: dict[str, list] = {}
    with rosbag2.Reader(path) as reader:
        for connection, stamp, raw in reader.messages():
            message = store.deserialize_cdr(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append((stamp, connection, bytes(raw), message))
    return found


def matrix(position, orientation) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    q = orientation
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    pose[:3, 3] = position.x, position.y, position.z
    return pose


def test_every_topic_is_there_with_its_type_and_stamps(bag, shots):
    found = messages(bag)
    assert {topic: said[0][1].msgtype for topic, said in found.items()} == TYPES
    stamps = [shot.frame.stamp_ns for shot in shots]
    for topic, said in found.items():
        if topic == "/tf_static":
            assert len(said) == 1
            continue
        assert [stamp for stamp, *_ in said] == stamps
        headers = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for *_, m in said]
        assert headers == stamps


def test_images_and_depth_are_those_of_the_run(bag, shots):
    found = messages(bag)
    for k, shot in enumerate(shots):
        image = found["/camera/image_raw"][k][3]
        assert (image.encoding, image.step, image.is_bigendian) == ("rgb8", 480, 0)
        assert (image.data.reshape(120, 160, 3) == shot.frame.rgb).all()
        right = found["/camera/right/image_raw"][k][3]
        assert (right.data.reshape(120, 160, 3) == shot.frame.right_rgb).all()
        depth = found["/camera/depth"][k][3]
        assert (depth.encoding, depth.step) == ("16UC1", 320)
        mm = depth.data.view("<u2").reshape(120, 160)
        assert np.abs(mm / 1000.0 - shot.frame.depth).max() <= 0.0005001


def test_depth_as_floats_keeps_unknown_as_nan(shots, tmp_path):
    faulty = list(simulate(SimulationOptions(width=160, height=120, frames=1,
                                             faults=Faults.named(["depth"]))))  # fmt: skip
    write_bag(tmp_path / "f.mcap", faulty, depth_encoding="32FC1")
    depth = messages(tmp_path / "f.mcap")["/camera/depth"][0][3]
    values = depth.data.view("<f4").reshape(120, 160)
    assert depth.encoding == "32FC1" and np.isnan(values).any()
    assert np.array_equal(values, faulty[0].frame.depth, equal_nan=True)
    write_bag(tmp_path / "mm.mcap", faulty)
    mm = messages(tmp_path / "mm.mcap")["/camera/depth"][0][3].data.view("<u2").reshape(120, 160)
    assert ((mm == 0) == np.isnan(values)).all()


def test_camera_info_describes_both_cameras(bag, shots):
    found = messages(bag)
    K = shots[0].frame.camera.K
    left, right = found["/camera/camera_info"][0][3], found["/camera/right/camera_info"][0][3]
    for info in (left, right):
        assert (info.width, info.height) == (160, 120)
        assert np.allclose(info.k.reshape(3, 3), K) and np.allclose(info.r.reshape(3, 3), np.eye(3))
        assert info.distortion_model == "plumb_bob" and len(info.d) == 5 and not info.d.any()
    assert left.p[3] == 0 and np.isclose(right.p[3], -K[0, 0] * OPTIONS.baseline_m)
    assert left.header.frame_id == "camera_optical_frame"
    assert right.header.frame_id == "camera_right_optical_frame"


def test_a_bent_lens_travels_in_camera_info(tmp_path):
    (shot,) = simulate(SimulationOptions(width=64, height=48, frames=1, stereo=False,
                                         faults=Faults.named(["lens"])))  # fmt: skip
    write_bag(tmp_path / "lens.mcap", [shot])
    found = messages(tmp_path / "lens.mcap")
    info = found["/camera/camera_info"][0][3]
    assert info.distortion_model == "plumb_bob" and np.allclose(info.d, shot.frame.camera.D)
    assert "/camera/right/image_raw" not in found


def test_poses_transforms_and_odometry_tell_one_story(bag, shots):
    """world <- optical frame = world <- base <- optical frame; a point lands in its pixel."""
    found = messages(bag)
    transforms = {t.child_frame_id: t for t in found["/tf_static"][0][3].transforms}
    assert {t.header.frame_id for t in transforms.values()} == {"base_link"}
    t = transforms["camera_optical_frame"].transform
    base_from_camera = matrix(t.translation, t.rotation)
    r = transforms["camera_right_optical_frame"].transform
    camera_from_right = np.linalg.inv(base_from_camera) @ matrix(r.translation, r.rotation)
    assert np.allclose(camera_from_right[:3, 3], [OPTIONS.baseline_m, 0, 0])
    for k, shot in enumerate(shots):
        truth = found["/ground_truth/pose"][k][3]
        assert truth.header.frame_id == "world"
        world_from_camera = matrix(truth.pose.position, truth.pose.orientation)
        assert np.allclose(world_from_camera, shot.world_from_camera, atol=1e-9)
        assert np.allclose(world_from_camera, shot.world_from_base @ base_from_camera, atol=1e-9)
        odom = found["/odom"][k][3]
        assert (odom.header.frame_id, odom.child_frame_id) == ("odom", "base_link")
        got = matrix(odom.pose.pose.position, odom.pose.pose.orientation)
        assert np.allclose(got, shot.odom_from_base, atol=1e-9)
        assert np.allclose(odom.pose.covariance.reshape(6, 6), shot.odom_covariance)
        assert np.linalg.eigvalsh(shot.odom_covariance).min() > 0
    step = np.linalg.inv(shots[0].odom_from_base) @ shots[1].odom_from_base
    speed = found["/odom"][1][3].twist.twist.linear
    assert np.allclose([speed.x, speed.y, speed.z], step[:3, 3] / 0.2)


def rosbag2_decodes(information: dict) -> None:
    """What rosbag2_storage's yaml.hpp asks of metadata up to version 8 (Humble to Jazzy)."""
    assert information["version"] <= 8
    assert information["storage_identifier"] in ("mcap", "sqlite3")
    assert isinstance(information["duration"]["nanoseconds"], int)
    assert isinstance(information["starting_time"]["nanoseconds_since_epoch"], int)
    assert isinstance(information["message_count"], int)
    for topic in information["topics_with_message_count"]:
        said = topic["topic_metadata"]
        for key in ("name", "type", "serialization_format", "offered_qos_profiles",
                    "type_description_hash"):  # fmt: skip
            assert isinstance(said[key], str) and said[key], key
        assert said["serialization_format"] == "cdr"
        assert said["type_description_hash"].startswith("RIHS01_")
    assert information["compression_format"] == "" and information["compression_mode"] == ""
    for file in information["files"]:
        assert set(file) >= {"path", "starting_time", "duration", "message_count"}
    assert isinstance(information["custom_data"], dict)
    assert isinstance(information["ros_distro"], str)


def test_metadata_is_what_rosbag2_expects(bag):
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    information = yaml.load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    rosbag2_decodes(information)
    assert information["relative_file_paths"] == [bag.name]
    assert (bag / bag.name).is_file()
    assert information["custom_data"]["scene"] == "room"
    counts = [t["message_count"] for t in information["topics_with_message_count"]]
    assert sum(counts) == information["message_count"] == 4 * 7 + 1
    for topic in information["topics_with_message_count"]:
        (qos,) = yaml.load(topic["topic_metadata"]["offered_qos_profiles"])
        latched = topic["topic_metadata"]["name"] == "/tf_static"
        assert qos["reliability"] == 1 and qos["durability"] == (1 if latched else 2)
        assert qos["history"] == 1 and qos["depth"] >= 1


def test_definitions_and_hashes_are_those_of_ros(bag):
    from rosbags.typesys import Stores, get_typestore

    jazzy = get_typestore(Stores.ROS2_JAZZY)
    for said in messages(bag).values():
        connection = said[0][1]
        if bag.suffix == ".mcap":
            assert (
                connection.msgdef.data
                == jazzy.generate_msgdef(connection.msgtype, ros_version=2)[0]
            )
        assert connection.digest == jazzy.hash_rihs01(connection.msgtype)


def test_rclpy_reads_the_messages(bag, shots):
    serialization = pytest.importorskip("rclpy.serialization")
    found = messages(bag)
    found.pop("/tf_static")  # tf2_msgs is not among the wheels; its parts are, in the others
    for topic, said in found.items():
        package, _, name = said[0][1].msgtype.split("/")
        kind = getattr(pytest.importorskip(f"{package}.msg"), name)
        for stamp, _, raw, _ in said:
            message = serialization.deserialize_message(raw, kind)
            if topic == "/camera/image_raw":
                shot = next(s for s in shots if s.frame.stamp_ns == stamp)
                assert bytes(message.data) == shot.frame.rgb.tobytes()
            if topic == "/odom":
                assert np.isfinite(message.pose.covariance).all()


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(way, shots, tmp_path, request):
    # A shell ignores SIGINT for what it starts in the background, a test run included.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def cut_short():
        yield shots[0]
        os.kill(os.getpid(), way)
        yield shots[1]

    for write, name in ((write_bag, "x.mcap"), (write_bag, "x.db3"), (write_folder, "x")):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / name, cut_short())
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_exists_is_replaced_only_by_force_and_only_by_something_whole(shots, tmp_path):
    bag = tmp_path / "x.mcap"
    write_bag(bag, shots[:1])
    before = (bag / "x.mcap").read_bytes()
    with pytest.raises(InvalidInput, match="--force"):
        write_bag(bag, shots)
    with pytest.raises(RuntimeError):
        write_bag(bag, (_ for _ in ()).throw(RuntimeError()), force=True)
    assert (bag / "x.mcap").read_bytes() == before
    write_bag(bag, shots[:2], force=True)
    assert len(messages(bag)["/odom"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["x.mcap"]


def test_a_bag_needs_a_known_suffix_and_encoding(shots, tmp_path):
    with pytest.raises(InvalidInput, match=r"\.mcap or \.db3"):
        write_bag(tmp_path / "x.bag", shots)
    with pytest.raises(InvalidInput, match="16UC1"):
        write_bag(tmp_path / "x.mcap", shots, depth_encoding="mono16")


def test_an_evaluation_scene_holds_the_truth(shots, tmp_path):
    scene = tmp_path / "scene"
    assert main(["simulate", "--out", str(scene), "--size", "160x120", "--frames", "8",
                 "--rate", "2", "--seed", "4", "--pairs", "6"]) == 0  # fmt: skip
    meta, pairs = (json.loads((scene / f"{n}.json").read_text()) for n in ("meta", "pairs"))
    run = list(simulate(SimulationOptions(width=160, height=120, frames=8, rate_hz=2, seed=4,
                                          stereo=False)))  # fmt: skip
    assert meta["scene"] == "simulated room, seed 0"
    assert meta["metric"] is True and len(meta["cameras"]) == 8
    for shot in run:
        name = f"{shot.index:06d}.png"
        image = cv2.imread(str(scene / "images" / name))[..., ::-1]
        assert (image == shot.frame.rgb).all()
        value = cv2.imread(str(scene / "depth" / name), cv2.IMREAD_UNCHANGED)
        assert value.dtype == np.uint16
        assert np.abs(value * meta["depth_scale"] - shot.true_depth_m).max() <= DEPTH_SCALE / 1.9
        assert np.allclose(meta["cameras"][name]["world_from_camera"], shot.world_from_camera)
    assert 1 <= len(pairs) <= 6
    for pair in pairs:
        a, b = (run[int(pair[key][:6])] for key in ("a", "b"))
        pixels = np.random.default_rng(0).uniform(10, 100, (50, 2))
        warp, visible = true_points(a, b, pixels)
        depth = cv2.remap(a.true_depth_m, *pixels.T.astype(np.float32), cv2.INTER_NEAREST)
        assert depth.size == 50 and 0.3 <= pair["overlap"] <= 0.97
        rays = np.c_[pixels, np.ones(50)] @ np.linalg.inv(meta["K"]).T
        line = np.cross(
            np.array(pair["T_b_a"])[:3, 3] @ np.eye(3), rays @ np.array(pair["T_b_a"])[:3, :3].T
        )
        rays_b = np.c_[warp, np.ones(50)] @ np.linalg.inv(meta["K"]).T
        error = np.abs((line * rays_b).sum(1)) / np.linalg.norm(line[:, :2], axis=1)
        assert (meta["K"][0][0] * error)[visible].max(initial=0.0) < 1e-3


def test_a_bent_lens_does_not_fit_the_evaluation_layout(tmp_path, capsys):
    status = main(["simulate", "--out", str(tmp_path / "s"), "--faults", "lens", "--frames", "2",
                   "--size", "64x48"])  # fmt: skip
    assert status == 2 and "leave out the fault 'lens'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong, words",
    [
        (["--scene", "rooom"], "did you mean room"),
        (["--path", "drve"], "did you mean drive"),
        (["--faults", "blurr"], "did you mean blur"),
        (["--frames", "0"], "frames lies from 1"),
        (["--depth-encoding", "mono8"], "16UC1"),
    ],
)
def test_wrong_options_get_one_line_and_leave_nothing(wrong, words, tmp_path, capsys):
    assert main(["simulate", "--out", str(tmp_path / "x.mcap"), "--frames", "2", *wrong]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_says_how_to_write_it(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["simulate", "--out", str(tmp_path / "x.mcap"), "--size", "640"])
    assert "not a size: write WxH" in capsys.readouterr().err


def test_the_command_reports_what_it_wrote(tmp_path, capsys):
    out = tmp_path / "run.db3"
    assert main(["simulate", "--out", str(out), "--frames", "2", "--size", "64x48", "--json",
                 "--faults", "noise,depth"]) == 0  # fmt: skip
    figures = json.loads(capsys.readouterr().out)
    assert figures["frames"] == 2 and figures["kind"] == "bag" and figures["stereo"] is True
    assert len(messages(out)["/camera/right/image_raw"]) == 2
