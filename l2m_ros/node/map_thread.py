"""The map beside the tracker: a thread of its own at low priority, its topics, TF and services.

Tracking's thread hands over a frame and goes on; nothing here can delay or end it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from l2m_ros.errors import InvalidInput, L2MError
from l2m_ros.frames import map_outputs
from l2m_ros.frames.messages import header, message_class, pose_message, read_pose
from l2m_ros.frames.outputs import FrameNames, FrameResult
from l2m_ros.geometry import se3
from l2m_ros.mapping.options import BUILD, OFF, Hint
from l2m_ros.matching.matcher import Matcher
from l2m_ros.node.diagnostics import ERROR, OK, Health
from l2m_ros.node.transforms import Transforms
from l2m_ros.parameters.table import Values, map_options
from l2m_ros.types import FloatArray, Lost

if TYPE_CHECKING:
    from l2m_ros.mapping.online import OnlineMap

WAIT_S = 0.2
NICE = 10  # of the map's thread: tracking comes first on a busy machine
PATH_KEPT = 5000
PATH_EVERY_M = 0.05
# ~/map_points reads every keyframe: it is made anew after so many new ones, or so large a share.
POINTS_EVERY, POINTS_GROWTH = 10, 0.2


class MapThread:
    """Made in activate, stopped in deactivate."""

    def __init__(
        self,
        node: LifecycleNode,
        online: OnlineMap,
        health: Health,
        frames: FrameNames,
        *,
        publish_tf: bool,
        voxel_m: float,
    ) -> None:
        self._node, self.online, self._health = node, online, health
        self._frames, self._voxel_m = frames, voxel_m
        self._base: FloatArray | None = None
        self._path: list[FloatArray] = []
        self._shown, self._shown_points = -1, 0
        self._actions: deque[tuple[str, Callable[[], str]]] = deque()
        self._stopping = threading.Event()
        self._transforms = Transforms(node, publish=publish_tf, lookup=False)
        self._publishers = {n: self._publisher(n, *kind) for n, kind in TOPICS.items()}
        pose = message_class("geometry_msgs/PoseWithCovarianceStamped")
        self._hints = node.create_subscription(pose, "initialpose", self._on_hint, 10)
        self._thread = threading.Thread(target=self._run, name="l2m-map", daemon=True)
        self._thread.start()

    def _publisher(self, name: str, kind: str, latched: bool) -> Any:
        qos = QoSProfile(depth=1 if latched else 10, reliability=ReliabilityPolicy.RELIABLE)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        return self._node.create_publisher(message_class(kind), f"~/{name}", qos)

    # --- tracking's thread ------------------------------------------------------------------------

    def submit(self, tracked: FrameResult) -> None:
        """A tracked frame for the map; ~/map_pose and map -> odom from what is known so far."""
        self._base = tracked.base_from_camera
        self.online.submit(tracked.result)
        if self._base is None:
            return
        place = self.online.map_from_camera(tracked.result)
        fix, P = self.online.fix, tracked.result.odom_covariance
        if place is None or fix is None:
            return
        stamp = header(tracked.stamp_ns, self._frames.map)
        in_map = self._of_base(place)
        if self._publishers["map_pose"].get_subscription_count():
            camera = se3.transport_covariance(
                fix.covariance if P is None else fix.covariance + P, self._base
            )
            covariance = se3.compose_covariance(
                self._base @ place, camera, se3.inverse(self._base), np.zeros((6, 6))
            )
            self._publishers["map_pose"].publish(pose_message(in_map, covariance, stamp))
        self._transforms.send([(self._of_base(fix.map_from_odom), stamp, self._frames.odom)])
        if not self._path or np.linalg.norm(in_map[:3, 3] - self._path[-1][:3, 3]) > PATH_EVERY_M:
            self._path = [*self._path, in_map][-PATH_KEPT:]

    def _of_base(self, map_from_camera: FloatArray) -> FloatArray:
        """As ROS has it: where the base is, in the frame of the base where the map begins."""
        assert self._base is not None
        return self._base @ map_from_camera @ se3.inverse(self._base)

    # --- executor's thread ------------------------------------------------------------------------

    def call(self, what: str, path: str) -> tuple[bool, str]:
        """save_map, load_map or relocalize: begun here, done by the map's thread."""
        if what == "relocalize":
            self.online.relocalize()
            return True, "the next frame is searched for in the whole map"
        if what == "load_map":
            self._actions.append((what, lambda: self.online.load(path)))
            return True, f"{path} is being loaded; /diagnostics says when it is done"
        if self.online.mode != BUILD:
            return False, "no map is being built: set map.mode build"
        self._actions.append((what, self.online.save))
        return True, "the map is being saved; /diagnostics says when it is done"

    def _on_hint(self, message: Any) -> None:
        """initialpose: the base in map, as RViz and Nav2 send it."""
        if self._base is None:
            self._health.report("map", "initialpose came before base_from_camera is known")
            return
        try:
            map_from_base, P = read_pose(message.pose)
        except InvalidInput as error:
            self._health.report("map", f"initialpose: {error}")
            return
        back = se3.inverse(self._base)
        pose = back @ map_from_base @ self._base
        floor = np.diag([0.05**2] * 3 + [0.05**2] * 3)  # RViz leaves z, roll and pitch at 0
        covariance = se3.transport_covariance(P, back) + floor
        self.online.relocalize(Hint(pose, covariance))

    def stop(self, timeout_s: float) -> bool:
        self._stopping.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._node.destroy_subscription(self._hints)
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
        self._transforms.destroy()
        return True

    # --- the map's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        _be_nice()
        self._do("open", self.online.open)
        while not self._stopping.is_set():
            while self._actions:
                self._do(*self._actions.popleft())
            if self.online.store is None:
                self._stopping.wait(WAIT_S)
                continue
            self.online.wait(WAIT_S)
            self._do("step", self._step)
        self._do("close", lambda: self.online.close() or "")

    def _do(self, what: str, action: Callable[[], str]) -> None:
        """Whatever happens, tracking goes on and the diagnostics say what is wrong."""
        try:
            words = action()
        except L2MError as error:
            self._health.report("map", f"{what}: {error}", ERROR)
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            self._node.get_logger().error(trace, throttle_duration_sec=10.0)
            words = f"{what} failed: {type(error).__name__}: {' '.join(str(error).split())}"
            self._health.report("map", words, ERROR)
        else:
            if words:
                self._health.set_facts(map=words)
            if words and what != "step":
                self._health.report("map", None)
                self._health.log(OK, f"map {what}: {words}")

    def _step(self) -> str:
        before = self.online.fix
        outcome = self.online.step()
        if self.online.version != self._shown:
            self._show()
        if isinstance(outcome, Lost):
            self._health.count("map_lost")
            self._health.report("map", f"not localized: {outcome.detail}")
            return f"not localized ({outcome.reason.value})"
        if outcome is not None:
            self._health.count("map_localized")
            self._health.report("map", None)
        self._publish_path()
        if self.online.mode == BUILD and self.online.dropped:
            words = f"{self.online.dropped} keyframes dropped: the map cannot keep up"
            self._health.report("map", f"{words}; lower the image rate or use a GPU")
        fix = self.online.fix
        return "" if fix is None or fix is before else fix.words

    def _show(self) -> None:
        """~/map_keyframes and, less often, ~/map_points; both latched."""
        store, base = self.online.store, self._base
        if store is None or base is None:
            return
        poses = store.poses()
        head = header(self._node.get_clock().now().nanoseconds, self._frames.map)
        placed = [self._of_base(pose) for pose, _ in poses.values()]
        self._publishers["map_keyframes"].publish(map_outputs.pose_array(placed, head))
        self._shown = self.online.version
        due = max(POINTS_EVERY, POINTS_GROWTH * self._shown_points)
        if self._shown_points and abs(len(poses) - self._shown_points) < due:
            return
        from l2m_ros.mapping import export

        xyz, rgb = export.points(store, self._voxel_m)
        xyz = xyz @ base[:3, :3].T + base[:3, 3]
        self._publishers["map_points"].publish(map_outputs.coloured_cloud(xyz, rgb, head))
        self._shown_points = len(poses)

    def _publish_path(self) -> None:
        publisher = self._publishers["path"]
        if self._path and publisher.get_subscription_count():
            head = header(self._node.get_clock().now().nanoseconds, self._frames.map)
            publisher.publish(map_outputs.path(self._path, head))


TOPICS = {
    "map_pose": ("geometry_msgs/PoseWithCovarianceStamped", False),
    "path": ("nav_msgs/Path", True),
    "map_points": ("sensor_msgs/PointCloud2", True),
    "map_keyframes": ("geometry_msgs/PoseArray", True),
}


def start_map(
    node: LifecycleNode, matcher: Matcher | None, health: Health, values: Values
) -> MapThread | None:
    """None where no map is asked for, or where what it needs is not installed."""
    if matcher is None or values["map.mode"] == OFF:
        return None
    try:
        from l2m_ros.mapping.online import OnlineMap
    except ModuleNotFoundError as error:
        words = f"maps need {error.name}: pip install 'l2m_ros[map]'"
        health.report("map", words, ERROR)
        return None
    names = [values[f"frames.{name}"] for name in ("odom", "base", "keyframe", "map")]
    return MapThread(
        node,
        OnlineMap(matcher, map_options(values)),
        health,
        FrameNames(*names),
        publish_tf=values["map.publish_tf"],
        voxel_m=values["map.voxel_m"],
    )


def _be_nice() -> None:
    """This thread only; where the system has no such thing, threads share as they do."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
