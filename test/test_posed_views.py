"""Places of rendered worlds from several points of view."""

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.simulation.draft import draft_world
from l2m_ros.workshop.training.posed_views import PlaceOptions, places_of_world

SIZE = (64, 48)


@pytest.fixture(scope="module")
def world():
    return draft_world(4, "corridor")


def turn_deg(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1)))


def test_neighbours_look_at_the_same_from_elsewhere(world):
    views = list(places_of_world(world, 1, PlaceOptions(places=3, views=3), SIZE))
    again = list(places_of_world(world, 1, PlaceOptions(places=3, views=3), SIZE))
    assert all(np.array_equal(a.image.rgb, b.image.rgb) for a, b in zip(views, again, strict=True))
    pairs = [(a, b) for a in views for b in views if a.place == b.place and a is not b]
    assert len({view.place for view in views}) == 3
    assert len(pairs) >= 6
    for a, b in pairs:
        apart = a.world_from_camera[:3, 3] - b.world_from_camera[:3, 3]
        assert np.linalg.norm(apart) > 0.02
        assert np.array_equal(a.image.K, b.image.K)
        assert turn_deg(a.world_from_camera, b.world_from_camera) < 90
    # What is in the middle of one image, the others see: it is neither hidden nor aside.
    seen = []
    for first, other in pairs:
        z = first.image.depth[SIZE[1] // 2, SIZE[0] // 2]
        there = np.linalg.inv(other.world_from_camera) @ first.world_from_camera
        x, y, ahead = there[:3, 2] * z + there[:3, 3]
        px = np.rint(other.image.K @ [x / ahead, y / ahead, 1])[:2].astype(int)
        inside = ahead > 0 and (px >= 0).all() and (px < SIZE).all()
        seen.append(inside and abs(other.image.depth[px[1], px[0]] / ahead - 1) < 0.2)
    assert np.mean(seen) > 0.6


def test_a_robots_camera_stays_at_its_height(world):
    mounted = PlaceOptions(places=2, views=3, height_m=0.45, pitch_deg=-10.0)
    poses = np.stack([v.world_from_camera for v in places_of_world(world, 2, mounted, SIZE)])
    assert len(poses) >= 4
    assert np.allclose(poses[:, 2, 3], 0.45, atol=0.02)
    pitch = np.degrees(np.arcsin(poses[:, 2, 2]))
    assert np.allclose(pitch, -10.0, atol=4.0)
    with pytest.raises(InvalidInput, match="height_m"):
        PlaceOptions(height_m=-1.0)
