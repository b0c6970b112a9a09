"""What goes wrong with cameras, over real DDS: no crash, no NaN, a diagnostic with the remedy, and
recovery when the input is good again. One node lives through all of it."""

import array
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ros_bench import (
    CAMERA,
    PERIOD_NS,
    Bench,
    depth,
    image,
    info,
    rgb,
    stamp_of,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from l2m_ros.node import node as node_module


@pytest.fixture(scope="module")
def bench():
    patch = pytest.MonkeyPatch()
    patch.setattr(node_module, "DIAGNOSTICS_S", 0.2)
    with Bench() as one:
        yield one
    patch.undo()


@pytest.fixture(autouse=True)
def _all_is_well_before_and_after(bench):
    bench.recover()
    bench.wait(lambda: bench.send() and all_well(bench), every_s=0.03)
    yield
    bench.recover()
    bench.wait(lambda: bench.send() and all_well(bench), every_s=0.03)
    for message in bench.poses:
        p, q = message.pose.pose.position, message.pose.pose.orientation
        numbers = [p.x, p.y, p.z, q.x, q.y, q.z, q.w, *message.pose.covariance]
        assert np.isfinite(numbers).all()


def all_well(bench) -> bool:
    return all(bench.status(part)[0] == 0 for part in ("node", "inputs", "tracking"))


def suffer(bench, part: str, words: str, send, level: int | None = None) -> str:
    """Send what is wrong until the diagnostics say so; what they say."""

    def said():
        send()
        now, message = bench.status(part)
        return words in message and (level is None or now == level) and message

    return bench.wait(said, every_s=0.04)


def odd_image(bench, message) -> None:
    """An image of the next stamp with everything else in order."""
    bench.publishers["camera_info"].publish(info(bench.number))
    bench.publishers["depth"].publish(depth(bench.number))
    message.header = image(bench.number).header
    bench.publishers["image"].publish(message)
    bench.number += 1


def broken(**changes) -> Image:
    message = image(0)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_camera_stops_and_returns(bench):
    words = bench.says("inputs", "no image for", level=2)
    assert "on /image" in words


IMAGES = {
    "unknown encoding": ({"encoding": "martian8"}, "encoding 'martian8' is unknown"),
    "cut off": ({"data": array.array("B", bytes(1000))}, "cut off: 1000 bytes"),
    "no bytes": ({"data": array.array("B")}, "cut off: 0 bytes"),
    "0x0": ({"width": 0, "height": 0, "step": 0, "data": array.array("B")}, "empty (0x0)"),
    "contradicting step": ({"step": 3}, "step is 3 bytes"),
    "width of 4 billion": ({"width": 2**32 - 1}, "step is"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_that_are_none(bench, case):
    changes, words = IMAGES[case]
    suffer(bench, "inputs", words, lambda: odd_image(bench, broken(**changes)), level=1)


def with_info(bench, message) -> None:
    bench.publishers["depth"].publish(depth(bench.number))
    # Of the image's stamp: else good ones stand in until a hundred have pushed them out.
    message.header = image(bench.number).header
    bench.publishers["camera_info"].publish(message)
    time.sleep(0.01)
    bench.publishers["image"].publish(image(bench.number))
    bench.number += 1


def test_camera_info_of_zeros(bench):
    zero = info(0)
    zero.k = [0.0] * 9
    words = suffer(bench, "inputs", "K[0] = 0", lambda: with_info(bench, zero))
    assert "camera_calibration" in words


def test_camera_info_of_another_size(bench):
    other = info(0, CAMERA.resized(320, 240))
    words = suffer(bench, "inputs", "camera_info is of 320x240", lambda: with_info(bench, other))
    assert "the image is 160x120: remap camera_info" in words


def test_camera_info_of_nan(bench):
    other = info(0)
    other.d = [float("nan")] * 5
    suffer(bench, "inputs", "NaN", lambda: with_info(bench, other))


def with_depth(bench, message) -> None:
    bench.publishers["camera_info"].publish(info(bench.number))
    message.header.stamp = image(bench.number).header.stamp
    bench.publishers["depth"].publish(message)
    bench.publishers["image"].publish(image(bench.number))
    bench.number += 1


DEPTHS = {
    "another size": (depth(0, shape=(60, 80)), "depth is 80x60 but the image is 160x120"),
    "all NaN": (depth(0, metres=float("nan")), "no known pixel"),
    "all zero": (depth(0, metres=0.0), "no known pixel"),
    "a colour image": (image(0), "depth encoding 'rgb8' is unknown"),
}


@pytest.mark.parametrize("case", DEPTHS)
def test_depth_that_is_none(bench, case):
    message, words = DEPTHS[case]
    suffer(bench, "inputs", words, lambda: with_depth(bench, message), level=1)


def test_depth_stops_while_images_go_on(bench):
    """Its publisher lives, so frames wait for it, and the diagnostics name it."""
    words = suffer(bench, "inputs", "depth is +", lambda: bench.send(with_depth=False), level=2)
    assert "behind the image" in words


def with_stamp(bench, stamp: int, frame_id: str = "cam") -> None:
    bench.publishers["image"].publish(image(bench.number, stamp=stamp, frame_id=frame_id))


def test_stamps_of_zero(bench):
    suffer(bench, "inputs", "stamp is zero", lambda: with_stamp(bench, 0))


def test_repeated_stamps(bench):
    stamp = stamp_of(bench.number - 1)
    suffer(bench, "inputs", "repeat a stamp", lambda: with_stamp(bench, stamp))


def test_stragglers(bench):
    def send():
        bench.send()
        with_stamp(bench, stamp_of(bench.number - 1) - 3 * PERIOD_NS // 2)

    suffer(bench, "inputs", "older than the one before", send)


def test_time_jumps_back_once(bench, monkeypatch):
    """A looping bag: state is reset, said once, and poses go on."""
    said = []
    monkeypatch.setattr(bench.node.health, "log", lambda level, words: said.append(words))
    for _ in range(2):
        bench.number = 0
        bench.recover(30)  # 1.5 s: a shorter loop would be taken for stragglers at first
    jumps = [words for words in said if "jumped back" in words]
    assert len(jumps) == 2, said
    assert "starting new" in jumps[0]


def test_two_cameras_on_one_topic(bench):
    second = bench.driver.create_publisher(Image, "image", 10)
    bench.wait(second.get_subscription_count)

    def send():
        bench.send()
        second.publish(image(0, stamp=stamp_of(bench.number) - 1, frame_id="other"))

    words = suffer(bench, "inputs", "two cameras on one topic", send)
    assert "'other'" in words and "remap" in words
    bench.says("node", "2 publishers on /image")
    bench.recover()  # the first one is still tracked
    bench.driver.destroy_publisher(second)


def test_the_resolution_changes_in_flight(bench):
    """Poses go on at the new size: first without a camera_info that fits, then with it."""
    small = CAMERA.resized(80, 60)

    def send(camera):
        n = bench.number
        bench.publishers["camera_info"].publish(info(n, camera))
        bench.publishers["depth"].publish(depth(n, shape=(60, 80)))
        bench.publishers["image"].publish(image(n, pixels=rgb(n, 80, 60)))
        bench.number += 1

    suffer(bench, "inputs", "camera_info is of 160x120", lambda: send(CAMERA))
    before = len(bench.poses)
    bench.wait(lambda: send(small) or len(bench.poses) >= before + 5, every_s=0.03)
    bench.wait(lambda: send(small) or all_well(bench), every_s=0.03)


def test_the_driver_restarts(bench):
    for publisher in bench.publishers.values():
        bench.driver.destroy_publisher(publisher)
    words = bench.says("inputs", "nobody publishes /image", level=2)
    assert "remap image" in words
    for name, kind in {"image": Image, "camera_info": CameraInfo, "depth": Image}.items():
        bench.publishers[name] = bench.publisher(kind, name)
    bench.connect()


def test_camera_info_never_comes():
    with Bench(activate=False) as bench:
        bench.driver.destroy_publisher(bench.publishers["camera_info"])
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        bench.connect("image", "depth")

        def send():
            bench.publishers["depth"].publish(depth(bench.number))
            bench.publishers["image"].publish(image(bench.number))
            bench.number += 1

        words = suffer(bench, "inputs", "nobody publishes /camera_info", send, level=2)
        assert "remap camera_info" in words
        bench.publishers["camera_info"] = bench.publisher(CameraInfo, "camera_info")
        bench.connect("camera_info")
        bench.recover()


def test_a_forgotten_remapping_is_told_what_there_is():
    with Bench(activate=False) as bench:
        bench.driver.destroy_publisher(bench.publishers.pop("image"))
        bench.publisher(Image, "front_camera/image_raw")
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        assert "/front_camera/image_raw" in bench.says("inputs", "nobody publishes /image")


def test_simulated_time_pauses_without_complaint():
    """A paused bag: /clock stands still, and so do the images."""
    with Bench(use_sim_time=True, stale_after_s=1.5) as bench:
        clock = bench.publisher(Clock, "/clock")
        bench.wait(clock.get_subscription_count)

        def tick():
            message = Clock()
            message.clock = image(bench.number).header.stamp
            clock.publish(message)
            bench.send()
            return len(bench.poses) >= 3

        bench.wait(tick, every_s=0.03)
        bench.wait(lambda: bench.values("node").get("clock") == "paused")
        time.sleep(2.0)  # more than stale_after_s
        assert "no image" not in bench.status("inputs")[1]
        before = len(bench.poses)
        bench.wait(lambda: tick() and len(bench.poses) > before + 2, every_s=0.03)
