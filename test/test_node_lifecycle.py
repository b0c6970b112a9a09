"""The life cycle, driven directly: what each transition makes and leaves behind."""

import gc
import logging
import os
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.lifecycle import TransitionCallbackReturn
from ros_bench import Bench, TruthMatcher

from l2m_ros.errors import ModelError
from l2m_ros.node import node as node_module
from l2m_ros.tracking import tracker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(scope="module", autouse=True)
def _often():
    patch = pytest.MonkeyPatch()
    patch.setattr(node_module, "DIAGNOSTICS_S", 0.2)
    yield
    patch.undo()


def entities(bench) -> dict[str, int]:
    """What a node holds, and the process's threads."""
    node = bench.node
    return {
        "publishers": len(list(node.publishers)),
        "subscriptions": len(list(node.subscriptions)),
        "timers": len(list(node.timers)),
        "services": len(list(node.services)),
        "managed": len(node._managed_entities),
        "threads": sum(t.name.startswith("l2m") for t in threading.enumerate()),
    }


def cycle(bench) -> None:
    assert bench.node.trigger_configure() == SUCCESS
    assert bench.node.trigger_activate() == SUCCESS
    bench.connect()
    bench.recover(1)
    assert bench.node.trigger_deactivate() == SUCCESS
    assert bench.node.trigger_cleanup() == SUCCESS


def test_each_state_holds_what_it_should(monkeypatch):
    monkeypatch.setattr(tracker, "CORES_TO_ENCODE_AHEAD", 1)
    with Bench(activate=False) as bench:
        empty = entities(bench)
        assert empty["threads"] == 0
        bench.node.trigger_configure()
        inactive = entities(bench)
        assert inactive["publishers"] == empty["publishers"] + 9
        assert inactive["subscriptions"] == empty["subscriptions"]
        bench.node.trigger_activate()
        assert entities(bench)["subscriptions"] == empty["subscriptions"] + 2
        bench.connect()
        heard = empty["subscriptions"] + 3  # nobody publishes the others
        bench.wait(lambda: entities(bench)["subscriptions"] == heard)
        active = entities(bench)
        assert active["threads"] == 2  # encode and track
        bench.recover(1)
        bench.node.trigger_deactivate()
        assert entities(bench) == inactive
        bench.node.trigger_cleanup()
        assert entities(bench) == empty
        assert bench.node.trigger_shutdown() == SUCCESS


def test_the_model_goes_at_cleanup_though_a_subscription_is_still_held():
    """As the executor holds the one that it took last: two models were in memory for a while."""
    models = weakref.WeakSet()

    def load(name, **options):
        models.add(matcher := TruthMatcher())
        return matcher

    with Bench(activate=False) as bench:
        bench.node._make_matcher = load
        for _ in range(2):
            assert bench.node.trigger_configure() == SUCCESS and len(models) == 1
            assert bench.node.trigger_activate() == SUCCESS
            bench.connect()
            held = list(bench.node.subscriptions)
            bench.recover(1)
            assert bench.node.trigger_deactivate() == SUCCESS
            assert bench.node.trigger_cleanup() == SUCCESS
            assert held and not models


def test_what_is_needed_is_subscribed_to_before_anybody_publishes():
    """`ros2 node info` shows where the node listens, the remappings with it."""
    with Bench(activate=False, depth="use") as bench:
        for name in list(bench.publishers):
            bench.driver.destroy_publisher(bench.publishers.pop(name))
        assert bench.node.trigger_configure() == SUCCESS
        assert bench.node.trigger_activate() == SUCCESS

        def heard():
            if "l2m" not in bench.driver.get_node_names():
                return False
            topics = bench.driver.get_subscriber_names_and_types_by_node("l2m", "/")
            return {"/image", "/camera_info", "/depth"} <= {name for name, _ in topics}

        bench.wait(heard)
        assert not bench.driver.get_subscriptions_info_by_topic("/odom")


def test_nothing_is_published_while_inactive_and_all_comes_back():
    with Bench() as bench:
        bench.recover()
        bench.node.trigger_deactivate()
        time.sleep(0.3)  # poses that were on their way
        silent = len(bench.poses)
        bench.send_many(5)
        bench.wait(lambda: bench.values("node").get("lifecycle") == "inactive")
        assert len(bench.poses) == silent
        assert not bench.call("/l2m/set_keyframe").success
        bench.node.trigger_activate()
        bench.connect()
        bench.recover()


def memory_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def grown(bench, cycles: int) -> tuple[dict[str, int], float]:
    """What is left after some cycles that was not there after the first two, and MiB."""
    for _ in range(2):
        cycle(bench)
    gc.collect()
    before, memory = entities(bench), memory_mib()
    for _ in range(cycles):
        cycle(bench)
    gc.collect()
    after = entities(bench)
    left = {name: after[name] - before[name] for name in before}
    return left, memory_mib() - memory


def references(bench) -> int:
    """What rclpy keeps of each publisher, subscription and timer; it forgets none by itself."""
    return len(bench.node.default_callback_group.entities)


@pytest.mark.slow
def test_cycles_leave_nothing_behind():
    with Bench(activate=False) as bench:
        kept = references(bench)
        left, _ = grown(bench, 3)
        assert not any(left.values()), left
        assert references(bench) < kept + 2 * 31  # five cycles were; the last may still be held


