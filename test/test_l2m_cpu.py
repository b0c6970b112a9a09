"""L2M as torch's back-end prepares it for a CPU: fewer passes over memory, the same numbers.

With its transformers in bfloat16: nearly the same numbers.
"""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from l2m_ros.engines import torch as engine
from l2m_ros.engines.backend import BackendOptions, choices, load_backend
from l2m_ros.engines.model_card import load_card
from l2m_ros.errors import InvalidInput
from l2m_ros.matching.catalogue import find_card
from l2m_ros.networks.l2m.cpu import Bf16Attention, Bf16Linear, prepare
from l2m_ros.networks.l2m.network import TINY
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.named_weights import fill
from l2m_ros.networks.shared.transformer import Attention

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


def thin_card(folder):
    path = folder / "thin.yaml"
    words = "name: thin\narchitecture: l2m\ninput: {width: 84, height: 56, multiple: 14}\n"
    path.write_text(f"{words}config: {TINY}\n")
    return load_card(path)


def apart(a, b):
    """Relative to the length of a."""
    return float((a - b).norm() / a.norm())


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
    network = engine.load(thin_card(tmp_path), BackendOptions("cpu", untrained=True)).network
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert os.environ.pop(engine.LARGE_PAGES) == "1"


def test_torch_reads_the_variable_by_that_name():
    library = next(Path(torch.__file__).parent.glob("lib/*c10.*"))
    assert engine.LARGE_PAGES.encode() in library.read_bytes()


def test_a_linear_layer_in_bf16_is_one_of_rounded_numbers():
    layer = nn.Linear(24, 5)
    half = Bf16Linear(layer)
    values = torch.rand(7, 24, generator=torch.Generator().manual_seed(1))
    weight, bias, rounded = (t.bfloat16().double() for t in (layer.weight, layer.bias, values))
    result = half(values)
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), rounded @ weight.T + bias, rtol=2**-8, atol=1e-3)
    assert not torch.equal(result, layer(values))


@pytest.mark.parametrize("heads", [1, 3, 4])
def test_attention_in_bf16_is_attention(heads):
    draw = torch.Generator().manual_seed(2)
    attention = Attention(heads * 16, heads, qkv_bias=True).requires_grad_(False)
    attention.qkv.weight.mul_(4)  # weights far from even: scale, softmax and heads show
    tokens = torch.randn(2, 9, heads * 16, generator=draw)
    assert 1e-4 < apart(attention(tokens), Bf16Attention(attention)(tokens)) < 0.02


def test_in_bf16_the_transformers_round_and_nothing_else_does(network, images):
    exact, half = (prepare(copy.deepcopy(network), bf16=bf16) for bf16 in (False, True))
    with torch.inference_mode():
        plain, rounded = exact.encode(images[0]), half.encode(images[0])
        decoders = [each.decoder.embedding_decoder for each in (exact, half)]
        cells = torch.cat([plain["p16"], plain["p16"]], dim=1)[:, : decoders[0].to_out.in_features]
        logits = [decoder(cells)[0] for decoder in decoders]
    assert 1e-4 < apart(plain["p16"], rounded["p16"]) < 0.02
    assert 1e-4 < apart(*logits) < 0.02
    assert all(torch.equal(plain[name], rounded[name]) for name in ("p8", "p4", "p2", "p1"))
    linear = [m for m in half.modules() if isinstance(m, (nn.Linear, Bf16Linear))]
    assert [m for m in linear if isinstance(m, nn.Linear)] == [decoders[1].to_out]
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", "avx512_f"])
def test_torch_runs_in_bf16_only_where_the_cpu_multiplies_so(
    capability, tmp_path, monkeypatch, caplog, images
):
    monkeypatch.setenv(engine.LARGE_PAGES, "0")
    monkeypatch.setattr(engine, "cpu_capabilities", lambda: {capability: True})
    exact, half = (
        engine.load(thin_card(tmp_path), BackendOptions("cpu", untrained=True, precision=p))
        for p in ("fp32", "bf16")
    )
    features = [backend.run("encode", {"image": images[0]})["p16"] for backend in (exact, half)]
    falls_back = capability == "avx512_f"
    assert exact.precision == "fp32" and half.precision == ("fp32" if falls_back else "bf16")
    assert torch.equal(*features) == falls_back
    assert ("thin runs in fp32" in caplog.text) == falls_back


def test_an_older_torch_is_asked_by_its_own_names(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert engine.cpu_capabilities() == {"avx512_bf16": True, "amx_bf16": False}


def test_bf16_is_for_l2m_by_torch(tmp_path):
    card = thin_card(tmp_path)
    options = BackendOptions("cpu", untrained=True, precision="bf16")
    lite = find_card("lite")
    assert choices(lite, BackendOptions("cpu"))[0].name != "torch"
    chosen = choices(lite, options)[0]
    assert chosen.name == "torch" and "bf16" in chosen.why
    with pytest.raises(InvalidInput, match="for L2M, and lite is none"):
        load_backend("torch", lite, options)
    with pytest.raises(InvalidInput, match="for back-end torch"):
        load_backend("onnxruntime", card, options)
    with pytest.raises(InvalidInput, match="known: fp32, bf16"):
        BackendOptions(precision="fp16")
