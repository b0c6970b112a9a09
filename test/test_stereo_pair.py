"""A stereo pair as its two camera_infos describe it: rectified, raw, and what cannot be."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_stereo import CAMERA, seen

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.builder import FrameBuilder
from l2m_ros.frames.inputs import Bundle
from l2m_ros.frames.messages import image_message
from l2m_ros.frames.stereo_pair import StereoPairs
from l2m_ros.geometry import se3
from l2m_ros.geometry.rectification import rectified_pair
from l2m_ros.geometry.stereo import stereo_depth
from l2m_ros.geometry.stereo_check import check_pair
from l2m_ros.types import Camera

BASELINE_M = 0.2
LENSES = np.array([[-0.2, 0.04, 0.001, 0, 0], [-0.15, 0.03, 0, 0.001, 0]])
TURNS = [se3.rotation(np.array(phi)) for phi in ([0.02, -0.01, 0.015], [-0.015, 0.01, -0.01])]
WALL, WALL_M = np.array([0.2, 0.1, 1.0]) / np.linalg.norm([0.2, 0.1, 1.0]), 4.0


def info(camera, R, right):
    """A camera_info whose rectified camera is CAMERA."""
    P = np.column_stack([CAMERA.K, [-CAMERA.K[0, 0] * BASELINE_M * right, 0, 0]])
    none = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(
        width=camera.width, height=camera.height, binning_x=0, binning_y=0, roi=none,
        distortion_model="plumb_bob", d=camera.D if camera.D.size else np.zeros(5),
        k=camera.K.ravel().copy(), r=R.ravel().copy(), p=P.ravel().copy(),
    )  # fmt: skip


def raw_camera(side):
    K = CAMERA.K + np.array([[-8.0, 0, 3], [0, -8.0, -2], [0, 0, 0]])
    return Camera(CAMERA.width, CAMERA.height, K, "plumb_bob", LENSES[side])


def infos():
    return [info(raw_camera(side), TURNS[side], side) for side in (0, 1)]


def raw_bundle():
    messages = {}
    head = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0), frame_id="left")
    for side, name in enumerate(("", "right/")):
        rectified_from_world = se3.transform(np.eye(3), [-BASELINE_M * side, 0, 0])
        raw_from_rectified = se3.transform(TURNS[side].T, np.zeros(3))
        pose = raw_from_rectified @ rectified_from_world
        rgb, _ = seen(raw_camera(side), pose, WALL, WALL_M)
        messages[f"{name}image"] = image_message(rgb, "rgb8", head)
        messages[f"{name}camera_info"] = infos()[side]
    return Bundle(10**9, messages, 0.0)


def test_a_raw_pair_is_rectified_by_r_and_p():
    frame = FrameBuilder().build(raw_bundle())
    assert np.allclose(frame.camera.K, CAMERA.K) and frame.camera.distortion == "none"
    assert np.allclose(frame.right_from_camera[:3, 3], [-BASELINE_M, 0, 0])
    assert check_pair(rectified_pair(frame)).row_px < 0.6
    ideal, z = seen(CAMERA, np.eye(4), WALL, WALL_M)
    middle = np.s_[20:-20, 20:-20]
    assert np.abs(frame.rgb[middle].astype(float) - ideal[middle]).mean() < 6
    depth = stereo_depth(frame).depth_m
    known = np.isfinite(depth)
    assert known.mean() > 0.6 and np.median(np.abs(depth / z - 1)[known]) < 0.01


def test_a_rectified_pair_keeps_its_pixels():
    given = [info(CAMERA, np.eye(3), side) for side in (0, 1)]
    pair = StereoPairs("auto", "").of(*given)
    image = np.random.default_rng(0).integers(0, 255, (200, 320, 3)).astype(np.uint8)
    left, right = pair.images(image, image)
    assert left is image and right is image


def changed(side, **parts):
    given = infos()
    for name, change in parts.items():
        change(getattr(given[side], name)) if callable(change) else setattr(
            given[side], name, change
        )
    return given


def put(index, value):
    return lambda array: array.__setitem__(index, value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (changed(1, p=put(3, 0.0)), "no baseline"),
        (changed(1, p=put(3, np.nan)), "calibrate"),
        (changed(1, p=put(3, 50.0)), "swap the left and the right"),
        (changed(1, p=put(0, 300.0)), "not of one stereo calibration"),
        (changed(1, p=put(6, 90.0)), "not of one stereo calibration"),
        (changed(1, width=640, height=400), "one size"),
        (changed(1, r=put(0, 0.2)), "no rotation"),
        (changed(1, k=put(2, 900.0)), "principal point"),
        (changed(0, k=lambda k: k.__setitem__(slice(None), k * [5, 1, 1, 1, 5, 1, 1, 1, 1])),
         "not of one resolution"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(given, words):
    with pytest.raises(InvalidInput, match=words):
        StereoPairs("auto", "").of(*given)


def test_a_refused_pair_leaves_the_left_image_as_it_is():
    said = {}
    bundle = raw_bundle()
    bundle.messages["right/camera_info"].p[3] = 0.0
    frame = FrameBuilder(report=lambda key, words: said.update({key: words})).build(bundle)
    assert frame.right_rgb is None and frame.camera.distortion == "plumb_bob"
    assert "no baseline" in said["right/image"]
