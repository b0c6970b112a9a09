"""A second look: what both images see, turned and scaled alike, and every pixel back in place."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.canvas import turned_to_fit, untouched
from l2m_ros.matching.look import Look
from l2m_ros.matching.pairs import Drawing
from l2m_ros.matching.second_look import (
    ROUGH,
    SecondLookOptions,
    cut_out,
    options_for,
    second_look,
    similarity,
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
    """Finds the similarity between two images by SIFT; unsure where it rolls or zooms them far."""

    name = "upright"

    def __init__(self, roll_deg=25.0, zoom=2.0):
        self.limit_deg, self.zoom, self.encoded = roll_deg, zoom, 0

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
        zoom = np.exp(abs(np.log(np.hypot(affine[0, 0], affine[1, 0]))))
        return affine, 0.9 if roll < self.limit_deg and zoom < self.zoom else 0.001


def _looked(roll_deg, zoom=1.0, shift=(0.0, 0.0), when="always", limit=400, **options):
    keyframe = _texture()
    truth = _similarity(zoom, roll_deg, shift)
    query = cv2.warpAffine(keyframe, cv2.invertAffineTransform(truth), SIZE, flags=cv2.INTER_CUBIC)
    matcher = UprightOnly()
    encoded = matcher.encode(query), matcher.encode(keyframe)
    reference = matcher.reference(encoded[1])
    first = matcher.match(encoded[0], reference)
    pairs = second_look(
        matcher, first, reference, query, keyframe, limit, when=when, encoded=encoded,
        drawing=ROUGH, options=SecondLookOptions(**options),
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
    # And three turns; the start is matched back: neither its canvas nor the keyframe were at hand.
    assert matcher.encoded == 9
    assert np.quantile(errors, 0.9) < 1.0
    assert pairs.confidence.min() > 0.5


def test_a_sure_first_match_is_not_turned():
    # Nothing is above the threshold.
    assert _looked(90, unsure=0.0, agreed=0.0)[0].confidence.size == 0


def test_what_no_quarter_turn_finds_is_found_by_a_half_of_one():
    assert len(_looked(45, agreed=0.0)[0]) == 0
    pairs, errors, _ = _looked(45)
    assert len(pairs) > 300 and np.quantile(errors, 0.9) < 1.0


def test_what_the_whole_images_do_not_show_is_found_in_a_part():
    """The matcher knows only equal scales: a query that shows a part of the keyframe is lost."""
    keyframe = _texture()
    truth = _similarity(1.0, 0.0) @ np.diag([0.5, 0.5, 1.0])  # the upper left quarter
    query = cv2.warpAffine(keyframe, cv2.invertAffineTransform(truth), SIZE, flags=cv2.INTER_CUBIC)
    matcher = UprightOnly(zoom=1.5)
    reference = matcher.reference(matcher.encode(keyframe))
    first = matcher.match(matcher.encode(query), reference)
    look = (matcher, first, reference, query, keyframe, 400)
    whole = second_look(*look, drawing=ROUGH, options=SecondLookOptions(agreed=0.0))
    assert len(whole) == 0
    pairs = second_look(*look, drawing=ROUGH, options=SecondLookOptions())
    errors = np.linalg.norm(
        pairs.keyframe_px - pairs.query_px @ truth[:, :2].T - truth[:, 2], axis=1
    )
    assert len(pairs) > 300 and np.quantile(errors, 0.9) < 1.0


@pytest.mark.parametrize(
    "roll_deg, zoom, shift, again",
    [
        (5, 1.1, (0, 0), False),
        (20, 1.0, (0, 0), True),
        (0, 1.5, (0, 0), True),
        (0, 1.0, (230, 0), True),
    ],
)
def test_auto_looks_again_at_what_is_rolled_scaled_or_hardly_shared(roll_deg, zoom, shift, again):
    pairs, errors, matcher = _looked(roll_deg, zoom, shift, when="auto")
    assert matcher.encoded == (4 if again else 2)
    assert len(pairs) > 300 and np.quantile(errors, 0.9) < 0.7


def test_other_starts_are_for_the_matcher_that_they_were_chosen_for():
    assert options_for(UprightOnly()).agreed == 0.0
    lite, other = UprightOnly(), UprightOnly()
    lite.card, other.card = (SimpleNamespace(architecture=name) for name in ("lite", "l2m"))
    assert options_for(lite).agreed > 0.0 and options_for(other).agreed == 0.0


def test_a_second_look_that_is_never_taken_is_not_asked_for():
    with pytest.raises(InvalidInput, match="auto or always"):
        _looked(0, when="never")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 401])
def test_no_more_pairs_than_asked_for(limit):
    assert 0 < len(_looked(5, limit=limit, fewest=2)[0]) <= limit


def test_too_few_pairs_have_no_similarity():
    few = Correspondences(np.zeros((5, 2)), np.zeros((5, 2)), np.ones(5))
    assert similarity(few, 25.0, SecondLookOptions()) is None


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("size", [(320, 240), (240, 320)])
def test_a_turn_fits_the_canvas_and_keeps_the_middle(quarters, size):
    canvas = (320, 240)
    turn = turned_to_fit(size, canvas, 90 * quarters)
    corners = np.array([[-0.5, -0.5], [size[0] - 0.5, -0.5], np.array(size) - 0.5])
    there = corners @ turn[:2, :2].T + turn[:2, 2]
    assert (there >= -0.5 - 1e-9).all() and (there <= np.array(canvas) - 0.5 + 1e-9).all()
    middle = turn @ [*((np.array(size) - 1) / 2), 1.0]
    np.testing.assert_allclose(middle[:2], (np.array(canvas) - 1) / 2, atol=1e-9)


def test_quarters_go_to_the_left_as_those_of_numpy():
    rgb = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    turn = turned_to_fit((6, 4), (4, 6), 90)
    laid = cv2.warpAffine(rgb, turn[:2], (4, 6), flags=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(laid, np.rot90(rgb))


def test_the_cut_holds_the_points_in_the_middle_of_the_canvas():
    points = np.random.default_rng(0).uniform((100, 60), (180, 140), (500, 2))
    zoom = cut_out(points, SIZE, SIZE, SecondLookOptions())
    there = points @ zoom[:2, :2].T + zoom[:2, 2]
    assert (there > 0).all() and (there < np.array(SIZE)).all()
    assert zoom[0, 0] == pytest.approx(240 / 104, rel=0.05)  # 80 px and two margins of 12


def test_a_look_back_keeps_pixels_and_precision():
    """Keyframe twice as large as the query: what is known to 1 px there is known to 2 px here."""
    size, precise = (64, 48), np.full((12, 16, 2, 2), np.eye(2), np.float32)
    there = DenseMatch(np.zeros((12, 16, 2)), np.full((12, 16), 0.9), size, size)
    there = replace(there, warp_px=2 * there.grid_px() + 3, precision=precise)
    back = DenseMatch((there.grid_px() - 3) / 2, np.full((12, 16), 0.9), size, size, 4 * precise)
    image = untouched(np.zeros((48, 64, 3), np.uint8))
    look = Look(there, image, image, back)
    pairs = look.pairs(40, Drawing(subpixel=False))
    assert 20 < len(pairs) <= 40
    np.testing.assert_allclose(pairs.keyframe_px, 2 * pairs.query_px + 3, atol=1e-4)
    known = np.median(pairs.precision, axis=0)  # slopes at the border are not known
    np.testing.assert_allclose(known, np.eye(2), atol=1e-4)


def test_only_what_comes_back_counts_as_agreement():
    size = (64, 48)
    same = DenseMatch(np.zeros((12, 16, 2)), np.full((12, 16), 0.8), size, size)
    same = replace(same, warp_px=same.grid_px())
    image = untouched(np.zeros((48, 64, 3), np.uint8))
    assert Look(same, image, image, same).agreement(3.0) == pytest.approx(0.8)
    half = np.where(same.grid_px()[..., :1] < 32, 0.0, 10.0).astype(np.float32)
    elsewhere = replace(same, warp_px=same.warp_px + half)
    assert Look(same, image, image, elsewhere).agreement(3.0) == pytest.approx(0.4, abs=0.06)
    assert Look(same, image, image).agreement(3.0) == 0.0
