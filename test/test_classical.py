"""Classical matchers against a homography that is known exactly."""

from collections import Counter

import cv2
import numpy as np
import pytest
from fakes.texture import mapped, texture, turned_view
from scipy.spatial.distance import cdist

from l2m_ros.errors import InvalidInput
from l2m_ros.matching import classical
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.types import Correspondences, DenseMatch

SPARSE = ("sift", "orb", "akaze")


def matched(matcher, query, keyframe):
    return matcher.match(matcher.encode(query), matcher.reference(matcher.encode(keyframe)))


@pytest.mark.parametrize("name", SPARSE)
def test_points_follow_a_homography(name):
    keyframe = texture(360, 270)
    query, keyframe_from_query = turned_view(keyframe)
    pairs = matched(load_matcher(name), query, keyframe)
    assert isinstance(pairs, Correspondences) and len(pairs) > 100
    error = np.linalg.norm(mapped(keyframe_from_query, pairs.query_px) - pairs.keyframe_px, axis=1)
    assert np.median(error) < 1.0 and (error < 3).mean() > 0.9


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("name", SPARSE)
def test_pairs_are_nearest_and_pass_the_ratio(name, mutual):
    """Against brute force over all distances of the descriptors kept."""
    keyframe = texture(200, 150)
    query, _ = turned_view(keyframe, degrees=5)
    matcher = load_matcher(name, mutual=mutual)
    a, b = matcher.encode(query), matcher.reference(matcher.encode(keyframe))
    pairs = matcher.match(a, b)
    x, y = a.data.descriptors, b.data.descriptors
    if x.dtype == np.uint8:
        distance = np.unpackbits(x[:, None] ^ y[None], axis=2).sum(axis=2).astype(float)
    else:
        distance = cdist(x, y)
    two = np.sort(distance, axis=1)[:, :2]
    nearest, back = distance.argmin(axis=1), distance.argmin(axis=0)
    good = two[:, 0] < classical.RATIO * two[:, 1]
    if mutual:
        good &= back[nearest] == np.arange(len(x))
    expected = np.column_stack([a.data.px[good], b.data.px[nearest[good]]])
    found = np.column_stack([pairs.query_px, pairs.keyframe_px])
    # a tie at the border of the test may fall either way
    common = (Counter(map(tuple, expected)) & Counter(map(tuple, found))).total()
    assert common >= 0.98 * max(len(expected), len(found)) > 20


@pytest.mark.parametrize("name", [*SPARSE, "dis"])
def test_deterministic_and_the_same_from_a_kept_reference(name):
    keyframe = texture(160, 120)
    query, _ = turned_view(keyframe, degrees=2, scale=1.0)
    matcher = load_matcher(name)
    reference = matcher.reference(matcher.encode(keyframe))
    first, second = (matcher.match(matcher.encode(query), reference) for _ in range(2))
    third = matched(load_matcher(name), query, keyframe)
    for other in (second, third):
        if isinstance(first, DenseMatch):
            np.testing.assert_array_equal(first.warp_px, other.warp_px)
        else:
            np.testing.assert_array_equal(first.keyframe_px, other.keyframe_px)


def test_at_most_so_many_points():
    rgb = texture(400, 300)
    for name in SPARSE:
        assert len(load_matcher(name, max_points=150).encode(rgb).data.px) <= 150


def test_less_contrast_asked_for_finds_more_points():
    faint = np.asarray(100 + texture(200, 150) * 0.15, np.uint8)
    usual, keen = load_matcher("sift"), load_matcher("sift", contrast=0.01)
    assert len(keen.encode(faint).data.px) > 2 * len(usual.encode(faint).data.px)


@pytest.mark.parametrize("name", [*SPARSE, "dis"])
def test_a_blank_image_matches_nothing_surely(name):
    blank = np.full((80, 100, 3), 128, np.uint8)
    found = matched(load_matcher(name), texture(100, 80), blank)
    if isinstance(found, Correspondences):
        assert len(found) == 0
    else:
        assert found.certainty.mean() < 0.1


def test_flow_of_a_small_shift():
    whole = texture(300, 220)
    query, keyframe = whole[10:210, 10:290], whole[7:207, 6:286]  # u_k = u_q + 4, v_k = v_q + 3
    match = matched(load_matcher("dis"), query, keyframe)
    assert isinstance(match, DenseMatch) and match.certainty.shape == (200, 280)
    error = np.linalg.norm(match.warp_px - match.grid_px() - (4, 3), axis=-1)
    sure = match.certainty > 0.5
    assert sure.mean() > 0.8 and np.median(error[sure]) < 0.2


def test_flow_between_sizes_is_in_the_keyframes_pixels():
    whole = texture(320, 240)
    half = cv2.resize(whole, (160, 120), interpolation=cv2.INTER_AREA)
    match = matched(load_matcher("dis"), half, whole)
    expected = 2.0 * (match.grid_px() + 0.5) - 0.5
    error = np.linalg.norm(match.warp_px - expected, axis=-1)[match.certainty > 0.5]
    assert match.keyframe_size == (320, 240) and np.median(error) < 0.3


def test_flow_that_does_not_return_is_uncertain():
    """A square that moves against the background leaves pixels that nothing matches."""
    forward = np.zeros((20, 30, 2), np.float32)
    backward = np.zeros_like(forward)
    forward[5:10, 5:10] = (3, 0)  # the way back says 0 there
    forward[:, 28:] = (5, 0)  # leaves the image
    _, consistency = classical.consistent_warp(forward, backward)
    assert consistency[7, 7] == pytest.approx(np.exp(-4.5), rel=1e-4)
    assert (consistency[:, 28:] == 0).all() and (consistency[12:, :25] == 1).all()


def test_flow_over_something_else_is_uncertain():
    """Half of the keyframe is covered by another picture: no flow may be trusted there."""
    query, keyframe = texture(200, 120), texture(200, 120)
    keyframe[:, 100:] = texture(100, 120, seed=5)
    certainty = matched(load_matcher("dis"), query, keyframe).certainty
    assert certainty[:, :90].mean() > 0.9 and certainty[:, 110:].mean() < 0.2


def test_refusals_in_words():
    rgb = texture(64, 48)
    sift, orb = load_matcher("sift"), load_matcher("orb")
    with pytest.raises(InvalidInput, match=r"features of model 'orb' were given to 'sift'"):
        sift.match(orb.encode(rgb), sift.reference(sift.encode(rgb)))
    with pytest.raises(InvalidInput, match="uint8 RGB"):
        sift.encode(rgb[..., 0])
    with pytest.raises(InvalidInput, match="DIS needs"):
        load_matcher("dis").encode(rgb[:20])
    with pytest.raises(InvalidInput, match="unknown DIS preset"):
        load_matcher("dis", preset="slow")
    with pytest.raises(InvalidInput, match="ratio"):
        load_matcher("sift", ratio=1.5)
