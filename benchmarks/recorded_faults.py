"""Faults of sensors that need no simulated world: for recordings of real cameras.

Beside those of `l2m simulate --fault` (`OF_SIMULATOR`), what cameras, drivers and calibrations do
to depth, to a right image and to K.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from l2m_ros.types import FloatArray, Frame
from l2m_ros.workshop.simulation.sensor_faults import SENSOR_FAULTS, SensorFault
from l2m_ros.workshop.simulation.sequence import Shots

LATE_FRAMES = 3
FROZEN_FROM = 20
ABSENT = range(20, 47)
K_OFF = 1.03
SHIFT_PX = 12
DECALIBRATED_PX = 1.0
BASELINE_OFF = 1.05
PLANE_M, PLANE_NOISE = 1.6, 0.005  # its distance in the middle; relative noise of a pixel

Change = Callable[[Frame, int], dict[str, Any]]


def each(change: Change) -> Callable[[Shots, np.random.Generator], Shots]:
    """Frame by frame, by its number."""

    def apply(shots: Shots, rng: np.random.Generator) -> Shots:
        for number, shot in enumerate(shots):
            yield replace(shot, frame=replace(shot.frame, **change(shot.frame, number)))

    return apply


def _plane(shots: Shots, rng: np.random.Generator) -> Shots:
    """Depth of a slanted plane that has nothing to do with what the camera sees."""
    for shot in shots:
        height, width = shot.frame.rgb.shape[:2]
        v, u = np.mgrid[:height, :width]
        slant = 1 + 0.4 * (u / width - 0.5) + 0.2 * (v / height - 0.5)
        depth = PLANE_M / slant * (1 + PLANE_NOISE * rng.standard_normal((height, width)))
        yield replace(shot, frame=replace(shot.frame, depth=depth.astype(np.float32)))


def _before(field: str, frames: int) -> Callable[[Shots, np.random.Generator], Shots]:
    """The field is that of so many frames before."""

    def apply(shots: Shots, rng: np.random.Generator) -> Shots:
        past: deque[Any] = deque(maxlen=frames + 1)
        for shot in shots:
            past.append(getattr(shot.frame, field))
            yield replace(shot, frame=replace(shot.frame, **{field: past[0]}))

    return apply


def _frozen(field: str) -> Callable[[Shots, np.random.Generator], Shots]:
    def apply(shots: Shots, rng: np.random.Generator) -> Shots:
        kept = None
        for number, shot in enumerate(shots):
            kept = getattr(shot.frame, field) if number <= FROZEN_FROM else kept
            yield replace(shot, frame=replace(shot.frame, **{field: kept}))

    return apply


def _absent(frame: Frame, number: int) -> dict[str, Any]:
    gone = number in ABSENT
    return {"depth": None} if gone else {}


def _blank(frame: Frame, number: int) -> dict[str, Any]:
    return {"depth": np.full_like(frame.depth, np.nan)} if number in ABSENT else {}


def _no_right(frame: Frame, number: int) -> dict[str, Any]:
    gone = number in ABSENT
    return {"right_rgb": None, "right_camera": None, "right_from_camera": None} if gone else {}


def with_k(
    change: Callable[[FloatArray], FloatArray],
) -> Callable[[Shots, np.random.Generator], Shots]:
    """The K of every camera, changed; `change` is given a copy."""

    def k_of(frame: Frame, number: int) -> dict[str, Any]:
        cameras = {"camera": frame.camera, "right_camera": frame.right_camera}
        return {
            name: replace(camera, K=change(np.array(camera.K)))
            for name, camera in cameras.items()
            if camera is not None
        }

    return each(k_of)


def _k_off(K: FloatArray) -> FloatArray:
    K[[0, 1], [0, 1]] *= K_OFF
    return K


def _shifted(rgb: Any, dx: float, dy: float) -> Any:
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    size = rgb.shape[1], rgb.shape[0]
    return np.asarray(cv2.warpAffine(rgb, move, size, borderMode=cv2.BORDER_REPLICATE))


def _right_shifted(dx: float, dy: float) -> Callable[[Shots, np.random.Generator], Shots]:
    return each(lambda frame, _: {"right_rgb": _shifted(frame.right_rgb, dx, dy)})


def _baseline_off(frame: Frame, number: int) -> dict[str, Any]:
    moved = np.array(frame.right_from_camera)
    moved[0, 3] *= BASELINE_OFF
    return {"right_from_camera": moved}


NONE = {"none": SensorFault("no fault", lambda shots, rng: shots)}
DEPTH = {
    "depth_plane": SensorFault("depth of an unrelated plane", _plane),
    "depth_frozen": SensorFault(f"depth stays that of frame {FROZEN_FROM}", _frozen("depth")),
    "depth_late3": SensorFault(
        f"depth of {LATE_FRAMES} frames before", _before("depth", LATE_FRAMES)
    ),
    "depth_late1": SensorFault("depth of the frame before", _before("depth", 1)),
    "depth_absent": SensorFault(f"no depth for {len(ABSENT)} frames", each(_absent)),
    "depth_blank": SensorFault(f"depth of zeros for {len(ABSENT)} frames", each(_blank)),
    "depth_flipped": SensorFault(
        "depth left and right exchanged",
        each(lambda frame, _: {"depth": np.ascontiguousarray(frame.depth[:, ::-1])}),
    ),
    "depth_shifted": SensorFault(
        f"depth registered {SHIFT_PX} pixels beside its colour",
        each(lambda frame, _: {"depth": np.roll(frame.depth, SHIFT_PX, axis=1)}),
    ),
}
STEREO = {
    "right_late": SensorFault("right image of the frame before", _before("right_rgb", 1)),
    "right_frozen": SensorFault("right image stands still", _frozen("right_rgb")),
    "right_swapped": SensorFault(
        "left and right image exchanged",
        each(lambda frame, _: {"rgb": frame.right_rgb, "right_rgb": frame.rgb}),
    ),
    "right_column": SensorFault("right image a column aside", _right_shifted(DECALIBRATED_PX, 0)),
    "right_row": SensorFault("right image a row lower", _right_shifted(0, DECALIBRATED_PX)),
    "right_absent": SensorFault(f"no right image for {len(ABSENT)} frames", each(_no_right)),
    "baseline_off": SensorFault("baseline said to be 5 % longer", each(_baseline_off)),
}
CALIBRATION = {"k_off": SensorFault("focal length said to be 3 % longer", with_k(_k_off))}
OF_SIMULATOR = {
    name: SENSOR_FAULTS[name]
    for name in SENSOR_FAULTS
    if name not in ("depth_other_camera", "depth_late", "lookalike")  # they look at the world anew
}


def faults_of(source: str) -> dict[str, SensorFault]:
    """Those that matter where metres come from this source."""

    def named(*starts: str) -> dict[str, SensorFault]:
        return {k: v for k, v in OF_SIMULATOR.items() if k.startswith(starts)}

    in_the_way = named("robot", "passers", "burnt")
    in_the_way["robot_part_masked"] = in_the_way["robot_part"]
    images = named("exposure", "lens", "frozen", "dropped") | in_the_way
    if source == "odometry":
        return NONE | named("odom_") | in_the_way | CALIBRATION
    if source == "depth+odometry":
        return NONE | DEPTH | named("depth_", "odom_") | CALIBRATION
    if source == "stereo":
        return NONE | STEREO | images | CALIBRATION
    return NONE | DEPTH | named("depth_") | images | named("rolling") | CALIBRATION
