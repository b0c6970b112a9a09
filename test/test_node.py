"""The node over real DDS: poses against truth, outputs, services, parameters, queues, QoS."""

import array
import sys
import threading
import time
import traceback
import types
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_bench import (
    CAMERA,
    FOCAL_PX,
    HEIGHT,
    PERIOD_NS,
    STEP_M,
    WIDTH,
    Bench,
    TruthMatcher,
    depth_m,
    image,
    info,
    rgb,
    shift_px,
    stamp_of,
    truth_x_m,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from l2m_ros.frames import outputs
from l2m_ros.frames.builder import FrameBuilder
from l2m_ros.frames.messages import (
    camera_info_message,
    header,
    odometry_message,
    read_cloud,
    read_pose,
    stamp_ns,
)
from l2m_ros.node import node as node_module
from l2m_ros.node import publishers
from l2m_ros.node.worker import Worker
from l2m_ros.tracking import tracker as tracker_module
from l2m_ros.tracking.tracker import Tracker


@pytest.fixture(scope="module", autouse=True)
def _often():
    """Diagnostics five times a second: the tests wait for them. Images are encoded ahead."""
    patch = pytest.MonkeyPatch()
    patch.setattr(tracker_module, "CORES_TO_ENCODE_AHEAD", 1)
    patch.setattr(node_module, "DIAGNOSTICS_S", 0.2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def bench():
    with Bench() as one:
        yield one


def number_of(message) -> int:
    return round((stamp_ns(message) - stamp_of(0)) / PERIOD_NS)


def keyframe_of(bench) -> int:
    """The number of the keyframe that is in use."""
    kept = bench.node._tracker._keyframe
    return round((kept.frame.stamp_ns - stamp_of(0)) / PERIOD_NS)


def test_poses_are_the_truth(bench):
    bench.recover(10)
    first = keyframe_of(bench)
    for message in bench.poses:
        T, covariance = read_pose(message.pose)
        assert message.header.frame_id == "l2m_keyframe"
        assert abs(T[0, 3] - truth_x_m(number_of(message), first)) < 1e-3
        assert np.abs(T[1:3, 3]).max() < 1e-3
        assert np.linalg.eigvalsh(covariance)[0] > 0
    assert bench.matcher.threads == {"l2m-loading", "l2m-encode"}  # never a callback's


def test_only_what_is_listened_to_is_computed(bench, monkeypatch):
    made = []

    def spied(name, output):
        return replace(output, make=lambda tracked: made.append(name))

    spies = {name: spied(name, output) for name, output in outputs.OUTPUTS.items()}
    monkeypatch.setattr(publishers, "OUTPUTS", spies)
    bench.wait(lambda: bench.send() and len(made) >= 5, every_s=0.03)
    assert set(made) == {"pose", "chain"}  # listened to, and kept for whoever comes later


def functions_on_the_stack() -> list[str]:
    """Names of this package's functions that are running in this thread, outermost first."""
    return [entry.name for entry in traceback.extract_stack() if "/l2m_ros/" in entry.filename]


def test_the_path_of_one_image_is_short(bench, monkeypatch):
    """docs/design.md lists the hops: what is nested between callback, worker and publisher."""
    paths = {}
    submit, build, process = Worker.submit, FrameBuilder.build, Tracker.process

    def spied(name, function):
        def call(self, *args):
            paths[name] = [*functions_on_the_stack(), name]
            return function(self, *args)

        return call

    monkeypatch.setattr(Worker, "submit", spied("submit", submit))
    monkeypatch.setattr(FrameBuilder, "build", spied("build", build))
    monkeypatch.setattr(Tracker, "process", spied("track", process))
    pose = outputs.OUTPUTS["pose"]

    def make(tracked):
        paths["make"] = [*functions_on_the_stack(), "make"]
        return pose.make(tracked)

    monkeypatch.setitem(outputs.OUTPUTS, "pose", replace(pose, make=make))
    bench.wait(lambda: bench.send() and len(paths) == 4, every_s=0.03)
    assert paths["submit"] == ["on_message", "submit"]
    assert paths["build"] == ["_run_prepare", "encode", "build"]
    assert paths["track"] == ["_run_work", "track", "track"]
    assert paths["make"] == ["_run_work", "track", "publish", "make"]


def test_every_output_against_the_truth(bench):
    kinds = {
        "relative": Odometry,
        "odometry": Odometry,
        "correspondences": PointCloud2,
        "warp": Image,
        "certainty": Image,
        "matches": Image,
    }
    got = {name: [] for name in kinds}
    listeners = [
        bench.listen(kind, f"/l2m/{name}", got[name].append) for name, kind in kinds.items()
    ]
    bench.wait(lambda: bench.send() and all(got.values()), every_s=0.03)
    for listener in listeners:
        bench.driver.destroy_subscription(listener)
    keyframe = keyframe_of(bench)
    relative, odometry = got["relative"][-1], got["odometry"][-1]
    x_m = truth_x_m(number_of(relative), keyframe)
    assert relative.child_frame_id == "cam"
    assert relative.header.frame_id.startswith("l2m_keyframe/")
    assert abs(relative.pose.pose.position.x - x_m) < 1e-3
    # REP-105: odom looks along x at the start, so motion to the right is motion along -y.
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")
    assert abs(odometry.pose.pose.position.y + truth_x_m(number_of(odometry), 0)) < 5e-3
    assert abs(odometry.pose.pose.position.x) < 5e-3

    cloud = read_cloud(got["correspondences"][-1])
    steps = number_of(got["correspondences"][-1]) - keyframe
    assert len(cloud["u"]) > 100
    np.testing.assert_allclose(cloud["ku"], cloud["u"] + shift_px(steps, cloud["v"]), atol=1e-3)
    np.testing.assert_allclose(cloud["kv"], cloud["v"], atol=1e-3)
    # Depth is read at the nearest pixel, half a row off at most.
    np.testing.assert_allclose(cloud["z"], depth_m(cloud["kv"]), rtol=0.004)
    np.testing.assert_allclose(cloud["x"], (cloud["ku"] - 79.5) / FOCAL_PX * cloud["z"], atol=1e-4)

    warp, certainty, picture = (got[name][-1] for name in ("warp", "certainty", "matches"))
    assert (warp.encoding, certainty.encoding, picture.encoding) == ("32FC2", "32FC1", "rgb8")
    values = np.frombuffer(warp.data, "<f4").reshape(HEIGHT // 4, WIDTH // 4, 2)
    u, v = np.meshgrid(np.arange(WIDTH // 4) * 4 + 1.5, np.arange(HEIGHT // 4) * 4 + 1.5)
    expected = u + shift_px(number_of(warp) - keyframe, v)
    np.testing.assert_allclose(values[..., 0], expected, atol=1e-3)
    share = np.frombuffer(certainty.data, "<f4")
    assert set(np.unique(share)) <= {np.float32(0.0), np.float32(0.95)}
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    assert pixels.shape[1] >= 2 * 640 and pixels.std() > 10


def test_the_keyframe_is_latched(bench):
    """A listener that comes late gets the keyframe that was published before."""
    got, late = [], []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.driver.create_subscription(Image, "/l2m/keyframe", got.append, qos)
    bench.wait(lambda: bench.send() and got, every_s=0.03)
    bench.driver.create_subscription(Image, "/l2m/keyframe", late.append, qos)
    bench.wait(lambda: late)
    assert number_of(late[0]) == keyframe_of(bench)
    np.testing.assert_array_equal(
        np.frombuffer(late[0].data, np.uint8).reshape(HEIGHT, WIDTH, 3), rgb(keyframe_of(bench))
    )


def test_services(bench):
    before = keyframe_of(bench)
    answer = bench.call("/l2m/set_keyframe")
    assert answer.success and "next frame" in answer.message
    bench.wait(lambda: bench.send() and keyframe_of(bench) > before, every_s=0.03)
    assert bench.call("/l2m/reset").success
    bench.recover()
    assert bench.node._tracker._keyframe.id > 0


def test_dynamic_parameters_hold_from_the_next_frame_on(bench):
    bench.recover()
    assert bench.set("tracking.min_inliers", 99999) == ""
    assert "tracking.min_inliers" in bench.wait(
        lambda: bench.send() and "min_inliers" in bench.status("tracking")[1] and
        bench.status("tracking")[1], every_s=0.03
    )  # fmt: skip
    assert bench.set("tracking.min_inliers", 20) == ""
    bench.recover()
    bench.wait(lambda: bench.send() and bench.status("tracking")[0] == 0, every_s=0.03)


def test_parameters_are_refused_in_words(bench):
    assert "at configure" in bench.set("model", "l2m")
    assert "trackingmin" not in bench.set("tracking.min_inliers", 2)  # rclpy's own bound
    assert bench.set("tracking.min_inliers", 2) != ""
    assert "read-only" in bench.set("autostart", True)
    assert "lates" in bench.set("queue", "lates")
    bench.recover()


def test_diagnostics_tell_rate_and_latency(bench):
    bench.recover(10)
    bench.wait(lambda: bench.send() and float(bench.values("tracking").get("rate_hz", 0)) > 1)
    values = bench.values("tracking")
    for stage in ("wait", "frame", "encode", "match", "pose", "publish", "latency"):
        median, p95 = float(values[f"{stage}_ms_median"]), float(values[f"{stage}_ms_p95"])
        assert 0 <= median <= p95
    assert values["state"] == "tracking" and values["scale_source"] == "depth"
    assert int(bench.values("inputs")["posed"]) > 10
    assert bench.values("node")["model"] == "truth"


def test_depth_that_comes_later_makes_poses_metric():
    with Bench() as bench:
        bench.driver.destroy_publisher(bench.publishers.pop("depth"))
        words = "without metres"
        bench.wait(lambda: bench.send(with_depth=False) and words in bench.status("tracking")[1])
        assert not bench.poses
        bench.publishers["depth"] = bench.publisher(Image, "depth")
        bench.connect("depth")
        bench.recover()
        bench.wait(lambda: bench.send() and bench.status("tracking")[0] == 0, every_s=0.03)


def test_a_stereo_pair_gives_metres():
    """The right camera sits BASELINE_STEPS steps of the path to the right of the left one."""
    steps = 20
    with Bench() as bench:
        bench.driver.destroy_publisher(bench.publishers.pop("depth"))
        right = (
            bench.publisher(Image, "right/image"),
            bench.publisher(CameraInfo, "right/camera_info"),
        )
        bench.wait(lambda: all(p.get_subscription_count() for p in right))
        calibration = camera_info_message(CAMERA, header(0, "right"))
        calibration.p[3] = -FOCAL_PX * steps * STEP_M

        def send():
            right[1].publish(calibration)
            right[0].publish(image(bench.number, pixels=rgb(bench.number + steps)))
            bench.send(with_depth=False)
            return len(bench.poses) >= 5

        bench.wait(send, every_s=0.03)
        for message in bench.poses:
            x_m = truth_x_m(number_of(message), keyframe_of(bench))
            assert abs(message.pose.pose.position.x - x_m) < 2e-3


def test_latest_wins_and_counts_what_it_drops():
    with Bench(TruthMatcher(delay_s=0.15)) as bench:
        bench.recover(1)
        bench.send_many(40, pause_s=0.02)
        bench.wait(lambda: int(bench.values("inputs").get("dropped_busy", 0)) > 10)
        bench.wait(lambda: number_of(bench.poses[-1]) == bench.number - 1)
        assert float(bench.values("tracking")["wait_ms_median"]) < 400


def replayed(depth_first: bool):
    """The poses of one replay, as bytes; topics in another order of arrival each time."""
    with Bench(TruthMatcher(delay_s=0.02), queue="all") as bench:
        for number in range(30):
            if depth_first:
                bench.publishers["depth"].publish(bench.depth_of(number))
            bench.publishers["camera_info"].publish(info(number))
            bench.publishers["image"].publish(image(number))
            if not depth_first:
                bench.publishers["depth"].publish(bench.depth_of(number))
        bench.wait(lambda: len(bench.poses) >= 28)
        bench.publishers["depth"].publish(bench.depth_of(30))
        bench.wait(lambda: len(bench.poses) >= 29)
        values = bench.values("inputs")
        assert values.get("dropped_busy", "0") == "0"
        return [
            (stamp_ns(p), np.asarray(p.pose.covariance).tobytes(), read_pose(p.pose)[0].tobytes())
            for p in bench.poses
        ]


def test_replays_drop_nothing_and_are_bitwise_equal():
    first, second = replayed(depth_first=True), replayed(depth_first=False)
    assert [stamp for stamp, *_ in first] == [stamp_of(number) for number in range(1, 30)]
    assert first == second


def test_compressed_images():
    with Bench(image_transport="compressed", activate=False) as bench:
        packed = bench.publisher(CompressedImage, "image/compressed")
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        bench.connect("camera_info", "depth")
        bench.wait(packed.get_subscription_count)

        def send():
            number = bench.number
            png = cv2.imencode(".png", rgb(number)[..., ::-1])[1].tobytes()
            message = CompressedImage(header=header(stamp_of(number), "cam"), format="png")
            message.data = array.array("B", png)
            packed.publish(message)
            bench.send()
            return len(bench.poses) >= 3

        bench.wait(send, every_s=0.03)
        packed.publish(
            CompressedImage(
                header=header(stamp_of(bench.number), "cam"),
                format="jpeg",
                data=array.array("B", b"\xff\xd8 garbage"),
            )
        )
        bench.publishers["depth"].publish(bench.depth_of(bench.number))
        bench.number += 1
        bench.says("inputs", "is damaged", level=1)
        bench.wait(lambda: send() and bench.status("inputs")[0] == 0, every_s=0.03)


# ---- quality of service -------------------------------------------------------------------------


def reliability_of(bench, topic="/image"):
    offers = bench.driver.get_subscriptions_info_by_topic(topic)
    return [offer.qos_profile.reliability for offer in offers if offer.node_name == "l2m"]


def test_reliability_follows_the_publisher_and_its_restart(bench):
    bench.wait(lambda: reliability_of(bench) == [ReliabilityPolicy.RELIABLE])
    bench.driver.destroy_publisher(bench.publishers["image"])
    bench.publishers["image"] = bench.publisher(Image, "image", reliable=False)
    bench.wait(lambda: reliability_of(bench) == [ReliabilityPolicy.BEST_EFFORT])
    bench.connect("image")
    bench.recover()
    bench.driver.destroy_publisher(bench.publishers["image"])
    bench.publishers["image"] = bench.publisher(Image, "image")
    bench.wait(lambda: reliability_of(bench) == [ReliabilityPolicy.RELIABLE])
    bench.connect("image")
    bench.recover()


def test_an_override_that_cannot_work_is_named():
    overrides = {"qos_overrides./image.subscription.reliability": "reliable"}
    with Bench(activate=False, **overrides) as bench:
        bench.driver.destroy_publisher(bench.publishers["image"])
        bench.publishers["image"] = bench.publisher(Image, "image", reliable=False)
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        words = bench.says("inputs", "nothing of /driver arrives on /image")
        assert (
            "quality of service does not fit" in words
            and "qos_overrides./image.subscription" in words
        )


def test_a_topic_of_another_type_is_named():
    with Bench(activate=False, image_kind=CompressedImage) as bench:
        bench.node.trigger_configure()
        bench.node.trigger_activate()
        words = bench.says("inputs", "publishes sensor_msgs/msg/CompressedImage on /image")
        assert "image_transport: compressed" in words


# ---- TF -----------------------------------------------------------------------------------------


def fake_tf2_ros(sent, known):
    """tf2_ros's interface, as far as the node uses it."""
    module = types.ModuleType("tf2_ros")

    class TransformException(Exception):
        pass

    class TransformBroadcaster:
        def __init__(self, node):
            from std_msgs.msg import Empty

            self.pub_tf = node.create_publisher(Empty, "/tf_of_the_test", 1)

        def sendTransform(self, transforms):
            sent.append(transforms)

    class Buffer:
        def lookup_transform(self, target, source, time):
            if (target, source) not in known:
                raise TransformException(f"{target} does not exist")
            return known[target, source]

    class TransformListener:
        def __init__(self, buffer, node):
            pass

        def unregister(self):
            pass

    for kind in (TransformException, TransformBroadcaster, Buffer, TransformListener):
        setattr(module, kind.__name__, kind)
    return module


def test_tf_connects_odom_to_base_and_to_the_keyframe(monkeypatch):
    """base_link <- cam from TF: 0.3 m ahead and 0.5 m up, looking forward."""
    from l2m_ros.frames.messages import read_transform, transform_message
    from l2m_ros.parameters.table import FORWARD_LOOKING, base_from_camera

    base_from_cam = base_from_camera({"base_from_camera": [0.3, 0.0, 0.5, *FORWARD_LOOKING[3:]]})
    sent, known = [], {}
    monkeypatch.setitem(sys.modules, "tf2_ros", fake_tf2_ros(sent, known))
    with Bench(publish_tf=True, base_from_tf=True) as bench:
        bench.recover()
        assert not sent
        bench.says("node", "no transform from cam to base_link in TF yet")
        # Parameters that change before TF comes once brought the default extrinsics back for good.
        assert bench.node._tracker.options.base_from_camera is None
        assert bench.set("tracking.min_inliers", 21) == ""
        known["base_link", "cam"] = transform_message(base_from_cam, header(0, "base_link"), "cam")
        bench.wait(lambda: bench.send() and sent, every_s=0.03)
        base, keyframe = sent[-1]
        assert (base.header.frame_id, base.child_frame_id) == ("odom", "base_link")
        assert (keyframe.header.frame_id, keyframe.child_frame_id) == ("odom", "l2m_keyframe")
        odom_from_base, odom_from_keyframe = (read_transform(t.transform) for t in sent[-1])
        moved_m = truth_x_m(number_of(base), 0)
        np.testing.assert_allclose(odom_from_base[:3, 3], [0, -moved_m, 0], atol=5e-3)
        np.testing.assert_allclose(odom_from_base[:3, :3], np.eye(3), atol=5e-3)
        np.testing.assert_allclose(odom_from_keyframe, base_from_cam, atol=5e-3)
        assert bench.set("tracking.min_inliers", 22) == ""
        bench.recover()
        assert bench.node._tracker.options.gates.min_inliers == 22
        np.testing.assert_allclose(bench.node._tracker.options.base_from_camera, base_from_cam)


def test_odometry_waits_for_the_camera_s_place_on_the_base(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", fake_tf2_ros([], {}))
    used = []
    process = Tracker.process
    monkeypatch.setattr(
        Tracker, "process", lambda self, frame, odom, _: used.append(odom) or process(self, frame)
    )
    with Bench(base_from_tf=True) as bench:
        odom = bench.publisher(Odometry, "odom")
        bench.wait(odom.get_subscription_count)
        for _ in range(20):
            stamp = header(stamp_of(bench.number), "odom")
            odom.publish(odometry_message(np.eye(4), np.eye(6), stamp, "base_link"))
            bench.send()
            time.sleep(0.03)
        bench.wait(lambda: used)
        assert set(used) == {None}


def test_the_frame_at_hand_still_has_tf_when_the_node_is_deactivated(monkeypatch):
    sent, working = [], threading.Event()
    monkeypatch.setitem(sys.modules, "tf2_ros", fake_tf2_ros(sent, {}))
    process = Tracker.process

    def slow(self, frame, *given):
        result = process(self, frame, *given)
        if result.pose is not None:
            working.set()
            time.sleep(0.3)
        return result

    monkeypatch.setattr(Tracker, "process", slow)
    with Bench(publish_tf=True) as bench:
        bench.wait(lambda: bench.send() and working.is_set(), every_s=0.05)
        bench.node.trigger_deactivate()
        assert sent and bench.node.health.counts["failed"] == 0


def test_tf_that_cannot_be_is_said():
    with Bench(publish_tf=True) as bench:
        bench.recover()
        assert "tf2_ros" in bench.says("node", "publish_tf needs tf2_ros")
