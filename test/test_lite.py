"""lite: its eyes, its parts against slow twins, an untrained match, its shipped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.texture import mapped, texture, turned_view

from l2m_ros.engines.model_card import load_card
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.networks.checkpoint import weights_id
from l2m_ros.networks.lite.backbone import Backbone
from l2m_ros.networks.lite.coarse import Attention, cell_grid, read_peak
from l2m_ros.networks.lite.files import load_eyes
from l2m_ros.networks.lite.network import Lite, LiteConfig, build_lite
from l2m_ros.networks.lite.pyramid import GradientPyramid, Gradients
from l2m_ros.networks.lite.refiner import (
    VECTOR,
    Refiner,
    from_blocks,
    local_correlation,
    precision_factor,
    to_blocks,
    upsampled_warp,
)
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.xfeat import XFeat, standardised_grey

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def untrained() -> Lite:
    torch.manual_seed(0)
    return build_lite().eval()


@pytest.fixture(scope="module")
def shipped() -> Lite:
    from safetensors.torch import load_file

    network = build_lite()
    network.load_state_dict(load_file(MODELS / "lite.safetensors"), strict=True)
    return network.eval()


def tensor_of(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255.0


@torch.inference_mode()
def match_of(network: Lite, query: np.ndarray, keyframe: np.ndarray) -> dict[str, torch.Tensor]:
    reference = network.reference(network.encode(tensor_of(keyframe)))
    return network.match(network.encode(tensor_of(query)), reference)


def cells_px(match: dict[str, torch.Tensor], size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """(N, 2) centres of the query's cells and where they are matched to, both in px."""
    scale = np.array(size) / 2.0
    warp = match["warp"][0].permute(1, 2, 0).numpy()
    grid = cell_grid(*warp.shape[:2]).numpy()
    return (
        ((grid + 1) * scale - 0.5).reshape(-1, 2),
        ((warp + 1) * scale - 0.5).reshape(-1, 2),
    )


# --- eyes ----------------------------------------------------------------------------------


def test_the_backbone_at_half_size_is_xfeat_and_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    slow, backbone = XFeat(), Backbone()
    for module in slow.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
    backbone.load_state_dict(slow.state_dict())
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        fine, matched = slow.eval()(image)
        seen = backbone.train().seen(standardised_grey(image))  # in training, too
    torch.testing.assert_close(seen.fine, fine, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.matched, matched, atol=1e-4, rtol=1e-4)
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(backbone.state_dict()[name], value, atol=0, rtol=0)


