"""Pictures show what they say: lines where the pairs are, colours that follow the numbers."""

import numpy as np
import pytest

from l2m_ros import drawing
from l2m_ros.errors import InvalidInput
from l2m_ros.types import Correspondences, DenseMatch

BLACK = np.zeros((60, 80, 3), np.uint8)


def one_pair(query=(20, 30), keyframe=(60, 10), confidence=1.0):
    return Correspondences(np.array([query], float), np.array([keyframe], float), [confidence])


def test_a_line_joins_both_ends():
    picture = drawing.draw_matches(BLACK, BLACK, one_pair(), width_px=80)
    assert picture.shape == (60, 160 + drawing.GAP_PX, 3)
    sure = drawing.confidence_colours(np.array([1.0]))[0]
    np.testing.assert_array_equal(picture[30, 20], sure)
    np.testing.assert_array_equal(picture[10, 80 + drawing.GAP_PX + 60], sure)
    middle = picture[17:24, (20 + 146) // 2]
    assert middle.max() > 100  # the line passes half way up
    assert picture[50:, :80].max() == 0


def test_ends_follow_the_scale_of_each_image():
    wide = np.zeros((120, 160, 3), np.uint8)
    picture = drawing.draw_matches(wide, BLACK, one_pair((101, 61), (20, 30)), width_px=80)
    lit = np.argwhere(picture[..., 0] > 150)
    assert np.abs(lit - (30, 50)).sum(axis=1).min() <= 1  # (101 + .5) / 2 - .5 = 50.25


def test_no_pairs_are_said_in_words():
    picture = drawing.draw_matches(BLACK, BLACK, Correspondences.empty(), width_px=80)
    assert picture.max() > 200


def test_colours_follow_confidence_and_error():
    colours = drawing.confidence_colours(np.linspace(0, 1, 5)).astype(int)
    assert (np.diff(colours.sum(axis=1)) > 0).all()  # plasma brightens
    assert colours[-1][0] > 200 and colours[-1][2] < 80  # yellow
    errors = drawing.error_colours(np.array([0.5, 2.0, 4.0, 9.0, np.inf, np.nan]))
    expected = [c for _, c in drawing.ERROR_COLOURS]
    expected += [drawing.WRONG_COLOUR] * 2 + [drawing.UNKNOWN_COLOUR]
    np.testing.assert_array_equal(errors, expected)


def test_the_warped_keyframe_equals_the_query_where_the_warp_is_right():
    rng = np.random.default_rng(0)
    keyframe = np.repeat(np.repeat(rng.integers(0, 255, (15, 20, 3), np.uint8), 4, 0), 4, 1)
    query = np.roll(keyframe, (-8, -12), axis=(0, 1))  # u_k = u_q + 12, v_k = v_q + 8
    certainty = np.ones((60, 80), np.float32)
    certainty[-8:], certainty[:, -12:] = 0, 0
    blank = DenseMatch(np.zeros((60, 80, 2)), certainty, (80, 60), (80, 60))
    match = DenseMatch(blank.grid_px() + np.float32([12, 8]), certainty, (80, 60), (80, 60))
    warped = drawing.warped_keyframe(query, keyframe, match)
    np.testing.assert_array_equal(warped[:52, :68], query[:52, :68])
    assert (warped[-8:] == 24).all()
    picture = drawing.draw_warp(query, keyframe, match)
    assert picture.shape == (120 + drawing.GAP_PX, 160 + drawing.GAP_PX, 3)


def test_a_match_of_another_image_is_refused():
    match = DenseMatch(np.zeros((6, 8, 2)), np.zeros((6, 8)), (160, 120), (80, 60))
    with pytest.raises(InvalidInput, match="the match is of a query"):
        drawing.warped_keyframe(BLACK, BLACK, match)


def test_words_are_written_and_inputs_stay_as_they_were():
    picture = drawing.with_words(np.full((60, 80, 3), 90, np.uint8), ["äöü 12"])
    assert picture[:24].max() > 200 and (picture[31:] == 90).all()
    frozen = BLACK.copy()
    drawing.draw_matches(BLACK, BLACK, one_pair())
    np.testing.assert_array_equal(BLACK, frozen)
