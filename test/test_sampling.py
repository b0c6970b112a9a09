"""Pairs drawn from a dense match: certain ones, spread over the image, the same every time."""

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.sampling import BANDWIDTH, correspondences, density
from l2m_ros.types import Correspondences, DenseMatch


def dense(h=60, w=80, seed=0, certain=lambda u, v: np.ones_like(u, bool), precision=False):
    """A shift by (5, -2) on a grid of stride 4; certain where told."""
    rng = np.random.default_rng(seed)
    u, v = np.meshgrid(np.arange(w), np.arange(h))
    certainty = np.where(certain(u, v), rng.uniform(0.5, 1.0, (h, w)), 0.0)
    blank = DenseMatch(np.zeros((h, w, 2)), certainty, (4 * w, 4 * h), (4 * w, 4 * h))
    scale = rng.uniform(1, 2, (h, w))[..., None, None] * np.eye(2) if precision else None
    return DenseMatch(
        blank.grid_px() + np.float32([5, -2]), certainty, (4 * w, 4 * h), (4 * w, 4 * h), scale
    )


@pytest.mark.parametrize("method", ["cells", "density"])
def test_pairs_are_those_of_the_warp(method):
    match = dense(precision=True)
    pairs = correspondences(match, 300, method=method)
    assert 0 < len(pairs) <= 300
    np.testing.assert_allclose(pairs.keyframe_px - pairs.query_px, [[5, -2]] * len(pairs))
    cell = np.rint((pairs.query_px + 0.5) / 4 - 0.5).astype(int)
    assert len(np.unique(cell, axis=0)) == len(pairs)
    np.testing.assert_array_equal(pairs.confidence, match.certainty[cell[:, 1], cell[:, 0]])
    np.testing.assert_array_equal(pairs.precision, match.precision[cell[:, 1], cell[:, 0]])


@pytest.mark.parametrize("limit", [10, 150, 1000, 10000])
def test_the_limit_is_nearly_reached_and_never_passed(limit):
    match = dense(certain=lambda u, v: u > 30)
    pairs = correspondences(match, limit)
    certain = int((match.certainty > 0).sum())
    assert 0.4 * min(limit, certain) <= len(pairs) <= limit


def test_cells_are_even_though_certainty_is_not():
    """A corner that is far more certain gets no more than its share of the area."""
    match = dense(h=64, w=64)
    certainty = np.full((64, 64), 0.2, np.float32)
    certainty[:16, :16] = 1.0
    match = DenseMatch(match.warp_px, certainty, match.query_size, match.keyframe_size)
    cell = (correspondences(match, 256).query_px + 0.5) / 4
    in_corner = (cell < 16).all(axis=1).mean()
    assert in_corner == pytest.approx(1 / 16, abs=0.01)


def test_each_cell_gives_its_most_certain_pixel():
    match = dense(h=40, w=40)
    pairs = correspondences(match, 100)
    cells = match.certainty.reshape(10, 4, 10, 4).max(axis=(1, 3)).ravel()
    # certainties closer than the tie break may be exchanged
    assert np.abs(np.sort(pairs.confidence) - np.sort(cells)).max() < 1e-3 + 1e-6


def test_each_cell_gives_the_pixel_that_is_favoured():
    match = dense(h=40, w=40)
    favour = np.ones((40, 40), np.float32)
    favour[2::4, 1::4] = 3.0
    pairs = correspondences(match, 100, favour=favour)
    grid = match.grid_px()[2::4, 1::4].reshape(-1, 2)
    np.testing.assert_array_equal(pairs.query_px[np.lexsort(pairs.query_px.T)], grid)
    assert len(correspondences(match, 100, favour=0.0 * favour)) == 100


def test_uncertain_and_undefined_pixels_are_never_chosen():
    match = dense()
    warp, certainty = match.warp_px.copy(), match.certainty.copy()
    warp[:30], certainty[:30] = np.nan, 0.0
    certainty[30:40] = 0.04
    match = DenseMatch(warp, certainty, match.query_size, match.keyframe_size)
    pairs = correspondences(match, 500)
    assert np.isfinite(pairs.keyframe_px).all() and (pairs.query_px[:, 1] > 40 * 4 - 1).all()
    assert np.isfinite(correspondences(match, 500, method="density").keyframe_px).all()


@pytest.mark.parametrize("method", ["cells", "density"])
def test_the_seed_decides(method):
    match = dense()
    draws = [correspondences(match, 200, seed=s, method=method).query_px for s in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    if method == "density":
        assert draws[0].shape != draws[2].shape or (draws[0] != draws[2]).any()


def test_density_counts_neighbours():
    points = np.random.default_rng(0).uniform(-1, 1, (700, 4)).astype(np.float32)
    gap = np.linalg.norm(points[:, None] - points[None], axis=2)
    expected = np.exp(-(gap**2) / (2 * BANDWIDTH**2)).sum(axis=1)
    np.testing.assert_allclose(density(points), expected, rtol=1e-3)


def test_density_thins_the_crowd():
    """Most certain pixels lie in one small corner; the draw takes relatively fewer of them."""
    match = dense(h=160, w=160, certain=lambda u, v: ((u < 30) & (v < 30)) | ((u + v) % 5 == 0))
    pairs = correspondences(match, 1200, method="density")
    cell = (pairs.query_px + 0.5) / 4
    share = (cell < 30).all(axis=1).mean()
    certain = match.certainty > 0
    uniform = certain[:30, :30].sum() / certain.sum()
    assert share < 0.7 * uniform


def test_sparse_pairs_pass_and_the_most_confident_stay():
    rng = np.random.default_rng(0)
    px = rng.uniform(0, 100, (50, 2))
    pairs = Correspondences(px, px, rng.uniform(0, 1, 50))
    assert correspondences(pairs, 50) is pairs
    kept = correspondences(pairs, 20)
    assert len(kept) == 20 and kept.confidence.min() >= np.sort(pairs.confidence)[-20]


def test_nothing_certain_gives_no_pairs():
    match = dense(certain=lambda u, v: u < 0)
    for method in ("cells", "density"):
        assert len(correspondences(match, 100, method=method)) == 0


def test_refusals_in_words():
    with pytest.raises(InvalidInput, match="unknown sampling 'grid'"):
        correspondences(dense(), method="grid")
    with pytest.raises(InvalidInput, match="limit must be positive"):
        correspondences(dense(), 0)
    with pytest.raises(InvalidInput, match="favours no pixel"):
        correspondences(dense(), favour=np.ones((40, 40)), method="density")


def test_density_is_that_of_the_published_sampler():
    """The NumPy density and its torch twin, at full precision."""
    torch = pytest.importorskip("torch")
    from l2m_ros.workshop.parity import published_sampling as published

    points = np.random.default_rng(3).uniform(-1, 1, (500, 4)).astype(np.float32)
    options = published.SamplingOptions(half=False)
    twin = published.density(torch.from_numpy(points), options).numpy()
    np.testing.assert_allclose(density(points), twin, rtol=1e-4)