def test_eyes_are_xfeats_published_ones_or_those_of_a_lite(tmp_path: Path) -> None:
    weights = {f"net.{name}": value + 1 for name, value in XFeat().state_dict().items()}
    torch.save({**weights, "net.heatmap_head.2.bias": torch.zeros(1)}, tmp_path / "xfeat.pt")
    backbone = Backbone()
    load_eyes(backbone, tmp_path / "xfeat.pt")
    torch.testing.assert_close(backbone.skip1[1].bias, weights["net.skip1.1.bias"])
    torch.save({"net.skip1.1.bias": torch.zeros(24)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="neither XFeat's weights nor a lite"):
        load_eyes(backbone, tmp_path / "other.pt")
    load_eyes(backbone, MODELS / "lite.safetensors")
    assert weights_id(backbone.state_dict()) == load_card(MODELS / "lite.yaml").eyes_id


def test_gradients_scaled_to_length_one_do_not_see_exposure() -> None:
    energy = torch.rand(1, 8, 8, 8)
    turn = Gradients(24, finer=True)
    one, other = (torch.nn.functional.normalize(turn(e)) for e in (energy, 3.0 * energy))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("radius, above", [(1, 16), (3, 32)])
def test_refiners_fill_whole_vectors(radius: int, above: int) -> None:
    assert Refiner(radius, 24, above, 16, 1).enter.in_channels % VECTOR == 0


# --- parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_local_correlation_is_that_of_shifted_products(radius: int) -> None:
    torch.manual_seed(radius)
    query, other = torch.randn(2, 6, 8, 12), torch.randn(2, 6, 8, 12)
    padded = F.pad(other, (radius,) * 4)
    side = range(2 * radius + 1)
    slow = [(query * padded[..., dy : dy + 8, dx : dx + 12]).sum(1) for dy in side for dx in side]
    torch.testing.assert_close(
        local_correlation(query, other, radius), torch.stack(slow, 1), atol=1e-5, rtol=1e-5
    )


def test_blocks_are_undone() -> None:
    image = torch.randn(2, 3, 8, 20)
    assert torch.equal(from_blocks(to_blocks(image), 8, 20), image)


def test_gradients_do_not_see_exposure_and_offset() -> None:
    image = tensor_of(texture(64, 64)) * 0.5 + 0.1
    pyramid = GradientPyramid()
    darker = pyramid(standardised_grey(0.6 * image + 0.2))
    for level, other in zip(pyramid(standardised_grey(image)), darker, strict=True):
        torch.testing.assert_close(level, other, atol=2e-2, rtol=2e-2)


def test_a_ramp_has_its_slope_and_one_direction() -> None:
    grey = 0.3 * torch.arange(32.0).expand(1, 1, 32, 32)  # grows to the right
    energy = GradientPyramid()(grey)[0][0, :, 8, 8].square() - 1e-4
    # 2 |g| (cos 0 - 1/2) towards it, sqrt(2) - 1 of it at 45 degrees, nothing elsewhere.
    assert float(energy[0]) == pytest.approx(0.3, rel=1e-2)
    assert float(energy[1]) == pytest.approx(0.3 * (2**0.5 - 1), rel=2e-2)
    assert float(energy[2:7].abs().max()) < 1e-6


def test_peak_of_a_bump_between_two_cells_lies_between_them() -> None:
    height, width = 6, 8
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    bump = -4.0 * ((x - 3.5) ** 2 + (y - 2.0) ** 2)
    logits = bump.reshape(1, 1, -1).expand(1, 2, -1)
    none = torch.tensor([[[-1.0], [5.0]]])
    point, window, odds = read_peak(logits, none, height, width)
    expected = torch.tensor([(3.5 + 0.5) * 2 / width - 1, (2.0 + 0.5) * 2 / height - 1])
    torch.testing.assert_close(point[0, 0], expected, atol=1e-3, rtol=0)
    assert window.shape == (1, 2, 25) and float(window.max()) == 0.0
    torch.testing.assert_close(odds.flatten(), torch.tensor([-1.0 + 1.0, -1.0 - 5.0]))


def test_peak_in_a_corner_reads_nothing_from_the_next_row() -> None:
    logits = torch.full((1, 1, 24), 10.0)  # 4 x 6, everything equal but the corner
    logits[..., 0] = 40.0
    point, _, _ = read_peak(logits, torch.zeros(1, 1, 1), 4, 6)
    torch.testing.assert_close(point[0, 0], cell_grid(4, 6)[0, 0], atol=1e-4, rtol=0)


def test_prior_is_the_squared_distance_by_one_product() -> None:
    torch.manual_seed(0)
    believed, sharp = torch.rand(2, 5, 2) * 2 - 1, torch.randn(2, 5, 1)
    cells = cell_grid(3, 4).reshape(-1, 2)
    strength = 4 * F.softplus(sharp - 2)
    slow = -strength * (cells[None, None] - believed[:, :, None]).square().sum(-1)
    left, right = Lite._prior(believed, sharp, 3, 4)
    torch.testing.assert_close(left @ right.T, slow, atol=1e-5, rtol=1e-5)


def test_attention_starts_as_nothing_and_knows_places_only_in_its_scores() -> None:
    torch.manual_seed(0)
    attention = Attention(32, 2, rotary=True)
    image = torch.randn(1, 32, 4, 6)
    key, value = attention.prepare(image)
    assert torch.equal(attention(image, key, value), torch.zeros_like(image))
    moved = attention.prepare(image.roll(2, dims=3))
    # Moved by one pooled cell: values move along, keys have turned.
    at = value.unflatten(2, (2, 3)).roll(1, dims=3).flatten(2, 3)
    torch.testing.assert_close(moved[1], at)
    turned = key.unflatten(2, (2, 3)).roll(1, dims=3).flatten(2, 3)
    assert not torch.allclose(moved[0], turned, atol=1e-2)


def test_upsampled_warp_keeps_an_affine_warp_away_from_the_border() -> None:
    coarse, fine = cell_grid(6, 8), cell_grid(12, 16)
    A = torch.tensor([[0.8, 0.2], [-0.1, 0.9]])
    small = (coarse @ A.T + 0.05).permute(2, 0, 1)[None]
    large = (fine @ A.T + 0.05).permute(2, 0, 1)[None]
    difference = (upsampled_warp(small) - large).abs()
    assert float(difference[..., 1:-1, 1:-1].max()) < 1e-5
    assert float(difference.max()) < 0.05


def test_precision_factor_is_positive_and_starts_at_two_pixels() -> None:
    torch.testing.assert_close(
        precision_factor(torch.zeros(1, 3, 1, 1)).flatten(),
        torch.tensor([0.5, 0.0, 0.5]),
        atol=0.01,
        rtol=0,
    )
    wild = precision_factor(torch.randn(1, 3, 50, 50) * 50)
    assert float(wild[:, 0].min()) > 0 and float(wild[:, 2].min()) > 0


# --- the whole ------------------------------------------------------------------------------


def test_sizes_are_multiples_of_32_and_a_batch_is_its_parts(shipped: Lite) -> None:
    with pytest.raises(InvalidInput, match=r"multiples of 32.*640x470"):
        shipped.encode(torch.zeros(1, 3, 470, 640))
    images = torch.cat([tensor_of(texture(96, 64, seed)) for seed in range(4)])

    def run(query: torch.Tensor, keyframe: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return shipped.match(shipped.encode(query), shipped.reference(shipped.encode(keyframe)))

    both = run(images[:2], images[2:])
    assert {name: tuple(value.shape) for name, value in both.items()} == {
        "warp": (2, 2, 16, 24),
        "certainty": (2, 1, 16, 24),
        "precision": (2, 3, 16, 24),
    }
    alone = run(images[1:2], images[3:])
    for name, value in alone.items():
        torch.testing.assert_close(both[name][1:], value, atol=1e-4, rtol=1e-4)


def test_before_any_training_it_finds_what_has_moved(untrained: Lite) -> None:
    """By 2 and 1 cells and darkened; even a backbone of random weights tells cells apart."""
    image = texture(352, 272)
    query, keyframe = image[16:272, 32:352], (image[:256, :320] * 0.6 + 20).astype(np.uint8)
    cells, found = cells_px(match_of(untrained, query, keyframe), (320, 256))
    truth = cells + (32, 16)
    inside = (truth < (312, 248)).all(axis=1)
    assert np.median(np.linalg.norm(found - truth, axis=1)[inside]) < 10.0  # by chance 100


def test_every_parameter_is_trained() -> None:
    torch.manual_seed(0)
    network = build_lite(self_blocks=1, cross_blocks=1)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.01)
    images = torch.cat([tensor_of(texture(96, 64, seed)) for seed in range(2)])
    features = network.encode(images)
    query = {name: value[:1] for name, value in features.items()}
    keyframe = {name: value[1:] for name, value in features.items()}
    levels = network.match_levels(query, network.reference(keyframe))
    total = sum(value.float().square().sum() for level in levels for value in level.values())
    total.backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


def test_a_card_can_name_other_widths() -> None:
    network = build_lite(coarse=64, context=32, heads=2, cross_blocks=1)
    assert network.config == LiteConfig(coarse=64, context=32, heads=2, cross_blocks=1)
    image = tensor_of(texture(64, 64))
    with torch.inference_mode():
        features = network.encode(image)
        assert features["coarse"].shape == (1, 64, 4, 4)
        assert "key1" not in network.reference(features)


# --- what ships -----------------------------------------------------------------------------


def test_shipped_weights_match_a_turned_picture(shipped: Lite) -> None:
    """12 degrees, 0.9 in scale and a tilt: 90 % within 3 px at 640x480, median under 1 px."""
    image = texture(640, 480)
    query, image_from_query = turned_view(image)
    match = match_of(shipped, query, image)
    cells, found = cells_px(match, (640, 480))
    truth = mapped(image_from_query, cells)
    inside = ((truth > 8) & (truth < (632, 472))).all(axis=1)
    error = np.linalg.norm(found - truth, axis=1)
    assert np.median(error[inside]) < 1.0
    assert np.mean(error[inside] < 3.0) > 0.9
    certainty = match["certainty"].flatten().sigmoid().numpy()
    outside = ((truth < -16) | (truth > (656, 496))).any(axis=1)
    assert np.median(certainty[inside]) > 0.8 > 0.3 > np.median(certainty[outside])


def test_shipped_precision_is_about_the_error_made(shipped: Lite) -> None:
    """Squared normalised errors: chi-square of 2 degrees has median 1.39.

    The training pairs are harder than this one, so it may be called worse than it is.
    """
    image = texture(640, 480, seed=3)
    query, image_from_query = turned_view(image, degrees=-8.0, scale=1.1)
    match = match_of(shipped, query, image)
    cells, found = cells_px(match, (640, 480))
    residual = found - mapped(image_from_query, cells)
    a, b, c = match["precision"][0].flatten(1).numpy()
    squared = (a * residual[:, 0] + b * residual[:, 1]) ** 2 + (c * residual[:, 1]) ** 2
    certain = match["certainty"].flatten().numpy() > 0
    assert 1.39 / 10 < np.median(squared[certain]) < 1.39 * 3


@pytest.mark.parametrize("size", [(640, 480), (640, 352)])
def test_shipped_graphs_are_the_shipped_weights(shipped: Lite, size: tuple[int, int]) -> None:
    from l2m_ros.engines.backend import BackendOptions, load_backend
    from l2m_ros.export.agreement import agreement
    from l2m_ros.matching.catalogue import find_card

    card = load_card(MODELS / "lite.yaml")
    assert card.name == find_card("lite").name
    card = card.resized(*size)
    query = texture(*size, seed=5)
    images = [tensor_of(picture).numpy() for picture in (query, turned_view(query)[0])]
    backend = load_backend("onnxruntime", card, BackendOptions(device="cpu"))
    measured = agreement(shipped, backend, card, images)
    assert measured.median_px < 1e-3 and measured.certainty < 1e-2


def test_all_shipped_weights_are_small() -> None:
    files = [*MODELS.glob("*.safetensors"), *MODELS.glob("*/*.onnx")]
    assert sum(path.stat().st_size for path in files) < 25e6


def test_shipped_golden_numbers_hold_and_other_weights_fail_them(tmp_path: Path) -> None:
    from l2m_ros.workshop.parity import lite as lite_parity
    from l2m_ros.workshop.parity.golden import Cases, Report, read_cases

    cases: Cases = read_cases(MODELS)
    network, report = build("lite"), Report("lite")
    lite_parity.run(network, cases, cases.of("lite"), report, lambda rgb, w, h: rgb)
    assert report.passed, report.table()
    golden = cases.load("lite_golden.npz")
    with torch.no_grad():
        network.get_parameter("describe_fine.enter.weight").add_(0.01)
    other = tmp_path / "other.npz"
    lite_parity.save_golden(other, network, golden["query"], golden["keyframe"])
    moved = np.load(other)
    assert set(moved.files) == set(golden)
    error = np.abs(moved["encode/fine"] - golden["encode/fine"]).max()
    assert error > 10 * lite_parity.FEATURES
