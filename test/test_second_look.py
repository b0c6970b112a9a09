"""A second look: what both images see, turned and scaled alike, and every pixel back in place."""

import cv2
import numpy as np
import pytest

from l2m_ros.matching.second_look import (
    SecondLookOptions,
    cut_out,
    second_look,
    similarity,
    turned_to_fit,
)
from l2m_ros.types import Correspondences, DenseMatch, Features, Reference

SIZE = (320, 240)


def _similarity(zoom, roll_deg, shift=(0.0, 0.0)):
    c, s = zoom * np.cos(np.radians(roll_deg)), zoom * np.sin(np.radians(roll_deg))
    middle = (np.array(SIZE) - 1) / 2
    turn = np.array([[c, -s], [s, c]])
    return np.column_stack([turn, middle - turn @ middle + shift])


def _texture():
    noise = np.random.default_rng(0).normal(size=SIZE[::-1]).astype(np.float32)
    grey = cv2.GaussianBlur(noise, (0, 0), 4.0)
    return np.dstack([np.clip(128 + 40 * grey / grey.std(), 0, 255).astype(np.uint8)] * 3)


class UprightOnly:
    """Finds the similarity between two images by SIFT, and is unsure where it rolls them far."""

    name = "upright"

    def __init__(self, roll_deg=25.0):
        self.limit_deg, self.encoded = roll_deg, 0

    def encode(self, rgb):
        self.encoded += 1
        return Features(self.name, (rgb.shape[1], rgb.shape[0]), rgb)

    def reference(self, features):
        return Reference(self.name, features.image_size, features.data)

    def match(self, query, reference):
        affine, sure = self._between(query.data, reference.data)
        width, height = query.image_size
        blank = DenseMatch(
            np.zeros((height // 4, width // 4, 2), np.float32),
            np.zeros((height // 4, width // 4), np.float32),
            query.image_size, reference.image_size,
        )  # fmt: skip
        warp = (blank.grid_px() @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
        inside = ((warp >= 0) & (warp <= np.array(reference.image_size) - 1)).all(axis=2)
        certainty = np.where(inside, np.float32(sure), np.float32(0.0))
        return DenseMatch(warp, certainty, query.image_size, reference.image_size)

    def _between(self, query, keyframe):
        sift = cv2.SIFT_create(1500)
        (a, x), (b, y) = (sift.detectAndCompute(image, None) for image in (query, keyframe))
        pairs = cv2.BFMatcher(crossCheck=True).match(x, y)
        ends = [(a[p.queryIdx].pt, b[p.trainIdx].pt) for p in pairs]
        one, other = (np.float32(e) for e in zip(*ends, strict=True))
        affine, _ = cv2.estimateAffinePartial2D(one, other, ransacReprojThreshold=2.0)
        roll = abs(np.degrees(np.arctan2(affine[1, 0], affine[0, 0])))
        return affine, 0.9 if roll < self.limit_deg else 0.001


def _looked(roll_deg, zoom=1.0, **options):
    keyframe = _texture()
    truth = _similarity(zoom, roll_deg)
    query = cv2.warpAffine(keyframe, cv2.invertAffineTransform(truth), SIZE, flags=cv2.INTER_CUBIC)
    matcher = UprightOnly()
    reference = matcher.reference(matcher.encode(keyframe))
    first = matcher.match(matcher.encode(query), reference)
    pairs = second_look(
        matcher, first, reference, query, keyframe, 400, subpixel=False,
        options=SecondLookOptions(**options),
    )  # fmt: skip
    expected = pairs.query_px @ truth[:, :2].T + truth[:, 2]
    return pairs, np.linalg.norm(pairs.keyframe_px - expected, axis=1), matcher


@pytest.mark.parametrize("roll_deg, zoom", [(0, 1.0), (10, 1.6), (-15, 0.7)])
def test_both_looks_give_pixels_of_the_images(roll_deg, zoom):
    pairs, errors, matcher = _looked(roll_deg, zoom)
    assert matcher.encoded == 4  # two images, two cuts
    assert 300 < len(pairs) <= 400
    assert np.quantile(errors, 0.9) < 0.7
    assert (pairs.query_px > -1).all() and (pairs.query_px < np.array(SIZE)).all()


@pytest.mark.parametrize("roll_deg", [90, 180, -80])
def test_a_rolled_image_is_found_in_the_turn_that_is_sure(roll_deg):
    pairs, errors, matcher = _looked(roll_deg)
    assert matcher.encoded == 7  # and three turns
    assert np.quantile(errors, 0.9) < 1.0
    assert pairs.confidence.min() > 0.5


def test_a_sure_first_match_is_not_turned():
    assert _looked(90, unsure=0.0)[0].confidence.size == 0  # nothing is above the threshold


def test_too_few_pairs_have_no_similarity():
    few = Correspondences(np.zeros((5, 2)), np.zeros((5, 2)), np.ones(5))
    assert similarity(few, 25.0, SecondLookOptions()) is None


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("size", [(320, 240), (240, 320)])
def test_a_turn_fits_the_canvas_and_keeps_the_middle(quarters, size):
    canvas = (320, 240)
    turn = turned_to_fit(size, canvas, quarters)
    corners = np.array([[-0.5, -0.5], [size[0] - 0.5, -0.5], np.array(size) - 0.5])
    there = corners @ turn[:2, :2].T + turn[:2, 2]
    assert (there >= -0.5 - 1e-9).all() and (there <= np.array(canvas) - 0.5 + 1e-9).all()
    middle = turn @ [*((np.array(size) - 1) / 2), 1.0]
    np.testing.assert_allclose(middle[:2], (np.array(canvas) - 1) / 2, atol=1e-9)


def test_quarters_go_to_the_left_as_those_of_numpy():
    rgb = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    turn = turned_to_fit((6, 4), (4, 6), 1)
    laid = cv2.warpAffine(rgb, turn[:2], (4, 6), flags=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(laid, np.rot90(rgb))


def test_the_cut_holds_the_points_in_the_middle_of_the_canvas():
    points = np.random.default_rng(0).uniform((100, 60), (180, 140), (500, 2))
    zoom = cut_out(points, SIZE, SIZE, SecondLookOptions())
    there = points @ zoom[:2, :2].T + zoom[:2, 2]
    assert (there > 0).all() and (there < np.array(SIZE)).all()
    assert zoom[0, 0] == pytest.approx(240 / 104, rel=0.05)  # 80 px and two margins of 12
