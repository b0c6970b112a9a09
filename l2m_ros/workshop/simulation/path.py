"""Camera paths of real robots, as functions of time, inside a world's free box.

    drive     a wheeled robot: planar, camera 0.45 m above the floor, round and round
    turn      the same robot, turning on the spot
    handheld  a person: 6-DoF wander with the shake of a hand
    loop      a person who walks a loop: the last frame is taken where the first was
    stations  somebody else every half second (`--rate 2`), six in a row looking at one thing from
              wherever it is seen: wide baselines

Base axes (REP-103): x forward, y left, z up. On wheels the base is on the floor; in the hand
it is the camera's body. No speed exceeds 1 m/s nor 60 degrees/s, between stations excepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from l2m_ros.errors import InvalidInput
from l2m_ros.spelling import nearest
from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation.world import World

Motion = Callable[[FloatArray], FloatArray]  # times (N,) -> (N, 6): x, y, z, roll, pitch, yaw

WALK_M_S = 0.75
DRIVE_M_S = 0.6
TURN_RAD_S = np.deg2rad(35.0)
LOOK_RAD_S = np.deg2rad(40.0)
STATION_S, VISITORS = 0.5, 6  # how long somebody stands; how many look at one thing
SETTLE_S = 0.5  # time constant of a robot's start from rest
CAMERA_HEIGHT_M = 0.45
CAMERA_AHEAD_M = 0.15

# Optical axes in the base's: z forward = x, x right = -y, y down = -z.
BODY_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True, eq=False)
class Path:
    kind: str
    stamps_ns: npt.NDArray[np.int64]  # (N,)
    base_from_camera: FloatArray  # 4x4
    motion: Motion
    planar: bool

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def times_s(self) -> FloatArray:
        """(N,) since the first frame."""
        return (self.stamps_ns - self.stamps_ns[0]) * 1e-9

    @property
    def world_from_camera(self) -> FloatArray:
        """(N, 4, 4) at the stamps."""
        return self.camera_at(self.times_s)

    def base_at(self, times_s: npt.ArrayLike) -> FloatArray:
        """world_from_base (N, 4, 4) at any times."""
        state = self.motion(np.atleast_1d(np.asarray(times_s, float)))
        poses = np.tile(np.eye(4), (len(state), 1, 1))
        poses[:, :3, :3] = Rotation.from_euler("xyz", state[:, 3:]).as_matrix()  # fixed axes
        poses[:, :3, 3] = state[:, :3]
        return poses

    def camera_at(self, times_s: npt.ArrayLike) -> FloatArray:
        """world_from_camera (N, 4, 4) at any times."""
        return self.base_at(times_s) @ self.base_from_camera


def make_path(
    kind: str, *, world: World, frames: int, seed: int = 0, rate_hz: float = 15.0, start_ns: int = 0
) -> Path:
    if kind not in PATHS:
        raise InvalidInput(
            f"unknown path {kind!r}; there are {', '.join(PATHS)}{nearest(kind, PATHS)}"
        )
    if frames < 1 or rate_hz <= 0:
        raise InvalidInput(f"a path needs frames >= 1 and rate_hz > 0, got {frames}, {rate_hz:g}")
    wheeled = kind in ("drive", "turn")
    mount = BODY_FROM_OPTICAL.copy()
    if wheeled:
        mount[:3, 3] = CAMERA_AHEAD_M, 0.0, CAMERA_HEIGHT_M
    stamps = start_ns + np.round(np.arange(frames) * 1e9 / rate_hz).astype(np.int64)
    duration_s = max(float(stamps[-1] - start_ns) * 1e-9, 1e-3)
    motion = PATHS[kind](world, np.random.default_rng([seed, 10]), duration_s)
    return Path(kind, stamps, mount, motion, planar=wheeled)


def _drive(world: World, rng: np.random.Generator, duration_s: float) -> Motion:
    """Along a rounded rectangle, from rest to cruising speed; the heading is its tangent."""
    low, high = world.free_box_m[:, :2]
    half = (high - low) / 2 * rng.uniform(0.75, 1.0) - CAMERA_AHEAD_M
    x, y, heading, length_m = _rounded_track((low + high) / 2, half)
    arc = np.linspace(0.0, length_m, len(x))
    bend = np.abs(np.gradient(heading, arc)).max()
    speed = min(DRIVE_M_S, np.deg2rad(50.0) / bend)
    start = length_m * rng.random()
    backwards = rng.random() < 0.5

    def motion(times_s: FloatArray) -> FloatArray:
        travelled = start + speed * _from_rest(times_s)
        along = (-travelled if backwards else travelled) % length_m
        yaw = np.interp(along, arc, heading) + (np.pi if backwards else 0.0)
        flat = np.zeros_like(times_s)
        place = np.interp(along, arc, x), np.interp(along, arc, y)
        return np.stack([*place, flat, flat, flat, yaw], axis=-1)

    return motion


def _from_rest(times_s: FloatArray) -> FloatArray:
    """Seconds at full speed that a start from rest amounts to: its rate rises from 0 to 1."""
    return times_s - SETTLE_S * (1.0 - np.exp(-times_s / SETTLE_S))


def _rounded_track(
    centre: FloatArray, half: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """x, y, tangent and length of a stadium whose curvature is smooth; first = last point."""
    radius = float(half.min())
    straight = half - radius
    angle = np.linspace(0, 2 * np.pi, 4001)
    corner = straight * np.sign(np.stack([np.cos(angle), np.sin(angle)], -1))
    rough = centre + corner + radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    rough = _resampled(rough)
    sigma = 0.45 * radius / np.linalg.norm(np.diff(rough[:2], axis=0))
    tripled = np.concatenate([rough[:-1]] * 3)
    smooth = cv2.GaussianBlur(tripled, (1, 0), sigmaX=1.0, sigmaY=sigma)
    count = len(rough) - 1
    track = _resampled(smooth[count : 2 * count + 1])
    tangent = np.gradient(np.concatenate([track[-2:-1], track, track[1:2]]), axis=0)[1:-1]
    heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    length_m = float(np.linalg.norm(np.diff(track, axis=0), axis=1).sum())
    return track[:, 0], track[:, 1], heading, length_m


def _resampled(points: FloatArray, count: int = 2000) -> FloatArray:
    """The polyline with points at equal distances."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, arc[-1], count)
    return np.stack([np.interp(at, arc, points[:, axis]) for axis in range(2)], axis=-1)


