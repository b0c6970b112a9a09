"""Paths: as fast as robots are, as smooth, and never through anything."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.simulation.odometry import Odometer, OdometryNoise
from l2m_ros.workshop.simulation.path import PATHS, make_path
from l2m_ros.workshop.simulation.raycast import Raycaster
from l2m_ros.workshop.simulation.world import SCENES

CLEARANCE_M = 0.2


@pytest.fixture(scope="module", params=list(SCENES))
def scenery(request):
    return SCENES[request.param](np.random.default_rng([0, 1]))


def ground_of(scenery):
    """What a path asks of a world."""
    static = Raycaster(np.concatenate([s.triangles()[0] for s in scenery.surfaces]))
    return SimpleNamespace(
        name="world",
        free_box_m=np.asarray(scenery.free_box_m, float),
        look_span_rad=scenery.look_span_rad,
        casters=[static],
    )


ROOMY = SimpleNamespace(
    free_box_m=np.array([[-1.3, -1.0, 0.25], [1.4, 1.0, 1.9]]), look_span_rad=1.9
)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_path_comes_near_furniture_or_through_it(scenery, seed):
    static = Raycaster(np.concatenate([s.triangles()[0] for s in scenery.surfaces]))
    rng = np.random.default_rng(5)
    sphere = rng.normal(size=(120, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    for kind in PATHS:
        path = make_path(kind, world=ground_of(scenery), frames=200, seed=seed)
        centres = path.world_from_camera[::8, :3, 3]
        starts = np.repeat(centres, len(sphere), axis=0)
        free = static.distances(starts, np.tile(sphere, (len(centres), 1)))
        assert free.min() > CLEARANCE_M, (kind, seed)
        if kind == "stations":
            continue  # nobody walks from one to the next
        steps = np.diff(path.world_from_camera[:, :3, 3], axis=0)
        ahead = static.distances(path.world_from_camera[:-1, :3, 3], steps + 1e-9)
        assert ahead.min() > 1.0, (kind, seed)


def test_moving_objects_keep_out_of_the_cameras_space(scenery):
    low, high = np.asarray(scenery.free_box_m, float)
    for mover in scenery.movers:
        corners = np.concatenate([s.triangles()[0] for s in mover.surfaces]).reshape(-1, 3)
        reach = np.linalg.norm(corners - mover.centre_m, axis=1).max()
        assert reach <= mover.radius_m + 1e-9, "the ball around it holds all of it"
        times = np.linspace(0, mover.period_s, 50)
        where = mover.centre_m + np.stack([mover.offset_m(t) for t in times])
        outside = np.maximum(np.maximum(low - where, where - high), 0)
        assert np.linalg.norm(outside, axis=1).min() > 0.05
        speed = np.linalg.norm(np.diff(where, axis=0), axis=1) / (times[1] - times[0])
        assert 0.2 < speed.max() < 1.2


@pytest.mark.parametrize("kind", [kind for kind in PATHS if kind != "stations"])
@pytest.mark.parametrize("frames", [30, 200, 900])
def test_speeds_are_those_of_a_robot(kind, frames):
    for seed in range(5):
        path = make_path(kind, world=ROOMY, frames=frames, seed=seed)
        times = np.arange(0, path.times_s[-1], 0.01)
        poses = path.camera_at(times)
        speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) / 0.01
        turn = np.einsum("nji,njk->nik", poses[:-1, :3, :3], poses[1:, :3, :3])
        angle = np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1))
        assert speed.max() <= 1.0, (kind, seed)
        assert np.rad2deg(angle.max()) / 0.01 <= 60.0, (kind, seed)
        assert np.abs(np.diff(speed)).max() / 0.01 < 6.0, "no jerks"


def test_a_driving_robot_goes_where_it_looks_and_stays_on_the_floor():
    for seed in range(5):
        path = make_path("drive", world=ROOMY, frames=300, seed=seed)
        base = path.base_at(path.times_s)
        assert (base[:, 2, 3] == 0).all() and np.allclose(base[:, 2, 2], 1)
        step = np.diff(base[:, :2, 3], axis=0)
        heading = (base[:-1, :2, 0] + base[1:, :2, 0]) / 2
        along = (step * heading).sum(1) / np.linalg.norm(step, axis=1)
        assert along[5:].min() > 0.998  # never sideways (the last 0.4 % is the chord of an arc)
        assert np.allclose(path.world_from_camera[:, 2, 3], 0.45)


def test_turning_stays_on_the_spot():
    path = make_path("turn", world=ROOMY, frames=200, seed=1)
    base = path.base_at(path.times_s)
    assert np.ptp(base[:, :3, 3], axis=0).max() == 0
    yaw = np.unwrap(np.arctan2(base[:, 1, 0], base[:, 0, 0]))
    assert abs(yaw[-1] - yaw[0]) > np.deg2rad(300)


def test_a_loop_closes_and_a_hand_shakes():
    loop = make_path("loop", world=ROOMY, frames=200, seed=3).world_from_camera
    assert np.abs(loop[0] - loop[-1]).max() < 1e-9
    assert np.linalg.norm(loop[100, :3, 3] - loop[0, :3, 3]) > 1.0
    hand = make_path("handheld", world=ROOMY, frames=300, seed=3)
    z = hand.camera_at(np.arange(0, 20, 0.02))[:, 2, 3]
    shake = z - np.convolve(z, np.ones(25) / 25, mode="same")
    assert 0.0003 < shake[50:-50].std() < 0.01


def test_six_stations_in_a_row_see_one_point_from_many_sides(scenery):
    world = ground_of(scenery)
    poses = make_path("stations", world=world, frames=12, seed=1, rate_hz=2.0).world_from_camera
    for row in (poses[:6], poses[6:]):
        places, ahead = row[:, :3, 3], row[:, :3, 2]
        across = np.eye(3) - ahead[:, :, None] * ahead[:, None, :]  # nearest to all six axes
        point = np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, places))
        towards = point - places
        off = np.einsum("ni,ni->n", towards, ahead) / np.linalg.norm(towards, axis=1)
        assert np.median(np.degrees(np.arccos(off))) < 20
        assert np.linalg.norm(np.ptp(places, axis=0)) > 0.3


def test_optical_axes_follow_rep_103():
    path = make_path("drive", world=ROOMY, frames=10, seed=0)
    base, camera = path.base_at(0.0)[0], path.world_from_camera[0]
    assert np.allclose(camera[:3, 2], base[:3, 0])  # z forward
    assert np.allclose(camera[:3, 0], -base[:3, 1])  # x right
    assert np.allclose(camera[:3, 1], -base[:3, 2])  # y down


def test_bad_paths_are_refused():
    with pytest.raises(InvalidInput, match="did you mean drive"):
        make_path("drives", world=ROOMY, frames=10)
    with pytest.raises(InvalidInput, match="frames >= 1"):
        make_path("drive", world=ROOMY, frames=0)


@pytest.mark.parametrize("kind", ["drive", "handheld"])
def test_odometry_drifts_as_its_covariance_says(kind):
    """Normalised squared error of the last pose over many runs: chi-square, 3 or 6 degrees."""
    path = make_path(kind, world=ROOMY, frames=60, seed=2, rate_hz=5.0)
    base = path.base_at(path.times_s)
    truth = np.linalg.inv(base[0]) @ base[-1]
    axes = [0, 1, 5] if path.planar else list(range(6))
    scores = []
    for seed in range(120):
        odometer = Odometer(np.random.default_rng(seed), OdometryNoise(), planar=path.planar)
        for pose in base:
            odometer.update(pose)
        got, P = odometer.odom_from_base, odometer.covariance
        turn = got[:3, :3] @ truth[:3, :3].T
        rotation = 0.5 * np.array(
            [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
        )
        error = np.concatenate([got[:3, 3] - truth[:3, 3], rotation])[axes]
        scores.append(error @ np.linalg.solve(P[np.ix_(axes, axes)], error))
    expected, spread = len(axes), np.sqrt(2 * len(axes) / len(scores))
    assert abs(np.mean(scores) - expected) < 4 * spread
    assert np.linalg.norm(got[:3, 3] - truth[:3, 3]) > 1e-4
