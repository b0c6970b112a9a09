"""What lives between activate and deactivate: subscriptions, the worker, and what they feed.

callback: store ─> Inputs ─> Worker (one thread): Pipeline ─> Publishers, Health
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import rclpy.clock
from rclpy.lifecycle import LifecycleNode

from l2m_ros.errors import InvalidInput
from l2m_ros.localization.tracker import Tracker, TrackerOptions, TrackResult, TrackState
from l2m_ros.ros import inputs as names
from l2m_ros.ros.diagnostics import ERROR, Health
from l2m_ros.ros.inputs import Bundle, InputOptions, Inputs
from l2m_ros.ros.outputs import FrameNames, Moment
from l2m_ros.ros.parameters import Values, base_from_camera
from l2m_ros.ros.pipeline import FrameBuilder, FrameRefused, Pipeline
from l2m_ros.ros.publishers import Publishers
from l2m_ros.ros.subscriptions import LOSS_REMEDY, LOSSLESS_DEPTH, Subscriptions, Wish
from l2m_ros.ros.transforms import Transforms
from l2m_ros.ros.worker import Worker, milliseconds_since
from l2m_ros.types import FloatArray, Lost, LostReason, RelativePose

REVIEW_S = 0.1  # while an input is missing; afterwards every REVIEWS_CALM of them
REVIEWS_CALM = 10
BACKLOG_TOLD = 100  # bundles waiting in a lossless queue before it is said

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


@dataclass(frozen=True)
class Plan:
    """What the parameters say about a session."""

    input_options: InputOptions
    use: dict[str, str]  # auto, use or ignore, by optional topic
    compressed: bool
    rectified: str
    stale_after_s: float
    frames: FrameNames
    base_from_camera: FloatArray
    base_from_tf: bool
    publish_tf: bool

    @classmethod
    def of(cls, values: Values) -> Plan:
        lossless = values["queue"] == "all"
        slop_ns = round(values["sync.slop_s"] * 1e9)
        return cls(
            input_options=InputOptions(slop_ns=slop_ns, lossless=lossless),
            use={
                names.DEPTH: values["depth"],
                names.RIGHT: values["right"],
                names.ODOM: values["odom"],
            },
            compressed=values["image_transport"] == "compressed",
            rectified=values["rectified"],
            stale_after_s=values["stale_after_s"],
            frames=FrameNames(
                values["frames.odom"], values["frames.base"], values["frames.keyframe"]
            ),
            base_from_camera=base_from_camera(values),
            base_from_tf=values["base_from_tf"],
            publish_tf=values["publish_tf"],
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
        self._image_s = time.monotonic()
        self._clock_ns = -1
        self._reviews = 0
        self._lost_before = 0
        self._lost_s = float("-inf")
        self._base: FloatArray | None = None if plan.base_from_tf else plan.base_from_camera
        self._inputs = Inputs(plan.input_options, health.note)
        self._subscriptions = Subscriptions(node, self._wishes(), self._store, health.note)
        self._pipeline = Pipeline(
            tracker, FrameBuilder(rectified=self._rectified(), note=health.note), self._odometry
        )
        self._transforms = Transforms(node, publish=plan.publish_tf, lookup=plan.base_from_tf)
        self._worker = Worker(self._work, lossless=plan.input_options.lossless)
        steady = rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
        self._timer = node.create_timer(REVIEW_S, self._review, clock=steady)

    def order(self, order: Callable[[], object]) -> None:
        """Something that the worker does before the next frame (reset, new options)."""
        self._orders.append(order)

    def reconfigure(self, plan: Plan, options: TrackerOptions) -> None:
        """Dynamic parameters: taken up by the next frame."""
        if self._base is not None:
            options = replace(options, base_from_camera=self._base)
        self._plan = plan
        slop_ns = plan.input_options.slop_ns
        if slop_ns != self._inputs.options.slop_ns:
            self._inputs.reconfigure(replace(self._inputs.options, slop_ns=slop_ns))
        self.order(lambda: self._tracker.reconfigure(options))

    def stop(self, timeout_s: float) -> bool:
        """False where the worker is still at a frame after the timeout."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._subscriptions.destroy()
        self._transforms.destroy()
        return self._worker.stop(timeout_s)

    # ---- what is subscribed to ------------------------------------------------------------------

    def _wishes(self) -> list[Wish]:
        lossless = self._plan.input_options.lossless
        kind = "sensor_msgs/CompressedImage" if self._plan.compressed else "sensor_msgs/Image"
        suffix = "/compressed" if self._plan.compressed else ""
        types = {
            names.IMAGE: (kind, suffix, 2),
            names.CAMERA_INFO: ("sensor_msgs/CameraInfo", "", 2),
            names.DEPTH: ("sensor_msgs/Image", "", 5),
            names.RIGHT: (kind, suffix, 5),
            names.RIGHT_INFO: ("sensor_msgs/CameraInfo", "", 2),
            names.ODOM: ("nav_msgs/Odometry", "", 100),
        }
        wishes = []
        for key, (type_name, ending, depth) in types.items():
            topic = self._node.resolve_topic_name(key) + ending
            wishes.append(Wish(key, type_name, topic, LOSSLESS_DEPTH if lossless else depth))
        ignored = {key for key, use in self._plan.use.items() if use == "ignore"}
        if names.RIGHT in ignored:
            ignored.add(names.RIGHT_INFO)
        return [wish for wish in wishes if wish.key not in ignored]

    def _rectified(self) -> bool:
        if self._plan.rectified != "auto":
            return self._plan.rectified == "use"
        return "rect" in self._node.resolve_topic_name(names.IMAGE).rsplit("/", 1)[-1]

    def _used(self, key: str) -> bool:
        use = self._plan.use[key]
        return use == "use" or (use == "auto" and bool(self._subscriptions.publishers(key)))

    # ---- callbacks (executor's thread) ----------------------------------------------------------

    def _store(self, key: str, message: Any) -> None:
        now_s = time.monotonic()
        if key == names.IMAGE:
            self._image_s = now_s
            self._health.count("images")
        try:
            bundles = self._inputs.add(key, message, now_s)
        except InvalidInput as error:  # odom of NaN; images are judged by the worker
            self._health.note(key, str(error))
            return
        if key == names.ODOM:
            self._health.note(key, None)
        for bundle in bundles:
            self._worker.submit(bundle)

    def _review(self) -> None:
        """Publishers come and go; what is missing, late or lost gets words."""
        self._reviews += 1
        complete = all(self._subscriptions.publishers(k) for k in (names.IMAGE, names.CAMERA_INFO))
        if complete and self._reviews % REVIEWS_CALM:
            return
        self._subscriptions.review()
        self._adapt()
        self._tell_missing()
        self._tell_sources()
        self._tell_losses()

    def _adapt(self) -> None:
        """Optional inputs that came or went."""
        options = replace(
            self._inputs.options,
            depth=self._used(names.DEPTH),
            right=self._used(names.RIGHT),
            odom=self._used(names.ODOM),
        )
        if options != self._inputs.options:
            self._inputs.reconfigure(options)
            used = [k for k in (names.DEPTH, names.RIGHT, names.ODOM) if self._used(k)]
            self._health.set_facts(inputs=", ".join([names.IMAGE, *used]))

    def _tell_missing(self) -> None:
        note, subscriptions = self._health.note, self._subscriptions
        silent_s, paused = time.monotonic() - self._image_s, self._paused()
        topic = subscriptions.topic(names.IMAGE)
        if not subscriptions.publishers(names.IMAGE):
            note(
                "source",
                f"nobody publishes {topic}{self._candidates()}: start the camera, or remap image",
                ERROR,
            )
        elif silent_s > self._plan.stale_after_s and not paused:
            note("source", f"no image for {silent_s:.1f} s on {topic}: does the camera run?", ERROR)
        elif silent_s <= self._plan.stale_after_s:
            note("source", None)
        missing = self._inputs.missing()
        if names.CAMERA_INFO in missing and not subscriptions.publishers(names.CAMERA_INFO):
            missing[names.CAMERA_INFO] = (
                f"nobody publishes {subscriptions.topic(names.CAMERA_INFO)}: remap camera_info; "
                "without it there are no poses"
            )
        note("sync", "; ".join(missing.values()) or None, ERROR)

    def _candidates(self) -> str:
        """Topics of the right type, for whoever forgot to remap."""
        graph = self._node.get_topic_names_and_types()
        ours = self._node.get_fully_qualified_name()
        kind = "CompressedImage" if self._plan.compressed else "Image"
        found = [
            name
            for name, types in graph
            if f"sensor_msgs/msg/{kind}" in types and not name.startswith(ours + "/")
        ]
        found = [name for name in found if self._node.count_publishers(name)]
        return f" (there is {', '.join(found[:3])})" if found else ""

    def _paused(self) -> bool:
        """Simulated time that stands still: a paused bag, nothing to complain about."""
        if not self._node.get_parameter("use_sim_time").value:
            return False
        now_ns = self._node.get_clock().now().nanoseconds
        stands, self._clock_ns = now_ns == self._clock_ns, now_ns
        self._health.set_facts(clock="paused" if stands else "running")
        return stands

    def _tell_sources(self) -> None:
        words = [
            f"{len(who)} publishers on {self._subscriptions.topic(key)} ({', '.join(who)}): two "
            "cameras on one topic give nonsense; remap one (after a crash this ends by itself)"
            for key in (names.IMAGE, names.CAMERA_INFO, names.DEPTH)
            if len(who := self._subscriptions.publishers(key)) > 1
        ]
        self._health.note("publishers", "; ".join(words) or None)

    def _tell_losses(self) -> None:
        health, now_s = self._health, time.monotonic()
        lost = sum(self._subscriptions.lost(k) for k in (names.IMAGE, names.DEPTH, names.RIGHT))
        health.set_facts(queue=f"{self._worker.backlog} waiting")
        health.counts["lost_by_dds"] = lost
        health.counts["dropped_busy"] = self._worker.dropped
        health.counts["refused_stamps"] = self._inputs.refused
        if lost > self._lost_before:
            self._lost_before, self._lost_s = lost, now_s
            health.note("loss", f"{lost} images lost on the way: {LOSS_REMEDY}")
        elif now_s - self._lost_s > 10.0:
            health.note("loss", None)
        behind = self._worker.backlog
        words = f"{behind} frames wait (queue: all): play the bag slower (--rate)"
        health.note("queue", words if behind > BACKLOG_TOLD else None)

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
        health.count("posed" if found is not None else f"unposed_{_why(result)}")
        health.set_facts(
            state=result.state.value,
            reason=result.reason,
            keyframe="none" if result.keyframe is None else result.keyframe.id,
            scale_source="none" if found is None else found.scale_source,
            inliers=0 if found is None else int(found.inliers.sum()),
        )


def _why(result: TrackResult) -> str:
    if isinstance(result.outcome, Lost):
        return result.outcome.reason.value
    return "no_scale" if isinstance(result.outcome, RelativePose) else "keyframe"


def tracking_words(result: TrackResult) -> str | None:
    """What the user should know or do about this frame, or None."""
    if isinstance(result.outcome, Lost):
        return f"{result.state.value}: {result.reason}; {REMEDIES[result.outcome.reason]}"
    if isinstance(result.outcome, RelativePose):
        return NO_SCALE
    if result.state is TrackState.WAITING:
        return f"waiting: {result.reason}"
    return None
