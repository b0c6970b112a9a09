"""The published schedule: directions, second pass, sampling, key points."""

import numpy as np
import pytest
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.l2m.network import TINY
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.grid import centre_grid
from l2m_ros.networks.shared.named_weights import fill
from l2m_ros.networks.shared.warp import forward_backward, match_keypoints, to_edge_pixels
from l2m_ros.workshop.parity import published_schedule as like_reference
from l2m_ros.workshop.parity.published_sampling import (
    SamplingOptions,
    balance_weights,
    density,
    sample_matches,
)
from l2m_ros.workshop.parity.published_schedule import MatchOptions

SIZES = {"coarse": (42, 56), "fine": (64, 80)}


@pytest.fixture(scope="module")
def network():
    return fill(build("l2m", **TINY), "schedule: ")


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(5)
    return [generator.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in range(2)]


def nearest(rgb, width, height):
    """A resize that needs no library."""
    rows = np.arange(height) * rgb.shape[0] // height
    columns = np.arange(width) * rgb.shape[1] // width
    return rgb[rows][:, columns]


def match(network, images, **changes):
    return like_reference.match_images(
        network, *images, MatchOptions(**{**SIZES, **changes}), nearest
    )


def test_both_directions_lie_side_by_side(network, images):
    warp, certainty = match(network, images)
    assert warp.shape == (64, 160, 4)
    assert certainty.shape == (64, 160)
    there = match(network, images, symmetric=False)
    back = match(network, images[::-1], symmetric=False)
    assert torch.allclose(warp[:, :80], there[0], atol=1e-4)
    assert torch.allclose(certainty[:, :80], there[1], atol=1e-3)
    # In the right half image A's coordinates still come first.
    assert torch.allclose(warp[:, 80:], back[0][..., [2, 3, 0, 1]], atol=1e-4)
    grid = centre_grid(64, 80, warp).permute(1, 2, 0)
    assert torch.allclose(warp[:, 80:, 2:], grid)


def test_without_a_second_pass_the_coarse_size_stays(network, images):
    warp, _ = match(network, images, fine=None, symmetric=False)
    assert warp.shape == (42, 56, 4)
    features = [
        network.encode(like_reference.prepared(rgb, SIZES["coarse"], nearest)) for rgb in images
    ]
    frame = network.match(features[0], network.reference(features[1]))
    flow = frame["warp"][0].clamp(-1, 1).permute(1, 2, 0)
    assert torch.allclose(warp[..., 2:], flow, atol=1e-5)


def test_attenuation_only_raises(network, images):
    raised, kept = (match(network, images, attenuate=a)[1] for a in (True, False))
    assert (raised >= kept - 1e-6).all()
    assert (raised > kept + 1e-3).any()


def test_outside_is_never_certain():
    flow = torch.tensor([[[[0.5, 1.01]], [[-1.2, 0.0]]]])
    turn = like_reference.Direction(flow, torch.full((1, 1, 1, 2), 9.0))
    warp, certainty = like_reference.joined([turn])
    assert certainty.tolist() == [[0.0, 0.0]]
    assert warp[0, :, 2:].tolist() == [[0.5, -1.0], [1.0, 0.0]]


def test_normalised_input_has_imagenets_moments():
    grey = like_reference.scaled(torch.full((3, 2, 2), 124, dtype=torch.uint8), normalize=True)
    expected = [(124 / 255 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert grey[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)


# --- sampling ---------------------------------------------------------------------------------


def test_density_by_loops():
    points = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) * 0.4
    ours = density(points, SamplingOptions(half=False, chunk=7))
    for i in range(40):
        squared = ((points - points[i]) ** 2).sum(dim=1).double()
        assert float(ours[i]) == pytest.approx(float(torch.exp(-squared / 0.02).sum()), rel=1e-4)
    halves = density(points, SamplingOptions(half=True)).float()
    assert (halves / ours - 1).abs().max() < 0.02


def test_lonely_matches_weigh_nearly_nothing():
    weight = balance_weights(torch.tensor([9.9, 10.1, 99.0]))
    assert weight.tolist() == pytest.approx([1e-7, 1 / 11.1, 0.01], rel=1e-4)


def test_samples_are_balanced():
    """Nine in ten certain pixels crowd into one corner; sampling levels that."""
    generator = torch.Generator().manual_seed(0)
    crowd = torch.rand(3600, 4, generator=generator) * 0.05 - 0.9
    spread = torch.rand(400, 1, generator=generator).expand(-1, 4) * 0.9 + 0.05
    warp = torch.cat([crowd, spread]).reshape(40, 100, 4)
    options = SamplingOptions(number=500)
    matches, certainty = sample_matches(warp, torch.ones(40, 100), options, generator)
    assert len(matches) == len(certainty) == 500
    share = float((matches[:, 0] > 0).float().mean())
    assert share > 0.3
    loose = SamplingOptions(number=500, balanced=False)
    plain, _ = sample_matches(warp, torch.ones(40, 100), loose, generator)
    assert float((plain[:, 0] > 0).float().mean()) < 0.2


def test_sampling_repeats_thresholds_and_skips_the_impossible():
    warp = torch.rand(20, 20, 4)
    certainty = torch.zeros(20, 20)
    certainty[:3] = 0.04
    certainty[3] = 0.06
    options = SamplingOptions(number=1000)
    draws = [
        sample_matches(warp, certainty, options, torch.Generator().manual_seed(1)) for _ in range(2)
    ]
    assert torch.equal(draws[0][0], draws[1][0])
    assert len(draws[0][0]) == 80  # all that has any certainty, each once
    assert sorted({round(c, 4) for c in draws[0][1].tolist()}) == [0.04, 1.0]


def test_no_certainty_gives_no_matches():
    matches, certainty = sample_matches(torch.rand(4, 4, 4), torch.zeros(4, 4))
    assert matches.shape == (0, 4)
    assert certainty.shape == (0,)
    with pytest.raises(InvalidInput, match="1 or more"):
        SamplingOptions(number=0)


# --- warps ------------------------------------------------------------------------------------


def test_edge_pixels():
    assert to_edge_pixels(torch.tensor([[-1.0, -1.0], [1.0, 0.0]]), 20, 40).tolist() == [
        [0.0, 0.0],
        [40.0, 10.0],
    ]


def test_keypoints_meet_where_the_warp_says():
    grid = centre_grid(30, 30, torch.zeros(1)).permute(1, 2, 0)
    warp = torch.cat([grid, grid + 0.1], dim=-1)  # everything moves by a tenth
    a = torch.tensor([[0.0, 0.0], [0.5, -0.5], [-0.5, 0.5]])
    b = torch.tensor([[0.9, 0.9], [0.6, -0.4], [0.1, 0.1]])
    certainty = torch.ones(30, 30)
    certainty[20:, :10] = 0.1  # around the third key point
    index_a, index_b = match_keypoints(a, b, warp, certainty, max_distance=0.02, min_certainty=0.5)
    assert list(zip(index_a.tolist(), index_b.tolist(), strict=True)) == [(0, 2), (1, 1)]


def test_forward_and_backward_agree_where_they_undo_each_other():
    grid = centre_grid(12, 16, torch.zeros(1)).permute(1, 2, 0)
    shift = torch.tensor([0.25, 0.0])
    agreed = forward_backward(grid + shift, grid - shift)
    assert agreed[2:-2, 2:11].all()
    assert not forward_backward(grid + shift, grid + shift)[2:-2, 2:11].any()
