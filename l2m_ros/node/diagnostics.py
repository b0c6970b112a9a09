"""The node's problems, rates and latencies, and the diagnostics message made of them.

A problem has a key and stays until something good is reported under the same key. It is logged when
it appears, at most every LOG_PERIOD_S while it stays, and once more when it is over. One that comes
and goes is logged APPEARANCES times in that period, not with every frame.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2m_ros.frames.messages import message_class

OK, WARN, ERROR, STALE = 0, 1, 2, 3  # diagnostic_msgs/DiagnosticStatus
LOG_PERIOD_S = 10.0
APPEARANCES = 3
MOST_WORDS = 500  # remembered
NUMBER = re.compile(r"[\d.+-]+")
RATE_WINDOW_S = 5.0
LATENCIES = 300  # frames that median and 95th percentile are taken over

# Which status a problem's key belongs to; other keys belong to the node's.
INPUT_KEYS = ("image", "camera_info", "depth", "right", "odom", "odom gap", "sync", "stamps",
              "right/image", "right/camera_info", "qos", "loss", "queue", "source")  # fmt: skip
TRACKING_KEYS = ("tracking", "odometry", "odometry covariance", "depth scale")


@dataclass(frozen=True)
class Problem:
    level: int
    words: str


@dataclass
class Health:
    """Written by the worker and by callbacks, read by the timer that publishes it."""

    log: Callable[[int, str], None] = lambda level, words: None
    clock: Callable[[], float] = time.monotonic
    facts: dict[str, str] = field(default_factory=dict)  # model, state, scale source, ...
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._problems: dict[str, Problem] = {}
        # When problems appeared in the log, by key and words.
        self._appeared_s: dict[tuple[str, str], deque[float]] = defaultdict(
            lambda: deque(maxlen=APPEARANCES)
        )
        self._logged_s: dict[str, float] = {}  # when, of those that were logged and are not over
        self._stages_ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LATENCIES))
        self._frames_s: deque[float] = deque(maxlen=1000)

    def report(self, key: str, words: str | None, level: int = WARN) -> None:
        """Report a problem under a key, or None: the problem is over."""
        with self._lock:
            if words is None:
                self._problems.pop(key, None)
                if self._logged_s.pop(key, None) is not None:
                    self.log(OK, f"{key}: good again")
                return
            self._problems[key] = Problem(level, words)
            if self._may_be_logged(key, words):
                self._logged_s[key] = self.clock()
                self.log(level, words)

    def _may_be_logged(self, key: str, words: str) -> bool:
        now_s = self.clock()
        if key in self._logged_s:
            return now_s - self._logged_s[key] >= LOG_PERIOD_S
        if len(self._appeared_s) > MOST_WORDS:
            self._appeared_s.clear()
        appeared_s = self._appeared_s[key, NUMBER.sub("", words)]
        if len(appeared_s) == APPEARANCES and now_s - appeared_s[0] < LOG_PERIOD_S:
            return False
        appeared_s.append(now_s)
        return True

    def drop(self, *keys: str) -> None:
        """Forget problems that nobody looks for any more; that they are over is not known."""
        with self._lock:
            for key in keys:
                self._problems.pop(key, None)
                self._logged_s.pop(key, None)
                for appeared in [one for one in self._appeared_s if one[0] == key]:
                    del self._appeared_s[appeared]

    def set_facts(self, **facts: object) -> None:
        with self._lock:
            self.facts.update({name: str(value) for name, value in facts.items()})

    def restart_counts(self) -> None:
        """All counts are of this activation: those of worker and synchroniser begin with it too."""
        with self._lock:
            self.counts.clear()

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counts[name] += by

    def frame_done(self, stages_ms: dict[str, float]) -> None:
        with self._lock:
            self._frames_s.append(self.clock())
            self.counts["frames"] += 1
            for stage, ms in stages_ms.items():
                self._stages_ms[stage].append(ms)

    @property
    def rate_hz(self) -> float:
        with self._lock:
            return self._rate_hz()

    def _rate_hz(self) -> float:
        """Rate over the last seconds from the time between frames; 0 without frames."""
        now = self.clock()
        recent = [t for t in self._frames_s if now - t <= RATE_WINDOW_S]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-6)

    def problems(self) -> dict[str, Problem]:
        with self._lock:
            return dict(self._problems)

    def clear(self) -> None:
        """Forget everything but the counts; called by configure."""
        with self._lock:
            self._problems.clear()
            self._logged_s.clear()
            self._appeared_s.clear()
            self._stages_ms.clear()
            self._frames_s.clear()

    def statuses(self) -> list[Status]:
        """Three parts: the node, its inputs, its tracking."""
        with self._lock:
            problems, counts = dict(self._problems), dict(self.counts)
            facts, rate_hz = dict(self.facts), self._rate_hz()
            latencies = {s: np.array(ms) for s, ms in self._stages_ms.items()}
        parts: dict[str, dict[str, Problem]] = {"node": {}, "inputs": {}, "tracking": {}}
        for key, problem in problems.items():
            parts[_part(key)][key] = problem
        values = {
            "node": facts,
            "inputs": {name: str(number) for name, number in sorted(counts.items())},
            "tracking": {"rate_hz": f"{rate_hz:.1f}", **_latency_values(latencies)},
        }
        for name in (
            "state",
            "scale_source",
            "chain",
            "keyframe",
            "inliers",
            "stamp_age_s",
            "frames_since_pose",
        ):
            if name in facts:
                values["tracking"][name] = values["node"].pop(name)
        calm = {"node": facts.get("lifecycle", ""), "inputs": "good", "tracking": ""}
        calm["tracking"] = facts.get("reason", "")
        return [_status(part, parts[part], values[part], calm[part]) for part in parts]


@dataclass(frozen=True)
class Status:
    """One DiagnosticStatus."""

    name: str
    level: int
    message: str
    values: dict[str, str]


def _part(key: str) -> str:
    return "inputs" if key in INPUT_KEYS else "tracking" if key in TRACKING_KEYS else "node"


def _status(part: str, problems: dict[str, Problem], values: dict[str, str], calm: str) -> Status:
    worst = max((problem.level for problem in problems.values()), default=OK)
    by_weight = sorted(problems.values(), key=lambda problem: -problem.level)
    message = "; ".join(problem.words for problem in by_weight) or calm
    return Status(part, worst, message, values)


def _latency_values(latencies: dict[str, Any]) -> dict[str, str]:
    values = {}
    for stage, ms in latencies.items():
        values[f"{stage}_ms_median"] = f"{np.median(ms):.2f}"
        values[f"{stage}_ms_p95"] = f"{np.percentile(ms, 95):.2f}"
    return values


def diagnostic_array(statuses: list[Status], node_name: str, hardware_id: str, stamp: Any) -> Any:
    """diagnostic_msgs/DiagnosticArray."""
    DiagnosticArray = message_class("diagnostic_msgs/DiagnosticArray")
    DiagnosticStatus = message_class("diagnostic_msgs/DiagnosticStatus")
    KeyValue = message_class("diagnostic_msgs/KeyValue")
    array = DiagnosticArray()
    array.header.stamp = stamp
    array.status = [
        DiagnosticStatus(
            level=bytes([status.level]),
            name=f"{node_name}: {status.name}",
            message=status.message,
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return array
