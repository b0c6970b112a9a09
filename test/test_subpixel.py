"""Refinement of the few: find the true point through scale, roll and light, or keep out."""

import cv2
import numpy as np
import pytest

from l2m_ros.matching.pairs import pairs_of
from l2m_ros.matching.sampling import correspondences
from l2m_ros.matching.subpixel import OPTIONS, SubpixelOptions, jacobian_at, refined_pairs, texture
from l2m_ros.types import Correspondences, DenseMatch

SIZE = (320, 240)


def _texture(seed: int = 0, blur: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(SIZE[1], SIZE[0])).astype(np.float32), (0, 0), blur)
    grey = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
    return np.dstack([grey] * 3)


def _dense(affine: np.ndarray, error_px: np.ndarray) -> DenseMatch:
    """A warp at a quarter of the size: the affine map, off by the same error everywhere."""
    blank = DenseMatch(
        np.zeros((SIZE[1] // 4, SIZE[0] // 4, 2), np.float32),
        np.ones((SIZE[1] // 4, SIZE[0] // 4), np.float32), SIZE, SIZE,
    )  # fmt: skip
    warp = blank.grid_px() @ affine[:, :2].T + affine[:, 2] + error_px
    inside = ((warp > 12) & (warp < np.array(SIZE) - 12)).all(axis=2)
    return DenseMatch(warp, inside.astype(np.float32), SIZE, SIZE)


def _errors(pairs: Correspondences, affine: np.ndarray) -> np.ndarray:
    truth = pairs.query_px @ affine[:, :2].T + affine[:, 2]
    return np.linalg.norm(pairs.keyframe_px - truth, axis=1)


@pytest.mark.parametrize(
    "zoom, roll_deg", [(1.0, 0.0), (1.0, 30.0), (1.3, 10.0), (2.0, 20.0), (0.5, 0.0)]
)
def test_a_warp_off_by_a_pixel_is_put_right_through_scale_roll_and_light(zoom, roll_deg):
    c, s = zoom * np.cos(np.radians(roll_deg)), zoom * np.sin(np.radians(roll_deg))
    middle = np.array([SIZE[0] / 2, SIZE[1] / 2])
    turn = np.array([[c, -s], [s, c]])
    affine = np.column_stack([turn, middle - turn @ middle])
    query = _texture(blur=3.0)
    keyframe = cv2.warpAffine(query, affine, SIZE, flags=cv2.INTER_CUBIC)
    keyframe = np.clip(keyframe.astype(np.float32) * 0.7 + 20, 0, 255).astype(np.uint8)
    match = _dense(affine, np.array([0.8, -0.6]))
    pairs = correspondences(match, limit=400)
    after = _errors(refined_pairs(match, pairs, query, keyframe), affine)
    assert np.median(_errors(pairs, affine)) == pytest.approx(1.0, abs=0.01)
    assert np.median(after) < 0.1
    assert np.quantile(after, 0.75) < 0.3  # the rest sees the keyframe's border


def test_the_covariance_it_tells_is_the_error_it_makes():
    query = _texture(blur=2.0)
    rng = np.random.default_rng(1)
    affine = np.array([[1.0, 0.0, 0.3], [0.0, 1.0, -0.4]])
    exact = cv2.warpAffine(query, affine, SIZE, flags=cv2.INTER_CUBIC)
    noisy = [np.clip(i + rng.normal(0, 6.0, i.shape[:2])[..., None], 0, 255).astype(np.uint8)
             for i in (query, exact)]  # fmt: skip
    warp = _dense(affine, np.zeros(2))
    told = np.broadcast_to(np.eye(2), (*warp.certainty.shape, 2, 2))
    match = DenseMatch(warp.warp_px, warp.certainty, SIZE, SIZE, told)
    before = correspondences(match, limit=500)
    after = refined_pairs(match, before, *noisy, SubpixelOptions(floor_px=1e-3))
    moved = (after.keyframe_px != before.keyframe_px).any(axis=1)
    assert moved.mean() > 0.8
    offset = (after.keyframe_px - after.query_px @ affine[:, :2].T - affine[:, 2])[moved]
    nees = np.einsum("ni,nij,nj->n", offset, after.precision[moved], offset)
    assert 0.5 * 1.386 < np.median(nees) < 2.0 * 1.386  # of a chi-square of two
    assert (after.precision[~moved] == before.precision[~moved]).all()


def test_what_is_flat_or_unlike_stays_where_it_was():
    flat = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    affine = np.eye(2, 3)
    match = _dense(affine, np.array([0.5, 0.0]))
    pairs = correspondences(match, limit=300)
    for query, keyframe in ((flat, flat), (_texture(0), _texture(7))):
        after = refined_pairs(match, pairs, query, keyframe)
        kept = (after.keyframe_px == pairs.keyframe_px).all(axis=1)
        assert kept.mean() > 0.9
        assert np.abs(after.keyframe_px - pairs.keyframe_px).max() <= SubpixelOptions().move_px


def test_grey_levels_of_a_bare_wall_do_not_end_a_run():
    """A step edge has no second direction: nothing to invert, nothing to divide by."""
    wall = np.full((SIZE[1], SIZE[0], 3), 200, np.uint8)
    wall[:, 160:] = 60
    told = np.broadcast_to(np.eye(2), (SIZE[1] // 4, SIZE[0] // 4, 2, 2))
    warp = _dense(np.eye(2, 3), np.array([0.3, 0.2]))
    match = DenseMatch(warp.warp_px, warp.certainty, SIZE, SIZE, told)
    pairs = correspondences(match, limit=1000)
    after = refined_pairs(match, pairs, wall, wall)
    assert np.isfinite(after.precision).all()
    assert (after.keyframe_px == pairs.keyframe_px).all()


def test_the_jacobian_is_the_warps_slope_and_one_where_the_warp_breaks():
    affine = np.array([[1.2, -0.3, 4.0], [0.2, 0.9, -2.0]])
    match = _dense(affine, np.zeros(2))
    inner = np.array([[160.0, 120.0], [80.5, 60.5]])
    np.testing.assert_allclose(jacobian_at(match, inner), [affine[:, :2]] * 2, atol=1e-3)
    warp = match.warp_px.copy()
    warp[:, 40:] += 200.0  # an edge between two surfaces
    broken = DenseMatch(warp, match.certainty, SIZE, SIZE)
    np.testing.assert_allclose(jacobian_at(broken, np.array([[160.0, 120.0]])), [np.eye(2)])


def test_sparse_pairs_and_none_at_all_pass_through():
    image = _texture()
    sparse = Correspondences(np.full((3, 2), 40.0), np.full((3, 2), 41.3), np.ones(3))
    assert refined_pairs(sparse, sparse, image, image) is sparse
    assert pairs_of(sparse, image, image) is sparse
    none = Correspondences.empty()
    assert len(refined_pairs(_dense(np.eye(2, 3), np.zeros(2)), none, image, image)) == 0


def test_texture_is_a_corners_not_an_edges():
    grey = np.full((SIZE[1], SIZE[0]), 90, np.uint8)
    grey[40:, 160:] = 160  # a corner at (160, 40), edges from there on
    noisy = grey + np.random.default_rng(0).integers(0, 3, grey.shape, np.uint8)
    match = _dense(np.eye(2, 3), np.zeros(2))
    found = texture(match, np.dstack([noisy] * 3))
    corner, edge, flat = found[10, 40], found[40, 40], found[40, 20]
    assert corner == pytest.approx(OPTIONS.most_texture)
    assert edge < 0.5 * corner and flat < 0.5 * corner
    assert (texture(match, np.full((*grey.shape, 3), 128, np.uint8)) == 1.0).all()


@pytest.mark.parametrize("bare", [0.5, 1.0])
def test_pairs_that_no_pixels_confirm_are_left_out_if_enough_are(bare):
    """The left part of the image, or all of it, is a bare wall, whose pairs stay a pixel off."""
    query, wall_px = _texture(blur=3.0), round(bare * SIZE[0])
    query[:, :wall_px] = 128
    pairs = pairs_of(_dense(np.eye(2, 3), np.array([0.8, -0.6])), query, query, 400)
    assert len(pairs) > 100
    if bare == 1.0:
        assert np.median(_errors(pairs, np.eye(2, 3))) == pytest.approx(1.0, abs=0.01)
    else:
        assert (pairs.query_px[:, 0] > wall_px - OPTIONS.radius).all()
        assert np.median(_errors(pairs, np.eye(2, 3))) < 0.1
