"""L2M as torch's back-end prepares it for a CPU: fewer passes over memory, the same numbers."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from l2m_ros.engines import torch as engine
from l2m_ros.engines.backend import BackendOptions
from l2m_ros.engines.model_card import load_card
from l2m_ros.networks.l2m.cpu import prepare
from l2m_ros.networks.l2m.network import TINY
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.named_weights import fill

SIZE = (56, 84)


@pytest.fixture(scope="module")
def network():
    """Weights of which no normalisation is the identity, and refiners that move by pixels."""
    network = fill(build("l2m", **TINY), "cpu: ").eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.running_mean, -0.3), (module.running_var, 0.7)):
                value.copy_(low + 0.6 * torch.rand(value.shape, generator=draw))
    return network


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 1, 3, *SIZE, generator=torch.Generator().manual_seed(5))


def levels(network, images):
    query, keyframe = (network.encode(image) for image in images)
    with torch.inference_mode():
        return network.levels(query, network.reference(keyframe))


def pixels_apart(a, b):
    size = torch.tensor(SIZE[::-1])[None, :, None, None]
    return ((a - b) * size / 2).norm(dim=1)


def test_prepared_for_a_cpu_it_gives_the_same_numbers(network, images):
    plain = levels(network, images)
    prepared = prepare(copy.deepcopy(network))
    fine = (prepared.encoder, prepared.decoder)
    assert not any(isinstance(m, nn.BatchNorm2d) for part in fine for m in part.modules())
    for before, after in zip(plain, levels(prepared, images), strict=True):
        assert before.delta.abs().max() > 1e-3  # the refiners do something
        assert pixels_apart(before.flow, after.flow).max() < 1e-3, before.stride
        assert (before.certainty - after.certainty).abs().max() < 1e-3, before.stride


def test_torchs_back_end_prepares_it_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.delenv(engine.LARGE_PAGES, raising=False)
    path = tmp_path / "thin.yaml"
    words = "name: thin\narchitecture: l2m\ninput: {width: 84, height: 56, multiple: 14}\n"
    path.write_text(f"{words}config: {TINY}\n")
    network = engine.load(load_card(path), BackendOptions("cpu", untrained=True)).network
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert os.environ.pop(engine.LARGE_PAGES) == "1"


def test_torch_reads_the_variable_by_that_name():
    library = next(Path(torch.__file__).parent.glob("lib/*c10.*"))
    assert engine.LARGE_PAGES.encode() in library.read_bytes()
