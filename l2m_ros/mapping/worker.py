"""The map's own process: it is asked over stdin, answers over stdout, and ends when stdin does.

    begin   model, options            open   load   save   relocalize   show
    add     a keyframe                localize   an image

One answer for each message, in turn. Tracking shares neither Python's lock nor memory with it, and
a node that is killed leaves no process behind: its end of the pipe closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from l2m_ros.errors import L2MError
from l2m_ros.mapping import wire
from l2m_ros.mapping.options import LOCALIZE, Hint, OnlineOptions
from l2m_ros.types import Lost

URGENT = 10  # images: some may be blurred, or show a wall
IDLE_FROM = 15  # of `map.nice`: only processor time that nobody else asks for
GRACE_S = 10.0  # for the step at hand, once the node has gone
WATCH_MS = 500
PR_SET_PDEATHSIG = 1  # of Linux' prctl


class Worker:
    """Does what messages ask; every failure becomes words of the answer."""

    def __init__(self) -> None:
        self._online: Any = None
        self._epoch = 0

    def answer(self, message: wire.Message) -> wire.Message:
        epoch = message.values.get("epoch", 0)
        values: dict[str, Any] = {"asked": message.what, "epoch": epoch}
        arrays: dict[str, wire.Array] = {}
        if self._online is not None and epoch != self._epoch:
            self._online.fix = None  # odom lies elsewhere: no hint for the next image
        self._epoch = epoch
        before = None if self._online is None else self._online.fix
        try:
            values["words"] = self._do(message, values, arrays)
        except ModuleNotFoundError as error:
            values["error"] = f"maps need {error.name}: pip install 'l2m_ros[map]'"
        except L2MError as error:
            values["error"] = str(error)
        except Exception as error:
            values["trace"] = traceback.format_exc()
            values["error"] = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
        if self._online is not None:
            values["version"] = self._online.version
            fix = self._online.fix
            if fix is not None and fix is not before:
                values["fix"] = {"stamp_ns": fix.stamp_ns, "chain": fix.chain, "words": fix.words}
                arrays |= {name: getattr(fix, name) for name in wire.FIX_ARRAYS}
        return wire.Message("answer", values, arrays)

    def _do(
        self, message: wire.Message, values: dict[str, Any], arrays: dict[str, wire.Array]
    ) -> str:
        given, what = message.values, message.what
        if what == "begin":
            return self._begin(given)
        online = self._online
        if online is None:
            if what in ("open", "load", "save"):
                raise L2MError("the map's process has no matcher: see why it could not begin")
            arrays["poses"] = np.zeros((0, 4, 4))
            return ""
        if what == "open":
            return str(online.open(resume=given["resume"]))
        if what == "load":
            return str(online.load(given["path"]))
        if what == "save":
            return str(online.save())
        if what == "relocalize":
            pose, P = message.arrays.get("pose"), message.arrays.get("covariance")
            online.relocalize(None if pose is None or P is None else Hint(pose, P))
        elif what == "show":
            arrays["poses"] = online.poses()
            if given["points"]:
                arrays["xyz"], arrays["rgb"] = online.points()
        elif what == "add":
            online.add(wire.picked_from(message))
        elif what == "localize":
            found = online.localize(wire.picked_from(message))
            values["found"] = found is not None and not isinstance(found, Lost)
            if isinstance(found, Lost):
                values["lost"] = [found.reason.value, found.detail]
        else:
            raise L2MError(f"the map's process does not know {what!r}")
        return ""

    def _begin(self, given: Any) -> str:
        from l2m_ros.mapping.online import OnlineMap
        from l2m_ros.matching.catalogue import load_matcher

        options = dict(given["matcher"])
        if "size" in options:
            options["size"] = tuple(options["size"])
        matcher = load_matcher(given["model"], **options)
        self._online = OnlineMap(matcher, wire.filled(OnlineOptions, given["options"]))
        return ""

    def close(self) -> None:
        if self._online is not None:
            self._online.close()


class Priority:
    """Of this process: as the node's until model and map are loaded and the robot is found in it,
    for at most `urgent` images; from then on it gives way.

    A robot that does not know where it is waits for that. Where others fill all cores, an image
    that is searched for with what nobody else asks for takes minutes.
    """

    def __init__(self, nice: int = 0, *, urgent: int = 0, at_once: bool = False) -> None:
        self._nice, self._urgent, self._given = nice, urgent, at_once
        self._wakes = nice >= IDLE_FROM and _woken_with_the_node_gone()
        _be_nice(nice if at_once else 0)

    @property
    def may_be_stopped(self) -> bool:
        """Whether the node may stop this process while a frame is at work."""
        return self._given and self._wakes

    @classmethod
    def of(cls, begin: Mapping[str, Any]) -> Priority:
        urgent = URGENT if begin["options"]["mode"] == LOCALIZE else 0
        return cls(int(begin["nice"]), urgent=urgent, at_once=bool(begin["nice_at_once"]))

    def after(self, answer: wire.Message) -> None:
        """Gives way, once, where this answer says that it is time."""
        asked, found = answer.values["asked"], bool(answer.values.get("found"))
        self._urgent -= asked == "localize"
        loaded = asked == "open" and self._urgent == 0
        searched = asked == "localize" and (found or self._urgent <= 0)
        if not self._given and (loaded or searched):
            self._given = True
            _be_nice(self._nice)


def main() -> None:
    """Runs until stdin ends. What libraries print goes to stderr: stdout carries answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node, which then closes stdin
    asked, answers = _pipes()
    threading.Thread(target=_end_with_the_node, args=(asked.fileno(),), daemon=True).start()
    worker, priority = Worker(), Priority()
    with contextlib.suppress(BrokenPipeError):
        while (message := wire.read(asked)) is not None:
            if message.what == "begin":
                priority = Priority.of(message.values)
            answer = worker.answer(message)
            priority.after(answer)
            stopped = {"may_be_stopped": priority.may_be_stopped}
            wire.write(answers, replace(answer, values={**answer.values, **stopped}))
    worker.close()
    os._exit(0)  # the watching thread and engines' own threads are not waited for


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return os.fdopen(os.dup(0), "rb"), answers


def _end_with_the_node(asked: int) -> None:
    """Ends this process some seconds after nobody can ask any more, whatever it is doing.

    The store's transactions bear an end at any moment.
    """
    gone = select.poll()
    gone.register(asked, 0)  # a hang-up is always told
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in gone.poll(WATCH_MS)):
        continue
    time.sleep(GRACE_S)
    os._exit(1)


def _woken_with_the_node_gone() -> bool:
    """Asks Linux to continue this process when the node dies; False where there is no Linux."""
    try:
        done = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)
        return bool(done == 0)
    except (AttributeError, OSError):
        return False


def _be_nice(nice: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.nice(nice)
        # Beside a thread of tracking that waits for another, a nice process still ends its slice:
        # on two cores a frame took 2.2 of its time. An idle one makes way at once.
        if nice >= IDLE_FROM:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        import cv2
    except ModuleNotFoundError:
        return
    cv2.setNumThreads(1)
