"""Exported graphs: what is in them, and that ONNX Runtime gives torch's numbers by them."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from fakes.exported import exported_toy
from fakes.toy_network import ToyNetwork, ramp
from onnx import TensorProto, helper

from l2m_ros.engines.backend import BackendOptions
from l2m_ros.engines.model_card import InputSpec, ModelCard, load_card
from l2m_ros.engines.onnxruntime import load
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.export import onnx_graph
from l2m_ros.export.agreement import agreement
from l2m_ros.export.half_precision import to_half
from l2m_ros.export.parser_check import load_table, problems_of
from l2m_ros.export.stages import HEAD_RESULTS, ExportOptions, export_model
from l2m_ros.export.tidy import tidy
from l2m_ros.matching.preprocess import network_input

CARD = ModelCard(name="toy", architecture="toy", input=InputSpec(64, 64, multiple=8))


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request):
    return exported_toy(request.param)


def graphs(card):
    return {role: onnx_graph.load(card.file(role)) for role in card.files}


def test_graphs_reproduce_torch(exported):
    images = [network_input(exported.input, ramp(96, 64, x=x, y=40)) for x in (47, 40)]
    backend = load(exported, BackendOptions())
    result = agreement(ToyNetwork().eval(), backend, exported, images)
    limit = 1e-3 if exported.precision == "fp32" else 0.1
    assert result.pixels > 50
    assert result.median_px < limit
    assert result.p99_px < (0.05 if exported.precision == "fp32" else 0.5)


def test_card_tells_all(exported):
    card = load_card(exported.folder / "card.yaml")
    assert card.input.size == (96, 64) and card.precision == exported.precision
    assert set(card.files) == {"encoder", "reference", "decoder"}
    assert card.keep == {"coarse": "coarse", "fine": "fine"}  # handed on, through no graph
    assert card.solve.solution == "solution"
    for role in card.files:
        assert card.file(role).stat().st_size > 0


def test_shapes_are_fixed_and_the_solve_is_outside(exported):
    models = graphs(exported)
    assert [o.name for o in models["reference"].graph.output] == ["matrix", "right"]
    assert {i.name for i in models["decoder"].graph.input} == {
        "query_coarse", "query_fine", "keyframe_coarse", "keyframe_fine", "keyframe_solution"
    }  # fmt: skip
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
        assert problems_of(model) == []
        assert 17 <= onnx_graph.opset(model) <= 20
        for value in (*model.graph.input, *model.graph.output):
            assert all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim)
        assert "/" not in str(model.metadata_props)


def test_types_are_where_they_should_be(exported):
    """fp16: convolutions and products, but not coordinates, kernel, softmax, grid."""
    for role, model in graphs(exported).items():
        types = {n: t for n, (t, _) in onnx_graph.value_types(model).items()}
        for node in model.graph.node:
            kinds = {types[n] for n in node.input if types.get(n) in (1, 10)}
            assert len(kinds) <= 1 or node.op_type == "Resize", f"{node.op_type} mixes types"
            if exported.precision == "fp32":
                assert kinds <= {TensorProto.FLOAT}
            if node.op_type in ("GridSample", "Exp", "Softmax", "ReduceSum", "Sqrt"):
                assert kinds == {TensorProto.FLOAT}
        half = {
            n.op_type
            for n in model.graph.node
            if any(types.get(i) == TensorProto.FLOAT16 for i in n.input)
        }
        if exported.precision == "fp16":
            assert ("Conv" in half) == (role == "encoder")
            assert "MatMul" not in half  # the toy's only products are its kernel's
        for value in model.graph.output:
            if value.name in ("warp", "certainty", "precision", "matrix", "right"):
                assert value.type.tensor_type.elem_type == TensorProto.FLOAT


class Attention(torch.nn.Module):
    """What a transformer block holds, with a residual and a flow head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.LayerNorm(32)
        self.qkv = torch.nn.Linear(32, 96)
        self.out = torch.nn.Linear(32, 32)
        self.head = torch.nn.Conv2d(32, 2, 1)

    def forward(self, tokens, image):
        q, k, v = self.qkv(self.norm(tokens)).reshape(1, -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
        unit = tokens / tokens.square().sum(-1, keepdim=True).sqrt()
        flow = self.head(unit.transpose(1, 2).reshape(1, 32, 6, 8))
        warp = torch.nn.functional.grid_sample(image, flow.permute(0, 2, 3, 1), align_corners=False)
        return warp, flow


def test_half_precision_of_a_transformer(tmp_path):
    """Products in fp16, softmax and norms and the head that writes coordinates in fp32."""
    import onnxruntime as ort

    module = Attention().eval()
    inputs = {"tokens": torch.randn(1, 48, 32), "image": torch.randn(1, 3, 20, 20)}
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=["sampled", "warp"],
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    half = to_half(program.model_proto, keep_fp32={"warp"})
    assert problems_of(half) == []
    types = {n: t for n, (t, _) in onnx_graph.value_types(half).items()}
    kind = {}
    for node in half.graph.node:
        kind.setdefault(node.op_type, []).append(types[node.output[0]])
    assert set(kind["MatMul"]) == {TensorProto.FLOAT16} and len(kind["MatMul"]) == 4
    for fp32 in ("Softmax", "LayerNormalization", "GridSample", "Conv", "Sqrt"):
        assert set(kind[fp32]) == {TensorProto.FLOAT}, fp32
    session = ort.InferenceSession(half.SerializeToString())
    got = session.run(["warp"], {k: v.numpy() for k, v in inputs.items()})[0]
    with torch.no_grad():
        assert np.abs(got - module(*inputs.values())[1].numpy()).max() < 5e-3


def one_node(op, shape=(1, 2, 4, 4), kind=TensorProto.FLOAT, opset=18, extra=(), **attributes):
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    out = helper.make_tensor_value_info("y", kind, None)
    node = helper.make_node(op, ["x", *(e.name for e in extra)], ["y"], name="n", **attributes)
    graph = helper.make_graph([node], "g", inputs, [out], initializer=list(extra))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (one_node("NonZero"), "forbidden"),
        (one_node("Det", (1, 4, 4)), "no such operator"),
        (one_node("Softmax", kind=TensorProto.DOUBLE), "TensorRT takes FP32"),
        (one_node("Relu", (1,) * 9), "9 dimensions"),
        (one_node("Relu", opset=21), "opset 21"),
        (one_node("Relu", ("n", 2)), "no fixed shape"),
        (one_node("MaxPool", (1, 2, 9), kernel_shape=[3]), "3 dimensions"),
    ],
)
def test_checker_refuses(model, words):
    assert any(words in problem for problem in problems_of(model)), problems_of(model)


