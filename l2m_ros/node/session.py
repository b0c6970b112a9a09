"""A node in a process of its own, a bag played at it in real time, its outputs recorded.

recorded = play_at_node(Session(bag, topics, parameters, log))
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor

from l2m_ros.bags.reader import open_bag
from l2m_ros.errors import L2MError
from l2m_ros.node.output_recorder import OutputRecorder, RecordedOutputs
from l2m_ros.node.player import Player
from l2m_ros.progress import progress

READY_S = 180.0  # loading and warming up a model on a busy machine
DISCOVERY_S = 30.0  # for the node to find the player's topics
STOP_S = 5.0
LAST_WORDS_S = 1.5  # for the last frame, and diagnostics once more


@dataclass(frozen=True)
class Pause:
    """The robot stops halfway until something has happened: on a busy machine a drive of seconds is
    over before the node has looked."""

    until: Callable[[RecordedOutputs], bool]
    patience_s: float = 60.0


@dataclass(frozen=True)
class Session:
    """What is played at which node."""

    bag: Path
    topics: Mapping[str, str]  # the node's name of an input: the bag's topic
    parameters: Mapping[str, str]
    log: Path  # what the node prints
    rate: float = 1.0  # of playing
    pictures: int = 0  # of ~/matches, spread over the bag
    pause: Pause | None = None


def play_at_node(session: Session) -> RecordedOutputs:
    """Blocks until the bag is played; the node is ended as Ctrl-C ends it."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with _node_process(session) as process, _spinning_node() as node:
        recorder = OutputRecorder(node)
        player = Player(node, session.bag, session.topics.values())
        recorded = recorder.recorded
        ready = lambda: recorded.diagnostics.get("lifecycle") == "active"  # noqa: E731
        _wait(ready, READY_S, lambda: _did_not_start(session), process)
        _wait(lambda: not player.unsubscribed(), DISCOVERY_S, lambda: _unheard(player), process)
        _play(player, recorder, session)
        time.sleep(LAST_WORDS_S)
    return recorded


@contextlib.contextmanager
def _spinning_node() -> Iterator[Any]:
    """A node of our own, served by a thread."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
    node = rclpy.create_node("l2m_session", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    closing = threading.Event()
    spinning = threading.Thread(target=_spin, args=(executor, closing), daemon=True)
    spinning.start()
    try:
        yield node
    finally:
        closing.set()
        executor.shutdown()
        spinning.join(STOP_S)
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def _spin(executor: SingleThreadedExecutor, closing: threading.Event) -> None:
    try:
        executor.spin()
    except Exception:  # a handle that went while the last callback ended
        if not closing.is_set():
            raise


@contextlib.contextmanager
def _node_process(session: Session) -> Iterator[subprocess.Popen[bytes]]:
    """The node under test; ended as Ctrl-C ends it."""
    arguments = ["--ros-args"]
    for name, value in session.parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    for name, topic in session.topics.items():
        arguments += ["-r", f"{name}:={topic}"]
    command = [sys.executable, "-m", "l2m_ros.cli", "run", *arguments]
    with session.log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(
    done: Callable[[], bool],
    patience_s: float,
    words: Callable[[], str],
    process: subprocess.Popen[bytes],
) -> None:
    deadline = time.monotonic() + patience_s
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            raise L2MError(words())
        time.sleep(0.1)


def _did_not_start(session: Session) -> str:
    tail = " | ".join(session.log.read_text(errors="replace").splitlines()[-3:])
    return f"the node did not start; {session.log} ends with: {tail}"


def _unheard(player: Player) -> str:
    return f"the node does not subscribe to {', '.join(player.unsubscribed())}"


def _play(player: Player, recorder: OutputRecorder, session: Session) -> None:
    with open_bag(session.bag) as opened:
        first_ns, last_ns = opened.span_ns()
    parts = session.pictures + 1
    due = [first_ns + (last_ns - first_ns) * k // parts for k in range(1, parts)]
    done_s, halfway_ns = 0.0, (first_ns + last_ns) // 2
    waiting = session.pause
    with progress((last_ns - first_ns) * 1e-9, "playing, seconds") as bar:

        def after_each(stamp_ns: int) -> None:
            nonlocal done_s, waiting
            now_s = (stamp_ns - first_ns) * 1e-9
            bar.update(now_s - done_s)
            done_s = now_s
            if due and stamp_ns >= due[0]:
                due.pop(0)
                recorder.request_picture()
            if waiting is not None and stamp_ns >= halfway_ns:
                _stand(waiting, recorder.recorded)
                waiting = None

        recorder.recorded.began_s = time.monotonic()
        player.play(session.rate, after_each)


def _stand(pause: Pause, recorded: RecordedOutputs) -> None:
    deadline = time.monotonic() + pause.patience_s
    while not pause.until(recorded) and time.monotonic() < deadline:
        time.sleep(0.1)
