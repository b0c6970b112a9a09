"""Lens models against OpenCV, their inverse against themselves, and edits of the image."""

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import camera as cam
from l2m_ros.geometry.lens import distort, fold_radius
from l2m_ros.types import Camera

K = np.array([[400.0, 0, 321.3], [0, 410.0, 238.7], [0, 0, 1]])
LENSES = {
    "none": ("none", []),
    "plumb_bob 4": ("plumb_bob", [-0.28, 0.09, 0.001, -0.0007]),
    "plumb_bob 5": ("plumb_bob", [-0.35, 0.16, 0.002, 0.001, -0.03]),
    "pincushion": ("plumb_bob", [0.25, 0.1, -0.001, 0.002, 0.05]),
    "barrel that folds": ("plumb_bob", [-0.3, 0.05, 0.0005, -0.0005, 0.0]),
    "rational": ("rational_polynomial", [5.2, 2.7, 1e-4, -2e-4, 0.14, 5.6, 4.4, 0.7]),
    "fisheye": ("equidistant", [-0.02, 0.008, -0.006, 0.001]),
}


def lens(name):
    model, D = LENSES[name]
    return Camera(640, 480, K, model, np.array(D))


def opencv(camera, points):
    if camera.distortion == "equidistant":
        return cv2.fisheye.projectPoints(
            points[:, None], np.zeros(3), np.zeros(3), camera.K, camera.D
        )[0][:, 0]
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.K, camera.D)[0][:, 0]


def border_and_grid(camera):
    u, v = np.meshgrid(np.linspace(0, camera.width - 1, 33), np.linspace(0, camera.height - 1, 25))
    return np.stack([u.ravel(), v.ravel()], axis=1)


@pytest.mark.parametrize("name", LENSES)
def test_projection_agrees_with_opencv_over_the_whole_image(name):
    camera = lens(name)
    rays = cam.unproject(camera, border_and_grid(camera))
    points = rays[np.isfinite(rays[:, 0])] * np.random.default_rng(0).uniform(
        0.3, 30, (np.isfinite(rays[:, 0]).sum(), 1)
    )
    assert len(points) > 700
    assert np.abs(cam.project(camera, points) - opencv(camera, points)).max() < 1e-6


@pytest.mark.parametrize("name", LENSES)
def test_inverse_comes_back_up_to_the_corners(name):
    camera = lens(name)
    pixels = border_and_grid(camera)
    rays = cam.unproject(camera, pixels)
    assert np.isfinite(rays).all()
    assert np.abs(cam.project(camera, rays) - pixels).max() < 1e-6
    assert np.abs(opencv(camera, rays) - pixels).max() < 1e-4


def test_inverse_agrees_with_opencv_where_opencv_converges():
    camera = lens("plumb_bob 5")
    pixels = border_and_grid(camera)
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 500, 1e-14)
    theirs = cv2.undistortPointsIter(pixels[:, None], camera.K, camera.D, None, None, criteria)[
        :, 0
    ]
    assert np.abs(cam.unproject(camera, pixels)[:, :2] - theirs).max() * 400 < 1e-4


def test_no_ray_beyond_the_fold_is_nan_not_garbage():
    camera = Camera(640, 480, K, "plumb_bob", np.array([-0.5, 0.0, 0.0, 0.0]))
    rim = fold_radius(camera)
    assert rim == pytest.approx(np.sqrt(1 / 1.5), rel=1e-9)  # d/dr (r - r^3 / 2) = 0
    highest = rim * (1 - 0.5 * rim**2)
    pixels = np.array([[K[0, 2] + 400 * highest * s, K[1, 2]] for s in (0.5, 0.999, 1.001, 1.4)])
    known = np.isfinite(cam.unproject(camera, pixels)[:, 0])
    assert known.tolist() == [True, True, False, False]
    beyond = np.array([[1.2 * rim, 0, 1.0], [0.5 * rim, 0, 1.0]])
    assert np.isfinite(cam.project(camera, beyond)[:, 0]).tolist() == [False, True]


def test_nothing_is_seen_behind_the_camera():
    points = np.array([[0.1, 0.2, -1.0], [0.1, 0.2, 0.0], [0.1, 0.2, 1.0], [np.nan, 0, 1]])
    for name in LENSES:
        assert np.isfinite(cam.project(lens(name), points)).all(axis=1).tolist() == [0, 0, 1, 0]


