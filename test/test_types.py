"""What the values refuse, and in which words."""

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.types import (
    Camera,
    Correspondences,
    DenseMatch,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
    resized_K,
)

K = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])
CAMERA = Camera(64, 48, K)
RGB = np.zeros((48, 64, 3), np.uint8)
NONE = np.zeros(0, bool)


def changed(matrix, index, value):
    matrix = np.array(matrix, float)
    matrix[index] = value
    return matrix


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Camera(0, 48, K), "size must be positive"),
        (lambda: Camera(64, 48, np.eye(2)), "K must be 3x3"),
        (lambda: Camera(64, 48, changed(K, (0, 2), np.nan)), "NaN"),
        (lambda: Camera(64, 48, changed(K, (0, 0), 0)), "not calibrated"),
        (lambda: Camera(64, 48, changed(K, (2, 0), 1)), "must read"),
        (lambda: Camera(64, 48, K, "brown"), "unknown distortion model 'brown'"),
        (lambda: Camera(64, 48, K, "plumb_bob", np.zeros(3)), "4 or 5 coefficients, got 3"),
        (lambda: Camera(64, 48, K, "equidistant", np.full(4, np.inf)), "D holds NaN"),
        (lambda: Frame(RGB.astype(float), CAMERA), "uint8"),
        (lambda: Frame(RGB[:40], CAMERA), "64x40"),
        (lambda: Frame(np.zeros((0, 0, 3), np.uint8), CAMERA), "empty"),
        (lambda: Frame(RGB, CAMERA, depth=np.ones((10, 10))), "register it first"),
        (lambda: Frame(RGB, CAMERA, depth=np.zeros((48, 64))), "write unknown as NaN"),
        (lambda: Frame(RGB, CAMERA, right_rgb=RGB), "together"),
        (
            lambda: Frame(RGB, CAMERA, None, RGB, CAMERA, 2 * np.eye(4)),
            "right_from_camera does not hold a rotation",
        ),
        (
            lambda: Correspondences(np.zeros((3, 2)), np.zeros((2, 2)), np.zeros(3)),
            r"must be \(N, 2\)",
        ),
        (
            lambda: Correspondences(np.zeros((1, 2)), np.zeros((1, 2)), np.array([-0.1])),
            "confidence",
        ),
        (
            lambda: Correspondences(np.zeros((1, 2)), np.zeros((1, 2)), np.array([np.nan])),
            "confidence",
        ),
        (
            lambda: Correspondences(
                np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1), np.ones((1, 3))
            ),
            "precision",
        ),
        (
            lambda: DenseMatch(np.zeros((4, 5, 3)), np.zeros((4, 5)), (5, 4), (5, 4)),
            "warp_px",
        ),
        (
            lambda: DenseMatch(np.zeros((4, 5, 2)), np.full((4, 5), 1.5), (5, 4), (5, 4)),
            "certainty must lie",
        ),
        (
            lambda: DenseMatch(np.full((4, 5, 2), np.nan), np.ones((4, 5)), (5, 4), (5, 4)),
            "certainty must be 0",
        ),
        (lambda: MetricPose(np.eye(3), np.eye(6), NONE, "depth"), "must be 4x4"),
        (lambda: MetricPose(changed(np.eye(4), (0, 0), 1.1), np.eye(6), NONE, "d"), "rotation"),
        (lambda: MetricPose(np.diag([1.0, 1, -1, 1]), np.eye(6), NONE, "d"), "rotation"),
        (lambda: MetricPose(changed(np.eye(4), (3, 0), 1), np.eye(6), NONE, "d"), "0 0 0 1"),
        (lambda: MetricPose(np.eye(4), changed(np.eye(6), (0, 1), 1), NONE, "d"), "symmetric"),
        (lambda: MetricPose(np.eye(4), -np.eye(6), NONE, "d"), "negative eigenvalue"),
        (lambda: MetricPose(np.eye(4), np.full((6, 6), np.nan), NONE, "d"), "NaN"),
        (lambda: RelativePose(changed(np.eye(4), (0, 3), 2.0), NONE), "length 1"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def test_values_cannot_be_written_through():
    camera = Camera(64, 48, K)
    with pytest.raises(ValueError, match="read-only"):
        camera.K[0, 0] = 1
    with pytest.raises(AttributeError):
        camera.width = 3


def test_a_relative_pose_has_a_direction_or_none():
    RelativePose(np.eye(4), NONE, "rotation")
    RelativePose(changed(np.eye(4), (2, 3), 1.0), NONE)


def test_subset_and_reversal_of_correspondences():
    matches = Correspondences(
        np.arange(6).reshape(3, 2), np.arange(6, 12).reshape(3, 2), np.array([0.1, 0.2, 0.3])
    )
    assert len(Correspondences.empty()) == 0
    part = matches.select(np.array([True, False, True]))
    assert part.confidence.tolist() == [0.1, 0.3] and part.query_px.tolist() == [[0, 1], [4, 5]]
    assert np.array_equal(matches.reversed().query_px, matches.keyframe_px)


def test_the_grid_of_a_dense_match_lies_at_cell_centres():
    match = DenseMatch(np.zeros((2, 4, 2)), np.zeros((2, 4)), (64, 48), (64, 48))
    grid = match.grid_px()
    # Cells of 16 x 24 pixels: the first covers the centres 0..15, 0..23.
    assert grid[0, 0].tolist() == [7.5, 11.5] and grid[1, 3].tolist() == [55.5, 35.5]


def test_lost_says_why():
    assert Lost(LostReason.NO_SCALE, "no odometry").reason.value == "no_scale"


@pytest.mark.parametrize("new_size", [(213, 160), (160, 120), (320, 60)])
def test_a_resized_image_s_K_maps_pixels_by_their_edges(new_size):
    """Centres at integers: a pixel's place from the image's edge, half a pixel off its centre."""
    K = np.array([[500.0, 0, 319.5], [0, 510.0, 200.0], [0, 0, 1]])
    ray = np.array([0.2, -0.1, 1.0])
    u, v, _ = K @ ray
    small_u, small_v, _ = resized_K(K, (640, 480), new_size) @ ray
    assert (small_u + 0.5) / new_size[0] == pytest.approx((u + 0.5) / 640)
    assert (small_v + 0.5) / new_size[1] == pytest.approx((v + 0.5) / 480)
