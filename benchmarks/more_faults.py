"""More faults for recordings of real cameras: what drivers, encoders, lenses and hands do.

Asked for by name: `recorded_trust.py SEQUENCES --fault frozen_coded`. The tables of
docs/faults.md that run every fault go without them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from boards import DOOR, PERSON, TRAIN, TURNTABLE, board
from recorded_faults import each, with_k

from l2m_ros.types import ByteArray, FloatArray, Frame
from l2m_ros.workshop.simulation.sensor_faults import SensorFault
from l2m_ros.workshop.simulation.sequence import Shots

Rng = np.random.Generator
FROZEN = range(12, 30)  # of each 30 frames
COVERED, WHOLE = range(15, 27), range(19, 25)  # ... a hand comes, is there, goes
HAND_M, HAND_SHARE = 0.22, 0.6
BLOCK, BLOCKS_SHARE = 16, 0.6
TURNED_FROM = 20
STABLE_PX = 24.0
RANGES_M = (10.0, 4.0)


def _coded(rgb: ByteArray, rng: Rng) -> ByteArray:
    """As another encoding of the same image: half a grey level of noise, JPEG."""
    noise = rng.normal(0.0, 0.5, rgb.shape[:2])[..., None]
    noisy = np.clip(rgb + noise, 0, 255).round().astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(80, 95))]
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", noisy, quality)[1], cv2.IMREAD_COLOR))


def _frozen_coded(shots: Shots, rng: Rng) -> Shots:
    kept: Frame | None = None
    for number, shot in enumerate(shots):
        if kept is None or number % 30 not in FROZEN:
            kept = shot.frame
            yield shot
            continue
        changes = {"rgb": _coded(kept.rgb, rng)}
        if kept.right_rgb is not None:
            changes["right_rgb"] = _coded(kept.right_rgb, rng)
        yield replace(shot, frame=replace(shot.frame, **changes))


def _torn_blocks(shots: Shots, rng: Rng) -> Shots:
    """Every fourth image has runs of blocks of two images before."""
    past: deque[ByteArray] = deque(maxlen=3)
    for number, shot in enumerate(shots):
        rgb = shot.frame.rgb
        past.append(rgb)
        if number % 4 != 3 or len(past) < 3:
            yield shot
            continue
        rows, columns = rgb.shape[0] // BLOCK, rgb.shape[1] // BLOCK
        old = np.zeros(rows * columns, bool)
        while old.mean() < BLOCKS_SHARE:
            begin = rng.integers(rows * columns)
            old[begin : begin + int(rng.integers(columns // 2, 3 * columns))] = True
        where = old.reshape(rows, columns).repeat(BLOCK, 0).repeat(BLOCK, 1)
        torn = rgb.copy()
        torn[: len(where), : where.shape[1]][where] = past[0][: len(where), : where.shape[1]][where]
        yield replace(shot, frame=replace(shot.frame, rgb=torn))


def _hand(shots: Shots, rng: Rng) -> Shots:
    """A hand comes before the lens from one side, stays, trembles, and goes."""
    skin: FloatArray | None = None
    for number, shot in enumerate(shots):
        frame, phase = shot.frame, number % 30
        height, width = frame.rgb.shape[:2]
        if skin is None:
            noise = rng.normal(0.0, 1.0, (height, width)).astype(np.float32)
            rough, fine, form = (
                smooth / smooth.std()
                for smooth in (cv2.GaussianBlur(noise, (0, 0), s) for s in (6.0, 1.5, width / 8))
            )
            skin = np.array([190, 140, 115]) + (12 * rough + 5 * fine)[..., None]
            v, u = np.mgrid[:height, :width]
            off = np.hypot(u / width - 0.5, v / height - 0.5) + 0.08 * form
            hand = (off < np.quantile(off, HAND_SHARE)).astype(np.float32)
        if phase not in COVERED:
            yield shot
            continue
        coming, going = max(0, WHOLE.start - phase), max(0, phase - WHOLE.stop + 1)
        aside = width * (0.3 * coming + 0.35 * going + 0.02 * np.sin(phase))
        move = np.array([[1, 0, aside], [0, 1, 6.0 * np.sin(1.3 * phase)]], np.float32)
        there = cv2.warpAffine(hand, move, (width, height))
        moved = cv2.warpAffine(skin, move, (width, height), borderMode=cv2.BORDER_REFLECT)
        share = cv2.GaussianBlur(there, (0, 0), 4.0)[..., None]
        seen = frame.rgb * (1 - share) + moved * share + rng.normal(0, 1, (height, width, 1))
        changes: dict[str, Any] = {"rgb": np.clip(seen, 0, 255).astype(np.uint8)}
        if frame.depth is not None:
            near = np.where(there > 0.5, np.float32(HAND_M), frame.depth)
            changes["depth"] = near
        yield replace(shot, frame=replace(frame, **changes))


def _upside_down(frame: Frame, number: int) -> dict[str, Any]:
    return {} if number < TURNED_FROM else _images(frame, lambda image: image[::-1, ::-1])


def _mirrored(frame: Frame, number: int) -> dict[str, Any]:
    """A driver's mirror: as it shows a face that looks at itself. K stays."""
    return _images(frame, lambda image: image[:, ::-1])


