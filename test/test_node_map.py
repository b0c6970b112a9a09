"""The map beside the running node: built, saved, found again by another node, faults in words."""

import contextlib
import types

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("faiss")
pytest.importorskip("gtsam")

from fakes.scenes import HEIGHT, WIDTH, K, pose, render
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_bench import Bench, stamp_of
from sensor_msgs.msg import PointCloud2

from l2m_ros.frames import map_outputs
from l2m_ros.frames.messages import (
    camera_info_message,
    header,
    image_message,
    read_cloud,
    read_pose,
)
from l2m_ros.frames.outputs import FrameNames
from l2m_ros.mapping.options import Hint
from l2m_ros.mapping.store import open_map
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.node.frame_pipeline import FramePipeline
from l2m_ros.node.map_thread import DrivenPath, MapThread
from l2m_ros.types import Camera

CAMERA = Camera(WIDTH, HEIGHT, K)
PATH = [pose(x=0.08 * i, turn_deg=-1.0 * i) for i in range(-3, 4)]
VIEWS = [render(T) for T in PATH]


class WallBench(Bench):
    """The camera moves along the wall of `fakes.scenes`."""

    def send(self, number=None, *, with_depth=True):
        number = self.number if number is None else number
        self.number = number + 1
        rgb, depth = VIEWS[min(number, 2 * len(VIEWS) - 1 - number) % len(VIEWS)]
        head = header(stamp_of(number * 4), "cam")
        self.publishers["camera_info"].publish(camera_info_message(CAMERA, head))
        self.publishers["depth"].publish(image_message(depth.astype(np.float32), "32FC1", head))
        self.publishers["image"].publish(image_message(rgb, "rgb8", head))
        return True


def bench(path, mode, **parameters):
    given = {"map.path": str(path), "map.mode": mode, "map.every_m": 0.05, "map.period_s": 0.0}
    given |= {"model": "sift", "queue": "all"}
    given["map.nice"] = 0  # on a machine that is busy with other things, low priority would be none
    matcher = load_matcher("sift", max_points=600)
    return WallBench(matcher, **{**given, **parameters})


LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_drive_builds_a_map_in_which_another_node_finds_itself(tmp_path):
    path = tmp_path / "wall.l2m"
    with bench(path, "build") as building:
        clouds, keyframes = [], []
        building.driver.create_subscription(PointCloud2, "/l2m/map_points", clouds.append, LATCHED)
        building.driver.create_subscription(
            PoseArray, "/l2m/map_keyframes", keyframes.append, LATCHED
        )
        building.wait(lambda: building.send() and building.number >= 7, every_s=0.1)
        building.wait(lambda: keyframes and len(keyframes[-1].poses) >= 4 and clouds, 120.0)
        assert building.call("/l2m/save_map").success
        building.wait(lambda: "saved in" in building.values("node").get("map", ""), 120.0)
        z = read_cloud(clouds[0])["x"]  # the base looks along x: the wall is 2.5 to 4 m ahead
        assert 2.0 < np.median(z) < 4.5
    store = open_map(str(path))
    assert len(store.poses()) == len(store.ids()) >= 4
    store.close()
    with bench(path, "localize") as finding:
        found: list[PoseWithCovarianceStamped] = []
        finding.listen(PoseWithCovarianceStamped, "/l2m/map_pose", found.append)
        finding.number = 4  # it starts elsewhere
        finding.wait(lambda: finding.send() and found, 120.0, every_s=0.5)
        T, P = read_pose(found[0].pose)
        assert found[0].header.frame_id == "map" and np.linalg.eigvalsh(P)[0] > 0
        assert np.linalg.norm(T[:3, 3]) < 0.08 * 6 + 0.05  # along the drive, and on its line
        assert abs(T[0, 3]) < 0.05 and abs(T[2, 3]) < 0.05
        assert finding.call("/l2m/relocalize").success
        assert not finding.call("/l2m/save_map").success


def test_the_map_stands_still_while_a_frame_is_at_work():
    held = []

    @contextlib.contextmanager
    def frame():
        held.append("stopped")
        try:
            yield
        finally:
            held.append("let go")

    def work(item):
        held.append(item)
        return item + 1

    pipeline = FramePipeline.__new__(FramePipeline)
    process = types.SimpleNamespace(hold=types.SimpleNamespace(frame=frame))
    pipeline._map = types.SimpleNamespace(process=process)
    assert pipeline._apart_from_the_map(work)(1) == 2
    assert held == ["stopped", 1, "let go"]
    pipeline._map = None
    assert pipeline._apart_from_the_map(work) is work


def test_the_path_is_made_of_each_stop_once_and_shown_now_and_then(monkeypatch):
    made = []
    monkeypatch.setattr(map_outputs, "stop", lambda T, head: made.append(T[0, 3]) or PoseStamped())
    path, head = DrivenPath(), header(1, "map")
    for k in range(100):
        path.add(pose(x=0.02 * k))
        path.message(head, listeners=0, now_s=0.01 * k)
    assert len(made) == 34  # 5 cm apart
    assert len(path.message(head, listeners=1, now_s=1.0).poses) == 34  # at once
    path.add(pose(x=9.0))
    assert path.message(head, 1, 1.5) is None
    assert len(path.message(head, listeners=2, now_s=1.6).poses) == 35
    assert path.message(head, 2, 9.0) is None  # as before
    path.add(pose(x=10.0))
    assert len(path.message(head, 2, 9.1).poses) == 36
    assert len(made) == 36


def test_an_initial_pose_of_another_frame_is_refused():
    """RViz sends it in its fixed frame: taken for a place in the map, it led elsewhere."""
    said = []
    thread = MapThread.__new__(MapThread)
    thread._frames, thread._base = FrameNames(), np.eye(4)
    thread._health = types.SimpleNamespace(report=lambda key, words: said.append(words))
    thread.process = types.SimpleNamespace(relocalize=lambda hint: said.append(hint))
    nonsense = PoseWithCovarianceStamped(header=header(1, "map"))
    nonsense.pose.pose.orientation.w = 0.0
    thread._on_hint(PoseWithCovarianceStamped(header=header(1, "odom")))
    thread._on_hint(nonsense)
    thread._on_hint(PoseWithCovarianceStamped(header=header(1, "map")))
    assert "'odom'" in said[0] and "frames.map" in said[0]
    assert said[1].startswith("initialpose holds a quaternion")
    assert isinstance(said[2], Hint)
    thread._base[0, 3] = 1.0  # the camera is ahead of the base: a turn of the base moves it
    turned = PoseWithCovarianceStamped(header=header(1, "map"))
    turned.pose.covariance[35] = 0.04
    thread._on_hint(turned)
    assert said[3].covariance[1, 1] == pytest.approx(0.04 + 0.05**2)


def test_map_that_cannot_be_opened_is_said_and_tracking_goes_on(tmp_path):
    path = tmp_path / "x.l2m"
    path.write_bytes(b"not a map")
    with bench(path, "localize") as running:
        running.recover(2)
        running.says("node", "l2m map build", level=2)


def test_services_without_a_map_say_what_to_set():
    with Bench() as running:
        for name in ("save_map", "load_map", "relocalize"):
            answer = running.call(f"/l2m/{name}")
            assert not answer.success and "map.mode" in answer.message


def test_mode_needs_a_path():
    with Bench(activate=False) as running:
        assert "map.path" in running.set("map.mode", "build")
