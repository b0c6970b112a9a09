"""OpenVINO on a CPU: half precision where the CPU multiplies in it, twice as fast there.

The encoder runs in the CPU's own half precision (bfloat16 or float16, OpenVINO's choice), the rest
in single precision: the decoder's coordinates would lose a third of a pixel. A CPU without half
precision gets ONNX Runtime's numbers at ONNX Runtime's speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov

from l2m_ros.engines.backend import (
    GRAPHS,
    Array,
    BackendOptions,
    Tensors,
    checked_inputs,
    stages_of,
)
from l2m_ros.engines.graph_engine import GraphEngine
from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import BackendUnavailable, ModelError

HALF = ("BF16", "FP16")  # what OpenVINO calls it among a CPU's capabilities
EXACT = ("reference", "match", "depth")  # stages in single precision: their results are coordinates


def has_half() -> bool:
    """Whether this CPU multiplies in half precision, so that OpenVINO is the faster engine."""
    return any(kind in HALF for kind in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def load(card: ModelCard, options: BackendOptions) -> OpenVinoBackend:
    if options.device == "cuda":
        raise BackendUnavailable("back-end openvino runs on the CPU: use device cpu")
    core = ov.Core()
    graphs = {stage: _compiled(core, card, stage, options) for stage in stages_of(card)}
    return OpenVinoBackend(card, graphs)


def _compiled(core: ov.Core, card: ModelCard, stage: str, options: BackendOptions) -> Any:
    path = card.file(GRAPHS[stage])
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if stage in EXACT or card.solve:  # a Gaussian process' kernel bears no rounded features
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    try:
        # Where the file itself lies, not a link to it, lie the weights that it reads.
        return core.compile_model(path.resolve(), "CPU", settings)
    except RuntimeError as error:
        raise ModelError(
            f"openvino cannot load {path}: it is truncated, not ONNX, or newer than openvino "
            f"{ov.__version__} ({str(error).splitlines()[0]})"
        ) from error


class OpenVinoBackend(GraphEngine):
    """Tensors are NumPy arrays of their own: a request's memory is written over by the next."""

    name, device = "openvino", "cpu"

    def __init__(self, card: ModelCard, graphs: Mapping[str, Any]) -> None:
        self.card = card
        self._requests = {stage: graph.create_infer_request() for stage, graph in graphs.items()}
        self._shapes = {
            stage: {port.get_any_name(): tuple(port.shape) for port in graph.inputs}
            for stage, graph in graphs.items()
        }
        size = (1, 3, card.input.height, card.input.width)
        if self._shapes.get("encode", {"image": size}) != {"image": size}:
            raise ModelError(
                f"the encoder graph of {card.name} takes {self._shapes['encode']}, its card says "
                f"image {size}: export the graphs and the card together"
            )

    def to_host(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        return dict(tensors)

    def device_memory_bytes(self) -> int | None:
        return None

    def _to_device(self, name: str, array: Array) -> Array:
        return array

    def _run_graph(self, stage: str, inputs: Mapping[str, Any]) -> Tensors:
        shapes = self._shapes[stage]
        given = {}
        for name in checked_inputs(stage, shapes, inputs):
            given[name] = np.ascontiguousarray(inputs[name])
            if given[name].shape != shapes[name]:
                raise self._of_another(stage, name, given[name].shape, shapes[name])
        results = self._requests[stage].infer(given, share_inputs=True)
        return {port.get_any_name(): value.copy() for port, value in results.items()}
