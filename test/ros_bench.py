"""A camera, a node and a listener over real DDS, each bench in a ROS domain of its own.

The world: a plane in front of a camera that slides along x by STEP_M a frame; the plane leans away
towards the top (a depth without relief is refused as a stuck sensor), so each image row has its
depth. Each image carries its number in its first pixel, so `TruthMatcher` knows the exact match and
the tests the exact pose.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import pytest

# Nothing of a bench leaves this machine, and nobody's nodes meet another's.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import PoseWithCovarianceStamped  # noqa: E402
from rclpy.exceptions import InvalidHandle  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from l2m_ros.frames.messages import camera_info_message, header, image_message  # noqa: E402
from l2m_ros.types import Camera, DenseMatch, Features, Reference  # noqa: E402

WIDTH, HEIGHT, FOCAL_PX, Z_M, STEP_M = 160, 120, 100.0, 2.0, 0.005
LEAN = 0.4  # Z = Z_M + LEAN Y, so that moving along x changes no row's depth
PERIOD_NS = 50_000_000
CAMERA = Camera(WIDTH, HEIGHT, np.array([[FOCAL_PX, 0, 79.5], [0, FOCAL_PX, 59.5], [0, 0, 1]]))
NOISE = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
TEXTURE = cv2.normalize(cv2.GaussianBlur(NOISE, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
DISCOVERY_S = 20.0  # the machine may be busy
DOMAINS = (*range(1, 102), *range(215, 233))  # whose ports the system gives to nobody else
_used: set[int] = set()  # by this process: what was killed there is remembered for a while


def claim_domain() -> tuple[int, IO[str]]:
    """A ROS domain that no other bench of this machine has, until the file is closed.

    By chance alone two would meet: nodes of one name answer each other's services, and a cleanup
    that is right here is refused by the node over there.
    """
    for domain in sorted(random.sample(DOMAINS, len(DOMAINS)), key=_used.__contains__):
        path = Path(tempfile.gettempdir()) / f"l2m_ros_domain_{domain}.lock"
        claim = path.open("a")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
        else:
            _used.add(domain)
            return domain, claim
    raise RuntimeError("every ROS domain is taken: are benches left running?")


def rgb(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """What the moving camera sees, so that `TruthMatcher` is right about the pictures too."""
    texture = np.resize(TEXTURE, (height, width, 3))
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    moved = u + shift_px(number, v, height) * width / WIDTH
    maps = (moved % width).astype(np.float32), v.astype(np.float32)
    image = cv2.remap(texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    image[0, 0] = number // 256, number % 256, 0
    return image


def depth_m(rows: np.ndarray, height: int = HEIGHT) -> np.ndarray:
    """Depth of image rows: Z = Z_M / (1 - LEAN (v - cy) / f)."""
    at_full_size = (np.asarray(rows) + 0.5) * HEIGHT / height - 0.5
    return Z_M / (1 - LEAN * (at_full_size - 59.5) / FOCAL_PX)


def shift_px(steps: int, rows: np.ndarray, height: int = HEIGHT) -> np.ndarray:
    """How far a pixel of these rows lies to the right in an image taken `steps` frames earlier."""
    return FOCAL_PX * STEP_M * steps / depth_m(rows, height)


class TruthMatcher:
    """Exact dense matches; `delay_s` stands for a slow network."""

    name = "truth"

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.threads: set[str] = set()

    def encode(self, image):
        self.threads.add(threading.current_thread().name)
        time.sleep(self.delay_s)
        number = int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])
        return Features(self.name, (image.shape[1], image.shape[0]), number)

    def reference(self, features):
        return Reference(self.name, features.image_size, features.data)

    def match(self, query, keyframe):
        width, height = query.image_size
        h, w = height // 4, width // 4
        blank = DenseMatch(np.zeros((h, w, 2)), np.zeros((h, w)), query.image_size, (width, height))
        warp = blank.grid_px()
        shift = shift_px(query.data - keyframe.data, warp[..., 1], height)
        warp[..., 0] += (shift * width / WIDTH).astype(np.float32)
        certainty = np.where((warp[..., 0] >= 0) & (warp[..., 0] <= width - 1), 0.95, 0.0)
        return DenseMatch(warp, certainty, query.image_size, keyframe.image_size)


def stamp_of(number: int) -> int:
    return 1_000_000_000_000 + number * PERIOD_NS


def image(number: int, *, stamp: int | None = None, frame_id: str = "cam", pixels=None) -> Image:
    head = header(stamp_of(number) if stamp is None else stamp, frame_id)
    return image_message(rgb(number) if pixels is None else pixels, "rgb8", head)


def info(number: int, camera: Camera = CAMERA) -> CameraInfo:
    return camera_info_message(camera, header(stamp_of(number), "cam"))


def depth(number: int, metres: float | None = None, shape=(HEIGHT, WIDTH)) -> Image:
    """The plane's depth, or the same everywhere; as a sensor's, it never repeats bit for bit."""
    rows = depth_m(np.arange(shape[0]), shape[0]) if metres is None else np.full(shape[0], metres)
    values = np.repeat(rows[:, None], shape[1], axis=1).astype(np.float32)
    values[0, 0] *= 1.0 + 1e-6 * (number % 1000)
    return image_message(values, "32FC1", header(stamp_of(number), "cam"))


def truth_x_m(number: int, keyframe: int) -> float:
    return (number - keyframe) * STEP_M


class Bench:
    """`with Bench(...)`: the node runs in this process, in an executor of its own thread."""

    def __init__(self, matcher=None, *, inside=True, activate=True, image_kind=Image, **parameters):
        self.domain, self._claim = claim_domain()
        # A context each, as in two processes: each is a participant of DDS.
        self.context, self.driver_context = rclpy.Context(), rclpy.Context()
        for context in (self.context, self.driver_context):
            rclpy.init(context=context, domain_id=self.domain)
        self.matcher = matcher or TruthMatcher()
        self.node = self._node(parameters) if inside else None
        self.driver = rclpy.create_node("driver", context=self.driver_context)
        kinds = {"image": image_kind, "camera_info": CameraInfo, "depth": Image}
        self.publishers = {name: self.publisher(kind, name) for name, kind in kinds.items()}
        self.number = 0  # of the next frame
        self.poses: list[PoseWithCovarianceStamped] = []
        self.statuses: dict[str, object] = {}
        self.listen(PoseWithCovarianceStamped, "/l2m/pose", self.poses.append)
        self.listen(DiagnosticArray, "/diagnostics", self._on_diagnostics)
        self._threads = [self._spin(node) for node in (self.node, self.driver) if node]
        if inside and activate:
            assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            self.connect()

    def _node(self, parameters):
        from l2m_ros.node.node import MatcherNode

        # The texture stands still while the truth moves: refined, the pairs would stand still too.
        still = {"tracking.subpixel": False}
        given = {"autostart": False, "model": "truth", "stale_after_s": 0.6, **still, **parameters}
        return MatcherNode(
            make_matcher=lambda name, **options: self.matcher,
            context=self.context,
            parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
        )

    def _spin(self, node):
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)

        def spin():
            try:
                while node.context.ok():
                    with contextlib.suppress(InvalidHandle):  # a test took a publisher away
                        executor.spin_once(timeout_sec=0.1)
            except Exception:  # the context ends under the executor when a bench is closed
                if node.context.ok():
                    raise

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        return thread

    def publisher(self, kind, topic, reliable=True, depth=50):
        name = "RELIABLE" if reliable else "BEST_EFFORT"
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy[name])
        return self.driver.create_publisher(kind, topic, qos)

    def listen(self, kind, topic, callback, depth=200):
        return self.driver.create_subscription(kind, topic, callback, QoSProfile(depth=depth))

    def _on_diagnostics(self, message):
        self.statuses = {status.name: status for status in message.status}

    def status(self, part: str):
        """(level, message) of the newest diagnostics about a part."""
        status = self.statuses.get(f"l2m: {part}")
        return (-1, "") if status is None else (status.level[0], status.message)

    def values(self, part: str) -> dict[str, str]:
        status = self.statuses.get(f"l2m: {part}")
        return {} if status is None else {value.key: value.value for value in status.values}

    def wait(self, condition, seconds: float = DISCOVERY_S, every_s: float = 0.02):
        """The condition's value once it is true; what is known where it never is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(every_s)
        told = {name: s.message for name, s in self.statuses.items()}
        raise AssertionError(f"not within {seconds} s; diagnostics: {told}, {self.statuses}")

    def connect(self, *names: str, seconds: float = DISCOVERY_S) -> None:
        """Until the node has subscribed to these topics of ours."""
        for name in names or self.publishers:
            self.wait(lambda name=name: self.publishers[name].get_subscription_count(), seconds)

    def call(self, service: str):
        """The answer of a std_srvs/Trigger."""
        client = self.driver.create_client(Trigger, service)
        assert client.wait_for_service(DISCOVERY_S)
        future = client.call_async(Trigger.Request())
        answer = self.wait(lambda: future.done() and future.result())
        self.driver.destroy_client(client)
        return answer

    def set(self, name: str, value) -> str:
        """Set a parameter of the node; the reason of a refusal, or ''."""
        result = self.node.set_parameters([Parameter(name, value=value)])[0]
        return "" if result.successful else result.reason

    def says(self, part: str, words: str, level: int | None = None):
        """The diagnostics, once they hold these words."""

        def said():
            now, message = self.status(part)
            return words in message and (level is None or now == level) and message

        return self.wait(said)

    def send(self, number: int | None = None, *, with_depth: bool = True) -> int:
        """One good frame, the next one unless a number is given."""
        number = self.number if number is None else number
        self.number = number + 1
        with_depth = with_depth and "depth" in self.publishers
        self.publishers["camera_info"].publish(info(number))
        if with_depth:
            self.publishers["depth"].publish(depth(number))
        if "image" in self.publishers:
            self.publishers["image"].publish(image(number))
        return number + 1  # true, for whoever waits while sending

    @staticmethod
    def depth_of(number: int) -> Image:
        return depth(number)

    def send_many(self, count: int, pause_s: float = 0.03, **options) -> None:
        for _ in range(count):
            self.send(**options)
            time.sleep(pause_s)

    def recover(self, poses: int = 3, seconds: float = DISCOVERY_S, every_s: float = 0.03) -> None:
        """Good frames until poses come."""
        before = len(self.poses)

        def posed():
            self.send()
            return len(self.poses) >= before + poses

        self.wait(posed, seconds, every_s)

    def close(self) -> None:
        if self.node is not None:
            self.node.close(10.0)
        self.context.try_shutdown()
        self.driver_context.try_shutdown()
        for thread in self._threads:
            thread.join(5.0)
        for node in (self.driver, self.node):
            if node is not None:
                node.destroy_node()
        self._claim.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def truncated(message: Image) -> Image:
    message.data = array.array("B", bytes(message.data)[: len(message.data) // 2])
    return message