def _images(frame: Frame, change: Callable[[Any], Any]) -> dict[str, Any]:
    """All that it has, each changed alike."""
    given = {name: getattr(frame, name) for name in ("rgb", "depth", "right_rgb")}
    return {
        name: np.ascontiguousarray(change(image))
        for name, image in given.items()
        if image is not None
    }


def _blended(shots: Shots, rng: Rng) -> Shots:
    before: ByteArray | None = None
    for number, shot in enumerate(shots):
        rgb = shot.frame.rgb
        mean = rgb if before is None else cv2.addWeighted(rgb, 0.5, before, 0.5, 0.0)
        yield replace(shot, frame=replace(shot.frame, rgb=mean if number % 5 == 0 else rgb))
        before = rgb


def _exchanged(shots: Shots, rng: Rng) -> Shots:
    """Two images in five change places; depth and odometry are in order."""
    waiting = list[Any]()
    for shot in shots:
        waiting.append(shot)
        if len(waiting) == 5:
            a, b = (kept.frame for kept in waiting[3:])
            waiting[3] = replace(waiting[3], frame=replace(a, rgb=b.rgb))
            waiting[4] = replace(waiting[4], frame=replace(b, rgb=a.rgb))
            yield from waiting
            waiting.clear()
    yield from waiting


def _stabilised(shots: Shots, rng: Rng) -> Shots:
    """An image stabiliser moves the image against the hand's motion."""
    aside, before = np.zeros(2), None
    for shot in shots:
        rgb = shot.frame.rgb
        size = rgb.shape[1], rgb.shape[0]
        grey = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (160, 120)).astype(np.float32)
        if before is not None:
            moved = np.array(cv2.phaseCorrelate(before, grey)[0]) * size[0] / 160
            aside = np.clip(0.8 * (aside - moved), -STABLE_PX, STABLE_PX)
        before = grey
        shift = np.array([[1, 0, aside[0]], [0, 1, aside[1]]], np.float32)
        moved_rgb = cv2.warpAffine(rgb, shift, size, borderMode=cv2.BORDER_REPLICATE)
        yield replace(shot, frame=replace(shot.frame, rgb=moved_rgb))


def _k_exchanged(K: FloatArray) -> FloatArray:
    K[0, 2], K[1, 2] = K[1, 2], K[0, 2]
    return K


def _k_times(fx: float, fy: float) -> Callable[[FloatArray], FloatArray]:
    return lambda K: (
        np.diag([fx, fy, 1.0]) @ K
        + np.array([[0, 0, (1 - fx) * K[0, 2]], [0, 0, (1 - fy) * K[1, 2]], [0, 0, 0]])
    )


def _greatest_range(far_m: float) -> Callable[[Shots, Rng], Shots]:
    def filled(frame: Frame, number: int) -> dict[str, Any]:
        known = np.isfinite(frame.depth)
        return {"depth": np.where(known, frame.depth, np.float32(far_m))}

    return each(filled)


IMAGES = {
    "frozen_coded": SensorFault("for 18 frames in 30 one image, encoded anew", _frozen_coded),
    "torn_blocks": SensorFault("blocks of an earlier image in every fourth", _torn_blocks),
    "hand": SensorFault("a hand before the lens for 12 frames in 30", _hand),
    "upside_down": SensorFault(
        f"images and depth upside down from frame {TURNED_FROM} on", each(_upside_down)
    ),
    "mirrored": SensorFault("images and depth left and right exchanged", each(_mirrored)),
    "blended": SensorFault("every fifth image is the mean of two", _blended),
    "exchanged": SensorFault("two images in five change places", _exchanged),
    "stabilised": SensorFault("an image stabiliser", _stabilised),
    "door": SensorFault("a door that fills most of the view begins to turn", board(DOOR)),
    "turntable": SensorFault("a board that fills the view turns", board(TURNTABLE)),
    "train": SensorFault("all of one side begins to move", board(TRAIN)),
    "person": SensorFault("somebody who stood walks away", board(PERSON)),
    "k_exchanged": SensorFault("cx and cy exchanged", with_k(_k_exchanged)),
    "k_short": SensorFault("focal length said to be 20 % shorter", with_k(_k_times(0.8, 0.8))),
    "k_flat": SensorFault("fx said to be 10 % shorter", with_k(_k_times(0.9, 1.0))),
}
DEPTH = {
    f"depth_says_{far_m:.0f}": SensorFault(
        f"{far_m:.0f} m where depth is unknown", _greatest_range(far_m)
    )
    for far_m in RANGES_M
}


def more_faults_of(source: str) -> dict[str, SensorFault]:
    """Those that matter where metres come from this source."""
    return IMAGES | DEPTH if source.startswith("depth") else IMAGES