def _turn(world: World, rng: np.random.Generator, duration_s: float) -> Motion:
    low, high = world.free_box_m[:, :2]
    place = (low + high) / 2 + rng.uniform(-0.5, 0.5, 2) * np.maximum(
        (high - low) / 2 - CAMERA_AHEAD_M, 0
    )
    first, rate = rng.uniform(-np.pi, np.pi), rng.choice([-1.0, 1.0]) * TURN_RAD_S

    def motion(times_s: FloatArray) -> FloatArray:
        state = np.zeros((len(times_s), 6))
        state[:, :2] = place
        state[:, 5] = first + rate * _from_rest(times_s)
        return state

    return motion


@dataclass(frozen=True, eq=False)
class _Waves:
    """A sum of sines for each of D coordinates: band-limited, with known bounds."""

    amplitude: FloatArray  # (K, D)
    omega_rad_s: FloatArray  # (K, D)
    phase_rad: FloatArray  # (K, D)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        reach: npt.ArrayLike,
        rate: npt.ArrayLike,
        band_hz: tuple[float, float],
        count: int = 4,
    ) -> _Waves:
        """Never further from 0 than `reach` (D,), never faster than `rate` (D,)."""
        reach, rate = np.atleast_1d(reach), np.atleast_1d(rate)
        shape = (count, len(reach))
        amplitude = rng.uniform(0.5, 1.0, shape)
        omega = 2 * np.pi * np.exp(rng.uniform(*np.log(band_hz), shape))
        amplitude *= reach / amplitude.sum(axis=0)
        amplitude *= np.minimum(1.0, rate / (amplitude * omega).sum(axis=0))
        return cls(amplitude, omega, rng.uniform(0, 2 * np.pi, shape))

    def __call__(self, times_s: FloatArray) -> FloatArray:
        angle = self.omega_rad_s * times_s[:, None, None] + self.phase_rad
        return (self.amplitude * np.sin(angle)).sum(axis=1)


def _shake(rng: np.random.Generator) -> _Waves:
    """A hand: 3 mm and 0.3 degrees at 1.5 to 6 Hz."""
    reach = [0.003] * 3 + [0.005] * 3
    return _Waves.random(rng, reach, [0.06] * 3 + [0.12] * 3, (1.5, 6.0), count=6)


