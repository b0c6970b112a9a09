"""Depth from a stereo pair: against planes whose depth is known at every pixel."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.rectification import rectified_pair
from l2m_ros.geometry.stereo import stereo_depth
from l2m_ros.geometry.stereo_check import check_pair
from l2m_ros.tracking.stereo_watch import StereoWatch
from l2m_ros.types import Camera, Frame

CAMERA = Camera(320, 200, np.array([[250.0, 0, 160], [0, 250.0, 100], [0, 0, 1]]))
RIGHT = se3.transform(np.eye(3), [-0.2, 0, 0])
TEXTURE_PX_PER_M = 60.0


def texture(seed=0):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(2000, 2000)).astype(np.float32), (0, 0), 1.5)
    return np.clip(128 + 200 * noise, 0, 255).astype(np.float32)


def seen(camera, camera_from_world, normal, distance_m, *, shade=0.0):
    """(rgb, z) of the textured plane n . X = d."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    ray = unproject(camera, np.stack([u.ravel(), v.ravel()], axis=1))
    world_from_camera = se3.inverse(camera_from_world)
    turned, centre = ray @ world_from_camera[:3, :3].T, world_from_camera[:3, 3]
    z = (distance_m - centre @ normal) / (turned @ normal)
    X = centre + z[:, None] * turned
    at = (1000 + TEXTURE_PX_PER_M * X[:, :2]).astype(np.float32).reshape(*u.shape, 2)
    grey = cv2.remap(texture(), at, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    rgb = np.repeat(np.clip(grey + shade, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return rgb, z.reshape(u.shape)


def pair(normal, distance_m, *, left=CAMERA, right=CAMERA, right_from_left=RIGHT, shade=0.0):
    normal = np.asarray(normal) / np.linalg.norm(normal)
    rgb, z = seen(left, np.eye(4), normal, distance_m)
    other, _ = seen(right, right_from_left, normal, distance_m, shade=shade)
    return Frame(rgb, left, None, other, right, right_from_left), z


def disparity_error_px(frame, z):
    stereo = stereo_depth(frame)
    known = np.isfinite(stereo.depth_m)
    fb = frame.camera.K[0, 0] * np.linalg.norm(frame.right_from_camera[:3, 3])
    return (fb / stereo.depth_m - fb / z)[known], stereo.sigma_px[known], known.mean()


@pytest.mark.parametrize(
    ("normal", "distance_m", "shade"),
    [((0, 0, 1.0), 5.0, 0.0), ((0.3, -0.5, 1.0), 3.0, 12.0)],
    ids=["a wall", "a slanted wall, and a brighter right image"],
)
def test_a_plane_is_found_within_hundredths_of_a_pixel(normal, distance_m, shade):
    frame, z = pair(normal, distance_m, shade=shade)
    error, sigma, known = disparity_error_px(frame, z)
    assert known > 0.8
    assert np.median(np.abs(error)) < 0.04
    assert np.mean(np.abs(error) > 0.5) < 0.01
    assert np.mean(np.abs(error) < 3 * sigma) > 0.99


def test_a_wide_image_is_searched_small_and_refined_in_full():
    wide = Camera(1000, 200, np.array([[500.0, 0, 500], [0, 500.0, 100], [0, 0, 1]]))
    frame, z = pair((0, 0.2, 1.0), 6.0, left=wide, right=wide)
    error, _, known = disparity_error_px(frame, z)
    assert known > 0.7 and np.median(np.abs(error)) < 0.05


def test_principal_points_that_differ_are_no_depth():
    other = Camera(320, 200, CAMERA.K + np.array([[0, 0, -6.0], [0, 0, 0], [0, 0, 0]]))
    frame, z = pair((0, 0, 1.0), 5.0, right=other)
    stereo = stereo_depth(frame)
    assert np.nanmedian(np.abs(stereo.depth_m / z - 1)) < 0.01


def test_a_raw_pair_is_as_good_as_a_rectified_one():
    lens = np.array([-0.25, 0.06, 0.001, -0.0005, 0.0])
    left = Camera(320, 200, CAMERA.K, "plumb_bob", lens)
    right = Camera(320, 200, CAMERA.K + np.diag([4.0, 4.0, 0]), "plumb_bob", 0.8 * lens)
    turned = se3.transform(se3.rotation(np.array([0.02, -0.015, 0.01])), [-0.2, 0.01, 0.005])
    frame, z = pair((0.2, 0.1, 1.0), 4.0, left=left, right=right, right_from_left=turned)
    stereo = stereo_depth(frame)
    known = np.isfinite(stereo.depth_m)
    assert known.mean() > 0.6
    assert np.median(np.abs(stereo.depth_m / z - 1)[known]) < 0.01
    blind = replace(frame, right_from_camera=RIGHT)  # as if the pair were rectified
    wrong = stereo_depth(blind)
    assert wrong.known < 0.3 or np.nanmedian(np.abs(wrong.depth_m / z - 1)) > 0.05


def test_blank_walls_and_infinity_have_no_depth():
    grey = np.full((200, 320, 3), 120, np.uint8)
    assert stereo_depth(Frame(grey, CAMERA, None, grey, CAMERA, RIGHT)).known == 0
    frame, _ = pair((0, 0, 1.0), 5.0)
    same = replace(frame, right_rgb=frame.rgb)  # a disparity of zero
    assert stereo_depth(same).known < 0.02


def test_no_right_image_no_depth():
    assert stereo_depth(Frame(np.zeros((200, 320, 3), np.uint8), CAMERA)) is None


def test_a_calibrated_pair_is_in_order():
    frame, _ = pair((0.1, 0.2, 1.0), 4.0)
    assert check_pair(rectified_pair(frame)).problem is None


def test_rows_apart_are_said():
    frame, _ = pair((0.1, 0.2, 1.0), 4.0)
    knocked = replace(frame, right_rgb=np.roll(frame.right_rgb, 4, axis=0))
    check = check_pair(rectified_pair(knocked))
    assert check.row_px == pytest.approx(4.0, abs=0.5)
    assert "4.0 px above or below their row" in check.problem and "calibrate" in check.problem


def test_swapped_images_are_said():
    frame, _ = pair((0.1, 0.2, 1.0), 4.0)
    swapped = replace(frame, rgb=frame.right_rgb, right_rgb=frame.rgb)
    assert "swapped" in check_pair(rectified_pair(swapped)).problem


def test_the_watch_speaks_when_two_checks_agree_and_is_quiet_again():
    good, _ = pair((0.1, 0.2, 1.0), 4.0)
    bad = replace(good, right_rgb=np.roll(good.right_rgb, 4, axis=0))
    watch = StereoWatch()
    said = []
    for frame in (bad, bad, good):
        watch.depth(frame)
        said.append(watch.problem)
    assert said[0] is None and "calibrate" in said[1] and said[2] is None


def test_a_swapped_pair_gives_no_depth():
    frame, _ = pair((0.1, 0.2, 1.0), 4.0)
    swapped = replace(frame, rgb=frame.right_rgb, right_rgb=frame.rgb)
    watch = StereoWatch()
    assert watch.depth(swapped) is None and watch.problem is None
    assert watch.depth(swapped) is None and "swapped" in watch.problem
    assert watch.depth(frame) is not None and watch.problem is None
