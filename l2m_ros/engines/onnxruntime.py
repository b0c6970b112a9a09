"""ONNX Runtime: the CPU of a laptop, or CUDA where onnxruntime-gpu is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

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

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime can use a CUDA device.

    The list of providers is that of the build, so the device is asked for too; opening the
    session is what proves it (`open_session`).
    """
    return CUDA in ort.get_available_providers() and ort.get_device() == "GPU"


def load(card: ModelCard, options: BackendOptions) -> OnnxRuntimeBackend:
    wanted = options.device
    if wanted == "cuda" and not has_cuda():
        raise BackendUnavailable(
            "this onnxruntime has no CUDA: pip install onnxruntime-gpu, or use device cpu"
        )
    device = "cuda" if wanted != "cpu" and has_cuda() else "cpu"
    sessions = {
        stage: open_session(card.file(GRAPHS[stage]), device, options.threads)
        for stage in stages_of(card)
    }
    return OnnxRuntimeBackend(card, sessions, device)


def open_session(path: Path, device: str = "cpu", threads: int = 0) -> ort.InferenceSession:
    """A session on `device` ("cpu" or "cuda"); `threads` 0 leaves the number to ONNX Runtime."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    # Threads that spin while they wait take the cores from the camera driver and from DDS: with
    # another busy process on 2 cores, lite took 200 ms spinning and 74 ms without.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3  # errors only: warnings would fill the console
    providers = [CUDA, CPU] if device == "cuda" else [CPU]
    try:
        # Where the file itself lies, not a link to it, lie the weights that it reads.
        session = ort.InferenceSession(str(path.resolve()), settings, providers=providers)
    except Exception as error:  # its exceptions share no base class but Exception
        raise ModelError(
            f"onnxruntime cannot load {path}: it is truncated, not ONNX, or newer than "
            f"onnxruntime {ort.__version__} ({str(error).splitlines()[0]})"
        ) from error
    if providers[0] not in session.get_providers():
        raise BackendUnavailable(
            f"onnxruntime could not open the CUDA device (it offers {session.get_providers()}): "
            "check the driver and cuDNN, or use device cpu"
        )
    return session


class OnnxRuntimeBackend(GraphEngine):
    """Tensors are OrtValues on the session's device; only `to_host` copies them down."""

    name = "onnxruntime"

    def __init__(
        self, card: ModelCard, sessions: Mapping[str, ort.InferenceSession], device: str
    ) -> None:
        self.card, self.device, self._sessions = card, device, dict(sessions)
        if "encode" not in self._sessions:
            return
        image = self._sessions["encode"].get_inputs()[0]
        size = (1, 3, card.input.height, card.input.width)
        if image.name != "image" or tuple(image.shape) != size:
            raise ModelError(
                f"the encoder graph of {card.name} takes {image.name} {tuple(image.shape)}, its "
                f"card says image {size}: these graphs are of another size or model; export "
                f"them with `l2m export {card.architecture} --size "
                f"{card.input.height}x{card.input.width} --out DIR`"
            )

    def to_host(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        return {name: value.numpy() for name, value in tensors.items()}

    def device_memory_bytes(self) -> int | None:
        return None  # ONNX Runtime does not tell what its CUDA arena holds

    def _to_device(self, name: str, array: Array) -> ort.OrtValue:
        return self._value(array)

    def _value(self, tensor: Any) -> ort.OrtValue:
        if isinstance(tensor, np.ndarray):
            return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor), self.device, 0)
        return tensor

    def _run_graph(self, stage: str, inputs: Mapping[str, Any]) -> Tensors:
        session = self._sessions[stage]
        shapes = {i.name: tuple(i.shape) for i in session.get_inputs()}
        binding = session.io_binding()
        for name in checked_inputs(stage, shapes, inputs):
            value = self._value(inputs[name])
            if tuple(value.shape()) != shapes[name]:
                raise self._of_another(stage, name, tuple(value.shape()), shapes[name])
            binding.bind_ortvalue_input(name, value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, self.device)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))
