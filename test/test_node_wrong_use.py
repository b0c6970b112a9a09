"""What users get wrong, answered: parameters of another type, transitions that do not exist, two
robots, compressed images under another transport, words on the command line."""

import array
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_bench import Bench, depth, header, info, rgb, stamp_of
from sensor_msgs.msg import CompressedImage

from l2m_ros.errors import InvalidInput
from l2m_ros.node import node as node_module
from l2m_ros.node.main import check_domain, in_words, own_arguments

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def _often():
    patch = pytest.MonkeyPatch()
    patch.setattr(node_module, "DIAGNOSTICS_S", 0.2)
    yield
    patch.undo()


def called(bench, kind, service, request):
    client = bench.driver.create_client(kind, service)
    assert client.wait_for_service(20.0)
    future = client.call_async(request)
    return bench.wait(lambda: future.done() and future.result())


def test_an_invalid_transition_is_answered():
    """rclpy raises out of its service: whoever asked waited for ever."""
    with Bench(activate=False) as bench:
        for transition in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CLEANUP, 99):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert called(bench, ChangeState, "/l2m/change_state", request).success is False
        request = ChangeState.Request(transition=Transition(label="nonsense"))
        assert called(bench, ChangeState, "/l2m/change_state", request).success is False
        state = called(bench, GetState, "/l2m/get_state", GetState.Request()).current_state
        assert state.id == State.PRIMARY_STATE_UNCONFIGURED
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        assert called(bench, ChangeState, "/l2m/change_state", request).success is True


def test_whole_numbers_serve_as_fractions_at_start_and_later():
    with Bench(
        activate=False, **{"tracking.max_sigma_m": 1, "base_from_camera": [0, 0, 0, 0, 0, 0, 1]}
    ) as bench:
        assert bench.node.get_parameter("tracking.max_sigma_m").value == 1.0
        assert list(bench.node.get_parameter("base_from_camera").value)[6] == 1.0
        if hasattr(bench.node, "add_pre_set_parameters_callback"):
            change = Parameter("tracking.max_sigma_m", value=2).to_parameter_msg()
            request = SetParameters.Request(parameters=[change])
            answer = called(bench, SetParameters, "/l2m/set_parameters", request)
            assert answer.results[0].successful, answer.results[0].reason
            assert bench.node.get_parameter("tracking.max_sigma_m").value == 2.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": 5}, "model takes a text"),
        ({"depth": False}, "depth takes a text"),
        ({"threads": 1.5}, "threads takes a whole number"),
        ({"tracking.min_inliers": 3}, "at least 6"),
        ({"tracking.max_sigma_m": 1e9}, "at most 1000"),
        ({"tracking.max_sigma_m": float("nan")}, "must be a number"),
        ({"base_from_camera": ["a", "b"]}, "7 numbers"),
        ({"image_transport": "gzip"}, "known: raw, compressed"),
    ],
)
def test_parameters_that_cannot_be_are_one_line(given, words):
    with pytest.raises(InvalidInput, match=words):
        Bench(activate=False, **given)


def test_a_running_node_refuses_a_camera_on_the_floor_and_goes_on():
    with Bench() as bench:
        change = Parameter("pose.floor_below_base_m", value=0.0).to_parameter_msg()
        request = SetParameters.Request(parameters=[change])
        answer = called(bench, SetParameters, "/l2m/set_parameters", request)
        assert not answer.results[0].successful
        assert "above the floor" in answer.results[0].reason
        bench.recover()


def test_a_parameter_set_between_configure_and_activate_holds():
    """It was accepted, shown by `ros2 param get`, and never used."""
    with Bench(activate=False) as bench:
        bench.node.trigger_configure()
        assert bench.set("tracking.min_inliers", 33) == ""
        bench.node.trigger_activate()
        assert bench.node._tracker.options.gates.min_inliers == 33


def test_a_qos_override_of_another_type_fails_activate_in_words():
    given = {"qos_overrides./image.subscription.depth": "many"}
    with Bench(activate=False, **given) as bench:
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        words = bench.says("node", "activate failed")
        assert "qos_overrides./image.subscription.depth" in words


def test_statuses_name_the_robot():
    with Bench(activate=False, inside=False) as bench:
        from l2m_ros.node.node import MatcherNode

        node = MatcherNode(
            make_matcher=lambda name, **options: bench.matcher,
            context=bench.context,
            namespace="/robot1",
            parameter_overrides=[Parameter("autostart", value=False)],
        )
        bench._spin(node)
        bench.wait(lambda: "robot1/l2m: node" in bench.statuses)
        node.destroy_node()


