"""Where cameras are in a world that is rendered to learn depth from: anywhere people and robots
hold them, before desks and single things too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from l2m_ros.types import Camera, FloatArray
from l2m_ros.workshop.simulation.render import Rendering, render
from l2m_ros.workshop.simulation.world import World
from l2m_ros.workshop.training.depth_data import DepthImage

FOCAL_OF_WIDTH = (0.5, 1.1)
SEATED_SHARE = 0.6  # of a desk's views
LOWEST_AT_DESK_M = 0.4
NEAR_SHARE = {"desk": 0.6, "kitchen": 0.3, "street": 0.2, "yard": 0.3}  # of views: before one thing
NEAR_M = (0.3, 1.8)
TRIES = 8
LOWEST_M, HIGHEST_M = 0.1, 2.2  # of such a camera
LEAST_SURFACES, LEAST_SEEN = 3, 0.003


def images_of_world(
    world: World, seed: int, count: int, size: tuple[int, int]
) -> Iterator[DepthImage]:
    """Views of one rendered world, each with another camera; at most 4 tries a view."""
    rng = np.random.default_rng([seed, 77])
    made = 0
    for _ in range(4 * count):
        camera = camera_of(rng, size)
        pose = viewpoint(world, rng)
        if pose is None:
            continue
        picture = render(world.view(pose), camera)
        if worth(picture, world):
            made += 1
            yield DepthImage(picture.rgb, camera.K, picture.depth_m)
        if made == count:
            return


def camera_of(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """A focal length of half to all of the width; crops make it longer."""
    width, height = size
    focal_px = width * np.exp(rng.uniform(*np.log(FOCAL_OF_WIDTH)))
    K = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1.0]])
    return Camera(width, height, K)


def viewpoint(world: World, rng: np.random.Generator) -> FloatArray | None:
    if world.name == "desk" and rng.random() < SEATED_SHARE:
        return _at_the_desk(world, rng)
    if rng.random() < NEAR_SHARE.get(world.name, 0.4):
        return _before_a_thing(world, rng)
    return _somewhere(world, rng)


def _at_the_desk(world: World, rng: np.random.Generator) -> FloatArray | None:
    """Where people sit and stand before a desk, or a robot does, at what is on it and under it."""
    for _ in range(TRIES):
        place = rng.uniform((0.0, -0.9, LOWEST_AT_DESK_M), (1.0, 0.9, 1.65))
        place[0] = -0.15 - 1.6 * place[0] ** 1.5  # metres before the desk's middle
        target = rng.uniform((-0.3, -0.8, -0.3), (0.5, 0.8, 0.35))
        target[2] = np.clip(target[2] + place[2], 0.2, 1.25)
        way = target - place
        free = world.casters[0].distances(place[None], way[None])
        if free[0] > 0.6 and np.linalg.norm(way) > 0.3:
            yaw, pitch = np.arctan2(way[1], way[0]), np.arctan2(way[2], np.hypot(way[0], way[1]))
            return looking(place, yaw, pitch + rng.normal(0, 0.05), rng.normal(0, 0.08))
    return None


def _somewhere(world: World, rng: np.random.Generator) -> FloatArray:
    """A camera in the free space, or a step beside it; the higher it is, the more it looks down."""
    low, high = world.free_box_m
    step = np.array([0.5, 0.5, 0.0])
    place = rng.uniform(low - step, high + step)
    around = min(1.4 * world.look_span_rad, np.pi)
    yaw, pitch = rng.uniform(-around, around), rng.normal(-0.1 - 0.35 * (place[2] - 0.7), 0.25)
    return looking(place, yaw, pitch, rng.normal(0, 0.08))


def _before_a_thing(world: World, rng: np.random.Generator) -> FloatArray | None:
    """A camera held before any one surface, as near as people hold them; None if all are hidden.

    Each surface counts once, or it would be a plant's leaves most of the time.
    """
    table = world.triangles
    surfaces = np.unique(table.patch)
    for _ in range(TRIES):
        chosen = rng.choice(np.flatnonzero(table.patch == rng.choice(surfaces)))
        normal = table.normal[chosen]
        target = rng.dirichlet(np.ones(3)) @ table.corners[chosen] + 0.003 * normal
        outwards = float(np.arctan2(normal[1], normal[0])) + rng.normal(0, 0.7)
        above, away = rng.normal(0.5, 0.4), np.exp(rng.uniform(*np.log(NEAR_M)))
        back = np.array([np.cos(outwards) * np.cos(above), np.sin(outwards) * np.cos(above),
                         np.sin(above)])  # fmt: skip
        free = world.casters[0].distances(target[None], (back * (away + 0.1))[None])
        place = target + away * back
        if free[0] >= 1.0 and LOWEST_M < place[2] < HIGHEST_M:
            yaw, pitch = outwards + np.pi + rng.normal(0, 0.15), -above + rng.normal(0, 0.15)
            return looking(place, yaw, pitch, rng.normal(0, 0.1))
    return None


def looking(place: FloatArray, yaw: float, pitch: float, roll: float) -> FloatArray:
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    pose[:3, 3] = place
    return pose


def worth(picture: Rendering, world: World) -> bool:
    """Neither inside of something nor all sky nor of a single wall."""
    known = picture.depth_m[np.isfinite(picture.depth_m)]
    if known.size < 0.4 * picture.depth_m.size:
        return False
    if np.quantile(known, 0.02) < 0.12 or np.median(known) < 0.25:
        return False
    seen = np.bincount(world.triangles.patch[picture.hit[picture.hit >= 0]])
    return int((seen > LEAST_SEEN * picture.hit.size).sum()) >= LEAST_SURFACES
