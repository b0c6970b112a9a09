"""The map as the node sees it: keyframes go into a process of their own, places come out.

    with hold.frame()    tracking's threads: the process stands still meanwhile, see `hold`
    submit(result)       tracking's thread: compares poses, stores, returns
    ask("save") ...      any thread: done in turn
    answers(timeout_s)   what the process has said since

At most one message is under way. What waits is bounded: the oldest frame is dropped and counted.
A process that dies is started again, and goes on with the same map.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import l2m_ros
from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values
from l2m_ros.mapping import wire
from l2m_ros.mapping.hold import Hold
from l2m_ros.mapping.keyframe_picker import KeyframePicker, Picked, breaks, known
from l2m_ros.mapping.options import BUILD, LOCALIZE, Hint, MapFix, OnlineOptions
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.result import TrackResult
from l2m_ros.types import FloatArray

WAITING = 32  # frames ...
# From so many waiting on the process is not stopped: rather a slower frame than a lost one.
BEHIND = WAITING // 2
WAITING_MB = 128  # ... and what they take: 70 at 640x480 with depth, Full HD has 15 each
FEW_CORES = 4  # with more, tracking finds another core than the one that the map has
SEARCHES = 10  # for a place that is not known, for which the process is not stopped
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a process that died is started again
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Neither the working directory nor what lies beside a script is searched for modules.
COMMAND = "import sys; sys.path[:] = [p for p in sys.path if p]; import l2m_ros.mapping.worker as w; w.main()"  # fmt: skip  # noqa: E501
DIED = "died"  # an answer of our own


@dataclass(frozen=True)
class Spec:
    """What the process loads: a matcher by name, as `load_matcher` takes it."""

    model: str
    matcher: Mapping[str, Any]
    options: OnlineOptions


@dataclass(eq=False)
class _Child:
    """One process; another takes its place when it dies."""

    process: subprocess.Popen[bytes]
    busy: bool = False  # with a message that it has not answered
    may_be_stopped: bool = False  # it gives way, and wakes by itself where the node dies


class MapProcess:
    """Made where the node is activated, stopped where it is deactivated."""

    def __init__(self, spec: Spec) -> None:
        self.options, self._spec = spec.options, spec
        self._picker = KeyframePicker(spec.options.picker)
        self._changed = threading.Condition()
        self._waiting: deque[wire.Message | Picked] = deque()
        self._newest: Picked | None = None
        self._answers: deque[wire.Message] = deque()
        self._searched_ns: int | None = None  # stamp of the last image that was searched for
        self._epoch = 0  # of what is known: grows when it is forgotten
        self._stopping = self._loaded = False
        self._pause_s = FIRST_PAUSE_S
        self._child: _Child | None = None
        self._searches = 0  # in vain, since it was forgotten where the camera is
        self.hold = Hold()
        self._few_cores = len(os.sched_getaffinity(0)) <= FEW_CORES
        self.fix: MapFix | None = None
        self.version = 0
        self.dropped = 0
        self.restarts = 0
        self._reader = threading.Thread(target=self._read, name="l2m-map-reader", daemon=True)
        self._sender = threading.Thread(target=self._send, name="l2m-map-sender", daemon=True)
        self._reader.start()
        self._sender.start()

    @property
    def mode(self) -> str:
        return self.options.mode

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        child = self._child
        return None if child is None else child.process.pid

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        with self._changed:
            child = self._child
            rests = child is not None and not child.busy
            return rests and not self._waiting and self._newest is None

    # --- tracking's thread ------------------------------------------------------------------------

    def submit(
        self,
        result: TrackResult,
        odometry: OdometrySample | None = None,
        base_from_camera: FloatArray | None = None,
    ) -> None:
        """Never blocks longer than a lock is held; costs no more than a comparison of poses."""
        picked = None
        if self.mode == BUILD:
            picked = self._picker.pick(result, odometry, base_from_camera)
        with self._changed:
            if breaks(result):  # what is under way would place odom where it was before
                self.fix = None
                self._epoch += 1
            if picked is not None:
                self._waiting.append(replace(picked, epoch=self._epoch))
                self._bound()
            elif self.mode == LOCALIZE and self._is_due(result.frame.stamp_ns):
                newest = known(result)
                self._newest = None if newest is None else replace(newest, epoch=self._epoch)
            self._allow()
            self._changed.notify_all()

    def _is_due(self, stamp_ns: int) -> bool:
        """Also where time went back: a bag that loops."""
        if self._searched_ns is None:
            return True
        return not 0 <= stamp_ns - self._searched_ns < self.options.period_s * 1e9

    def _allow(self) -> None:
        """Whether the process may be stopped: not while the robot waits for its place, nor where it
        falls behind."""
        child = self._child
        waits = self.mode == LOCALIZE and self.fix is None and self._searches < SEARCHES
        frames = sum(isinstance(entry, Picked) for entry in self._waiting)
        may = self._few_cores and not waits and frames < BEHIND
        gives_way = may and child is not None and child.may_be_stopped
        self.hold.allow(child.process if child is not None and gives_way else None)

    def _bound(self) -> None:
        """Drops the oldest frame beyond WAITING, sooner one that no other was posed in."""
        frames = [entry for entry in self._waiting if isinstance(entry, Picked)]
        while len(frames) > WAITING or (len(frames) > 1 and _megabytes(frames) > WAITING_MB):
            parents = {frame.parent_ns for frame in frames}
            plain = [f for f in frames[:-1] if f.frame.stamp_ns not in parents]
            gone = plain[0] if plain else frames[0]
            frames.remove(gone)
            self._waiting.remove(gone)
            self.dropped += 1

    def fix_of(self, result: TrackResult) -> MapFix | None:
        """What leads from odom to the map; None before the first fix or after a restart, and where
        it is not known where the camera is in odom."""
        fix, kept = self.fix, result.keyframe
        if fix is None or result.odom_from_camera is None or kept is None:
            return None
        return fix if kept.chain == fix.chain else None

    # --- any thread -------------------------------------------------------------------------------

    def ask(self, what: str, arrays: Mapping[str, wire.Array] | None = None, **values: Any) -> None:
        """open, load, save or show, after what already waits."""
        with self._changed:
            if what == "load":
                self._forget(None)
                self.options = replace(self.options, path=values["path"])
            self._waiting.append(wire.Message(what, values, arrays or {}))
            self._changed.notify_all()

    def relocalize(self, hint: Hint | None = None) -> None:
        """Forgets where it was; the next frame is searched for, around the hint if there is one."""
        with self._changed:
            self._forget(hint)
            self._changed.notify_all()

    def _forget(self, hint: Hint | None) -> None:
        self.fix = self._newest = self._searched_ns = None
        self._searches = 0
        self._epoch += 1
        poses = (
            {} if hint is None else {"pose": hint.map_from_camera, "covariance": hint.covariance}
        )
        self._waiting.append(wire.Message("relocalize", {}, poses))
        self._allow()

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Whether the process has model and map, or has said why it has none."""
        with self._changed:
            return self._changed.wait_for(lambda: self._loaded or self._stopping, timeout_s)

    def answers(self, timeout_s: float) -> list[wire.Message]:
        """What the process has said since the last call."""
        with self._changed:
            if not self._answers and not self._stopping:
                self._changed.wait(timeout_s)
            said = list(self._answers)
            self._answers.clear()
        return said

    def stop(self, timeout_s: float) -> None:
        """The step at hand is finished, what waits is dropped; killed where that takes longer.

        Every step is one transaction or several, so a kill loses at most the keyframe under way.
        """
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._newest = None
            self._changed.notify_all()
        self.hold.close()
        self._sender.join(timeout_s)
        child = self._child
        if child is not None:
            if self._sender.is_alive():  # the process does not even read
                child.process.kill()
            _end(child.process, timeout_s)
        self._reader.join(timeout_s)

    # --- own threads ------------------------------------------------------------------------------

    def _send(self) -> None:
        """Writes one message at a time, each when the one before is answered."""
        while True:
            with self._changed:
                while not self._stopping and not self._ready():
                    self._changed.wait()
                if self._stopping:
                    return
                child, entry = self._child, self._next()
                assert child is not None and child.process.stdin is not None
                child.busy = True
                message = self._message(entry)
            try:
                wire.write(child.process.stdin, message)
            except (BrokenPipeError, ValueError):
                continue  # the reader sees its end, too

    def _ready(self) -> bool:
        child = self._child
        some = bool(self._waiting) or self._newest is not None
        return child is not None and not child.busy and some

    def _next(self) -> wire.Message | Picked:
        if self._waiting:
            return self._waiting.popleft()
        newest, self._newest = self._newest, None
        assert newest is not None
        self._searched_ns = newest.frame.stamp_ns
        return newest

    def _message(self, entry: wire.Message | Picked) -> wire.Message:
        epoch = self._epoch
        if isinstance(entry, Picked):
            epoch = entry.epoch
            entry = wire.picked_message("add" if self.mode == BUILD else "localize", entry)
        return replace(entry, values={**entry.values, "epoch": epoch})

    def _read(self) -> None:
        """Starts the process, reads its answers, and starts another one where it dies."""
        while not self._stopping:
            try:
                code = self._read_all(self._start())
                how = f"ended (signal {-code})" if code < 0 else f"ended (code {code})"
            except OSError as error:  # no memory, no processes left
                how = f"could not begin ({error})"
            with self._changed:
                self._child = None
                self._allow()
                if self._stopping:
                    return
                self.restarts += 1
                pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
                words = f"the map's process {how}; another one begins in {pause_s:g} s"
                self._answers.append(wire.Message("answer", {"asked": DIED, "error": words}))
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping, pause_s)

    def _start(self) -> _Child:
        """A process whose first messages are to load the model and to open the map."""
        root = str(Path(l2m_ros.__file__).resolve().parents[1])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment |= dict.fromkeys(ONE_THREAD, "1")
        environment.setdefault("MALLOC_ARENA_MAX", "2")  # as the node: glibc's pools break up
        # Pictures and features go back to the system when they are freed: between them and what
        # stays, 27 MB more of the heap broke up in 30 keyframes; a keyframe takes a sixth longer.
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", "524288")
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        begin = {
            "model": self._spec.model,
            "matcher": dict(self._spec.matcher),
            "options": asdict(self.options),
            "nice": self.options.nice,
            "nice_at_once": self.restarts > 0,  # the first time, tracking waits for model and map
        }
        child = _Child(process)
        with self._changed:
            if self._stopping:
                _end(process, 0.0)
                return child
            asked = [m for m in self._waiting if isinstance(m, wire.Message)]
            for message in asked:  # those of a process that died before
                if message.what in ("begin", "open"):
                    self._waiting.remove(message)
            self._waiting.appendleft(wire.Message("open", {"resume": self.restarts > 0}))
            self._waiting.appendleft(wire.Message("begin", begin))
            self._child = child
            self._changed.notify_all()
        return child

    def _read_all(self, child: _Child) -> int:
        """Until the process ends; its exit code."""
        answers = child.process.stdout
        assert answers is not None
        try:
            while (message := wire.read(answers)) is not None:
                self._take(child, message)
        except (InvalidInput, OSError):
            child.process.kill()  # what it says is no answer
        return child.process.wait()

    def _take(self, child: _Child, message: wire.Message) -> None:
        answer = _checked(message)
        values = answer.values
        with self._changed:
            child.busy = False
            child.may_be_stopped = values.get("may_be_stopped") is True
            self._searches += values["asked"] == "localize" and values.get("found") is not True
            self._loaded |= values["asked"] == "open"
            self.version = values.get("version", self.version)
            fix = _fix_of(answer)
            if fix is not None and values["epoch"] == self._epoch:
                self.fix = fix
            if values["asked"] == "add" and "error" not in values:
                self._pause_s = FIRST_PAUSE_S
            self._allow()
            self._answers.append(message)
            self._changed.notify_all()


