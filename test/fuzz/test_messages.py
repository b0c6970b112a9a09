"""Messages of any content, cameras, covariances, clouds: a value, or InvalidInput."""

import contextlib
import types

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

import cv2
from geometry_msgs.msg import PoseWithCovariance
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField

from fuzz.budget import share
from l2m_ros.errors import InvalidInput
from l2m_ros.frames import messages as m
from l2m_ros.frames.compressed_depth import decompress_depth
from l2m_ros.frames.encodings import DEPTH_ENCODINGS, ENCODINGS
from l2m_ros.geometry.lens import fold_radius
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.image_header import SizeLimits
from l2m_ros.types import Camera, DenseMatch

LIMITS = SizeLimits(pixels=1_000_000)
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.0, -0.0, 1e-310, 1e308, -1e308, 1e15, 500.0]
)


def raw(data, width, height, step, encoding, big):
    return types.SimpleNamespace(
        data=data, width=width, height=height, step=step, encoding=encoding, is_bigendian=big
    )


@settings(max_examples=share(0.12))
@given(
    st.binary(max_size=400),
    st.integers(0, 40) | st.sampled_from([2**32 - 1, 2**31]),
    st.integers(0, 40) | st.sampled_from([2**32 - 1, 2**31]),
    st.integers(0, 200) | st.just(2**32 - 1),
    st.sampled_from([*ENCODINGS, *DEPTH_ENCODINGS, "", "martian"]),
    st.booleans(),
)
def test_raw_images(data, width, height, step, encoding, big):
    message = raw(data, width, height, step, encoding, big)
    for read in (m.read_image, m.read_depth):
        try:
            read(message)
        except InvalidInput:
            continue


K = np.array([[500.0, 0, 32], [0, 500, 24], [0, 0, 1]])
LENSES = [("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4)]
PICTURES = {
    suffix: cv2.imencode(suffix, np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3))[1]
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm")
}


@st.composite
def damaged_pictures(draw):
    content = bytearray(PICTURES[draw(st.sampled_from(sorted(PICTURES)))].tobytes())
    near = st.integers(0, 80) | st.integers(0, len(content) - 1)
    for at in draw(st.lists(near, max_size=5)):
        content[at % len(content)] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


@settings(max_examples=share(0.12))
@given(damaged_pictures(), st.binary(max_size=12))
def test_compressed_images(data, header):
    try:
        rgb = m.read_image(types.SimpleNamespace(format="", data=data), LIMITS)
        assert rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.dtype == np.uint8
    except InvalidInput:
        pass
    for kind in ("16UC1; compressedDepth png", "32FC1; compressedDepth rvl", "jpeg", ""):
        for body in (data, header.ljust(12, b"\0") + data):
            try:
                depth = decompress_depth(body, kind, LIMITS)
            except InvalidInput:
                continue
            assert ((depth > 0) | np.isnan(depth)).all()


@settings(max_examples=share(0.1))
@given(st.lists(numbers, min_size=12, max_size=12), st.integers(0, 2**32 - 1))
@example([500.0, 0, 32, float("nan"), 0, 500.0, 24, 0, 0, 0, 1, 0], 64)
@example([500.0, 0, 32, float("inf"), 0, 500.0, 24, 0, 0, 0, 1, 0], 64)
@example([500.0, 0, 32, 1e300, 0, 500.0, 24, 0, 0, 0, 1, 0], 64)
def test_camera_infos(p, width):
    info = CameraInfo(width=width, height=48, distortion_model="plumb_bob")
    info.k = [500.0, 0.0, 32.0, 0.0, 500.0, 24.0, 0.0, 0.0, 1.0]
    info.d, info.p = [0.0] * 5, p
    for read in (m.read_camera, m.read_right_from_camera):
        try:
            made = read(info)
        except InvalidInput:
            continue
        assert isinstance(made, Camera) or np.isfinite(made).all()


@settings(max_examples=share(0.1))
@given(st.sampled_from(LENSES), st.data())
def test_lenses(model, data):
    name, count = model
    lens = st.lists(numbers | st.floats(-1, 1), min_size=count, max_size=count)
    D = data.draw(lens)
    try:
        camera = Camera(64, 48, K, name, D)
    except InvalidInput:
        return
    with np.errstate(all="ignore"):
        assert fold_radius(camera) > 0


@pytest.mark.parametrize("value", [1e-310, 1e-16, 1e-9, 1e5, 1e308])
def test_lenses_of_extreme_numbers(value):
    for name, count in LENSES:
        try:
            camera = Camera(64, 48, K, name, [value] * count)
        except InvalidInput:
            assert value > 1e6
            continue
        assert fold_radius(camera) > 0


@settings(max_examples=share(0.1))
@given(st.lists(st.floats(-1e6, 1e6), min_size=36, max_size=36), st.floats(-20, 20))
def test_covariances_are_positive_for_whoever_inverts_them(values, exponent):
    half = np.array(values).reshape(6, 6) * np.diag(10.0 ** np.linspace(-exponent / 2, 0, 6))
    made = m.positive_definite(half @ half.T * 10.0**-exponent)
    if np.isfinite(made).all():
        np.linalg.cholesky(made)


@settings(max_examples=share(0.05))
@given(st.lists(numbers, min_size=7, max_size=7), st.lists(numbers, min_size=36, max_size=36))
def test_poses(pose, covariance):
    message = PoseWithCovariance(covariance=np.array(covariance))
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z, q.x, q.y, q.z, q.w = pose
    try:
        T, P = m.read_pose(message)
    except InvalidInput:
        return
    assert np.isfinite(T).all() and np.isfinite(P).all()
    assert abs(np.linalg.det(T[:3, :3]) - 1) < 1e-6


@settings(max_examples=share(0.05))
@given(
    st.binary(max_size=64),
    st.integers(0, 40),
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 60), st.integers(0, 9)), max_size=4),
)
def test_clouds(data, step, fields):
    cloud = PointCloud2(point_step=step, data=data)
    cloud.fields = [PointField(name=n, offset=o, datatype=k, count=1) for n, o, k in fields]
    with contextlib.suppress(InvalidInput):
        assert set(m.read_cloud(cloud)) == {name for name, _, _ in fields}


def test_a_camera_without_a_lens_folds_nowhere():
    assert fold_radius(Camera(64, 48, K)) > 1


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1e300, float("nan"), float("inf")])
def test_thresholds(threshold):
    with pytest.raises(InvalidInput):
        PoseOptions(threshold_px=threshold)


def test_a_match_of_size_zero_is_refused():
    with pytest.raises(InvalidInput):
        DenseMatch(np.zeros((0, 4, 2)), np.zeros((0, 4)), (64, 48), (64, 48))
