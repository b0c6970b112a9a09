"""The parts of L2M and TinyRoMa against slow twins that read like their definitions."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.networks.l2m import gp
from l2m_ros.networks.l2m.anchors import Anchors
from l2m_ros.networks.l2m.network import TINY, attenuation
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared import correlation
from l2m_ros.networks.shared.grid import centre_grid, resize, sample
from l2m_ros.networks.shared.transformer import Attention
from l2m_ros.networks.shared.vit import ViT, bicubic_matrix, resized_position


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


def tiny(**changes):
    """A thin L2M whose flows and certainties are not trivial."""
    network = build("l2m", **{**TINY, **changes}).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    for refiner in network.decoder.conv_refiner.values():
        refiner.out_conv.weight *= 8.0
    torch.nn.init.normal_(network.dinov2.pos_embed, std=0.5)
    for block in network.dinov2.blocks:
        block.ls1.gamma.fill_(0.4)
        block.ls2.gamma.fill_(0.4)
    return network


# --- coordinates and positions ----------------------------------------------------------------


def test_centres_of_the_grid_sample_each_cell_exactly():
    image = torch.rand(1, 3, 4, 7)
    assert torch.allclose(sample(image, centre_grid(4, 7, image)[None]), image, atol=1e-6)


def test_resize_of_what_fits_is_the_identity():
    image = torch.rand(1, 1, 5, 6)
    assert resize(image, (5, 6)) is image


@pytest.mark.parametrize("cells", [3, 8, 12, 37, 40])
def test_bicubic_matrix_is_torchs_with_a_stated_scale(cells):
    line = torch.randn(1, 2, 37, 37)
    scale = (cells + 0.1) / 37
    expected = F.interpolate(line, scale_factor=(scale, scale), mode="bicubic")
    matrix = torch.from_numpy(bicubic_matrix(37, cells))
    ours = matrix @ line @ matrix.T
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 2e-5


def test_position_of_the_native_size_is_taken_as_it_is():
    stored = torch.randn(1, 26, 4)
    assert resized_position(stored, 5, 5, 5) is stored
    moved = resized_position(stored, 5, 4, 6)
    assert moved.shape == (1, 25, 4)
    assert torch.equal(moved[:, 0], stored[:, 0])  # the class token's stays


def test_vit_refuses_what_its_patches_do_not_tile():
    vit = ViT(8, 1, 2, patch=14, native=3)
    with pytest.raises(InvalidInput, match="multiples of 14, got 30x28"):
        vit(torch.zeros(1, 3, 28, 30))


def test_attention_is_softmax_of_scaled_products():
    attention = Attention(12, 3, qkv_bias=True)
    tokens = torch.randn(2, 5, 12)
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        weight = (query[..., part] @ key[..., part].transpose(1, 2) / 2.0).softmax(dim=-1)
        heads.append(weight @ value[..., part])
    expected = attention.proj(torch.cat(heads, dim=-1))
    assert torch.allclose(attention(tokens), expected, atol=1e-5)


# --- Gaussian process -------------------------------------------------------------------------


def test_posterior_mean_equals_the_textbook_with_an_inverse():
    process = gp.MatchEncoder(8).requires_grad_(False)
    query, keyframe = torch.randn(2, 16, 3, 4), torch.randn(2, 16, 4, 5)
    matrix, right = process.system(keyframe)
    ours = process(query, keyframe, gp.solve(matrix, right))
    for image in range(2):
        a = query[image].flatten(1).T.double()
        b = keyframe[image].flatten(1).T.double()
        kernel = lambda x, y: torch.exp(  # noqa: E731
            (x @ y.T / (x.norm(dim=1)[:, None] * y.norm(dim=1) + 1e-6) - 1) / 0.2
        )
        grid = centre_grid(4, 5, b).flatten(1).T
        weight, bias = process.pos_conv.weight[:, :, 0, 0].double(), process.pos_conv.bias.double()
        code = torch.cos(8 * torch.pi * (grid @ weight.T + bias))
        inverse = torch.linalg.inv(kernel(b, b) + 0.1 * torch.eye(20).double())
        expected = (kernel(a, b) @ inverse @ code).T.reshape(8, 3, 4)
        assert (ours[image] - expected).abs().max() < 1e-5


def test_training_in_half_precision_leaves_the_process_exact():
    """In bfloat16 the matrix of cells that look alike is not positive definite."""
    process = gp.MatchEncoder(8).requires_grad_(False)
    query, keyframe = 1.0 + 0.05 * torch.randn(2, 1, 64, 12, 12)
    exact = process.system(keyframe)
    with torch.autocast("cpu", torch.bfloat16):
        matrix, right = process.system(keyframe)
        solution = gp.solve(matrix.requires_grad_(), right)
        mean = process(query, keyframe, solution)
    assert torch.equal(matrix, exact[0]) and torch.equal(right, exact[1])
    assert torch.equal(mean, process(query, keyframe, solution))


def test_solve_on_the_host_and_by_torch_agree_and_the_latter_is_differentiable():
    root = torch.randn(2, 9, 9)
    matrix = (root @ root.transpose(1, 2) + 0.5 * torch.eye(9)).requires_grad_()
    right = torch.randn(2, 9, 3)
    by_torch = gp.solve(matrix, right)
    with torch.no_grad():
        assert torch.allclose(gp.solve(matrix, right), by_torch, atol=1e-4)
    by_torch.sum().backward()
    assert matrix.grad.isfinite().all()


def test_solve_names_the_cause_of_a_hopeless_matrix():
    with torch.no_grad(), pytest.raises(ModelError, match="cannot be solved"):
        gp.solve(torch.full((1, 2, 2), float("nan")), torch.ones(1, 2, 1))


# --- anchors ----------------------------------------------------------------------------------


def test_anchors_by_hand():
    """Every anchor as the best one: corners, ends of rows and all."""
    side = 4
    index = torch.arange(side * side)
    logits = torch.randn(1, side * side, 1, side * side)
    logits[0, index, 0, index] = 6.0
    flow = Anchors(side)(logits)
    share = logits.softmax(dim=1)[0, :, 0]
    for cell in range(side * side):
        total, weight = np.zeros(2), 0.0
        for near in (cell - 1, cell, cell + 1, cell - side, cell + side):
            near = min(max(near, 0), side * side - 1)
            place = np.array([(2 * (near % side) + 1), (2 * (near // side) + 1)]) / side - 1
            total += share[near, cell].item() * place
            weight += share[near, cell].item()
        assert np.allclose(flow[0, :, 0, cell].numpy(), total / weight, atol=1e-5)


# --- local correlation ------------------------------------------------------------------------

SHAPES = [(1, 5, 7), (2, 9, 8), (2, 23, 31), (3, 6, 40)]


@pytest.mark.parametrize(("radius", "height", "width"), SHAPES)
@pytest.mark.parametrize("form", [correlation._by_matrix, correlation._by_gathering])
def test_fast_correlation_equals_its_plain_twin(radius, height, width, form, monkeypatch):
    for name in ("_by_matrix", "_by_gathering"):
        monkeypatch.setattr(correlation, name, form)
    query, support = torch.randn(2, 2, 6, height, width)
    flow = 1.3 * torch.randn(2, 2, height, width)  # a third of it beyond the border
    flow[0, :, 0, :4] = torch.tensor([-50.0, 50.0, 1e6, -1e6])
    ours = correlation.local_correlation(query, support, flow, radius)
    plain = correlation.local_correlation_plain(query, support, flow, radius)
    with torch.inference_mode():  # gathers in other portions
        assert torch.allclose(
            correlation.local_correlation(query, support, flow, radius), ours, atol=1e-4
        )
    assert ours.shape == (2, (2 * radius + 1) ** 2, height, width)
    near = flow.abs().amax(dim=1, keepdim=True) < 100  # float32 has no fraction left beyond
    assert ((ours - plain) * near).abs().max() < 2e-4


def test_correlation_at_rest_has_the_cells_own_product_in_the_middle():
    query = torch.randn(1, 5, 6, 6)
    still = centre_grid(6, 6, query)[None]
    window = correlation.local_correlation(query, query, still, 1)
    assert torch.allclose(window[0, 4], query[0].square().sum(0) / 5**0.5, atol=1e-4)
    right = (query[0, :, :, :-1] * query[0, :, :, 1:]).sum(0) / 5**0.5
    assert torch.allclose(window[0, 5, :, :-1], right, atol=1e-4)
    assert window[0, 5, :, -1].abs().max() < 1e-4  # beyond the right border


def test_correlation_of_an_undefined_flow_is_undefined_and_harms_no_other_cell():
    query = torch.randn(1, 4, 5, 5)
    flow = centre_grid(5, 5, query)[None].clone()
    flow[:, :, 2, 2] = float("nan")
    window = correlation.local_correlation(query, query, flow, 1)
    assert window[0, :, 2, 2].isnan().all()
    assert window.isnan().sum() == 9


class LargestTensor(TorchDispatchMode):
    """The number of entries of the largest tensor that an operation made."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.untyped_storage().nbytes() // 4 for t in tree_leaves(out) if torch.is_tensor(t)]
        self.entries = max(self.entries, *sizes, 0)
        return out


