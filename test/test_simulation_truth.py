"""Exact correspondences: epipolar geometry, occlusion by brute force, and the pictures agree."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.camera import unproject
from l2m_ros.types import DenseMatch
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.sequence import SimulatedFrame, SimulationOptions, simulate
from l2m_ros.workshop.simulation.truth import true_match, true_points


def two(path: str = "handheld", *faults: str, apart: int = 8, **options) -> list[SimulatedFrame]:
    """The first and the last frame of a short run at 2 frames a second."""
    settings = {"width": 320, "height": 240, "frames": apart, "rate_hz": 2.0, "seed": 3}
    run = simulate(SimulationOptions(path=path, faults=Faults.named(faults), **settings | options))
    shots = list(run)
    return [shots[0], shots[-1]]


def epipolar_error_px(a: SimulatedFrame, b: SimulatedFrame, match: DenseMatch) -> np.ndarray:
    """Distance in pixels, in the undistorted image of b, of each warp from its epipolar line."""
    b_from_a = np.linalg.inv(b.world_from_camera) @ a.world_from_camera
    x, y, z = b_from_a[:3, 3]
    E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ b_from_a[:3, :3]
    known = match.certainty > 0
    rays_a = unproject(a.frame.camera, match.grid_px()[known].astype(float))
    rays_b = unproject(b.frame.camera, match.warp_px[known].astype(float))
    lines = rays_a @ E.T
    focal = b.frame.camera.K[0, 0]
    error = focal * np.abs((lines * rays_b).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    return error


@pytest.mark.parametrize("faults", [(), ("lens",)])
@pytest.mark.parametrize("path, apart", [("handheld", 8), ("drive", 3), ("loop", 4)])
def test_matches_obey_epipolar_geometry(path, apart, faults):
    a, b = two(path, *faults, apart=apart, stereo=False)
    match = true_match(a, b)
    error = epipolar_error_px(a, b, match)
    assert error.size > 10_000 and error.max() < 1e-3


def test_occlusion_equals_brute_force():
    """Every ray in double precision over all triangles: from a to the point, from b back to it."""
    from test_simulation_world import SMALL, brute_force_depth, facing

    from l2m_ros.workshop.simulation.sequence import Viewpoint
    from l2m_ros.workshop.simulation.world import make_world

    world = make_world("room")
    corners = world.triangles.corners[world.group == 0]
    a = Viewpoint(world, SMALL, facing(0.2, -0.6, 1.1, -10.0, -8.0))
    b = Viewpoint(world, SMALL, facing(0.9, 0.7, 1.5, -38.0, -15.0))
    pixels = np.random.default_rng(0).uniform(0, [159, 119], (350, 2))
    warp, visible = true_points(a, b, pixels)
    inside = np.flatnonzero(((warp > 0) & (warp < [159, 119])).all(axis=1))
    (R_a, t_a), (R_b, t_b) = (
        (v.world_from_camera[:3, :3], v.world_from_camera[:3, 3]) for v in (a, b)
    )
    wrong = []
    for k in inside:
        (ray,) = unproject(SMALL, pixels[k : k + 1])
        point = R_a @ ray * brute_force_depth(corners, t_a, R_a @ ray) + t_a
        in_b = R_b.T @ (point - t_b)
        expected_px = SMALL.K[:2] @ (in_b / in_b[2])
        first = brute_force_depth(corners, t_b, point - t_b)  # 1 at the point itself
        seen = in_b[2] > 0 and first > 1 - 1e-3
        wrong.append(np.abs(expected_px - warp[k]).max() > 1e-6 or seen != visible[k])
    assert len(inside) > 120 and (~visible[inside]).sum() > 15, "some points are hidden"
    assert sum(wrong) <= 2  # rays that graze an edge, in Embree's single precision


def test_there_and_back_is_where_it_was():
    a, b = two("loop", stereo=False)
    pixels = np.random.default_rng(1).uniform(5, 230, (500, 2))
    there, visible = true_points(a, b, pixels)
    back, seen = true_points(b, a, there[visible])
    assert seen.mean() > 0.99
    assert np.abs(back - pixels[visible])[seen].max() < 1e-4


def test_the_pictures_show_the_same_at_matching_pixels():
    """Photometric: the warp and the renderer agree to a fraction of a pixel."""
    a, b = two("handheld", apart=3, stereo=False, width=640, height=480)
    match = true_match(a, b)
    moved = cv2.remap(b.frame.rgb, match.warp_px[..., 0], match.warp_px[..., 1], cv2.INTER_LINEAR)
    seen = match.certainty > 0
    right = np.abs(moved.astype(float) - a.frame.rgb)[seen].mean()
    u, v = match.warp_px[..., 0] + 1.0, match.warp_px[..., 1]
    off = np.abs(cv2.remap(b.frame.rgb, u, v, cv2.INTER_LINEAR).astype(float) - a.frame.rgb)[seen]
    assert seen.mean() > 0.5
    assert right < 3.0 and off.mean() > 1.5 * right, (right, off.mean())


def test_a_moving_object_is_followed():
    """Where a pixel sees a mover, its match moves with it; the static rest is unchanged."""
    from test_simulation_world import SMALL, facing

    from l2m_ros.workshop.simulation.sequence import Viewpoint
    from l2m_ros.workshop.simulation.world import make_world

    world = make_world("room")
    pose = facing(0.4, 0.3, 0.8, -90.0, -25.0)
    moving = [Viewpoint(world, SMALL, pose, t, moving=True) for t in (2.0, 2.5)]
    still = [Viewpoint(world, SMALL, pose, t) for t in (2.0, 2.5)]
    grid = true_match(*moving).grid_px().reshape(-1, 2).astype(float)
    hit = moving[0].view().first_hit(unproject(SMALL, grid))
    on_mover = world.group[hit] == 2
    assert on_mover.sum() > 50
    followed = true_match(*moving).warp_px.reshape(-1, 2)
    assert np.abs(true_match(*still).warp_px.reshape(-1, 2) - grid).max() < 1e-3
    assert np.abs(followed - grid)[~on_mover].max() < 1e-3
    shift = world.movers[1].offset_m(2.5) - world.movers[1].offset_m(2.0)
    depth = moving[0].view().depth_m(hit, unproject(SMALL, grid))[on_mover]
    # The camera looks along -y, so the mover's +x is its left.
    expected_u = grid[on_mover, 0] - SMALL.K[0, 0] * shift[0] / depth
    assert np.abs(followed[on_mover, 0] - expected_u).max() < 1e-3
    gone = true_match(*moving).certainty.ravel()
    assert (gone[~on_mover] == 0).sum() > 20, "the background that the mover hides later"


def test_a_mover_appears_in_front_of_the_camera_and_hides_what_is_behind():
    from test_simulation_world import SMALL, facing

    from l2m_ros.workshop.simulation.render import render
    from l2m_ros.workshop.simulation.world import make_world

    world = make_world("room")
    mover = world.movers[1]
    centre = mover.centre_m + mover.offset_m(2.0)
    pose = facing(centre[0], centre[1] + 1.5, 0.4, -90.0, -10.0)
    with_it = render(world.view(pose, 2.0, moving=True), SMALL)
    without = render(world.view(pose, 2.0), SMALL)
    shown = world.group[with_it.hit] == 2
    assert shown.sum() > 100
    assert (with_it.depth_m[shown] < without.depth_m[shown]).all()
    assert (with_it.depth_m[~shown] == without.depth_m[~shown]).all()
    middle = with_it.depth_m[shown].min()
    assert abs(middle - np.linalg.norm(centre - pose[:3, 3]) + mover.radius_m) < 0.06


def test_stereo_disparity_is_focal_times_baseline_over_depth():
    (a, _) = two("handheld", apart=2, baseline_m=0.2)
    right = a.right_viewpoint
    assert right is not None
    match = true_match(a, right)
    expected = a.frame.camera.K[0, 0] * 0.2 / a.true_depth_m
    disparity = match.grid_px() - match.warp_px
    assert np.abs(disparity[..., 0] - expected).max() < 1e-3
    assert np.abs(disparity[..., 1]).max() < 1e-3
    moved = cv2.remap(a.frame.right_rgb, *match.warp_px.transpose(2, 0, 1), cv2.INTER_LINEAR)
    seen = match.certainty > 0
    assert np.abs(moved.astype(float) - a.frame.rgb)[seen].mean() < 3.0


def test_stride_takes_the_centres_of_cells():
    a, b = two(stereo=False)
    coarse = true_match(a, b, stride=8)
    assert coarse.warp_px.shape == (30, 40, 2)
    exact, _ = true_points(a, b, coarse.grid_px().reshape(-1, 2))
    assert np.nanmax(np.abs(exact - coarse.warp_px.reshape(-1, 2))) < 1e-3


def test_the_oracle_knows_images_by_their_bytes_and_spoils_as_told():
    shots = two("handheld", apart=3)
    oracle = OracleMatcher(noise_px=0.5, outlier_share=0.2, certain_share=0.9, stride=4)
    shots = list(oracle.watch(shots))
    a, b = shots
    copy = np.array(a.frame.rgb)  # what arrives in a message: other memory, same bytes
    query, reference = oracle.encode(copy), oracle.reference(oracle.encode(b.frame.rgb))
    match, again = oracle.match(query, reference), oracle.match(query, reference)
    truth = true_match(a, b, stride=4)
    assert (match.certainty == again.certainty).all()
    visible = truth.certainty > 0
    assert match.certainty[~visible].max() == 0
    assert abs((match.certainty[visible] > 0).mean() - 0.9) < 0.03
    wrong = np.abs(match.certainty - 0.9) < 1e-6
    assert abs(wrong[visible & (match.certainty > 0)].mean() - 0.2) < 0.04
    error = (match.warp_px - truth.warp_px)[(match.certainty == 1)]
    assert abs(error.std() - 0.5) < 0.03 and abs(error.mean()) < 0.03
    assert match.precision is not None and np.allclose(match.precision[0, 0], 4 * np.eye(2))


def test_the_oracle_matches_the_right_image_too_and_refuses_strangers():
    (a, _) = two("handheld", apart=2)
    oracle = OracleMatcher()
    oracle.register(a)
    left, right = oracle.encode(a.frame.rgb), oracle.encode(a.frame.right_rgb)
    match = oracle.match(left, oracle.reference(right))
    assert np.nanmax(np.abs(match.warp_px[..., 1] - match.grid_px()[..., 1])) < 1e-3
    with pytest.raises(InvalidInput, match="register"):
        oracle.encode(np.zeros((240, 320, 3), np.uint8))