def test_checker_knows_grid_sample_and_resize():
    sizes = onnx.numpy_helper.from_array(np.array([1, 2, 2, 2], np.int64), "sizes")
    resize = one_node("Resize", antialias=1, mode="linear")
    resize.graph.node[0].input.extend(["", "", "sizes"])
    resize.graph.initializer.append(sizes)
    assert any("antialias" in p for p in problems_of(resize))
    resize.graph.node[0].attribute[0].i = 0
    assert problems_of(resize)[:1] in ([], ["y has no fixed shape: (None,)"])
    grid = onnx.numpy_helper.from_array(np.zeros((1, 2, 2, 2, 3), np.float32), "grid")
    five = one_node("GridSample", (1, 1, 2, 2, 2), opset=20, extra=[grid], mode="linear")
    found = " ".join(problems_of(five))
    assert "5 dimensions" in found and "linear" in found


def test_what_torch_writes_is_made_fit():
    """A large identity (counters of 16 bits) and a clip of integers; the numbers stay."""
    import onnxruntime as ort

    class Odd(torch.nn.Module):
        def forward(self, x):
            index = (x[0, 0] * 9).long().clamp(2, 5)
            return x @ torch.eye(x.shape[-1]), torch.arange(10.0)[index]

    x = torch.rand(1, 3, 1200)
    program = torch.onnx.export(
        Odd(), (x,), input_names=["x"], opset_version=18, dynamo=True, verbose=False
    )
    model = program.model_proto
    before = " ".join(problems_of(model))
    assert "Equal" in before and "Clip" in before
    tidy(model)
    assert problems_of(model) == []
    same, picked = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    assert np.allclose(same, x.numpy(), atol=1e-6)
    assert np.array_equal(picked, np.clip((x[0, 0].numpy() * 9).astype(int), 2, 5))


