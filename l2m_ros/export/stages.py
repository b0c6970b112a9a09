"""A network becomes ONNX graphs, one per stage, with the card that a runtime loads them by.

    encoder.onnx     image (1, 3, H, W) -> features
    reference.onnx   features -> keyframe tensors; absent where the keyframe keeps features only
    decoder.onnx     query_* features, keyframe_* tensors -> warp, certainty (logits), precision;
                     of MicKey: partner, back, probability
    depth.onnx       of a depth head, its only graph: another model's features -> log_depth, ...
    card.yaml        names, sizes, sha256

Shapes are fixed. Opset 18: the lowest that torch's exporter writes itself; 20 renames
GridSample's mode, and TensorRT 10.13 then computes it wrongly without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from l2m_ros.engines.backend import GRAPHS, match_inputs, split_match_inputs
from l2m_ros.engines.model_card import (
    GRAPH_ROLES,
    PRECISIONS,
    ModelCard,
    ModelFile,
    Solve,
    sha256_of,
    write_card,
)
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.export import onnx_graph
from l2m_ros.export.half_precision import to_half
from l2m_ros.export.parser_check import OPSETS, Table, problems_of
from l2m_ros.export.tidy import tidy
from l2m_ros.files import write_whole
from l2m_ros.networks.checkpoint import weights_id
from l2m_ros.progress import progress

CARD = "card.yaml"
DEFAULT_OPSET = 18
SOLVE = Solve(matrix="matrix", right="right", solution="solution")
METRIC_RESULTS = ("partner", "back", "probability")  # of MicKey: pairs of cells, no warp
RESULTS = ("warp", "certainty", "precision", *METRIC_RESULTS)
HEAD_RESULTS = ("log_depth", "log_sigma", "image_log_sigma")  # of a depth head
MEASURED = ("keypoints", "depth", "score")  # features that a host reads: never half precision
PROTOBUF_LIMIT_BYTES = 2**31 - 1


@dataclass(frozen=True)
class ExportOptions:
    """What `l2m export` takes."""

    out: Path
    height: int
    width: int
    precision: str = "fp32"
    opset: int = DEFAULT_OPSET

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidInput(f"precision is {self.precision!r}, known: {', '.join(PRECISIONS)}")
        if self.opset not in OPSETS:
            raise InvalidInput(f"opset {self.opset} is not within {OPSETS[0]} to {OPSETS[-1]}")


@dataclass(frozen=True)
class Traced:
    """One stage as a graph, before precision."""

    stage: str
    model: onnx.ModelProto


class _Step(nn.Module):
    """One stage with tensors in and out in a fixed order, as the exporter wants it."""

    def __init__(self, network: nn.Module, stage: str, inputs: list[str], outputs: list[str]):
        super().__init__()
        self.network, self.stage = network, stage
        self.inputs, self.outputs = inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        results = run_stage(self.network, self.stage, dict(zip(self.inputs, tensors, strict=True)))
        return tuple(results[name] for name in self.outputs)


def run_stage(network: Any, stage: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stage as the graphs hold it: a reference with a solve stops before the solve."""
    if stage == "encode":
        return dict(network.encode(tensors["image"]))
    if stage == "depth":
        return dict(network.depth(tensors))
    if stage == "reference":
        step = network.system if has_solve(network) else network.reference
        return dict(step(tensors))
    return dict(network.match(*split_match_inputs(tensors)))


def has_solve(network: Any) -> bool:
    """Whether its reference is the features and `solution` = matrix^-1 right of `system`."""
    return hasattr(network, "system")


def export_model(
    network: nn.Module, card: ModelCard, options: ExportOptions, table: Table | None = None
) -> ModelCard:
    """Write the graphs and their card into options.out; refuse what TensorRT would not take."""
    card = replace(card.resized(options.width, options.height), precision=options.precision)
    network = network.eval().requires_grad_(False)
    count = sum(p.numel() for p in network.parameters())
    eyes = getattr(network, "eyes", None)
    card = replace(
        card,
        parameters=count,
        weights_id=weights_id(network.state_dict()),
        eyes_id=None if eyes is None else weights_id(eyes.state_dict()),
    )
    traced, card = _trace(network, card, options)
    models = _in_precision(traced, card)
    problems = [
        f"{GRAPHS[stage]}: {words}"
        for stage, model in models.items()
        for words in problems_of(model, table)
    ]
    if problems:
        raise ModelError(f"TensorRT would not take these graphs: {'; '.join(problems[:5])}")
    return _write(models, card, options.out)


# --- tracing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One graph to be: stand-ins of its inputs, names of its outputs."""

    stage: str
    inputs: Mapping[str, Tensor]
    outputs: list[str]