def _checked(answer: wire.Message) -> wire.Message:
    """Raises InvalidInput where it is no answer of the map's process."""
    values, poses = answer.values, answer.arrays.get("poses", np.zeros((0, 4, 4)))
    xyz, rgb = (answer.arrays.get(name, np.zeros((0, 3))) for name in ("xyz", "rgb"))
    texts = all(isinstance(values.get(n, ""), str) for n in ("asked", "error", "words", "trace"))
    numbers = all(type(values.get(name, 0)) is int for name in ("epoch", "version"))
    lost = values.get("lost", ["", ""])
    said = isinstance(lost, list) and len(lost) == 2 and all(isinstance(x, str) for x in lost)
    shown = poses.shape[1:] == (4, 4) and xyz.shape[1:] == (3,) and xyz.shape == rgb.shape
    if not ({"asked", "epoch"} <= set(values) and texts and numbers and said and shown):
        raise InvalidInput(f"no answer: {sorted(values)} of {answer.what!r}")
    return answer


def _fix_of(answer: wire.Message) -> MapFix | None:
    if (fix := answer.values.get("fix")) is None:
        return None
    with foreign_values("an answer of the map's process"):
        given = [answer.arrays[name] for name in wire.FIX_ARRAYS]
        finite = all(bool(np.isfinite(array).all()) for array in given)
        if [array.shape for array in given] != [(4, 4), (4, 4), (6, 6)] or not finite:
            raise InvalidInput(f"a fix of shapes {[a.shape for a in given]}, or not finite")
        return MapFix(int(fix["stamp_ns"]), *given, int(fix["chain"]), str(fix["words"]))


def _megabytes(frames: Iterable[Picked]) -> float:
    pictures = [getattr(f.frame, name) for f in frames for name in wire.FRAME_ARRAYS]
    return sum(one.nbytes for one in pictures if one is not None) / 1e6


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Its stdin closed, which asks it to end; killed where it does not."""
    with contextlib.suppress(OSError):  # it has ended already
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
