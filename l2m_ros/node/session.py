"""What lives between activate and deactivate: subscriptions, the worker, and what they feed.

callback: store ─> Inputs ─> Worker (one thread): Pipeline ─> Publishers, Health
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import LifecycleNode

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.builder import FrameBuilder, FrameRefused, Pipeline
from l2m_ros.frames.inputs import IMAGE, ODOM, Bundle, Inputs
from l2m_ros.frames.outputs import Moment
from l2m_ros.node.diagnostics import ERROR, Health
from l2m_ros.node.plan import Plan
from l2m_ros.node.publishers import Publishers
from l2m_ros.node.subscriptions import Subscriptions
from l2m_ros.node.transforms import Transforms
from l2m_ros.node.watch import InputWatch
from l2m_ros.node.worker import Worker, milliseconds_since
from l2m_ros.tracking.tracker import Tracker, TrackerOptions, TrackResult, TrackState
from l2m_ros.types import FloatArray, Lost, LostReason, RelativePose

REMEDIES = {
    LostReason.TOO_FEW_MATCHES: "too little in common with the keyframe: move slower, or raise the "
    "frame rate",
    LostReason.NOT_CONFIDENT: "nothing is matched with confidence: blur, darkness, another place?",
    LostReason.INVALID_INPUT: "the model gave numbers that are none: try another backend",
    LostReason.DEGENERATE: "the matches do not determine a pose: a blank wall, or no motion?",
    LostReason.TOO_FEW_INLIERS: "matches contradict each other: moving objects? check camera_info",
    LostReason.NO_DEPTH: "depth is unknown where the matches are: check its range and registration",
    LostReason.NO_SCALE: "connect depth, right/image or odom for metres",
    LostReason.UNCERTAIN: "more texture, or more motion across the view, would help",
    LostReason.IMPLAUSIBLE: "check stamps and camera_info, or raise the bound that it names",
}
NO_SCALE = (
    "matched, but without metres: nothing is published on ~/pose; connect depth, right/image "
    "or odom"
)


class Session:
    """Made in activate, stopped in deactivate. Callbacks store; the worker works."""

    def __init__(
        self,
        node: LifecycleNode,
        tracker: Tracker,
        outputs: Publishers,
        health: Health,
        plan: Plan,
    ) -> None:
        self._node, self._tracker, self._health, self._plan = node, tracker, health, plan
        self._outputs = outputs
        self._orders: deque[Callable[[], object]] = deque()
        self._base: FloatArray | None = None if plan.base_from_tf else plan.base_from_camera
        self._inputs = Inputs(plan.input_options, health.note)
        wishes = plan.wishes(node.resolve_topic_name)
        self._subscriptions = Subscriptions(node, wishes, self._store, health.note)
        rectified = plan.is_rectified(node.resolve_topic_name(IMAGE))
        builder = FrameBuilder(rectified=rectified, note=health.note)
        self._pipeline = Pipeline(tracker, builder, self._odometry)
        self._transforms = Transforms(node, publish=plan.publish_tf, lookup=plan.base_from_tf)
        self._worker = Worker(self._work, lossless=plan.lossless)
        self._watch: InputWatch | None = InputWatch(
            node, self._subscriptions, self._inputs, self._worker, health, plan
        )

    def order(self, order: Callable[[], object]) -> None:
        """Something that the worker does before the next frame (reset, new options)."""
        self._orders.append(order)

    def reconfigure(self, plan: Plan, options: TrackerOptions) -> None:
        """Dynamic parameters: taken up by the next frame."""
        if self._base is not None:
            options = replace(options, base_from_camera=self._base)
        self._plan = plan
        if self._watch is not None:
            self._watch.plan = plan
        slop_ns = plan.input_options.slop_ns
        if slop_ns != self._inputs.options.slop_ns:
            self._inputs.reconfigure(replace(self._inputs.options, slop_ns=slop_ns))
        self.order(lambda: self._tracker.reconfigure(options))

    def stop(self, timeout_s: float) -> bool:
        """False where the worker is still at a frame after the timeout."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._subscriptions.destroy()
        self._transforms.destroy()
        return self._worker.stop(timeout_s)

    # ---- callbacks (executor's thread) ----------------------------------------------------------

    def _store(self, key: str, message: Any) -> None:
        now_s = time.monotonic()
        if key == IMAGE and self._watch is not None:
            self._watch.image_s = now_s
            self._health.count("images")
        try:
            bundles = self._inputs.add(key, message, now_s)
        except InvalidInput as error:  # odom of NaN; images are judged by the worker
            self._health.note(key, str(error))
            return
        if key == ODOM:
            self._health.note(key, None)
        for bundle in bundles:
            self._worker.submit(bundle)

    # ---- frames (worker's thread) ---------------------------------------------------------------

    def _odometry(self, stamp_ns: int) -> Any:
        return self._inputs.odometry.at(stamp_ns) if self._inputs.options.odom else None

    def _work(self, bundle: Bundle) -> None:
        """One frame; nothing that goes wrong with it ends the thread."""
        try:
            while self._orders:
                self._orders.popleft()()
            self._track(bundle)
        except Exception as error:
            if not self._node.context.ok():
                return  # publishers end with the context; the process is about to
            self._health.count("failed")
            words = f"a frame failed: {type(error).__name__}: {' '.join(str(error).split())}"
            self._health.note("worker", words, ERROR)
            self._node.get_logger().error(traceback.format_exc(), throttle_duration_sec=10.0)

    def _track(self, bundle: Bundle) -> None:
        wait_ms = milliseconds_since(bundle.received_s)
        try:
            done = self._pipeline.process(bundle)
        except FrameRefused:
            self._health.count("refused")
            return
        self._find_base(done.result.frame.frame_id)
        moment = Moment(done.result, self._plan.frames, self._base, self._health.rate_hz)
        started_s = time.monotonic()
        self._outputs.publish(moment)
        self._transforms.publish(moment)
        stages = {"wait": wait_ms, **done.stages_ms, "publish": milliseconds_since(started_s)}
        self._health.frame_done({**stages, "latency": milliseconds_since(bundle.received_s)})
        self._tell(moment)

    def _find_base(self, frame_id: str) -> None:
        if self._base is None:
            self._base = self._transforms.base_from_camera(self._plan.frames.base, frame_id)
            if self._base is not None:
                options = replace(self._tracker.options, base_from_camera=self._base)
                self._tracker.reconfigure(options)

    def _tell(self, moment: Moment) -> None:
        result, health = moment.result, self._health
        health.note("worker", None)
        health.note("tracking", tracking_words(result))
        health.note("tf", self._transforms.problem)
        vain = self._outputs.in_vain(moment)
        words = f"~/{', ~/'.join(vain)} need a dense matcher: set model: lite" if vain else None
        health.note("outputs", words)
        found = result.pose
        health.count("posed" if found is not None else f"unposed_{result.why_not_posed}")
        health.set_facts(
            state=result.state.value,
            reason=result.reason,
            keyframe="none" if result.keyframe is None else result.keyframe.id,
            scale_source="none" if found is None else found.scale_source,
            inliers=0 if found is None else int(found.inliers.sum()),
        )


def tracking_words(result: TrackResult) -> str | None:
    """What the user should know or do about this frame, or None."""
    if isinstance(result.outcome, Lost):
        return f"{result.state.value}: {result.reason}; {REMEDIES[result.outcome.reason]}"
    if isinstance(result.outcome, RelativePose):
        return NO_SCALE
    if result.state is TrackState.WAITING:
        return f"waiting: {result.reason}"
    return None
