"""The node: life cycle, parameters, services. The path of images is `frame_pipeline.py`.

configure   parameters, model, warm-up (an engine, if it must be built), tracker, publishers
activate    subscribe and publish            deactivate  the other way round
cleanup, shutdown, error                     leave nothing behind
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.clock import Clock, ClockType
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from l2m_ros.errors import InvalidInput, L2MError
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.mono_depth import DepthReader, load_depth_reader
from l2m_ros.node.config import NodeConfig
from l2m_ros.node.diagnostics import ERROR, OK, WARN, Health, diagnostic_array
from l2m_ros.node.frame_pipeline import FramePipeline
from l2m_ros.node.loading import (
    Interrupted,
    LogForwarder,
    give_memory_back,
    run_in_thread,
    warm_up,
    warm_up_pose,
)
from l2m_ros.node.map_thread import MapThread, start_map
from l2m_ros.node.publishers import Publishers
from l2m_ros.parameters import table as parameters
from l2m_ros.tracking.tracker import Tracker

DIAGNOSTICS_S = 1.0
STOP_S = 30.0  # a frame of the largest model on a CPU takes less
RCLError = _rclpy.RCLError
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

Transition = Callable[["MatcherNode", LifecycleState], TransitionCallbackReturn]


def transition(name: str) -> Callable[[Transition], Transition]:
    """rclpy swallows exceptions of transitions: log the cause, undo, return FAILURE."""

    def wrap(callback: Transition) -> Transition:
        @functools.wraps(callback)
        def guarded(node: MatcherNode, state: LifecycleState) -> TransitionCallbackReturn:
            try:
                return node.transition_done(name, callback(node, state))
            except Interrupted:
                return FAILURE
            except Exception as error:
                node.transition_failed(name, error)
                return FAILURE

        return guarded

    return wrap


class MatcherNode(LifecycleNode):
    """`/l2m`. `make_matcher(name, **options)` is passed in, so that tests bring their own;
    `ending` is set when the process is asked to end, and stops a configure under way."""

    def __init__(
        self,
        make_matcher: Callable[..., Matcher] = load_matcher,
        ending: threading.Event | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__("l2m", **kwargs)
        self._make_matcher = make_matcher
        self._ending = ending or threading.Event()
        self._configured = False
        self._tracker: Tracker | None = None
        self._outputs: Publishers | None = None
        self._pipeline: FramePipeline | None = None
        self._map: MapThread | None = None
        self.health = Health(log=self._log)
        self.health.set_facts(lifecycle="unconfigured")
        self._declare()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # runs on while a bag is paused
        self.create_timer(DIAGNOSTICS_S, self.publish_diagnostics, clock=steady)
        self.create_service(Trigger, "~/set_keyframe", self._on_set_keyframe)
        self.create_service(Trigger, "~/reset", self._on_reset)
        for name in ("save_map", "load_map", "relocalize"):
            self.create_service(Trigger, f"~/{name}", functools.partial(self._on_map, name))
        self.add_on_set_parameters_callback(self._on_parameters)
        if hasattr(self, "add_pre_set_parameters_callback"):  # Iron and newer
            self.add_pre_set_parameters_callback(_converted)
        answer_invalid_transitions(self)
        if self.get_parameter("autostart").value:
            self._starter = self.create_timer(0.0, self._autostart, clock=steady)

    # ---- life cycle -----------------------------------------------------------------------------

    @transition("configure")
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.health.clear()
        values = self._checked_values()
        matcher, reader = self._load(values)
        self._report_unknown_parameters()
        self._tracker = Tracker(matcher, parameters.tracker_options(values), reader)
        self._outputs = Publishers(self)
        self._configured = True
        self.health.set_facts(model=matcher.name)
        return super().on_configure(state)

    @transition("activate")
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._tracker is not None and self._outputs is not None  # configure made them
        self._tracker.reset()  # the robot may have been carried away meanwhile
        self._tracker.reconfigure(parameters.tracker_options(self._values()))
        config = NodeConfig.from_parameters(self._values())
        self._map = start_map(self, self.health, self._values(), self._alive)
        self._pipeline = FramePipeline(
            self, self._tracker, self._outputs, self.health, config, self._map
        )
        return super().on_activate(state)

    @transition("deactivate")
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_pipeline(STOP_S)
        return super().on_deactivate(state)

    @transition("cleanup")
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    @transition("shutdown")
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    @transition("error processing")
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_error(state)

    def transition_done(
        self, name: str, outcome: TransitionCallbackReturn
    ) -> TransitionCallbackReturn:
        """Put the state that a transition reached into the diagnostics."""
        reached = {
            "configure": "inactive",
            "activate": "active",
            "deactivate": "inactive",
            "shutdown": "finalized",
        }
        if outcome == SUCCESS:
            self.health.set_facts(lifecycle=reached.get(name, "unconfigured"))
            self.health.report("lifecycle", None)
            self.get_logger().info(f"{name}: done")
        return outcome

    def transition_failed(self, name: str, error: Exception) -> None:
        """Undo what a failed transition began; log and report why it failed."""
        if name == "configure":
            self._release()
        elif name == "activate":
            self._stop_pipeline(STOP_S)
        words = f"{name} failed: {' '.join(str(error).split()) or type(error).__name__}"
        if isinstance(error, (L2MError, OSError)):
            words += f"; then: ros2 lifecycle set {self.get_fully_qualified_name()} {name}"
        else:
            self.get_logger().error(traceback.format_exc())
        self.health.report("lifecycle", words, ERROR)
        self.publish_diagnostics()

    def close(self, timeout_s: float) -> bool:
        """Stop at the end of the process; False where a frame is still being processed."""
        done = self._pipeline is None or self._pipeline.stop(timeout_s)
        return (self._map is None or self._map.stop(timeout_s)) and done

    def _autostart(self) -> None:
        self.destroy_timer(self._starter)
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _load(self, values: parameters.Values) -> tuple[Matcher, DepthReader | None]:
        options = parameters.matcher_options(values)

        def load() -> tuple[Matcher, DepthReader | None]:
            matcher = self._make_matcher(values["model"], **options)
            self.get_logger().info(f"{matcher.name}: first match took {warm_up(matcher):.2f} s")
            self.get_logger().info(f"first pose took {warm_up_pose():.2f} s")
            reader_options = parameters.depth_reader_options(values)
            reader = load_depth_reader(values["mono_depth"], matcher, **reader_options)
            return matcher, reader

        def progress(seconds: float) -> None:
            what = f"loading {values['model']}, {seconds:.0f} s so far: {log.newest}"
            self.health.set_facts(lifecycle=what)
            self.publish_diagnostics()

        with LogForwarder(self._log_record) as log:
            return run_in_thread(load, progress=progress, alive=self._alive)

    def _alive(self) -> bool:
        return bool(self.context.ok()) and not self._ending.is_set()

    def _stop_pipeline(self, timeout_s: float) -> None:
        if self._pipeline is not None:
            if not self._pipeline.stop(timeout_s):
                raise RuntimeError(f"the frame at hand is not done after {timeout_s:g} s")
            self._pipeline = None
        if self._map is not None:
            if not self._map.stop(timeout_s):
                raise RuntimeError(f"the map is not closed after {timeout_s:g} s")
            self._map = None

    def _release(self) -> None:
        self._stop_pipeline(STOP_S)
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = self._tracker = None
        self._configured = False
        forget_destroyed(self)
        give_memory_back()

    # ---- parameters -----------------------------------------------------------------------------

    def _declare(self) -> None:
        """Raises InvalidInput where a given value cannot be: rclpy would end with a traceback."""
        # rclpy keeps what the user gave in this attribute alone, declared or not.
        given = getattr(self, "_parameter_overrides", {})
        for p in parameters.PARAMETERS.values():
            if p.name in given:
                (given[p.name],) = _converted([given[p.name]])
                if (words := p.validation_error(given[p.name].value)) is not None:
                    raise InvalidInput(words)
            self.declare_parameter(p.name, p.default, _descriptor(p))
        self._report_unknown_parameters()

    def _report_unknown_parameters(self) -> None:
        given = getattr(self, "_parameter_overrides", {})
        unknown = parameters.unknown_names(given)
        words = f"unknown parameters: {', '.join(unknown)}" if unknown else None
        self.health.report("parameters", words)

    def _values(self) -> dict[str, Any]:
        return {name: self.get_parameter(name).value for name in parameters.PARAMETERS}

    def _checked_values(self) -> dict[str, Any]:
        values = self._values()
        words = parameters.validation_error(values)
        if words is not None:
            raise L2MError(words)
        return values

    def _on_parameters(self, changed: list[Any]) -> SetParametersResult:
        """Refuse with a reason, or take effect with the next frame."""
        new = {p.name: p.value for p in changed if p.name in parameters.PARAMETERS}
        if not new:
            return SetParametersResult(successful=True)
        values = {**self._values(), **new}
        words = parameters.validation_error(values) or self._change_refused(new)
        if words is not None:
            return SetParametersResult(successful=False, reason=words)
        if self._pipeline is not None:
            self._pipeline.reconfigure(
                NodeConfig.from_parameters(values), parameters.tracker_options(values)
            )
        return SetParametersResult(successful=True)

    def _change_refused(self, new: dict[str, Any]) -> str | None:
        late = [name for name in new if parameters.PARAMETERS[name].when == "configure"]
        if not self._configured or not late:
            return None
        return (
            f"{', '.join(late)}: taken up at configure; deactivate and cleanup first "
            f"(ros2 lifecycle set {self.get_fully_qualified_name()} ...)"
        )

    # ---- services and diagnostics ---------------------------------------------------------------

    def _on_set_keyframe(self, request: Any, response: Any) -> Any:
        return self._request(response, "set_keyframe", "the next frame becomes the keyframe")

    def _on_reset(self, request: Any, response: Any) -> Any:
        return self._request(response, "reset", "everything is forgotten before the next frame")

    def _on_map(self, what: str, request: Any, response: Any) -> Any:
        """The map's process does it; its outcome goes into the log and /diagnostics."""
        if self._map is None:
            response.success = False
            response.message = "no map: set map.mode (localize, build) and map.path, and activate"
            return response
        response.success, response.message = self._map.call(what, self._values()["map.path"])
        return response

    def _request(self, response: Any, what: str, words: str) -> Any:
        response.success = self._pipeline is not None
        response.message = words if self._pipeline is not None else "the node is not active"
        if self._pipeline is not None:
            self._pipeline.before_next_frame(getattr(self._tracker, what))
        return response

    def publish_diagnostics(self) -> None:
        stamp = self.get_clock().now().to_msg()
        hardware = self.health.facts.get("model", "")
        name = self.get_fully_qualified_name().lstrip("/")  # several robots share /diagnostics
        array = diagnostic_array(self.health.statuses(), name, hardware, stamp)
        self._diagnostics.publish(array)

    def _log(self, level: int, words: str) -> None:
        # Each level at a line of its own: rclpy remembers a severity per calling line.
        logger = self.get_logger()
        if level == OK:
            logger.info(words)
        elif level == WARN:
            logger.warning(words)
        else:
            logger.error(words)

    def _log_record(self, level: int, words: str) -> None:
        self._log(OK if level < 30 else WARN if level < 40 else ERROR, words)


