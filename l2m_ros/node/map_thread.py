"""The map beside the tracker: its topics, TF and services. The map itself is in another process.

Tracking's thread hands over a frame and goes on; nothing here can delay or end it.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from l2m_ros.errors import InvalidInput
from l2m_ros.frames import map_outputs
from l2m_ros.frames.messages import header, message_class, pose_message, read_pose
from l2m_ros.frames.outputs import FrameNames, FrameResult
from l2m_ros.geometry import se3
from l2m_ros.mapping.map_process import DIED, MapProcess, Spec
from l2m_ros.mapping.options import BUILD, OFF, Hint
from l2m_ros.mapping.wire import Message
from l2m_ros.node.diagnostics import ERROR, OK, Health
from l2m_ros.node.transforms import Transforms
from l2m_ros.parameters.table import Values, map_matcher_options, map_options
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import FloatArray

WAIT_S = 0.2
LOADING_S = 30.0  # of the map's model; goes on without it then
PATH_KEPT = 5000
PATH_EVERY_M = 0.05
SHOW_EVERY_S = 2.0  # ~/map_keyframes and ~/path, at most
# ~/map_points reads every keyframe: it is made anew after so many new ones, or so large a share.
POINTS_EVERY, POINTS_GROWTH = 10, 0.2
MADE_OF_ALL = ("map_points", "map_keyframes")


class DrivenPath:
    """Where the base was in the map: added by tracking's thread, made messages by the map's.

    Each stop becomes a message once: 5000 of them take 0.3 s, with Python's lock held.
    """

    def __init__(self) -> None:
        self._last: FloatArray | None = None
        self._new: deque[FloatArray] = deque(maxlen=PATH_KEPT)
        self._stops: deque[Any] = deque(maxlen=PATH_KEPT)
        self._grown = False  # since it was shown
        self._shown_s, self._listeners = float("-inf"), 0

    def add(self, map_from_base: FloatArray) -> None:
        here, last = map_from_base[:3, 3], self._last
        if last is None or np.linalg.norm(here - last) > PATH_EVERY_M:
            self._last = here
            self._new.append(map_from_base)

    def message(self, head: Any, listeners: int, now_s: float) -> Any:
        """nav_msgs/Path where it has grown and somebody listens, not more often than
        SHOW_EVERY_S; at once for a new listener. Else None."""
        while self._new:
            self._stops.append(map_outputs.stop(self._new.popleft(), head))
            self._grown = True
        new, self._listeners = listeners > self._listeners, listeners
        due = new or now_s - self._shown_s >= SHOW_EVERY_S
        if not (listeners and self._grown and due):
            return None
        self._grown, self._shown_s = False, now_s
        return map_outputs.path(self._stops, head)


class MapThread:
    """Made in activate, stopped in deactivate."""

    def __init__(
        self,
        node: LifecycleNode,
        process: MapProcess,
        health: Health,
        frames: FrameNames,
        *,
        publish_tf: bool,
    ) -> None:
        self._node, self.process, self._health = node, process, health
        self._frames = frames
        self._base: FloatArray | None = None
        self._path = DrivenPath()
        self._shown, self._shown_s = -1, 0.0  # version, when
        self._placed, self._shown_points = 0, 0  # keyframes
        self._listeners: dict[str, int] = {}
        self._showing = self._failed = False
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

    def submit(self, tracked: FrameResult, odometry: OdometrySample | None = None) -> None:
        """A tracked frame for the map; ~/map_pose and map -> odom from what is known so far."""
        self._base = tracked.base_from_camera
        self.process.submit(tracked.result, odometry, self._base)
        if self._base is None:
            return
        fix, odom = self.process.fix_of(tracked.result), tracked.result.odom_from_camera
        if fix is None or odom is None:
            return
        place = fix.map_from_odom @ odom
        stamp = header(tracked.stamp_ns, self._frames.map)
        in_map = self._of_base(place)
        if self._publishers["map_pose"].get_subscription_count():
            P = fix.covariance_at(place, tracked.result.odom_covariance)
            camera = se3.transport_covariance(P, self._base)
            covariance = se3.compose_covariance(
                self._base @ place, camera, se3.inverse(self._base), np.zeros((6, 6))
            )
            self._publishers["map_pose"].publish(pose_message(in_map, covariance, stamp))
        self._transforms.send([(self._of_base(fix.map_from_odom), stamp, self._frames.odom)])
        self._path.add(in_map)

    def _of_base(self, map_from_camera: FloatArray) -> FloatArray:
        """As ROS has it: where the base is, in the frame of the base where the map begins."""
        assert self._base is not None
        return self._base @ map_from_camera @ se3.inverse(self._base)

    # --- executor's thread ------------------------------------------------------------------------

    def call(self, what: str, path: str) -> tuple[bool, str]:
        """save_map, load_map or relocalize: begun here, done by the map's process."""
        if what == "relocalize":
            self.process.relocalize()
            return True, "the next frame is searched for in the whole map"
        if what == "load_map":
            self.process.ask("load", path=path)
            return True, f"{path} is being loaded; /diagnostics says when it is done"
        if self.process.mode != BUILD:
            return False, "no map is being built: set map.mode build"
        self.process.ask("save")
        return True, "the map is being saved; /diagnostics says when it is done"

    def _on_hint(self, message: Any) -> None:
        """initialpose: the base in map, as RViz and Nav2 send it."""
        given = message.header.frame_id.lstrip("/")
        if given not in ("", self._frames.map):
            words = f"initialpose is in frame {given!r}, which is not frames.map"
            self._health.report(
                "map", f"{words} ({self._frames.map}): set RViz's fixed frame to it"
            )
            return
        if self._base is None:
            self._health.report("map", "initialpose came before base_from_camera is known")
            return
        try:
            map_from_base, P = read_pose(message.pose, "initialpose")
        except InvalidInput as error:
            self._health.report("map", str(error))
            return
        back = se3.inverse(self._base)
        base, P = back @ map_from_base, se3.transport_covariance(P, back)
        P = se3.compose_covariance(base, P, self._base, np.zeros((6, 6)))
        floor = np.diag([0.05**2] * 3 + [0.05**2] * 3)  # RViz leaves z, roll and pitch at 0
        self.process.relocalize(Hint(base @ self._base, P + floor))

    def stop(self, timeout_s: float) -> bool:
        self._stopping.set()
        self.process.stop(timeout_s)
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
        while not self._stopping.is_set():
            try:
                for answer in self.process.answers(WAIT_S):
                    self._take(answer)
                self._ask_to_show()
                self._publish_path()
            except Exception:  # tracking goes on, and so does the map
                self._node.get_logger().error(traceback.format_exc(), throttle_duration_sec=10.0)
                self._stopping.wait(WAIT_S)

    def _take(self, answer: Message) -> None:
        """Whatever happens, tracking goes on and the diagnostics say what is wrong."""
        values, what = answer.values, answer.values["asked"]
        if (error := values.get("error")) is not None:
            if "trace" in values:
                self._node.get_logger().error(values["trace"], throttle_duration_sec=10.0)
            self._health.report("map", error if what == DIED else f"{what}: {error}", ERROR)
            self._health.set_facts(map_restarts=str(self.process.restarts))
            self._showing, self._failed = False, True
        elif what in ("open", "load", "save"):
            self._health.set_facts(map=values["words"])
            self._health.report("map", None)
            self._health.log(OK, f"map {what}: {values['words']}")
        elif what == "localize":
            self._localized(values)
        elif what == "show":
            self._show(answer)
        elif what == "add" and self._failed:
            self._failed = False
            self._health.report("map", None)
        if "fix" in values:
            self._health.set_facts(map=values["fix"]["words"])
        if self.process.mode == BUILD and self.process.dropped:
            words = f"{self.process.dropped} keyframes dropped: the map cannot keep up"
            self._health.report("map", f"{words}; lower the image rate or use a GPU")

    def _localized(self, values: Mapping[str, Any]) -> None:
        if "lost" in values:
            reason, detail = values["lost"]
            self._health.count("map_lost")
            self._health.report("map", f"not localized: {detail}")
            self._health.set_facts(map=f"not localized ({reason})")
        elif values.get("found"):
            self._health.count("map_localized")
            self._health.report("map", None)

    def _ask_to_show(self) -> None:
        """~/map_keyframes and, less often, ~/map_points: while somebody listens, and not for every
        keyframe, as they are made of Python objects one by one."""
        count = {n: self._publishers[n].get_subscription_count() for n in MADE_OF_ALL}
        new = {n for n in MADE_OF_ALL if count[n] > self._listeners.get(n, 0)}
        now_s = time.monotonic()
        due = self.process.version != self._shown and now_s - self._shown_s >= SHOW_EVERY_S
        if self._base is None or self._showing or not any(count.values()) or not (due or new):
            return
        grown = abs(self._placed - self._shown_points)
        more = grown >= max(POINTS_EVERY, POINTS_GROWTH * self._shown_points)
        points = bool(count["map_points"]) and (more or "map_points" in new)
        self._listeners, self._showing, self._shown_s = count, True, now_s
        self.process.ask("show", points=points)

    def _show(self, answer: Message) -> None:
        self._showing = False
        base = self._base
        if base is None:
            return
        self._shown = answer.values.get("version", self._shown)
        head = header(self._node.get_clock().now().nanoseconds, self._frames.map)
        self._placed = len(answer.arrays["poses"])
        placed = [self._of_base(pose) for pose in answer.arrays["poses"]]
        self._publishers["map_keyframes"].publish(map_outputs.pose_array(placed, head))
        if "xyz" in answer.arrays:
            xyz = answer.arrays["xyz"] @ base[:3, :3].T + base[:3, 3]
            rgb = answer.arrays["rgb"]
            self._shown_points = self._placed
            self._publishers["map_points"].publish(map_outputs.coloured_cloud(xyz, rgb, head))

    def _publish_path(self) -> None:
        publisher = self._publishers["path"]
        head = header(self._node.get_clock().now().nanoseconds, self._frames.map)
        message = self._path.message(head, publisher.get_subscription_count(), time.monotonic())
        if message is not None:
            publisher.publish(message)


TOPICS = {
    "map_pose": ("geometry_msgs/PoseWithCovarianceStamped", False),
    "path": ("nav_msgs/Path", True),
    "map_points": ("sensor_msgs/PointCloud2", True),
    "map_keyframes": ("geometry_msgs/PoseArray", True),
}


def start_map(
    node: LifecycleNode, health: Health, values: Values, alive: Callable[[], bool]
) -> MapThread | None:
    """None where no map is asked for. Waits for the model, as configure does for tracking's."""
    if values["map.mode"] == OFF:
        return None
    end_s = time.monotonic() + LOADING_S
    names = [values[f"frames.{name}"] for name in ("odom", "base", "keyframe", "map")]
    spec = Spec(values["model"], map_matcher_options(values), map_options(values))
    process = MapProcess(spec)
    while alive() and time.monotonic() < end_s and not process.wait_until_loaded(WAIT_S):
        continue
    return MapThread(
        node,
        process,
        health,
        FrameNames(*names),
        publish_tf=values["map.publish_tf"],
    )
