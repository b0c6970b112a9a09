"""Sensors that misbehave: what a tracker must survive without publishing a wrong pose.

    for shot in spoil(simulate(options), ["depth_late", "odom_slip"]): ...

Each fault takes the frames of a run and gives them back changed; the truth stays true. The natural
imperfections of good sensors (noise, blur, drops) are in `faults.py`, odometry's faults in
`odometry_faults.py`.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.simulation import in_the_way, odometry_faults
from l2m_ros.workshop.simulation.optics import pixel_rays
from l2m_ros.workshop.simulation.sequence import Shots, SimulatedFrame

DEPTH_SCALE = 1.05
DEPTH_LATE_S = 0.1
OTHER_CAMERA_DEG = 90.0  # to the left of the one that takes the images
HOLES = 0.45  # of the picture
FLYING_PX = 3  # beside a depth edge
READOUT_S = 0.03  # of a rolling shutter, from the first row to the last
LOOKALIKE_M = 2.8  # from one stretch of the corridor to the next one that looks the same


@dataclass(frozen=True)
class SensorFault:
    """What --help says, and what it does."""

    words: str
    apply: Callable[[Shots, np.random.Generator], Shots]


def spoil(shots: Iterable[SimulatedFrame], names: Sequence[str], *, seed: int = 0) -> Shots:
    """The frames with each fault named, in this order."""
    spoilt = iter(shots)
    for number, name in enumerate(names):
        fault = SENSOR_FAULTS.get(name)
        if fault is None:
            near = difflib.get_close_matches(name, SENSOR_FAULTS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InvalidInput(
                f"unknown fault {name!r}; there are {', '.join(SENSOR_FAULTS)}{hint}"
            )
        spoilt = fault.apply(spoilt, np.random.default_rng([seed, 40, number]))
    return spoilt


# ---- depth ---------------------------------------------------------------------------------------


def _with_depth(shot: SimulatedFrame, depth: FloatArray) -> SimulatedFrame:
    return replace(shot, frame=replace(shot.frame, depth=depth.astype(np.float32)))


def _depth_from(shot: SimulatedFrame, world_from_camera: FloatArray, time_s: float) -> FloatArray:
    """(H, W) what a depth camera at another place sees, with the holes of the frame's own noise."""
    view = shot.world.view(world_from_camera, time_s, moving=shot.moving)
    rays = pixel_rays(shot.frame.camera).rays.reshape(-1, 3)
    depth = view.depth_m(view.first_hit(rays), rays).reshape(shot.true_depth_m.shape)
    own = shot.frame.depth
    if own is None:
        return np.where(np.isfinite(depth), depth, np.nan)
    error = own / shot.true_depth_m - 1.0
    return np.where(np.isfinite(depth), depth * (1.0 + np.nan_to_num(error)), np.nan)


def _depth_of_another_camera(shots: Shots, rng: np.random.Generator) -> Shots:
    turn = Rotation.from_euler("y", -OTHER_CAMERA_DEG, degrees=True).as_matrix()
    for shot in shots:
        pose = shot.world_from_camera @ se3.transform(turn, np.zeros(3))
        yield _with_depth(shot, _depth_from(shot, pose, shot.time_s))


def _depth_scaled(shots: Shots, rng: np.random.Generator) -> Shots:
    for shot in shots:
        depth = shot.frame.depth
        yield shot if depth is None else _with_depth(shot, depth * DEPTH_SCALE)


def _depth_late(shots: Shots, rng: np.random.Generator) -> Shots:
    """Stamped as the image, taken DEPTH_LATE_S before it."""
    past: deque[SimulatedFrame] = deque(maxlen=20)
    for shot in shots:
        past.append(shot)
        time_s = shot.time_s - DEPTH_LATE_S
        if past[0].time_s > time_s:
            yield shot
            continue
        before = [k for k, kept in enumerate(past) if kept.time_s <= time_s][-1]
        a, b = past[before], past[min(before + 1, len(past) - 1)]
        weight = (time_s - a.time_s) / max(b.time_s - a.time_s, 1e-9)
        pose = se3.interpolate(a.world_from_camera, b.world_from_camera, weight)
        yield _with_depth(shot, _depth_from(shot, pose, time_s))