def _handheld(world: World, rng: np.random.Generator, duration_s: float) -> Motion:
    low, high = world.free_box_m[0].copy(), world.free_box_m[1]
    low[2] = max(low[2], 0.8)  # held at the height of belly to eyes
    half = (high - low) / 2 - 0.01
    place = _Waves.random(rng, half, WALK_M_S * np.array([0.8, 0.55, 0.2]), (0.05, 0.25))
    look = _Waves.random(
        rng, [0.07, 0.22, world.look_span_rad], LOOK_RAD_S * np.array([0.2, 0.4, 0.8]), (0.05, 0.3)
    )
    shake, tilt = _shake(rng), np.deg2rad(5.0)

    def motion(times_s: FloatArray) -> FloatArray:
        state = shake(times_s)
        state[:, :3] += (low + high) / 2 + place(times_s)
        state[:, 3:] += [0.0, tilt, 0.0] + look(times_s)
        return state

    return motion


def _loop(world: World, rng: np.random.Generator, duration_s: float) -> Motion:
    """An ellipse in duration_s, as wide as walking pace allows, looking round and back."""
    low, high = world.free_box_m
    omega = 2 * np.pi / duration_s
    axes = np.minimum((high - low)[:2] / 2 - 0.05, WALK_M_S / omega)
    swing = min(world.look_span_rad, LOOK_RAD_S / omega)
    first, way = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    height = rng.uniform(1.2, 1.5)
    step = 2 * np.pi * np.maximum(1, np.round(duration_s * rng.uniform(1.5, 2.0))) / duration_s

    def motion(times_s: FloatArray) -> FloatArray:
        angle = first + way * omega * times_s
        state = np.zeros((len(times_s), 6))
        state[:, :2] = (low + high)[:2] / 2 + axes * np.stack([np.cos(angle), np.sin(angle)], -1)
        state[:, 2] = height + 0.012 * np.sin(step * times_s)  # a step, 1.5 to 2 a second
        state[:, 3] = 0.008 * np.sin(step / 2 * times_s) * (duration_s > 2.0)
        state[:, 4] = 0.08 + 0.06 * np.sin(omega * times_s)
        state[:, 5] = swing * np.sin(omega * times_s)
        return state

    return motion


def _stations(world: World, rng: np.random.Generator, duration_s: float) -> Motion:
    """A place of its own for every half second; VISITORS in a row look at one point."""
    count = round(duration_s / STATION_S) + 1
    rows = [_visitors(world, rng) for _ in range(math.ceil(count / VISITORS))]
    states = np.concatenate(rows)

    def motion(times_s: FloatArray) -> FloatArray:
        index = np.floor(times_s / STATION_S + 0.5).astype(int)
        return states[np.clip(index, 0, len(states) - 1)]

    return motion


def _visitors(world: World, rng: np.random.Generator) -> FloatArray:
    """(VISITORS, 6): places in the free box that see one point, and how each looks at it."""
    low, high = world.free_box_m
    for _ in range(200):
        first = rng.uniform(low, high)
        angle = rng.uniform(-np.pi, np.pi)
        ray = np.array([np.cos(angle), np.sin(angle), rng.normal(0.0, 0.15)])
        away = float(world.casters[0].distances(first, ray[None])[0])
        if not 0.8 < away * np.linalg.norm(ray) < 20.0:
            continue
        point = first + away * ray
        reach = np.minimum(1.2 * np.linalg.norm(point - first), high - low)
        tried = np.clip(first + rng.uniform(-1.0, 1.0, (20 * VISITORS, 3)) * reach, low, high)
        seen = _sees(world, tried, point)
        if seen.sum() >= VISITORS:
            return _looking_at(tried[seen][:VISITORS], point, rng)
    raise InvalidInput(f"the world {world.name} has no point that {VISITORS} places see")


def _sees(world: World, places: FloatArray, point: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether nothing stands between each place and the point, which is not too near."""
    towards = point - places
    far = world.casters[0].distances(places, towards)
    free: npt.NDArray[np.bool_] = (far > 0.98) & (np.linalg.norm(towards, axis=1) > 0.6)
    return free


def _looking_at(places: FloatArray, point: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Roll, pitch and yaw towards the point, a little off, the head a little tilted."""
    x, y, z = (point - places).T
    level = np.stack([np.zeros_like(x), -np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1)
    off = rng.normal(0.0, 1.0, level.shape) * [0.08, 0.1, 0.15]
    return np.concatenate([places, level + off], axis=1)


PATHS = MappingProxyType(
    {
        "handheld": _handheld,
        "drive": _drive,
        "turn": _turn,
        "loop": _loop,
        "stations": _stations,
    }
)