@pytest.mark.parametrize("radius", [2, 7])
def test_correlation_holds_no_copy_of_the_map_per_offset(radius):
    query, support = torch.randn(2, 1, 256, 32, 32)
    flow = centre_grid(32, 32, query)[None] + 0.01
    with LargestTensor() as fast:
        correlation.local_correlation(query, support, flow, radius)
    with LargestTensor() as plain:
        correlation.local_correlation_plain(query, support, flow, radius)
    copies = (2 * radius + 1) ** 2 * query.numel()
    assert plain.entries >= copies  # so the counter counts
    assert fast.entries < copies / 3


def test_correlation_refuses_maps_of_two_sizes():
    with pytest.raises(InvalidInput, match="one size"):
        correlation.local_correlation(
            torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 4), 1
        )


# --- the whole --------------------------------------------------------------------------------


def undivided(network, a, b):
    """Both images through everything at once, the process with an explicit inverse."""
    decoder = network.decoder
    pyramid = network.encoder.cnn(torch.cat([a, b]))
    pyramid = {**pyramid, 16: network.dinov2(torch.cat([a, b]))}
    first, second = (
        {s: decoder.proj[str(s)](f[i : i + 1]) for s, f in pyramid.items()} for i in (0, 1)
    )
    process = decoder.gps["16"]
    x, y = gp.cells_of(first[16]), gp.cells_of(second[16])
    inverse = torch.linalg.inv(gp.kernel(y, y).double() + 0.1 * torch.eye(y.shape[1]).double())
    mean = gp.kernel(x, y).double() @ inverse @ process.code(second[16]).double()
    carried = mean.float().transpose(1, 2).reshape(1, -1, *first[16].shape[-2:])
    logits, certainty = decoder.embedding_decoder(torch.cat([carried, first[16]], dim=1))
    flow = decoder.anchors(logits)
    height, width = a.shape[-2:]
    for stride in (16, 8, 4, 2, 1):
        size = first[stride].shape[-2:]
        flow, certainty = (
            F.interpolate(v, size=size, mode="bilinear", align_corners=False)
            for v in (flow, certainty)
        )
        refiner = decoder.conv_refiner[str(stride)]
        delta, more = refiner(first[stride], second[stride], flow, 1.0)
        flow = flow + delta * stride / (4 * torch.tensor([width, height])[None, :, None, None])
        certainty = certainty + more
        if stride == 16:
            coarse = certainty
    doubt = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return flow, certainty - torch.where(doubt < 0, 0.5 * doubt, torch.zeros(()))