def test_fisheye_reaches_wide():
    camera = Camera(
        1000, 1000, np.array([[320.0, 0, 500], [0, 320, 500], [0, 0, 1]]), *LENSES["fisheye"]
    )
    angle = np.deg2rad(np.array([0.0, 1e-5, 30, 60, 80, 88]))
    points = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], axis=1)
    back = cam.unproject(camera, cam.project(camera, points))
    assert np.allclose(back / np.linalg.norm(back, axis=1)[:, None], points, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in LENSES if n != "none"])
def test_jacobian_of_the_lens_by_differences(name):
    from l2m_ros.geometry.lens import jacobian

    camera, h = lens(name), 1e-6
    xy = np.random.default_rng(1).uniform(-0.5, 0.5, (50, 2))
    for axis in range(2):
        e = np.eye(2)[axis] * h
        numeric = (distort(camera, xy + e) - distort(camera, xy - e)) / (2 * h)
        assert np.abs(jacobian(camera, xy)[:, :, axis] - numeric).max() < 1e-7


def test_undistort_maps_are_opencvs():
    camera = lens("plumb_bob 4")
    mine = cam.undistort_maps(camera)
    theirs = cv2.initUndistortRectifyMap(
        camera.K, camera.D, None, camera.K, camera.size, cv2.CV_32FC1
    )
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == np.float32 and np.abs(a - b).max() < 1e-3


def test_rays_of_every_pixel():
    camera = lens("rational")
    grid = cam.rays(camera)
    assert grid.shape == (480, 640, 3)
    assert np.allclose(cam.project(camera, grid[100, 50:52]), [[50, 100], [51, 100]], atol=1e-7)


def test_resizing_and_cropping_move_every_pixel_as_the_image_moves():
    camera = lens("plumb_bob 5")
    point = np.array([[0.3, -0.2, 2.0]])
    u, v = cam.project(camera, point)[0]
    small = cam.project(camera.resized(320, 120), point)[0]
    assert np.allclose(small, [(u + 0.5) / 2 - 0.5, (v + 0.5) / 4 - 0.5])
    part = cam.project(camera.cropped(x=10, y=20, width=100, height=90), point)[0]
    assert np.allclose(part, [u - 10, v - 20])


# ---- camera_info ---------------------------------------------------------------------------------


def info(**changes):
    values = dict(
        width=640, height=480, K=K, distortion_model="plumb_bob", D=LENSES["plumb_bob 5"][1]
    )
    return cam.camera_from_info(**{**values, **changes})


def test_binning_and_region_of_interest():
    whole = info()
    camera = info(roi=(100, 60, 400, 300), binning=(2, 2))
    assert camera.size == (200, 150)
    point = np.array([[0.1, 0.05, 1.0]])
    u, v = cam.project(whole, point)[0]
    # Block (i, j) holds the pixels 100 + 2 i and 100 + 2 i + 1: its centre is at + 1/2.
    assert np.allclose(cam.project(camera, point)[0], [(u - 100.5) / 2, (v - 60.5) / 2])


def test_binning_of_an_odd_size_drops_the_last_pixels():
    camera = info(width=641, binning=(2, 1))
    assert camera.size == (320, 480)
    assert camera.K[0, 0] == pytest.approx(200)
    assert camera.K[1, 1] == pytest.approx(410)


def test_a_rectified_image_takes_its_intrinsics_from_p():
    P = np.array([[300.0, 0, 310, -30], [0, 300, 240, 0], [0, 0, 1, 0]])
    camera = info(P=P, rectified=True)
    assert camera.distortion == "none" and np.array_equal(camera.K, P[:, :3])
    with pytest.raises(InvalidInput, match="matrix P"):
        info(rectified=True)


@pytest.mark.parametrize(
    ("model", "D", "expected"),
    [
        ("plumb_bob", np.zeros(5), ("none", 0)),
        ("plumb_bob", [], ("none", 0)),
        ("", [], ("none", 0)),
        ("plumb_bob", [0.1, 0, 0, 0, 0, 0, 0, 0], ("plumb_bob", 5)),
        ("rational_polynomial", [0.1] * 8 + [0] * 6, ("rational_polynomial", 8)),
        ("fisheye", [0, 0, 0, 0], ("equidistant", 4)),
    ],
)
def test_what_drivers_write(model, D, expected):
    camera = info(distortion_model=model, D=D)
    assert (camera.distortion, camera.D.size) == expected


@pytest.mark.parametrize(
    ("model", "D", "words"),
    [
        ("", [0.1, 0, 0, 0], "no distortion_model"),
        ("thin_prism", [0.1], "unknown distortion model"),
        ("rational_polynomial", [0.1] * 12, "takes 8 coefficients"),
    ],
)
def test_what_is_refused(model, D, words):
    with pytest.raises(InvalidInput, match=words):
        info(distortion_model=model, D=D)
