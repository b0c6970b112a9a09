"""How long a matcher's stages take, and how much memory they hold."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np

from l2m_ros.engines.backend import STAGES
from l2m_ros.errors import InvalidInput
from l2m_ros.matching.catalogue import PEERS
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import ByteArray

T = TypeVar("T")
SHIFT_PX = 12  # between the two images that are matched


@dataclass(frozen=True)
class BenchOptions:
    """What `l2m bench` takes."""

    width: int = 640
    height: int = 480
    runs: int = 20
    warmup: int = 3
    limit_s: float = 60.0  # a slow model does fewer runs, but three at least

    def __post_init__(self) -> None:
        if self.runs < 1 or self.warmup < 0 or self.width < 16 or self.height < 16:
            raise InvalidInput("runs must be 1 or more, warmup 0 or more, sides 16 px or more")


@dataclass(frozen=True)
class StageTime:
    """Milliseconds of one stage: images to features, features to reference, both to a match."""

    stage: str
    samples_ms: tuple[float, ...]

    def row(self) -> dict[str, Any]:
        low, median, high = np.percentile(self.samples_ms, [0, 50, 90])
        return {
            "stage": self.stage,
            "median_ms": round(float(median), 3),
            "min_ms": round(float(low), 3),
            "p90_ms": round(float(high), 3),
            "runs": len(self.samples_ms),
        }


@dataclass(frozen=True)
class BenchResult:
    """Stages in order; a frame is encode and match, a keyframe costs its reference besides."""

    matcher: str
    backend: str
    device: str
    size: tuple[int, int]  # (width, height) of the images and of a network's input
    stages: tuple[StageTime, ...]
    peak_memory_mib: float  # of this process, all that was loaded included
    device_memory_mib: float | None = None

    def as_dict(self) -> dict[str, Any]:
        rows = [stage.row() for stage in self.stages]
        frame_ms = sum(r["median_ms"] for r in rows if r["stage"] != "reference")
        return {
            "model": self.matcher,
            "backend": self.backend,
            "device": self.device,
            "width": self.size[0],
            "height": self.size[1],
            "stages": rows,
            "frame_ms": round(frame_ms, 3),
            "frames_per_s": round(1000.0 / frame_ms, 2),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "device_memory_mib": self.device_memory_mib,
        }


def measure(matcher: Matcher, options: BenchOptions) -> BenchResult:
    """Time of each stage on one pair of pictures, everything from and to NumPy included."""
    query, keyframe = pictures(options.width, options.height)
    samples: dict[str, list[float]] = {stage: [] for stage in STAGES}
    started_s = time.perf_counter()
    for run in range(options.warmup + options.runs):
        enough = run >= options.warmup + 3
        if enough and time.perf_counter() - started_s > options.limit_s:
            break
        _one_run(matcher, query, keyframe, samples)
        if run < options.warmup:
            for times in samples.values():
                times.clear()
    stages = tuple(StageTime(name, tuple(times)) for name, times in samples.items())
    backend = getattr(matcher, "backend", None)
    used = backend.device_memory_bytes() if backend else None
    return BenchResult(
        matcher.name,
        backend.name if backend else "torch" if matcher.name in PEERS else "classical",
        backend.device if backend else "cpu",
        (options.width, options.height),
        stages,
        peak_memory_mib(),
        None if used is None else round(used / 2**20, 1),
    )


def _one_run(
    matcher: Matcher, query: ByteArray, keyframe: ByteArray, samples: dict[str, list[float]]
) -> None:
    kept = matcher.encode(keyframe)
    reference = _timed(samples["reference"], lambda: matcher.reference(kept))
    features = _timed(samples["encode"], lambda: matcher.encode(query))
    _timed(samples["match"], lambda: matcher.match(features, reference))


def _timed(times: list[float], work: Callable[[], T]) -> T:
    started = time.perf_counter()
    made = work()
    times.append(1000.0 * (time.perf_counter() - started))
    return made


def pictures(width: int, height: int) -> tuple[ByteArray, ByteArray]:
    """Two windows of one textured picture, a few pixels apart."""
    noise = np.random.default_rng(0).random((height + SHIFT_PX, width + SHIFT_PX, 3), np.float32)
    blurred = [cv2.GaussianBlur(noise, (0, 0), s) * s for s in (1.0, 3.0, 9.0)]
    picture = np.sum(blurred, axis=0)
    low, high = picture.min(), picture.max()
    scaled = ((picture - low) * (255.0 / (high - low))).astype(np.uint8)
    return scaled[:height, :width].copy(), scaled[SHIFT_PX:, SHIFT_PX:].copy()


def peak_memory_mib() -> float:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
