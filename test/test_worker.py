"""The worker's two threads: order, overlap, dropping, and an end at any moment."""

import threading
import time
import types
from dataclasses import replace

import pytest

pytest.importorskip("rclpy")

from l2m_ros.frames.inputs import Bundle
from l2m_ros.node.diagnostics import Health
from l2m_ros.node.worker import Worker

WAIT_S = 5.0


def bundles(number: int, bytes_each: int = 0) -> list[Bundle]:
    message = types.SimpleNamespace(data=bytes(bytes_each))
    return [Bundle(k, {"image": message, "camera_info": object()}, 0.0) for k in range(number)]


def wait_for(condition) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, "it never came to that"
        time.sleep(0.001)


class Gate:
    """A stage that notes what comes and waits until it is opened."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.open = threading.Event()

    def __call__(self, bundle):
        self.seen.append(bundle.stamp_ns)
        assert self.open.wait(WAIT_S)
        return bundle


@pytest.mark.parametrize("ahead", [True, False])
def test_all_bundles_come_out_in_their_order(ahead):
    done = []
    worker = Worker(lambda bundle: bundle, done.append, pytest.fail, lossless=True, ahead=ahead)
    for bundle in bundles(200):
        worker.submit(bundle)
    wait_for(lambda: len(done) == 200)
    assert [bundle.stamp_ns for bundle in done] == list(range(200))
    assert worker.stop(WAIT_S)


def test_the_next_is_encoded_while_this_one_is_tracked_and_no_more():
    encoded, track = [], Gate()

    def encode(bundle):
        encoded.append(bundle.stamp_ns)
        return bundle

    worker = Worker(encode, track, pytest.fail, lossless=True)
    for bundle in bundles(5):
        worker.submit(bundle)
    wait_for(lambda: track.seen == [0] and encoded == [0, 1])
    time.sleep(0.05)
    assert encoded == [0, 1]  # one ahead: a second would be old before it is used
    track.open.set()
    wait_for(lambda: track.seen == [0, 1, 2, 3, 4])
    assert worker.stop(WAIT_S)


def test_the_newest_waits_and_older_ones_are_dropped():
    encode, done = Gate(), []
    worker = Worker(encode, done.append, pytest.fail, lossless=False)
    first, *others = bundles(5)
    worker.submit(first)
    wait_for(lambda: encode.seen == [0])
    for bundle in others:
        worker.submit(replace(bundle, reset=bundle.stamp_ns == 2))
    encode.open.set()
    wait_for(lambda: len(done) == 2)
    assert [(bundle.stamp_ns, bundle.reset) for bundle in done] == [(0, False), (4, True)]
    assert worker.dropped == 3
    assert worker.stop(WAIT_S)


def test_a_frame_that_fails_in_either_half_is_told_and_the_next_is_taken():
    errors, done = [], []

    def encode(bundle):
        if bundle.stamp_ns == 1:
            raise ValueError("encode")
        return None if bundle.stamp_ns == 2 else bundle

    def track(bundle):
        if bundle.stamp_ns == 3:
            raise ValueError("track")
        done.append(bundle.stamp_ns)

    worker = Worker(encode, track, lambda e: errors.append(str(e)), lossless=True)
    for bundle in bundles(5):
        worker.submit(bundle)
    wait_for(lambda: done == [0, 4])
    assert sorted(errors) == ["encode", "track"]
    assert worker.stop(WAIT_S)


@pytest.mark.parametrize("halted", ["encode", "track", "handing over", "idle"])
def test_it_ends_at_any_moment(halted):
    encode, track = Gate(), Gate()
    worker = Worker(encode, track, pytest.fail, lossless=True)
    if halted != "idle":
        for bundle in bundles(3):
            worker.submit(bundle)
        wait_for(lambda: encode.seen)
    if halted in ("track", "handing over"):
        encode.open.set()
        wait_for(lambda: track.seen and len(encode.seen) == 2)
    if halted != "idle":
        assert not worker.stop(0.02)  # a frame is at hand
    encode.open.set()
    track.open.set()
    assert worker.stop(WAIT_S)
    assert len(track.seen) <= 1  # what was not begun is not worked on any more


def test_a_full_queue_drops_what_comes_and_says_so():
    """queue: all is bounded by the memory of its images; a reset that was dropped is still owed."""
    gate, done = threading.Event(), []

    def work(bundle):
        gate.wait()
        done.append(bundle)

    worker = Worker(lambda it: it, work, pytest.fail, lossless=True, ahead=False, max_bytes=250)
    given = bundles(6, bytes_each=100)
    worker.submit(given[0])
    wait_for(lambda: not worker.backlog)
    for bundle in given[1:4]:
        worker.submit(bundle)
    worker.submit(replace(given[4], reset=True))
    assert (worker.backlog, worker.overflowed) == (2, 2)
    gate.set()
    wait_for(lambda: len(done) == 3)
    worker.submit(given[5])
    wait_for(lambda: len(done) == 4)
    assert [bundle.stamp_ns for bundle in done] == [0, 1, 2, 5]
    assert [bundle.reset for bundle in done] == [False, False, False, True]
    assert worker.stop(5.0)


def test_a_problem_that_comes_and_goes_does_not_flood_the_log():
    """Each `good again` began the period anew: two lines a frame."""
    logged, now = [], [0.0]
    health = Health(log=lambda level, words: logged.append(words), clock=lambda: now[0])
    for k in range(300):  # 30 Hz
        now[0] = k / 30
        health.report("tracking", None if k % 2 else "lost")
    assert logged == ["lost", "tracking: good again"] * 3
    for k in range(20, 25):  # seconds: it stays
        now[0] = k
        health.report("tracking", "lost")
    health.report("tracking", None)
    assert logged[6:] == ["lost", "tracking: good again"]
