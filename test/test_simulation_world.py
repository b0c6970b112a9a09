"""The rendered picture and its depth, against closed forms and slow twins."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.types import Camera
from l2m_ros.workshop.simulation.canvas import Canvas
from l2m_ros.workshop.simulation.lighting import Lighting
from l2m_ros.workshop.simulation.render import look
from l2m_ros.workshop.simulation.scenery import Scenery
from l2m_ros.workshop.simulation.surfaces import Sheet, ball, box, cylinder, panel, pipe, quad
from l2m_ros.workshop.simulation.world import World, assemble, make_world

K = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])
SMALL = Camera(160, 120, K)
EVEN_LIGHT = Lighting(ambient=1.0, reach_m=1e-3, ambient_colour=(1, 1, 1))


def facing(x: float, y: float, z: float, yaw_deg: float, pitch_deg: float = 0.0) -> np.ndarray:
    """world_from_camera of a level camera; pitch up is positive."""
    yaw, pitch = np.deg2rad(yaw_deg), np.deg2rad(pitch_deg)
    ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.cross(ahead, [0, 0, 1]) / np.cos(pitch)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    pose[:3, 3] = x, y, z
    return pose


def ramp(canvas: Canvas) -> np.ndarray:
    """Encoded values 40 to 200 from left to right in red, from top to bottom in green."""
    x, y = canvas.grid_m()
    red = np.broadcast_to(40 + 160 * x / canvas.width_m, (canvas.height, canvas.width))
    green = np.broadcast_to(40 + 160 * y / canvas.height_m, (canvas.height, canvas.width))
    return (np.stack([red, green, np.full_like(red, 90)], -1) / 255) ** 2.2


def fine_checks(canvas: Canvas) -> np.ndarray:
    """Squares of 2 cm, black and white: the worst thing for an aliasing renderer."""
    x, y = canvas.grid_m()
    checks = (np.floor(x / 0.02) + np.floor(y / 0.02)) % 2
    return np.repeat((0.02 + 0.8 * checks)[..., None], 3, axis=2)


def world_of(surfaces: list, outdoors: bool = False) -> World:
    scenery = Scenery(surfaces, EVEN_LIGHT, ((-1, -1, 0), (1, 1, 2)), 1.0, outdoors=outdoors)
    return assemble("test", scenery, seed=0)


def brute_force_depth(corners: np.ndarray, origin: np.ndarray, ray: np.ndarray) -> float:
    """Moeller and Trumbore in double precision over every triangle; in lengths of the ray."""
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(ray, e2)
    determinant = np.einsum("ti,ti->t", e1, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = origin - corners[:, 0]
        u = np.einsum("ti,ti->t", s, p) / determinant
        q = np.cross(s, e1)
        v = q @ ray / determinant
        t = np.einsum("ti,ti->t", e2, q) / determinant
        met = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return float(t[met].min()) if met.any() else np.inf


def test_depth_of_a_wall_is_its_distance_in_every_pixel():
    world = world_of([panel((3, 0, 1), (-1, 0, 0), 20, 20, ramp, texels_per_m=20)])
    seen = look(world, SMALL, facing(0.5, 0.2, 1.0, 0.0))
    assert np.abs(seen.depth_m - 2.5).max() < 1e-6


def test_depth_of_a_slanted_wall_follows_the_closed_form():
    world = world_of([panel((3, 0, 1), (-1, 0, 0), 40, 40, ramp, texels_per_m=20)])
    seen = look(world, SMALL, facing(0.0, 0.0, 1.0, 30.0))
    x = (np.arange(160) - 79.5) / 150.0
    expected = 3.0 / (np.cos(np.deg2rad(30)) + x * np.sin(np.deg2rad(30)))
    assert np.abs(seen.depth_m / expected - 1).max() < 1e-6


def test_depth_of_the_furnished_room_equals_brute_force():
    world = make_world("room")
    pose = facing(-1.0, 0.3, 1.4, 15.0, -10.0)
    seen = look(world, SMALL, pose)
    static = world.triangles.corners[world.group == 0]
    rng = np.random.default_rng(0)
    worst = []
    for u, v in zip(rng.integers(0, 160, 150), rng.integers(0, 120, 150), strict=True):
        ray = pose[:3, :3] @ np.array([(u - 79.5) / 150, (v - 59.5) / 150, 1.0])
        slow = brute_force_depth(static, pose[:3, 3], ray)
        worst.append(abs(seen.depth_m[v, u] - slow))
    # Single-precision Embree may take the other side of an edge for a ray that grazes it.
    assert np.quantile(worst, 0.98) < 1e-6


def test_colours_lie_where_the_geometry_says():
    world = world_of([panel((2, 0, 1), (-1, 0, 0), 2.0, 2.0, ramp, texels_per_m=200)])
    pose = facing(0.1, -0.1, 1.05, 5.0)
    seen = look(world, SMALL, pose)
    v, u = np.nonzero(np.isfinite(seen.depth_m))
    rays = np.stack([(u - 79.5) / 150, (v - 59.5) / 150, np.ones(len(u))], -1)
    points = rays * seen.depth_m[v, u][:, None] @ pose[:3, :3].T + pose[:3, 3]
    red, green = 40 + 160 * (1 - points[:, 1]) / 2, 40 + 160 * (2 - points[:, 2]) / 2
    inner = (np.abs(points[:, 1]) < 0.95) & (np.abs(points[:, 2] - 1) < 0.95)
    error = np.abs(seen.rgb[v, u, :2] - np.stack([red, green], -1))[inner]
    assert error.max() < 1.5  # one value is 1.25 cm of this ramp, 0.6 pixels


def test_fine_texture_is_filtered_as_if_supersampled():
    world = world_of([quad((-1, 4, 0), (12, 0, 0), (0, -8, 0), fine_checks, texels_per_m=200)])
    pose = facing(0, 0, 1.0, 0.0, -25.0)
    seen = look(world, SMALL, pose).rgb[10:, :, 0].astype(float)
    large = look(world, SMALL.resized(1280, 960), pose).rgb
    reference = cv2.resize(large, (160, 120), interpolation=cv2.INTER_AREA)[10:, :, 0]
    assert np.abs(seen - reference).mean() < 6.0
    assert seen[:25].std() < 12.0  # far squares are grey, not moire (aliasing gives 60)


def test_silhouettes_are_smooth():
    def white(canvas: Canvas) -> np.ndarray:
        return np.full((canvas.height, canvas.width, 3), 0.8, np.float32)

    def black(canvas: Canvas) -> np.ndarray:
        return np.full((canvas.height, canvas.width, 3), 0.01, np.float32)

    world = world_of(
        [panel((4, 0, 1), (-1, 0, 0), 20, 20, black), panel((2, 0, 1), (-1, -0.02, 0), 1, 1, white)]
    )
    rgb = look(world, SMALL, facing(0, 0, 1.0, 4.0)).rgb[..., 0]
    between = (rgb > rgb.min() + 20) & (rgb < rgb.max() - 20)
    assert between.sum() > 100


def test_shapes_look_outwards():
    shapes = [
        *box((1, 2, 0.5), (0.5, 0.7, 0.9), ramp, yaw_rad=0.7, bottom=True),
        *cylinder((1, 2, 0.5), 0.3, 0.8, ramp),
        pipe((1, 2, 0), (1, 2.0, 1), 0.1, ramp),
        ball((1, 2, 0.95), 0.4, ramp),
    ]
    for shape in shapes:
        assert isinstance(shape, Sheet)
        du = np.diff(shape.vertices, axis=1)[:-1]
        dv = np.diff(shape.vertices, axis=0)[:, :-1]
        normal = np.cross(dv, du)
        outwards = shape.vertices[:-1, :-1] + (du + dv) / 2 - np.array([1, 2, 0.5])
        if abs(outwards[..., :2]).max() > 0.05:
            outwards[..., 2] -= 0.45
        assert (np.einsum("rci,rci->rc", normal, outwards) >= -1e-9).all()


def test_sky_has_no_depth():
    ground = quad((-5, 5, 0), (10, 0, 0), (0, -10, 0), ramp, texels_per_m=50)
    seen = look(world_of([ground], outdoors=True), SMALL, facing(0, 0, 1, 0))
    assert np.isnan(seen.depth_m[:50]).all() and (seen.hit[:50] == -1).all()
    assert np.isfinite(seen.depth_m[-20:]).all()
    assert seen.rgb[:50, :, 2].mean() > 120  # and it is painted


@pytest.mark.parametrize("scene", ["room", "corridor"])
def test_scenes_are_lit_and_textured(scene):
    world = make_world(scene)
    centre = world.free_box_m.mean(axis=0)
    camera = SMALL.resized(320, 240)
    corners = []
    for yaw in (0, 90, 180, 270):
        seen = look(world, camera, facing(centre[0], centre[1], 1.2, yaw))
        assert np.isfinite(seen.depth_m).all(), "a closed room has no hole"
        grey = cv2.cvtColor(seen.rgb, cv2.COLOR_RGB2GRAY)
        assert 60 < grey.mean() < 200 and grey.std() > 20
        found = cv2.goodFeaturesToTrack(grey, 2000, 0.01, 4)
        corners.append(0 if found is None else len(found))
    assert min(corners) > 100, corners


@pytest.mark.slow
def test_the_yard_is_lit_textured_and_has_sky():
    world = make_world("yard")
    # Along +x the wall of the house hides the sky.
    seen = look(world, SMALL.resized(320, 240), facing(0, 0, 1.2, 180, 5))
    assert 0.05 < np.isnan(seen.depth_m).mean() < 0.6
    found = cv2.goodFeaturesToTrack(cv2.cvtColor(seen.rgb, cv2.COLOR_RGB2GRAY), 2000, 0.01, 4)
    assert len(found) > 300


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    def build(seed: int) -> np.ndarray:
        patch = [panel((2, 0, 1), (-1, 0, 0), 1, 1, lambda c: 0.3 + 0.05 * c.noise(0.1)[..., None]
                       * np.ones(3, np.float32))]  # fmt: skip
        scenery = Scenery(patch, EVEN_LIGHT, ((-1, -1, 0), (1, 1, 2)), 1.0)
        return look(assemble("t", scenery, seed), SMALL, facing(0, 0, 1, 0)).rgb

    assert (build(1) == build(1)).all()
    assert (build(1) != build(2)).any()


def test_an_unknown_scene_names_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean corridor"):
        make_world("coridor")