def _depth_holes(shots: Shots, rng: np.random.Generator) -> Shots:
    """Patches that drift from frame to frame, as on shiny and dark surfaces."""
    for shot in shots:
        depth = shot.frame.depth
        if depth is None:
            yield shot
            continue
        h, w = depth.shape
        coarse = rng.standard_normal((h // 60 + 3, w // 60 + 3)).astype(np.float32)
        patches = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
        yield _with_depth(shot, np.where(patches > np.quantile(patches, 1 - HOLES), np.nan, depth))


def _depth_flying(shots: Shots, rng: np.random.Generator) -> Shots:
    """Beside an edge a pixel lies anywhere between the two surfaces."""
    kernel = np.ones((2 * FLYING_PX + 1,) * 2, np.uint8)
    for shot in shots:
        depth = shot.frame.depth
        if depth is None:
            yield shot
            continue
        known = np.isfinite(depth)
        near = cv2.erode(np.where(known, depth, 1e3).astype(np.float32), kernel)
        far = cv2.dilate(np.where(known, depth, 0).astype(np.float32), kernel)
        edge = known & (far > 1.1 * near)
        between = near + rng.random(depth.shape) * (far - near)
        yield _with_depth(shot, np.where(edge, between, depth))


# ---- images --------------------------------------------------------------------------------------


def _with_images(shot: SimulatedFrame, change: Callable[[ByteArray], ByteArray]) -> SimulatedFrame:
    frame = shot.frame
    changes: dict[str, Any] = {"rgb": change(frame.rgb)}
    if frame.right_rgb is not None:
        changes["right_rgb"] = change(frame.right_rgb)
    return replace(shot, frame=replace(frame, **changes))


def _exposure_jumps(shots: Shots, rng: np.random.Generator) -> Shots:
    """The exposure changes at once by up to two stops either way, every second and a half."""
    gains = 2.0 ** rng.uniform(-2.0, 2.0, 1000)
    for shot in shots:
        gain = gains[int(shot.time_s / 1.5) % len(gains)] if shot.time_s >= 1.5 else 1.0
        table = np.clip(np.arange(256) * gain ** (1 / 2.2), 0, 255).round().astype(np.uint8)
        yield _with_images(shot, lambda rgb, table=table: cv2.LUT(rgb, table))


def _rolling_shutter(shots: Shots, rng: np.random.Generator) -> Shots:
    """Each row is taken at its own time; the stamp is that of the middle one."""
    waiting: SimulatedFrame | None = None
    before: SimulatedFrame | None = None
    for shot in shots:
        if waiting is not None:
            yield _rolled(before or waiting, waiting, shot)
        before, waiting = waiting, shot
    if waiting is not None:
        yield _rolled(before or waiting, waiting, waiting)


def _rolled(a: SimulatedFrame, shot: SimulatedFrame, b: SimulatedFrame) -> SimulatedFrame:
    """The picture as READOUT_S of the motion from a to b bends it."""
    seconds = b.time_s - a.time_s
    if seconds <= 0:
        return shot
    camera = shot.frame.camera
    rays = pixel_rays(camera).rays
    depth = np.where(np.isfinite(shot.true_depth_m), shot.true_depth_m, 1e3)
    points = (rays * depth[..., None]).reshape(-1, 3)
    step = se3.log(np.linalg.inv(a.world_from_camera) @ b.world_from_camera) / seconds
    later = se3.inverse(se3.exp(step * 0.01))
    here, there = project(camera, points), project(camera, points @ later[:3, :3].T + later[:3, 3])
    px_s = np.nan_to_num((there - here) / 0.01).reshape(*depth.shape, 2)
    height, width = depth.shape
    v, u = np.mgrid[:height, :width].astype(np.float32)
    delay_s = (v / max(height - 1, 1) - 0.5) * READOUT_S
    x = (u - px_s[..., 0] * delay_s).astype(np.float32)
    y = (v - px_s[..., 1] * delay_s).astype(np.float32)

    def bend(rgb: ByteArray) -> ByteArray:
        return np.asarray(cv2.remap(rgb, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    return _with_images(shot, bend)


def _lens_smear(shots: Shots, rng: np.random.Generator) -> Shots:
    """A greasy finger on the lens: a third of the picture is blurred and milky, always there."""
    mask = None
    for shot in shots:
        if mask is None:
            h, w = shot.frame.rgb.shape[:2]
            v, u = np.mgrid[:h, :w]
            centre = rng.uniform(0.35, 0.65, 2) * (w, h)
            distance = np.hypot((u - centre[0]) / w, (v - centre[1]) / h)
            mask = np.clip(1.5 - distance / 0.25, 0.0, 1.0).astype(np.float32)[..., None]

        def smear(rgb: ByteArray, mask: Any = mask) -> ByteArray:
            blurred = cv2.GaussianBlur(rgb, (0, 0), rgb.shape[1] / 80) * 0.8 + 40
            return (
                np.asarray(rgb * (1 - mask) + blurred * mask, np.float32).round().astype(np.uint8)
            )

        yield _with_images(shot, smear)


def _frozen_frames(shots: Shots, rng: np.random.Generator) -> Shots:
    """For 0.6 s in every 3 s the driver sends the same image with new stamps; depth goes on."""
    kept: SimulatedFrame | None = None
    for shot in shots:
        frozen = shot.time_s % 3.0 > 2.4
        if not frozen or kept is None:
            kept = shot
            yield shot
            continue
        changes: dict[str, Any] = {"rgb": kept.frame.rgb}
        if shot.frame.right_rgb is not None:
            changes["right_rgb"] = kept.frame.right_rgb
        yield replace(shot, frame=replace(shot.frame, **changes))


def _dropped_halves(shots: Shots, rng: np.random.Generator) -> Shots:
    """One image in five keeps the lower half of the image before: a transfer that broke off."""
    before: ByteArray | None = None
    for shot in shots:
        rgb = shot.frame.rgb
        if before is not None and rng.random() < 0.2:
            torn = np.concatenate([rgb[: len(rgb) // 2], before[len(rgb) // 2 :]])
            shot = replace(shot, frame=replace(shot.frame, rgb=torn))
        before = rgb
        yield shot


def _robot_part(shots: Shots, rng: np.random.Generator) -> Shots:
    layer: in_the_way.Layer | None = None
    for shot in shots:
        layer = layer or in_the_way.robot_part(shot.frame, rng)
        x, y = in_the_way.robot_place(shot.frame)
        yield replace(shot, frame=layer.before(shot.frame, x, y, rng))


def _passers_by(shots: Shots, rng: np.random.Generator) -> Shots:
    """They cross the image from either side, one after the other."""
    layer: in_the_way.Layer | None = None
    for shot in shots:
        layer = layer or in_the_way.passer_by(shot.frame, rng)
        since_s = shot.time_s % in_the_way.PASSER_PERIOD_S
        if since_s >= in_the_way.PASSER_S:
            yield shot
            continue
        way = in_the_way.PASSER_WIDTHS_S * since_s - in_the_way.PASSER_WIDTH
        if shot.time_s // in_the_way.PASSER_PERIOD_S % 2:
            way = 1 - in_the_way.PASSER_WIDTH - way
        x, y = way * shot.frame.camera.width, 0.1 * shot.frame.camera.height
        yield replace(shot, frame=layer.before(shot.frame, x, y, rng))


def _burnt_in(shots: Shots, rng: np.random.Generator) -> Shots:
    for shot in shots:
        camera, time_s = shot.frame.camera, shot.time_s
        yield _with_images(shot, lambda rgb, c=camera, t=time_s: in_the_way.burnt_in(c, rgb, t))


# ---- places --------------------------------------------------------------------------------------


def _lookalike(shots: Shots, rng: np.random.Generator) -> Shots:
    """The images stop for a while, twice; meanwhile the robot goes on to a stretch of the building
    that looks just as the one before."""
    shift_m = 0.0
    for shot in shots:
        phase_s = shot.time_s % 7.0
        shift_m = LOOKALIKE_M * float((shot.time_s + 2.0) // 7.0)
        if phase_s > 4.95:  # a frame at the very moment would show the next stretch already
            continue  # on the way, no images
        moved = np.eye(4)
        moved[0, 3] = shift_m
        base = shot.world_from_base
        in_odom = shot.odom_from_base @ se3.inverse(base) @ moved @ base
        yield replace(
            shot,
            world_from_camera=moved @ shot.world_from_camera,
            odom_from_base=in_odom,
            seen_from_camera=shot.world_from_camera,
        )


SENSOR_FAULTS: MappingProxyType[str, SensorFault] = MappingProxyType(
    {
        "depth_other_camera": SensorFault(
            "depth of another camera, 90 degrees aside", _depth_of_another_camera
        ),
        "depth_scaled": SensorFault("depth scaled by 1.05", _depth_scaled),
        "depth_late": SensorFault("depth taken 100 ms before its stamp", _depth_late),
        "depth_holes": SensorFault("depth unknown on 45 % of the image", _depth_holes),
        "depth_flying": SensorFault("flying pixels beside depth edges", _depth_flying),
        "odom_slip": SensorFault("wheels that spin, 0.5 m/s for 1 s in 3", odometry_faults.slip),
        "odom_constant": SensorFault(
            "odometry's covariance is constant", odometry_faults.covariance([1e-3] * 6)
        ),
        "odom_zero": SensorFault(
            "odometry's covariance is zero", odometry_faults.covariance([0.0] * 6)
        ),
        "odom_1e6": SensorFault(
            "1e6 for the axes that wheels do not measure",
            odometry_faults.covariance([1e-3, 1e-3, 1e6, 1e6, 1e6, 1e-2]),
        ),
        "odom_gaps": SensorFault("no odometry for 3 s in 6", odometry_faults.gaps),
        "odom_wrong_frame": SensorFault("odometry in optical axes", odometry_faults.wrong_frame),
        "odom_scaled": SensorFault(
            "odometry's ways are 1.1 times too long", odometry_faults.scaled
        ),
        "odom_late": SensorFault("odometry stamped 100 ms late", odometry_faults.late),
        "odom_jumps": SensorFault("odometry jumps by 0.4 m every 4 s", odometry_faults.jumps),
        "exposure_jumps": SensorFault("exposure jumps by up to 2 stops", _exposure_jumps),
        "rolling_shutter": SensorFault("rows taken over 30 ms", _rolling_shutter),
        "lens_smear": SensorFault("a third of the lens is greasy", _lens_smear),
        "frozen_frames": SensorFault("the same image for 0.6 s in 3 s", _frozen_frames),
        "dropped_halves": SensorFault("every fifth image is torn in the middle", _dropped_halves),
        "robot_part": SensorFault(
            "a part of the robot in the lower third of each image", _robot_part
        ),
        "passers_by": SensorFault("people walk past, close to the camera", _passers_by),
        "burnt_in": SensorFault("letters burnt into the image", _burnt_in),
        "lookalike": SensorFault(
            "no images for 2 s in 7, then a place that looks the same 2.8 m further", _lookalike
        ),
    }
)