def test_hints_leave_out_outputs_of_matchers_and_name_the_transport():
    with Bench(activate=False, inside=True) as bench:
        for name in ("relative", "correspondences", "keyframe"):
            kind = bench.publishers["image"].msg_type
            bench.driver.create_publisher(kind, f"/robot2/l2m/{name}", 1)
        bench.driver.destroy_publisher(bench.publishers.pop("image"))
        packed = bench.driver.create_publisher(CompressedImage, "/image/compressed", 1)
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        words = bench.says("inputs", "image_transport: compressed")
        assert "/image/compressed" in words and "robot2" not in words and "depth" not in words
        assert packed.topic_name == "/image/compressed"


def test_after_shutdown_nothing_is_missing():
    with Bench(activate=False) as bench:
        bench.driver.destroy_publisher(bench.publishers.pop("image"))
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        assert "nobody publishes" not in bench.status("inputs")[1]  # discovery takes a moment
        bench.says("inputs", "nobody publishes /image", level=2)
        said = []
        bench.node.health.log = lambda level, words: said.append(words)
        bench.node.trigger_deactivate()
        bench.wait(lambda: bench.status("inputs") == (0, "good"))
        bench.node.trigger_shutdown()
        bench.wait(lambda: bench.status("node")[1] == "finalized")
        assert not any("good again" in words for words in said)


def test_compressed_images_with_compressed_depth():
    given = {"image_transport": "compressed", "depth_transport": "compressedDepth"}
    with Bench(activate=False, **given) as bench:
        images = bench.publisher(CompressedImage, "image/compressed")
        depths = bench.publisher(CompressedImage, "depth/compressedDepth")
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        bench.connect("camera_info")
        bench.wait(lambda: images.get_subscription_count() and depths.get_subscription_count())

        def send():
            head = header(stamp_of(bench.number), "cam")
            png = cv2.imencode(".png", rgb(bench.number)[..., ::-1])[1].tobytes()
            metres = np.frombuffer(bytes(depth(bench.number).data), np.float32)
            millimetres = np.rint(metres * 1000).astype(np.uint16).reshape(rgb(0).shape[:2])
            packed = bytes(12) + cv2.imencode(".png", millimetres)[1].tobytes()
            image = CompressedImage(header=head, format="png", data=array.array("B", png))
            fmt = "16UC1; compressedDepth png"
            deep = CompressedImage(header=head, format=fmt, data=array.array("B", packed))
            images.publish(image)
            depths.publish(deep)
            bench.publishers["camera_info"].publish(info(bench.number))
            bench.number += 1
            return len(bench.poses) >= 3

        bench.wait(send, every_s=0.05)


def test_the_command_line_in_words(monkeypatch):
    assert "usage: matcher" in own_arguments(["matcher", "--help"])
    assert own_arguments(["matcher", "--ros-args", "-p", "model:=sift"]) is None
    with pytest.raises(InvalidInput, match="--bogus"):
        own_arguments(["matcher", "--bogus"])
    for domain, good in (("", True), ("42", True), ("9999", False), ("x", False), ("-1", False)):
        monkeypatch.setenv("ROS_DOMAIN_ID", domain)
        if good:
            check_domain()
        else:
            with pytest.raises(InvalidInput, match="from 0 to 232"):
                check_domain()
    assert "set ROS_LOG_DIR" in in_words(RuntimeError("Failed to get logging directory, at x"))


def test_refusals_of_a_process_are_one_line_and_code_2():
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "ROS_LOG_DIR")}
    for more, argv, words in (
        ({}, ["--ros-args", "-p", "model:=sift"], "set ROS_LOG_DIR"),
        ({"ROS_LOG_DIR": "/tmp"}, ["--ros-args", "-p", "tracking.min_inliers:=3"], "at least 6"),
        ({"ROS_LOG_DIR": "/tmp"}, ["--ros-args", "--hlp"], "no ROS arguments: '--hlp' (see --help"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "l2m_ros.node.main", *argv], cwd=ROOT, env=env | more,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_ctrl_c_twice_ends_clean():
    """A terminal sends SIGINT to the whole group, and launch sends its own after it."""
    env = os.environ | {"ROS_DOMAIN_ID": "77"}
    argv = [sys.executable, "-m", "l2m_ros.node.main", "--ros-args", "-p", "model:=sift"]
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "activate: done" in line:
            break
    for _ in range(40):
        if process.poll() is not None:
            break
        process.send_signal(2)
        time.sleep(0.02)
    assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()