def test_checker_takes_another_table(tmp_path):
    path = tmp_path / "ops.json"
    path.write_text(json.dumps({"operators": {"Relu": {"supported": True, "types": ["FP16"]}}}))
    table = load_table(path)
    assert any("TensorRT takes FP16" in p for p in problems_of(one_node("Relu"), table))
    assert any("no such operator" in p for p in problems_of(one_node("Softmax"), table))
    path.write_text("[]")
    with pytest.raises(ModelError, match="no operator table"):
        load_table(path)


def test_a_network_that_tensorrt_cannot_take_is_not_written(tmp_path):
    class Nonzero(ToyNetwork):
        def match(self, features, reference):
            out = super().match(features, reference)
            out["warp"] = out["warp"] + torch.nonzero(features["coarse"]).sum()
            return out

    with pytest.raises(ModelError, match="depend on data"):
        export_model(Nonzero(), CARD, ExportOptions(out=tmp_path / "x", height=64, width=64))
    assert not (tmp_path / "x" / "card.yaml").exists()

    class Determinant(torch.nn.Module):  # as a depth head, which is one graph
        def feature_stand_ins(self, height, width):
            return {"fine": torch.zeros(1, 1, 4, 4)}

        def depth(self, features):
            return dict.fromkeys(HEAD_RESULTS, torch.linalg.det(features["fine"]))

    with pytest.raises(ModelError, match="TensorRT would not take"):
        export_model(Determinant(), CARD, ExportOptions(out=tmp_path / "x", height=64, width=64))
    assert not (tmp_path / "x").exists()


def test_options_are_checked(tmp_path):
    for bad in ({"precision": "int8"}, {"opset": 12}):
        with pytest.raises(InvalidInput):
            ExportOptions(out=tmp_path, height=64, width=64, **bad)
    with pytest.raises(ModelError, match="multiple of 8"):
        export_model(ToyNetwork(), CARD, ExportOptions(out=tmp_path, height=63, width=64))


def test_truncated_and_foreign_files_are_refused_in_one_line(exported, tmp_path):
    for role in exported.files:
        (tmp_path / f"{role}.onnx").write_bytes(exported.file(role).read_bytes())
    card = replace(exported, folder=tmp_path)
    load(card, BackendOptions())
    encoder = tmp_path / "encoder.onnx"
    whole = encoder.read_bytes()
    unsigned = replace(card, files={r: replace(f, sha256=None) for r, f in card.files.items()})
    for content, words in ((whole[:-200], "sha256"), (b"", "is empty")):
        encoder.write_bytes(content)
        with pytest.raises(ModelError, match=words):
            load(card, BackendOptions())
    encoder.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot load") as refusal:
        load(unsigned, BackendOptions())
    assert "\n" not in str(refusal.value)
    encoder.write_bytes(exported.file("decoder").read_bytes())
    with pytest.raises(ModelError, match="of another size or model"):
        load(unsigned, BackendOptions())
    encoder.write_bytes(whole)
    with pytest.raises(ModelError, match="l2m export toy --size 64x72 --out DIR"):
        load(card.resized(72, 64), BackendOptions())