def _converted(given: list[Parameter]) -> list[Parameter]:
    """Whole numbers become fractions where fractions belong."""
    out = []
    for one in given:
        if one.name in parameters.PARAMETERS:
            value = parameters.converted(one.name, one.value)
            one = Parameter(one.name, value=value) if value is not one.value else one
        out.append(one)
    return out


def forget_destroyed(node: LifecycleNode) -> None:
    """rclpy's callback group keeps a weak reference to each entity for ever: 31 a life cycle."""
    entities = node.default_callback_group.entities
    entities -= {reference for reference in entities if reference() is None}


def answer_invalid_transitions(node: LifecycleNode) -> None:
    """rclpy raises where a state has no such transition, and whoever asked waits for ever."""
    for service in node.services:
        if not service.srv_name.endswith("/change_state"):
            continue
        change_state = service.callback

        def answered(request: Any, response: Any, change_state: Any = change_state) -> Any:
            try:
                return change_state(request, response)
            except RCLError as error:
                node.get_logger().warning(f"refused: {' '.join(str(error).split())}")
                response.success = False
                return response

        service.callback = answered


def _descriptor(p: parameters.Parameter) -> ParameterDescriptor:
    words = {"start": "read-only", "configure": "taken up at configure", "frame": "dynamic"}[p.when]
    descriptor = ParameterDescriptor(
        name=p.name,
        description=p.description,
        read_only=p.when == "start",
        additional_constraints="; ".join([words, *([", ".join(p.choices)] if p.choices else [])]),
    )
    if p.low is None or p.high is None:
        return descriptor
    if isinstance(p.default, int):
        bounds = IntegerRange(from_value=int(p.low), to_value=int(p.high), step=1)
        descriptor.integer_range = [bounds]
    else:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(p.low), to_value=float(p.high))
        ]
    return descriptor
