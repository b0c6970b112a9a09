"""Bytes that a frame makes anew on its way from the subscription to the publishers, and the time.

    python benchmarks/copies.py
    python benchmarks/copies.py --size 1280x720

`made` is the most memory that a step holds beyond what it was given, so a view counts nothing and
a copy of the image its size (tracemalloc: Python, NumPy and OpenCV's arrays; not DDS and ONNX
Runtime). rclpy's own share, in C, is timed by its serialisation. It copies an image on receipt
three times (DDS -> C message -> bytes -> array.array) and on publication twice (array.array -> C
message -> DDS); it offers neither loaned messages nor intra-process transport.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import refusals  # noqa: F401
from rclpy.serialization import deserialize_message, serialize_message

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

import ros_bench as rb

from l2m_ros.frames.builder import FrameBuilder
from l2m_ros.frames.inputs import CAMERA_INFO, DEPTH, IMAGE, Bundle
from l2m_ros.frames.outputs import OUTPUTS, FrameResult
from l2m_ros.tracking.tracker import Tracker, TrackerOptions
from l2m_ros.types import Camera

TIMES = 30


def measured(make: Callable[[], Any]) -> tuple[Any, float, float]:
    """(what it made, bytes at most, median milliseconds)."""
    tracemalloc.start()
    made = make()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    times_ms = []
    for _ in range(TIMES):
        started_s = time.perf_counter()
        make()
        times_ms.append(1e3 * (time.perf_counter() - started_s))
    return made, peak, float(np.median(times_ms))


def bundle(number: int, width: int, height: int) -> Bundle:
    scale = np.diag([width / rb.WIDTH, height / rb.HEIGHT, 1.0])
    camera = Camera(width, height, scale @ rb.CAMERA.K)
    messages = {
        IMAGE: rb.image(number, pixels=rb.rgb(number, width, height)),
        DEPTH: rb.depth(number, shape=(height, width)),
        CAMERA_INFO: rb.info(number, camera),
    }
    return Bundle(rb.stamp_of(number), messages, received_s=0.0)


def table(width: int, height: int) -> list[tuple[str, float, float]]:
    """(step, bytes made, milliseconds) of one frame with depth, all outputs listened to."""
    tracker = Tracker(rb.TruthMatcher(), TrackerOptions(subpixel=False))
    builder, rows = FrameBuilder(), []
    for number in range(2):
        given = bundle(number, width, height)
        frame, made, ms = measured(lambda given=given: builder.build(given))
        result = tracker.process(frame)
    for name, key in (("image", IMAGE), ("depth", DEPTH)):
        message = given.messages[key]
        raw = serialize_message(message)
        kind = type(message)
        _, _, taken_ms = measured(lambda raw=raw, kind=kind: deserialize_message(raw, kind))
        rows.append((f"rclpy takes {name}", float("nan"), taken_ms))
    rows.append(("message -> frame", made, ms))
    tracked = FrameResult(result, base_from_camera=np.eye(4))
    for name, output in OUTPUTS.items():
        message, made, ms = measured(lambda output=output: output.make(tracked))
        if message is not None:
            rows.append((f"~/{name}", made, ms))
    return rows


def report(width: int, height: int) -> None:
    image, depth = 3 * width * height, 4 * width * height
    print(f"{width}x{height}: image {image / 1e6:.2f} MB, depth {depth / 1e6:.2f} MB")
    print(f"  {'step':<22}{'made MB':>10}{'images':>9}{'ms':>9}")
    for name, made, ms in table(width, height):
        print(f"  {name:<22}{made / 1e6:>10.2f}{made / image:>9.2f}{ms:>9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="640x480")
    report(*map(int, parser.parse_args().size.split("x")))


if __name__ == "__main__":
    main()
