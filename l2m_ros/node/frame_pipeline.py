"""The path of one image, from the subscription's callback to the publishers.

executor's thread   on_message -> Inputs.add -> Worker.submit
l2m-encode          encode -> FrameBuilder.build, Tracker.encode
l2m-worker          track -> Tracker.process -> Publishers.publish
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rclpy.lifecycle import LifecycleNode

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.builder import FrameBuilder
from l2m_ros.frames.inputs import IMAGE, ODOM, Bundle, Inputs
from l2m_ros.frames.outputs import FrameResult
from l2m_ros.node.config import NodeConfig
from l2m_ros.node.diagnostics import ERROR, Health
from l2m_ros.node.input_monitor import InputMonitor
from l2m_ros.node.map_thread import MapThread
from l2m_ros.node.publishers import Publishers
from l2m_ros.node.subscriptions import Subscriptions
from l2m_ros.node.tracking_status import report_tracking
from l2m_ros.node.transforms import Transforms
from l2m_ros.node.worker import Worker
from l2m_ros.timing import StageTimes
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Features, FloatArray, Frame

CLOCKS_AGREE_S = 60.0  # stamps further from the node's clock than this are of another one


@dataclass(frozen=True, eq=False)
class EncodedBundle:
    """A frame whose features are there, on its way from one thread to the other."""

    frame: Frame
    features: Features
    received_s: float
    reset: bool
    times: StageTimes
    encoded_s: float


class FramePipeline:
    """Everything that runs while the node is active: made in activate, stopped in deactivate."""

    def __init__(
        self,
        node: LifecycleNode,
        tracker: Tracker,
        publishers: Publishers,
        health: Health,
        config: NodeConfig,
        map_thread: MapThread | None = None,
    ) -> None:
        self._map = map_thread
        self._node, self._health, self._config = node, health, config
        self._tracker, self._publishers = tracker, publishers
        health.restart_counts()
        self._pending_actions: deque[Callable[[], object]] = deque()
        self._base_from_camera = None if config.base_from_tf else config.base_from_camera
        self._take_options(tracker.options)
        self._inputs = Inputs(config.input_options, health.report)
        self._builder = FrameBuilder(
            rectified=config.rectified,
            image_topic=node.resolve_topic_name(IMAGE),
            report=health.report,
            image_bits=config.image_bits,
            depth_stamps=config.depth_stamps,
            limits=config.size_limits,
        )
        self._transforms = Transforms(node, publish=config.publish_tf, lookup=config.base_from_tf)
        requests = config.topic_requests(node.resolve_topic_name)
        self._subscriptions = Subscriptions(node, requests, self.on_message, health.report)
        self._reset_owed = False  # by a bundle that gave no frame
        self._worker = Worker(
            self._apart_from_the_map(self.encode),
            self._apart_from_the_map(self.track),
            self._on_error,
            lossless=config.lossless,
            ahead=config.encode_ahead and tracker.may_encode_ahead,
            max_bytes=config.input_options.waiting_bytes,
        )
        self._monitor = InputMonitor(
            node, self._subscriptions, self._inputs, self._worker, health, config
        )
        self._subscriptions.open()

    # ---- executor's thread: callbacks only store --------------------------------------------

    def on_message(self, key: str, message: Any) -> None:
        """The callback of every subscription; key is one of `inputs.TOPICS`."""
        received_s = time.monotonic()
        if key == IMAGE:
            self._monitor.image_arrived(received_s)
            self._health.count("images")
        try:
            bundles = self._inputs.add(key, message, received_s)
        except InvalidInput as error:  # odom of NaN; images are checked by the worker
            self._health.report(key, str(error))
            return
        if key == ODOM:
            self._health.report(key, None)
        for bundle in bundles:
            self._worker.submit(bundle)

    def before_next_frame(self, action: Callable[[], object]) -> None:
        """Called (a reset, new options) before the next frame is tracked."""
        self._pending_actions.append(action)

    def reconfigure(self, config: NodeConfig, options: TrackerOptions) -> None:
        """Dynamic parameters: they hold from the next frame on."""
        self._config = self._monitor.config = config
        now = self._inputs.options
        options_now = replace(config.input_options, depth=now.depth, right=now.right, odom=now.odom)
        if options_now != now:
            self._inputs.reconfigure(options_now)
        self.before_next_frame(lambda: self._take_options(options))

    def stop(self, timeout_s: float) -> bool:
        """False where the worker is still at a frame after the timeout; may be called again."""
        self._monitor.stop()
        self._subscriptions.destroy()
        if not self._worker.stop(timeout_s):
            return False
        self._transforms.destroy()  # the frame at hand used them
        # The executor may hold the last subscription, and this with it, until it wakes again: the
        # model must not wait for that, else two of them are in memory at the next configure.
        vars(self).pop("_tracker", None)
        self._pending_actions.clear()
        return True

    # ---- the worker's threads; they touch different things --------------------------------------

    def encode(self, bundle: Bundle) -> EncodedBundle | None:
        """First half of a frame: messages -> Frame -> features, while the one before is tracked."""
        times = StageTimes()
        times.ms["wait"] = _milliseconds_since(bundle.received_s)
        self._reset_owed |= bundle.reset
        try:
            with times.stage("frame"):
                frame = self._builder.build(bundle)
        except InvalidInput:  # the builder has reported why
            self._health.count("refused")
            return None
        with times.stage("encode"):
            features = self._tracker.encode(frame)
        reset, self._reset_owed = self._reset_owed, False
        return EncodedBundle(
            frame, features, bundle.received_s, reset, times, encoded_s=time.monotonic()
        )

    def track(self, now: EncodedBundle) -> None:
        """Second half of a frame: features -> TrackResult -> topics and /tf."""
        times, frame = now.times, now.frame
        times.ms["handover"] = _milliseconds_since(now.encoded_s)
        self._run_pending_actions(reset=now.reset)
        base = self._find_base(frame.frame_id)
        # Odometry moves the base: of no use to the camera until it is known where that sits.
        odometry = None if base is None else self._inputs.odometry_at(frame.stamp_ns)
        result = self._tracker.process(frame, odometry, now.features)
        self._inputs.learn(result, base)
        tracked = FrameResult(result, self._config.frames, base, self._health.rate_hz)
        with times.stage("publish"):
            self._publishers.publish(tracked)
            self._transforms.publish(tracked)
        if self._map is not None:
            with times.stage("map"):
                self._map.submit(tracked, odometry)
        times.ms |= result.stages_ms | {"latency": _milliseconds_since(now.received_s)}
        times.ms |= self._age_ms(frame.stamp_ns)
        self._report(tracked, times)

    def _apart_from_the_map(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The map's process stands still meanwhile (see `mapping/hold`)."""
        if self._map is None:
            return work
        hold = self._map.process.hold

        def held(item: Any) -> Any:
            with hold.frame():
                return work(item)

        return held

    def _run_pending_actions(self, *, reset: bool) -> None:
        while self._pending_actions:
            self._pending_actions.popleft()()
        if reset:
            self._tracker.reset()

    def _take_options(self, options: TrackerOptions) -> None:
        """In the worker's thread, where base_from_camera is found too: neither undoes the other."""
        self._tracker.reconfigure(replace(options, base_from_camera=self._base_from_camera))

    def _age_ms(self, stamp_ns: int) -> dict[str, float]:
        """From the image's stamp to now by the node's clock; empty where the clocks differ."""
        age_s = (self._node.get_clock().now().nanoseconds - stamp_ns) * 1e-9
        self._health.set_facts(stamp_age_s=f"{age_s:.3f}")
        return {"stamp_to_publish": age_s * 1e3} if abs(age_s) < CLOCKS_AGREE_S else {}

    def _find_base(self, camera_frame: str) -> FloatArray | None:
        """base_from_camera: the parameter's, or TF's once it is known there."""
        if self._base_from_camera is None:
            base = self._transforms.base_from_camera(self._config.frames.base, camera_frame)
            if base is not None:
                self._tracker.reconfigure(replace(self._tracker.options, base_from_camera=base))
            self._base_from_camera = base
        return self._base_from_camera

    def _report(self, tracked: FrameResult, times: StageTimes) -> None:
        health = self._health
        health.frame_done(times.ms)
        health.report("worker", None)
        health.report("tf", self._transforms.problem)
        health.report("outputs", self._publishers.unsupported_outputs(tracked))
        report_tracking(health, tracked.result)

    def _on_error(self, error: Exception) -> None:
        """A frame that fails is logged and counted; the next one is taken all the same."""
        if not self._node.context.ok():
            return  # publishers end with the context; the process is about to
        self._health.count("failed")
        words = f"a frame failed: {type(error).__name__}: {' '.join(str(error).split())}"
        self._health.report("worker", words, ERROR)
        trace = "".join(traceback.format_exception(error))
        self._node.get_logger().error(trace, throttle_duration_sec=10.0)


def _milliseconds_since(started_s: float) -> float:
    return (time.monotonic() - started_s) * 1e3