def _trace(
    network: nn.Module, card: ModelCard, options: ExportOptions
) -> tuple[list[Traced], ModelCard]:
    """The graphs of all stages, and the card with what lies outside of them."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():  # shapes without work
            jobs, keep = _planned(network, torch.zeros(1, 3, options.height, options.width))
    except (DynamicOutputShapeException, DataDependentOutputException) as error:
        raise ModelError(
            f"{card.architecture} has shapes or branches that depend on data ({error}), which no "
            "graph of fixed shapes can hold"
        ) from error
    traced = []
    with progress(len(jobs), "exporting") as bar:
        for job in jobs:
            traced.append(Traced(job.stage, _onnx(network, job, options.opset)))
            bar.update(note=GRAPHS[job.stage])
    return traced, replace(card, keep=keep, solve=SOLVE if has_solve(network) else None)


def _planned(network: nn.Module, image: Tensor) -> tuple[list[_Job], dict[str, str]]:
    """The graphs, and which reference tensors are features that need none."""
    if hasattr(network, "depth"):
        inputs = cast(Callable[..., dict[str, Tensor]], network.feature_stand_ins)(
            *image.shape[-2:]
        )
        return [_Job("depth", inputs, list(HEAD_RESULTS))], {}
    features = run_stage(network, "encode", {"image": image})
    computed = run_stage(network, "reference", features)
    keep, reference = _kept(features, computed), dict(computed)
    if has_solve(network):
        keep = {name: name for name in features}
        reference = {**features, SOLVE.solution: torch.zeros_like(computed[SOLVE.right])}
    inputs = match_inputs(features, reference)
    results = run_stage(network, "match", dict(inputs))
    jobs = [
        _Job("encode", {"image": image}, list(features)),
        _Job("reference", features, [name for name in computed if name not in keep]),
        _Job("match", inputs, [name for name in RESULTS if name in results]),
    ]
    return [job for job in jobs if job.outputs], keep


def _kept(features: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, str]:
    """Reference tensors that are a feature: handed on by name, copied through no graph."""
    return {
        name: source
        for name, tensor in reference.items()
        for source, feature in features.items()
        if tensor is feature
    }


def _onnx(network: nn.Module, job: _Job, version: int) -> onnx.ModelProto:
    step = _Step(network, job.stage, list(job.inputs), job.outputs).eval()
    examples = tuple(torch.zeros(t.shape, dtype=t.dtype) for t in job.inputs.values())
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            step,
            examples,
            input_names=list(job.inputs),
            output_names=job.outputs,
            opset_version=version,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ModelError(f"torch {torch.__version__} exported nothing for stage {job.stage}")
    model: onnx.ModelProto = program.model_proto
    if onnx_graph.opset(model) != version:
        raise ModelError(f"torch {torch.__version__} cannot write opset {version}; use 18")
    tidy(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs what it skips of packages that are not installed, and warns of itself."""
    import logging
    import warnings

    names = ("torch.onnx", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


# --- precision and files --------------------------------------------------------------------


def _in_precision(traced: list[Traced], card: ModelCard) -> dict[str, onnx.ModelProto]:
    if card.precision == "fp32":
        return {part.stage: part.model for part in traced}
    solve = card.solve
    outputs = {*RESULTS, *MEASURED, *HEAD_RESULTS} | (
        {solve.matrix, solve.right} if solve else set()
    )
    keep = outputs | ({f"keyframe_{solve.solution}"} if solve else set())
    models: dict[str, onnx.ModelProto] = {}
    half_features: set[str] = set()
    half_reference: set[str] = set()
    for part in traced:
        given = half_features
        if part.stage == "match":
            half_reference |= {n for n, source in card.keep.items() if source in half_features}
            given = set(match_inputs(dict.fromkeys(half_features), dict.fromkeys(half_reference)))
        inputs = {value.name for value in part.model.graph.input}
        models[part.stage] = to_half(part.model, keep_fp32=keep, given_half=given & inputs)
        made = {
            value.name
            for value in models[part.stage].graph.output
            if value.type.tensor_type.elem_type == onnx_graph.HALF
        }
        if part.stage == "encode":
            half_features = made
        else:
            half_reference |= made
    return models


def write_shipped_card(written: ModelCard, path: Path) -> ModelCard:
    """Move what an export wrote into another card, beside which the files lie somewhere below.

    Words that a person wrote there (licence, accuracy, ...) stay.
    """
    from l2m_ros.engines.model_card import load_card

    if not written.folder.resolve().is_relative_to(path.parent.resolve()):
        raise InvalidInput(f"{written.folder} is not below {path.parent}: export to a folder there")
    below = written.folder.resolve().relative_to(path.parent.resolve())
    graphs = {
        role: replace(file, path=str(below / file.path))
        for role, file in written.files.items()
        if role in GRAPH_ROLES
    }
    before = load_card(path) if path.is_file() else written
    files = dict(graphs)
    for role, file in before.files.items():
        if role == "weights" and (path.parent / file.path).is_file():
            files[role] = replace(file, sha256=sha256_of(path.parent / file.path))
    parts = {
        name: getattr(written, name)
        for name in ("input", "config", "precision", "keep", "weights_id", "eyes_id")
    }
    card = replace(
        before, **parts, solve=written.solve, trained=written.trained, files=files,
        folder=path.parent, parameters=written.parameters,
    )  # fmt: skip
    write_card(card, path)
    (written.folder / CARD).unlink()
    return card


def _write(models: Mapping[str, onnx.ModelProto], card: ModelCard, out: Path) -> ModelCard:
    """The card last: who finds a card finds its graphs."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD).unlink(missing_ok=True)
    files = {}
    identity = {"model": card.name, "architecture": card.architecture, "precision": card.precision}
    for stage, model in models.items():
        onnx.helper.set_model_props(model, {**identity, "stage": stage})
        if model.ByteSize() > PROTOBUF_LIMIT_BYTES:
            raise ModelError(f"the {GRAPHS[stage]} graph exceeds 2 GB: export it as fp16")
        path = out / f"{GRAPHS[stage]}.onnx"
        write_whole(path, model.SerializeToString())
        files[GRAPHS[stage]] = ModelFile(path.name, sha256_of(path))
    weights = {role: file for role, file in card.files.items() if role == "weights"}
    written = replace(card, files={**files, **weights}, folder=out, speed={})
    write_card(written, out / CARD)
    return written
