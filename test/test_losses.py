"""Losses against closed forms, SciPy and numeric derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from l2m_ros.workshop.training.losses import (
    LossOptions,
    Truth,
    anchor_term,
    classification_terms,
    gaussian_nll,
    matcher_loss,
    robust,
    truth_at,
    warp_in_px,
)

SIZE = (64, 96)  # height, width


def affine_warp(height: int = 64, width: int = 96) -> torch.Tensor:
    """(1, 2, H, W): x' = 0.9 x + 0.1 y + 3, y' = -0.05 x + 1.1 y - 2."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([0.9 * x + 0.1 * y + 3.0, -0.05 * x + 1.1 * y - 2.0])[None]


def masks(value: bool, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.full((1, 1, height, width), value)


def level_of(warp_px: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A network's level whose warp is the given one in pixels."""
    scale = torch.tensor([SIZE[1] / 2, SIZE[0] / 2]).view(1, 2, 1, 1)
    return {"warp": (warp_px + 0.5) / scale - 1.0, **more}


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 14, 16])
def test_truth_at_a_cell_is_the_warp_at_its_centre(stride: int) -> None:
    height, width = 4 * stride, 6 * stride
    truth = truth_at(
        stride, affine_warp(height, width), masks(True, height, width), masks(False, height, width)
    )
    centre_x = (torch.arange(6) + 0.5) * stride - 0.5
    centre_y = (torch.arange(4) + 0.5) * stride - 0.5
    y, x = torch.meshgrid(centre_y, centre_x, indexing="ij")
    assert truth.visible.all() and not truth.hidden.any()
    torch.testing.assert_close(truth.warp_px[0, 0], 0.9 * x + 0.1 * y + 3.0)
    torch.testing.assert_close(truth.warp_px[0, 1], -0.05 * x + 1.1 * y - 2.0)


def test_a_cell_across_a_jump_is_neither_visible_nor_hidden() -> None:
    warp = affine_warp()
    warp[..., 48 + 8 :] += 40.0  # the jump runs through the centres of a column of cells
    truth = truth_at(16, warp, masks(True), masks(False))
    assert not truth.visible[0, 0, :, 3].any()
    assert truth.visible[0, 0, :, :3].all()
    assert not truth.hidden.any()


def test_unknown_cells_are_not_taught_to_be_hidden() -> None:
    visible, ignored = masks(False), masks(False)
    ignored[..., :48] = True
    truth = truth_at(8, affine_warp(), visible, ignored)
    assert not truth.hidden[..., :6].any() and truth.hidden[..., 6:].all()


def test_warp_in_px_puts_the_corners_at_half_pixels() -> None:
    corners = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]).view(1, 2, 1, 2)
    px = warp_in_px(corners, SIZE)
    assert px[0, :, 0, 0].tolist() == [-0.5, -0.5]
    assert px[0, :, 0, 1].tolist() == [95.5, 63.5]


def test_cross_entropy_of_ignorance_is_the_log_of_the_number_of_cells() -> None:
    cells = 4 * 6
    level = {"logits": torch.zeros(1, cells, cells), "none": torch.zeros(1, cells, 1)}
    truth = truth_at(16, affine_warp(), masks(True), masks(False))
    row, column, none = classification_terms(level, truth, SIZE, columns_too=True)
    assert float(row) == pytest.approx(np.log(cells + 1), rel=1e-5)
    assert float(column) == pytest.approx(np.log(cells), rel=1e-5)
    assert float(none) == 0.0  # no hidden cell


def test_cross_entropy_is_least_where_the_probability_is_the_bilinear_weight() -> None:
    """A target a quarter of the way between two cells: minimum at 3/4 and 1/4."""
    truth = truth_at(16, affine_warp(), masks(True), masks(False))
    point = torch.tensor([2.25 * 16 + 7.5, 1.0 * 16 + 7.5]).view(1, 2, 1, 1)
    truth = Truth(point.expand_as(truth.warp_px), truth.visible, truth.hidden)

    def entropy(share: float) -> float:
        logits = torch.full((1, 24, 24), -30.0)
        logits[..., 1 * 6 + 2] = float(np.log(share))
        logits[..., 1 * 6 + 3] = float(np.log(1.0 - share))
        level = {"logits": logits, "none": torch.full((1, 24, 1), -30.0)}
        return float(classification_terms(level, truth, SIZE, columns_too=False)[0])

    shares = np.linspace(0.55, 0.95, 41)
    assert shares[np.argmin([entropy(s) for s in shares])] == pytest.approx(0.75, abs=0.011)