@pytest.mark.parametrize("size", [(56, 56), (56, 84), (70, 42)])
def test_split_for_keyframes_equals_the_undivided_network(size):
    network = tiny()
    a, b = torch.rand(2, 1, 3, *size)
    flow, certainty = undivided(network, a, b)
    assert flow.std() > 0.05  # not an answer that any network gives
    out = network.match(network.encode(a), network.reference(network.encode(b)))
    assert (out["warp"] - flow).abs().max() < 5e-5
    assert (out["certainty"] - certainty).abs().max() < 1e-3


def test_a_batch_is_its_images_one_by_one():
    network = tiny()
    a, b = torch.rand(2, 3, 3, 42, 56)
    together = network.match(network.encode(a), network.reference(network.encode(b)))
    for i in range(3):
        alone = network.match(
            network.encode(a[i : i + 1]), network.reference(network.encode(b[i : i + 1]))
        )
        for name, value in alone.items():
            assert (together[name][i] - value[0]).abs().max() < 1e-3, name


def test_reference_is_system_and_solution():
    network = tiny()
    features = network.encode(torch.rand(1, 3, 42, 42))
    system, reference = network.system(features), network.reference(features)
    assert (system["matrix"] @ reference["solution"] - system["right"]).abs().max() < 1e-4
    assert set(reference) == {*features, "solution"}
    assert all(reference[name] is features[name] for name in features)