@pytest.mark.soak
def test_fifty_cycles_leave_nothing_behind():
    with Bench(activate=False) as bench:
        left, growth_mib = grown(bench, 50)
        assert not any(left.values()), left
        assert growth_mib < 10  # one leaked set of DDS entities a cycle would be 30


class Broken(TruthMatcher):
    """A model that cannot be loaded, or that breaks at its first match."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def match(self, query, keyframe):
        if self.error is not None:
            raise self.error
        return super().match(query, keyframe)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModelError("lite.onnx is damaged: fetch it again"),
            "lite.onnx is damaged: fetch it again",
        ),
        (PermissionError(13, "Permission denied", "/cache/engine"), "/cache/engine"),
        (ZeroDivisionError("division by zero"), "division by zero"),
    ],
)
def test_a_failed_configure_says_why_and_can_be_repeated(error, words):
    with Bench(Broken(error), activate=False) as bench:
        empty = entities(bench)
        assert bench.node.trigger_configure() == FAILURE
        message = bench.says("node", words, level=2)
        assert "configure failed" in message
        if not isinstance(error, ZeroDivisionError):
            assert "ros2 lifecycle set /l2m configure" in message
        assert entities(bench) == empty
        bench.matcher.error = None
        assert bench.node.trigger_configure() == SUCCESS
        assert bench.node.trigger_activate() == SUCCESS
        bench.connect()
        bench.recover()
        bench.wait(lambda: bench.status("node")[0] == 0)


def test_contradicting_parameters_fail_configure_in_words():
    with Bench(activate=False, model_width=320) as bench:
        assert bench.node.trigger_configure() == FAILURE
        assert "model_height" in bench.says("node", "go together")
        assert bench.set("model_height", 240) == ""
        assert bench.node.trigger_configure() == SUCCESS


def test_a_wrong_override_fails_activate_and_leaves_nothing():
    name = "qos_overrides./image.subscription.reliability"
    with Bench(activate=False, **{name: "reliabel"}) as bench:
        assert bench.node.trigger_configure() == SUCCESS
        inactive = entities(bench)
        assert bench.node.trigger_activate() == FAILURE
        assert "reliabel" in bench.says("node", "activate failed")
        assert entities(bench) == inactive


def test_unknown_parameters_are_reported_with_the_right_spelling():
    with Bench(activate=False, **{"tracking.min_inlier": 5}) as bench:
        words = bench.says("node", "tracking.min_inlier")
        assert "did you mean tracking.min_inliers?" in words


class Slow(TruthMatcher):
    """Loads like an engine that is being built: seconds, with progress in the log."""

    def __init__(self):
        super().__init__()
        self.release = threading.Event()

    def encode(self, image):
        if not self.release.is_set():
            logging.getLogger("l2m_ros.engines.test").info("building the engine, layer 7 of 9")
            self.release.wait(20)
        return super().encode(image)


def test_progress_of_a_long_configure_is_in_the_diagnostics():
    matcher = Slow()
    with Bench(matcher, activate=False) as bench:
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(bench.node.trigger_configure()))
        thread.start()
        bench.wait(lambda: "layer 7 of 9" in bench.values("node").get("lifecycle", ""))
        matcher.release.set()
        thread.join(10)
        assert outcome == [SUCCESS]


def test_a_frame_that_fails_ends_neither_the_node_nor_the_next_frame():
    matcher = Broken(None)
    with Bench(matcher) as bench:
        bench.recover()
        matcher.error = RuntimeError("CUDA out of memory")
        bench.wait(lambda: bench.send() and "CUDA out of memory" in bench.status("node")[1])
        matcher.error = None
        bench.recover()
        bench.wait(lambda: bench.send() and bench.status("node")[0] == 0, every_s=0.03)


@pytest.mark.soak
def test_ten_minutes_do_not_grow():
    with Bench() as bench:
        bench.recover(50)
        gc.collect()
        before, end = memory_mib(), time.monotonic() + 600
        while time.monotonic() < end:
            bench.send_many(50, pause_s=0.03)
            bench.poses.clear()
        gc.collect()
        assert memory_mib() - before < 15


def test_after_a_pause_nothing_of_before_is_used():
    """The robot may have been carried away: the keyframe and the last motion are forgotten."""
    with Bench() as bench:
        bench.recover()
        before = bench.node._tracker._keyframe
        assert bench.node.trigger_deactivate() == SUCCESS
        assert bench.node.trigger_activate() == SUCCESS
        assert bench.node._tracker._keyframe is None
        bench.connect()
        bench.recover()
        after = bench.node._tracker._keyframe
        assert after.chain == before.chain + 1
        assert (after.odom_from_keyframe == np.eye(4)).all()


def test_an_unknown_parameter_is_still_said_after_configure():
    with Bench(modle="lite") as bench:
        assert "did you mean model" in bench.says("node", "unknown parameters: modle")


def test_counts_begin_with_each_activation():
    """Frames that came are frames done, dropped or refused: all of one activation."""
    with Bench() as bench:
        bench.recover(3)
        assert bench.node.trigger_deactivate() == SUCCESS
        assert bench.node.trigger_activate() == SUCCESS
        assert not bench.node.health.counts["images"]
        bench.connect()
        bench.recover(3)
        bench.wait(lambda: "dropped_busy" in bench.node.health.counts)
        counts = bench.node.health.counts
        done = counts["frames"] + counts["refused"] + counts["unpaired"]
        assert counts["images"] - done - counts["dropped_busy"] <= 3  # on their way, or just before