def test_anchor_term_counts_cells_row_by_row_from_the_corner() -> None:
    truth = truth_at(16, affine_warp(), masks(True), masks(False))
    point = torch.tensor([95.4, 0.0]).view(1, 2, 1, 1)  # the last column, the first row
    truth = Truth(point.expand_as(truth.warp_px), truth.visible, truth.hidden)
    logits = torch.zeros(1, 8 * 8, 4, 6)
    logits[:, 7] = 50.0
    assert float(anchor_term(logits, truth, SIZE)) < 1e-6


def test_robust_is_quadratic_near_and_a_power_far_away() -> None:
    near, far = torch.tensor([1e-2]), torch.tensor([1e6])
    assert float(robust(near, 2.0, 0.5)) == pytest.approx(0.25 * (1e-2 / 2.0) ** 2, rel=1e-2)
    assert float(robust(far, 2.0, 0.5)) == pytest.approx((1e6 / 2.0) ** 0.5, rel=2e-3)


def test_robust_derivative_is_the_numeric_one() -> None:
    error = torch.linspace(0.1, 20, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: robust(e, 0.7, 0.5), (error,))


def test_gaussian_nll_is_scipys() -> None:
    rng = np.random.default_rng(0)
    factor = np.array([0.8, -0.3, 1.7])
    L = np.array([[factor[0], 0.0], [factor[1], factor[2]]])
    covariance = np.linalg.inv(L @ L.T)
    residual = rng.standard_normal((1, 2, 3, 4))
    ours = gaussian_nll(
        torch.from_numpy(residual), torch.from_numpy(factor).view(1, 3, 1, 1).expand(1, 3, 3, 4)
    )
    truth = -multivariate_normal([0, 0], covariance).logpdf(residual[0].transpose(1, 2, 0))
    np.testing.assert_allclose(ours[0, 0].numpy() + np.log(2 * np.pi), truth, rtol=1e-6)


def test_the_true_warp_costs_nothing_and_any_other_more() -> None:
    warp, options = affine_warp(), LossOptions(certainty=0.0)
    right = truth_at(4, warp, masks(True), masks(False)).warp_px
    for shift, expected in ((0.0, 0.0), (5.0, (1 + (5.0 / 0.5) ** 2) ** 0.25 - 1)):
        moved = (right + torch.tensor([shift, 0.0]).view(1, 2, 1, 1)).requires_grad_()
        level = level_of(moved)
        loss, _ = matcher_loss([level], warp, masks(True), masks(False), options)
        assert float(loss) == pytest.approx(expected, abs=2e-3)


def test_certainty_is_taught_to_be_right_about_the_warp() -> None:
    """Where the warp is wrong the target is 0, though the cell is visible."""
    warp = affine_warp()
    right = truth_at(4, warp, masks(True), masks(False)).warp_px
    logits = torch.zeros(1, 1, 16, 24, requires_grad=True)
    wrong = right.clone()
    wrong[..., :12] += 50.0
    level = level_of(wrong, certainty=logits)
    loss, _ = matcher_loss([level], warp, masks(True), masks(False), LossOptions())
    loss.backward()
    assert (logits.grad[..., :12] > 0).all() and (logits.grad[..., 12:] < 0).all()


def test_a_weight_of_zero_leaves_a_term_out() -> None:
    warp = affine_warp()
    right = truth_at(4, warp, masks(True), masks(False)).warp_px
    level = level_of(right, certainty=torch.zeros(1, 1, 16, 24))
    _, terms = matcher_loss([level], warp, masks(True), masks(False), LossOptions(certainty=0.0))
    assert terms == {}
    _, terms = matcher_loss([level], warp, masks(True), masks(False), LossOptions())
    assert set(terms) == {"certainty4"}


def test_halves_of_a_batch_average_to_the_whole() -> None:
    """However many cells each pair shows: that is what makes processes add up."""
    torch.manual_seed(0)
    warp = affine_warp().repeat(4, 1, 1, 1) + torch.randn(4, 2, 1, 1)
    visible = torch.rand(4, 1, 64, 96) < torch.tensor([0.2, 1.0, 0.9, 0.6]).view(4, 1, 1, 1)
    ignored = torch.zeros_like(visible)
    level = level_of(
        truth_at(4, warp, visible, ignored).warp_px + torch.randn(4, 2, 16, 24),
        certainty=torch.randn(4, 1, 16, 24),
        precision=torch.rand(4, 3, 16, 24) + 0.1,
    )

    def loss(part: slice) -> float:
        of_part = {name: value[part] for name, value in level.items()}
        return float(
            matcher_loss([of_part], warp[part], visible[part], ignored[part], LossOptions())[0]
        )

    whole = loss(slice(0, 4))
    assert whole == pytest.approx(0.5 * (loss(slice(0, 2)) + loss(slice(2, 4))), rel=1e-5)
    assert np.isfinite(whole)