def test_attenuation_halves_doubt_only():
    coarse = torch.tensor([[[[-4.0, 6.0]]]])
    assert torch.equal(attenuation(coarse, (1, 2)), torch.tensor([[[[-2.0, 0.0]]]]))
    plain, with_it = tiny(attenuate=False), tiny()
    with_it.load_state_dict(plain.state_dict())
    a, b = (plain.encode(torch.rand(1, 3, 42, 42)) for _ in range(2))
    kept, raised = (n.match(a, n.reference(b)) for n in (plain, with_it))
    assert torch.equal(kept["warp"], raised["warp"])
    assert (raised["certainty"] >= kept["certainty"]).all()


def test_second_pass_starts_where_the_first_ended():
    network = tiny()
    for refiner in network.decoder.conv_refiner.values():
        refiner.out_conv.weight.zero_()
        refiner.out_conv.bias.zero_()
    fine = [network.encode_fine(torch.rand(1, 3, 64, 96)) for _ in range(2)]
    flow, certainty = 0.3 * torch.randn(1, 2, 42, 56), torch.randn(1, 1, 42, 56)
    levels = network.refine(*fine, flow, certainty, 1.5)
    assert [level.stride for level in levels] == [8, 4, 2, 1]
    assert torch.allclose(levels[0].flow, resize(flow, (8, 12)))
    assert levels[-1].flow.shape[-2:] == (64, 96)


def test_one_unit_of_delta_is_a_quarter_of_the_stride():
    network = tiny()
    for refiner in network.decoder.conv_refiner.values():
        refiner.out_conv.weight.zero_()
        refiner.out_conv.bias.copy_(torch.tensor([1.0, -2.0, 0.5]))
    fine = [network.encode_fine(torch.rand(1, 3, 64, 96)) for _ in range(2)]
    levels = network.refine(*fine, torch.zeros(1, 2, 8, 12), torch.zeros(1, 1, 8, 12), 1.0)
    steps = sum(s / 4 for s in (8, 4, 2, 1))
    expected = torch.tensor([steps / 96, -2 * steps / 64])[None, :, None, None]
    assert torch.allclose(levels[-1].flow, expected.expand_as(levels[-1].flow), atol=1e-6)
    assert torch.allclose(levels[-1].certainty, torch.full((1, 1, 64, 96), 2.0))


def test_every_trained_part_gets_a_gradient():
    network = build("l2m", **TINY).train()
    a, b = torch.rand(2, 2, 3, 42, 42)
    features, reference = network.encode(a), network.reference(network.encode(b))
    coarse = network.coarse(features, reference)
    loss = coarse.logits.square().mean() + coarse.certainty.square().mean()
    for level in network.refined_from(coarse, features, reference):
        loss = loss + level.flow.abs().mean() + level.certainty.square().mean()
    loss.backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert without == ["dinov2.mask_token"]  # kept for its name only
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


FORBIDDEN = ("inv", "cholesky", "solve", "bicubic", "grid_sampler_3d", "nonzero", "_aa")


@pytest.mark.parametrize("name", ["l2m", "tinyroma"])
def test_the_frames_graph_holds_no_operator_that_engines_refuse(name):
    network = (
        tiny(vit_depth=1, decoder_depth=1, refiner_blocks=1)
        if name == "l2m"
        else build("tinyroma").eval().requires_grad_(False)
    )
    image = torch.rand(1, 3, 56, 56) if name == "l2m" else torch.rand(1, 3, 64, 64)
    features = network.encode(image)

    class Steps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, image, reference):
            return self.network.match(self.network.encode(image), reference)

    program = torch.export.export(Steps(), (image, network.reference(features)), strict=False)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    used = {target for target in called if target.startswith("aten.")}
    assert any("grid_sampl" in operator for operator in used)
    wrong = [o for o, bad in itertools.product(used, FORBIDDEN) if bad in o.split(".")[-2]]
    assert not wrong


def test_registry_names_the_nearest_architecture():
    with pytest.raises(ModelError, match="did you mean tinyroma"):
        build("tinyrome")
    with pytest.raises(ModelError, match="vit_widht"):
        build("l2m", vit_widht=3)
    with pytest.raises(ModelError, match="five numbers"):
        build("l2m", **{**TINY, "radii": [1, 2]})
