"""Each fault does what it says, by its own measure, and nothing when it is off."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_simulation_world import facing

from l2m_ros.errors import InvalidInput
from l2m_ros.types import Camera
from l2m_ros.workshop.simulation.faults import DISPARITY_FB_PX_M, USUAL, Faults, Imperfections
from l2m_ros.workshop.simulation.render import Rendering, render
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate
from l2m_ros.workshop.simulation.world import make_world

OPTIONS = SimulationOptions(width=320, height=240, frames=3, rate_hz=5.0, stereo=False, seed=2)


def shots(**changes):
    return list(simulate(replace(OPTIONS, **changes)))


@pytest.fixture(scope="module")
def clean():
    return shots()


def spoilt(shot, faults: Faults, seed: int = 0) -> Imperfections:
    return Imperfections(faults, np.random.default_rng(seed), 200)


def rendering_of(shot) -> Rendering:
    return Rendering(shot.frame.rgb, shot.true_depth_m, np.zeros(shot.true_depth_m.shape, int))


STILL = np.tile(np.eye(4), (2, 1, 1))


def test_without_faults_the_sensor_is_perfect(clean):
    for shot in clean:
        assert (shot.frame.depth == shot.true_depth_m).all()
        view = shot.viewpoint.view()
        assert (render(view, shot.frame.camera).rgb == shot.frame.rgb).all()


def test_runs_are_repeatable_with_every_fault():
    faults = Faults.named(["all"])
    for one, two in zip(shots(faults=faults), shots(faults=faults), strict=True):
        assert (one.frame.rgb == two.frame.rgb).all()
        assert np.array_equal(one.frame.depth, two.frame.depth, equal_nan=True)


def test_sensor_noise_has_the_stated_deviation(clean):
    faults = Faults(read_noise=1.5, shot_noise=0.03)
    flat = np.zeros((240, 320, 3), np.uint8)
    flat[:, :160], flat[:, 160:] = 50, 180
    noisy = spoilt(clean[0], faults).image(
        replace(rendering_of(clean[0]), rgb=flat), OPTIONS.camera(), STILL, 0
    )
    for half, value in ((noisy[:, :160], 50), (noisy[:, 160:], 180)):
        expected = np.sqrt(1.5**2 + 0.03 * value + 1 / 12)  # and the rounding to 8 bits
        assert abs(half.std() / expected - 1) < 0.02
        assert abs(half.mean() - value) < 0.05


def test_exposure_drifts_slowly_and_within_its_range(clean):
    spoiler = spoilt(clean[0], Faults(exposure_drift_ev=0.7))
    gray = np.full((240, 320, 3), 60, np.uint8)
    means = [
        spoiler.image(replace(rendering_of(clean[0]), rgb=gray), OPTIONS.camera(), STILL, k).mean()
        for k in range(200)
    ]
    stops = 2.2 * np.log2(np.array(means) / 60)
    assert 0.2 < np.ptp(stops) < 1.45 and np.abs(stops).max() <= 0.72
    assert np.abs(np.diff(stops)).max() < 0.1


def test_motion_blur_equals_the_average_of_many_short_exposures():
    world = make_world("room")
    camera = Camera(320, 240, np.array([[230.0, 0, 159.5], [0, 230, 119.5], [0, 0, 1]]))
    faults = Faults(exposure_s=0.03)

    def pose(share: float) -> np.ndarray:
        return facing(-1.0 + 0.02 * share, 0.2, 1.3, 20.0 + 2.4 * share, -5.0)

    middle = render(world.view(pose(0.0)), camera)
    around = np.stack([pose(-0.5), pose(0.5)])
    blurred = spoilt(None, faults).image(middle, camera, around, 0).astype(float)
    times = np.linspace(-0.5, 0.5, 9)
    slow = np.mean([render(world.view(pose(t)), camera).rgb for t in times], axis=0)
    assert np.abs(middle.rgb - slow).mean() > 5.0, "there is something to blur"
    inside = (slice(8, -8), slice(12, -12))  # beyond the border nobody knows what comes in
    assert np.abs(blurred - slow)[inside].mean() < 1.5


def test_a_still_camera_is_not_blurred(clean):
    image = spoilt(clean[0], Faults(exposure_s=0.05)).image(
        rendering_of(clean[0]), OPTIONS.camera(), STILL, 0
    )
    assert np.abs(image.astype(int) - clean[0].frame.rgb).max() <= 1


def test_the_lens_bends_as_opencv_says(clean):
    """Undistorted by OpenCV, the picture is the pinhole picture again."""
    (bent, *_) = shots(faults=Faults.named(["lens"]))
    camera = bent.frame.camera
    assert camera.distortion == "plumb_bob"
    straight = cv2.undistort(bent.frame.rgb, camera.K, np.asarray(camera.D))
    depth = bent.true_depth_m
    inside = (slice(20, -20), slice(20, -20))
    pinhole = clean[0].frame.rgb
    assert np.abs(bent.frame.rgb.astype(float) - pinhole)[inside].mean() > 12
    assert np.abs(straight.astype(float) - pinhole)[inside].mean() < 5
    assert np.isfinite(depth).all()


def test_depth_noise_follows_a_plus_b_z_squared():
    z = np.repeat(np.linspace(0.5, 6, 240, dtype=np.float32)[:, None], 4000, axis=1)
    scene = Rendering(np.full((*z.shape, 3), 99, np.uint8), z, np.zeros(z.shape, int))
    faults = Faults(depth_noise_a_m=0.002, depth_noise_b_per_m=0.003)
    error = spoilt(None, faults).depth(scene) - z
    assert np.abs(error.std(axis=1) / (0.002 + 0.003 * z[:, 0] ** 2) - 1).max() < 0.06
    assert np.abs(error.mean(axis=1) / error.std(axis=1)).max() < 0.08


def test_depth_steps_are_those_of_disparity_and_far_is_unknown():
    z = np.repeat(np.linspace(0.4, 9, 500, dtype=np.float32)[:, None], 8, axis=1)
    scene = Rendering(np.full((*z.shape, 3), 99, np.uint8), z, np.zeros(z.shape, int))
    got = spoilt(None, Faults(depth_step_px=0.125, depth_range_m=8.0)).depth(scene)
    assert np.isnan(got[z > 8.2]).all() and np.isfinite(got[z < 7.8]).all()
    disparity = DISPARITY_FB_PX_M / got[z < 7.5] / 0.125
    assert np.abs(disparity - disparity.round()).max() < 1e-3
    assert np.nanmax(np.abs(got - z) / z**2) < 0.51 * 0.125 / DISPARITY_FB_PX_M * 1.1


def test_depth_holes_lie_at_edges_and_in_patches(clean):
    got = spoilt(clean[0], Faults(depth_holes=0.03)).depth(rendering_of(clean[0]))
    lost = np.isnan(got)
    z = clean[0].true_depth_m
    behind = np.zeros(z.shape, bool)  # the farther pixel of each pair across an edge
    behind[:, 1:] |= z[:, 1:] > 1.2 * z[:, :-1]
    behind[:, :-1] |= z[:, :-1] > 1.2 * z[:, 1:]
    assert behind.sum() > 50 and lost[behind].all()
    assert 0.03 < lost.mean() < 0.4
    assert (got[~lost] == z[~lost]).all()


def test_dropped_frames_leave_gaps_in_the_stamps():
    faults = Faults(drop_share=0.4)
    got = shots(frames=25, faults=faults, width=32, height=24)
    missing = 25 - len(got)
    assert 4 <= missing <= 16 and got[0].index == 0
    for shot in got:
        assert shot.frame.stamp_ns == OPTIONS.start_ns + shot.index * 200_000_000
    every = {s.index: s for s in shots(frames=25, width=32, height=24)}
    for shot in got:  # what is left is what it would have been
        assert (shot.frame.rgb == every[shot.index].frame.rgb).all()
        assert np.array_equal(shot.odom_from_base, every[shot.index].odom_from_base)


def test_faults_are_named_and_wrong_names_or_sizes_refused():
    assert Faults.named([]) == Faults() and Faults.named(["all"]) == Faults.named(USUAL)
    assert Faults.named(["blur"]).exposure_s > 0 and Faults.named(["blur"]).read_noise == 0
    with pytest.raises(InvalidInput, match="did you mean noise"):
        Faults.named(["noize"])
    with pytest.raises(InvalidInput, match="drop_share"):
        Faults(drop_share=1.5)
    with pytest.raises(InvalidInput, match="read_noise"):
        Faults(read_noise=-1)
    with pytest.raises(InvalidInput, match="hfov_deg"):
        SimulationOptions(hfov_deg=200)
