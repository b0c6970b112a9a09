"""Places of rendered worlds, each seen from a few points of view: pairs whose pose is known.

    views = places_of_world(world, seed, PlaceOptions(), size)

A place is one view as `images_of_world` chooses them and its neighbours, which look at the same
thing from elsewhere: a share of its distance aside, so that the view changes by up to some 40
degrees whether it is a mug or a house.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.types import Camera, FloatArray
from l2m_ros.workshop.simulation.render import Rendering, render
from l2m_ros.workshop.simulation.world import World
from l2m_ros.workshop.training.depth_data import DepthImage
from l2m_ros.workshop.training.depth_views import (
    HIGHEST_M,
    LOWEST_M,
    camera_of,
    looking,
    viewpoint,
    worth,
)

AROUND_THE_MIDDLE = 0.15  # of each side: where the thing looked at lies in the image
FARTHEST_M = 4.0  # neighbours move as if what is farther were there
TRIES = 6
OUTDOORS_HIGHEST_M = 2.6
HEIGHT_SIGMA, TILT_RAD = 0.01, 0.015  # of a camera that is mounted on a robot


@dataclass(frozen=True)
class PlaceOptions:
    places: int = 3  # of a world
    views: int = 3  # of each place
    aside: tuple[float, float] = (0.12, 0.65)  # of the distance that a neighbour moves
    aim_rad: float = 0.06  # how far its middle is from where it aims
    height_m: float | None = None  # of the camera above the floor: one robot's; None: any
    pitch_deg: float = 0.0  # of that robot's camera, up

    def __post_init__(self) -> None:
        if self.height_m is not None and not 0.05 <= self.height_m <= 3.0:
            raise InvalidInput(f"height_m lies from 0.05 to 3, got {self.height_m:g}")
        if not -80.0 <= self.pitch_deg <= 80.0:
            raise InvalidInput(f"pitch_deg lies from -80 to 80, got {self.pitch_deg:g}")


@dataclass(frozen=True, eq=False)
class PosedView:
    place: int
    image: DepthImage
    world_from_camera: FloatArray  # 4x4


def places_of_world(
    world: World, seed: int, options: PlaceOptions, size: tuple[int, int]
) -> Iterator[PosedView]:
    """Places with two views or more; at most four tries a place."""
    rng = np.random.default_rng([seed, 78])
    made = 0
    for _ in range(4 * options.places):
        views = _place(world, rng, options, size)
        if len(views) > 1:
            for image, pose in views:
                yield PosedView(made, image, pose)
            made += 1
        if made == options.places:
            return


def _place(
    world: World, rng: np.random.Generator, options: PlaceOptions, size: tuple[int, int]
) -> list[tuple[DepthImage, FloatArray]]:
    camera = camera_of(rng, size)
    pose = viewpoint(world, rng) if options.height_m is None else _mounted(world, rng, options)
    if pose is None:
        return []
    picture = render(world.view(pose), camera)
    if not worth(picture, world):
        return []
    views = [(_image(picture, camera), pose)]
    distance_m = _middle_m(picture)
    for _ in range(options.views - 1):
        other = _neighbour(world, pose, distance_m, rng, options)
        if other is not None:
            picture = render(world.view(other), camera)
            if worth(picture, world):
                views.append((_image(picture, camera), other))
    return views


def _mounted(world: World, rng: np.random.Generator, options: PlaceOptions) -> FloatArray:
    """A robot's camera somewhere on the free floor."""
    assert options.height_m is not None
    low, high = world.free_box_m
    place = rng.uniform(low, high)
    place[2] = options.height_m * (1.0 + rng.normal(0, HEIGHT_SIGMA))
    around = min(1.4 * world.look_span_rad, np.pi)
    return _level(place, rng.uniform(-around, around), rng, options)


def _level(
    place: FloatArray, yaw: float, rng: np.random.Generator, options: PlaceOptions
) -> FloatArray:
    pitch = np.radians(options.pitch_deg) + rng.normal(0, TILT_RAD)
    return looking(place, yaw, pitch, rng.normal(0, TILT_RAD))


def _image(picture: Rendering, camera: Camera) -> DepthImage:
    return DepthImage(picture.rgb, camera.K, picture.depth_m)


def _middle_m(picture: Rendering) -> float:
    """The distance of what is in the middle of the image."""
    height, width = picture.depth_m.shape
    dy, dx = int(AROUND_THE_MIDDLE * height), int(AROUND_THE_MIDDLE * width)
    middle = picture.depth_m[height // 2 - dy : height // 2 + dy, width // 2 - dx : width // 2 + dx]
    known = middle[np.isfinite(middle)]
    return float(np.median(known)) if known.size else FARTHEST_M


def _neighbour(
    world: World,
    pose: FloatArray,
    distance_m: float,
    rng: np.random.Generator,
    options: PlaceOptions,
) -> FloatArray | None:
    """Another camera that sees the same thing, with nothing between them; None if none is found."""
    start, target = pose[:3, 3], pose[:3, 3] + distance_m * pose[:3, 2]
    highest = max(HIGHEST_M, OUTDOORS_HIGHEST_M if world.name in ("street", "yard") else 0.0)
    for _ in range(TRIES):
        level = options.height_m is not None
        towards = rng.standard_normal(3) * (1.0, 1.0, 0.0 if level else 0.5)
        towards -= 0.7 * (towards @ pose[:3, 2]) * pose[:3, 2]  # rather aside than ahead
        towards[2] *= not level
        towards /= np.linalg.norm(towards) + 1e-9
        step = min(distance_m, FARTHEST_M) * rng.uniform(*options.aside) * towards
        place = start + step
        way = target - place
        length = float(np.linalg.norm(way))
        if not LOWEST_M < place[2] < highest or np.linalg.norm(step) < 0.1 or length < 0.2:
            continue
        origins = np.stack([start, place])
        free = world.casters[0].distances(origins, np.stack([step * 1.1, 0.9 * way]))
        if (free >= 1.0).all():
            yaw, pitch = np.arctan2(way[1], way[0]), np.arctan2(way[2], np.hypot(way[0], way[1]))
            aim = rng.normal(0, options.aim_rad, 2)
            if level:
                return _level(place, yaw + aim[0], rng, options)
            return looking(place, yaw + aim[0], pitch + aim[1], rng.normal(0, 0.08))
    return None
