"""What runs a network: three stages, on tensors that stay where the engine keeps them.

    features  = backend.run("encode", {"image": image})          image: (1, 3, H, W) float32
    reference = backend.run("reference", features)
    outputs   = backend.run("match", match_inputs(features, reference))
    arrays    = backend.to_host(outputs)                         the only download

A dict that `run` returns holds the engine's own tensors by name; keep it as
long as you like and hand it back, but do not read it: only `to_host` does.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import BackendUnavailable, InvalidInput, ModelError
from l2m_ros.spelling import nearest

STAGES = ("encode", "reference", "match")
MOST_THREADS = 256
PRECISIONS = ("fp32", "bf16")  # that a back-end is asked for
# stage: file role. A depth head has the last stage alone; a matcher has no such stage.
GRAPHS = {"encode": "encoder", "reference": "reference", "match": "decoder", "depth": "depth"}
QUERY, KEYFRAME = "query_", "keyframe_"  # prefixes of what `match` takes

Tensors = dict[str, Any]
Array = npt.NDArray[Any]

log = logging.getLogger(__name__)


class Backend(Protocol):
    """One engine with one model; the head of this file shows its use."""

    name: str  # a key of BACKENDS
    device: str  # "cpu", "cuda: Orin"

    def run(self, stage: str, inputs: Mapping[str, Any]) -> Tensors: ...

    def to_host(self, tensors: Mapping[str, Any]) -> dict[str, Array]: ...

    def device_memory_bytes(self) -> int | None:
        """Bytes of device memory in use; None on the CPU."""
        ...


@dataclass(frozen=True)
class BackendOptions:
    """How to run a network."""

    device: str = "auto"  # auto | cpu | cuda
    threads: int = 0  # CPU threads; 0 = as many as the engine finds cores
    weights: str | None = None  # torch: checkpoints (with commas between) instead of the card's
    precision: str = "fp32"  # torch: fp32 | bf16 (L2M on a CPU); graphs have that of their export
    untrained: bool = False  # torch: random weights where there are none
    workspace_mib: int = 2048  # tensorrt: memory that building may use
    optimization_level: int = 3  # tensorrt: 0 (quick build) to 5 (quick engine)
    cuda_graphs: bool = True  # tensorrt: replay a captured graph instead of launching kernels
    cache_dir: str | None = None  # tensorrt: where engines are kept

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise InvalidInput(f"device is {self.device!r}, known: auto, cpu, cuda")
        if self.precision not in PRECISIONS:
            raise InvalidInput(
                f"precision is {self.precision!r}, known: {', '.join(PRECISIONS)} (fp16 is what "
                "l2m export --precision fp16 makes graphs in)"
            )
        threads_fit = 0 <= self.threads <= MOST_THREADS
        if not threads_fit or self.workspace_mib < 1 or not 0 <= self.optimization_level <= 5:
            raise InvalidInput(
                f"threads must be 0 to {MOST_THREADS}, workspace_mib 1 or more, "
                "optimization_level 0 to 5"
            )


def is_depth_head(card: ModelCard) -> bool:
    """Whether it reads metres from another model's features, and matches nothing."""
    return bool(card.encoder)


def stages_of(card: ModelCard) -> list[str]:
    """The stages that are graphs of this card."""
    if is_depth_head(card):
        return ["depth"]
    return [s for s in STAGES if s != "reference" or GRAPHS[s] in card.files]


def backend_options(**values: Any) -> BackendOptions:
    """Options from keywords; an unknown one fails with the nearest right spelling."""
    known = [f.name for f in fields(BackendOptions)]
    for key in values:
        if key not in known:
            raise InvalidInput(f"unknown option {key!r}{nearest(key, known)}")
    return BackendOptions(**values)


def match_inputs(features: Mapping[str, Any], reference: Mapping[str, Any]) -> Tensors:
    """Inputs of the `match` stage: features and reference, with prefixes that keep names apart."""
    query = {QUERY + name: tensor for name, tensor in features.items()}
    return {**query, **{KEYFRAME + name: tensor for name, tensor in reference.items()}}


def split_match_inputs(inputs: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
    """The inverse of `match_inputs`."""
    features = {k[len(QUERY) :]: v for k, v in inputs.items() if k.startswith(QUERY)}
    reference = {k[len(KEYFRAME) :]: v for k, v in inputs.items() if k.startswith(KEYFRAME)}
    return features, reference


def solve_spd(matrix: Array, right: Array) -> Array:
    """matrix^-1 right by Cholesky, batch by batch: (B, n, n), (B, n, c) -> (B, n, c).

    In float64: it costs a keyframe a few more milliseconds (n = 1600: 0.1 s), never a frame.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    try:
        solutions = [
            cho_solve(cho_factor(A.astype(np.float64), lower=True), b)
            for A, b in zip(matrix, right, strict=True)
        ]
    except (LinAlgError, ValueError) as error:
        raise ModelError(
            f"the keyframe's kernel matrix cannot be solved ({error}): the weights or the "
            "image hold NaN, or the graphs are of another model"
        ) from error
    return np.stack(solutions).astype(np.float32)


def checked_inputs(
    stage: str, expected: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Any]
) -> list[str]:
    """The names of a graph's inputs. Missing ones are an error; others in `inputs` are ignored."""
    missing = [name for name in expected if name not in inputs]
    if missing:
        raise ModelError(
            f"the {GRAPHS[stage]} graph wants {', '.join(missing)} but the other graphs give "
            f"{', '.join(inputs)}: these ONNX files are not of one model; export them together"
        )
    return list(expected)


# --- choosing -------------------------------------------------------------------------------


# The module of each back-end, the sole importer of its engine.
MODULES = {
    "torch": "l2m_ros.engines.torch",
    "onnxruntime": "l2m_ros.engines.onnxruntime",
    "openvino": "l2m_ros.engines.openvino",
    "tensorrt": "l2m_ros.engines.tensorrt.backend",
}
REMEDIES = {
    "torch": "pip install 'l2m_ros[torch]'",
    "onnxruntime": "pip install 'l2m_ros[onnx]'",
    "openvino": "pip install 'l2m_ros[openvino]'",
    "tensorrt": "install TensorRT 10.3 or newer with its Python bindings, and cuda-python",
}


def engine_module(name: str) -> Any:
    """The module of a back-end, the sole importer of its engine."""
    try:
        return importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in (name, "cuda"):
            raise
        raise BackendUnavailable(
            f"back-end {name} needs {error.name}, which is not installed: {REMEDIES[name]}"
        ) from error


def _loader(name: str) -> Callable[[ModelCard, BackendOptions], Backend]:
    def load(card: ModelCard, options: BackendOptions) -> Backend:
        backend: Backend = engine_module(name).load(card, options)
        return backend

    return load


BACKENDS: dict[str, Callable[[ModelCard, BackendOptions], Backend]] = {
    "torch": _loader("torch"),
    "onnxruntime": _loader("onnxruntime"),
    "openvino": _loader("openvino"),
    "tensorrt": _loader("tensorrt"),
}


def _has_driver() -> bool:
    """Whether CUDA's driver is there: importing torch to hear of it takes 3 s of a node's start."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _cuda_of(name: str) -> bool:
    """Whether this engine is installed and finds a CUDA device."""
    if importlib.util.find_spec(name) is None or (name == "torch" and not _has_driver()):
        return False
    try:
        module = importlib.import_module(MODULES[name])
        return bool(module.has_cuda())
    except ImportError as error:
        log.info("back-end %s is installed but cannot be loaded: %s", name, error)
        return False


def _openvino_is_faster() -> bool:
    """Whether OpenVINO is installed and runs encoders in half precision here.

    Measured on x86 only; nobody here had an ARM board to say that it holds there.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    if importlib.util.find_spec("openvino") is None:
        return False
    try:
        return bool(importlib.import_module(MODULES["openvino"]).has_half())
    except (ImportError, RuntimeError) as error:
        log.info("back-end openvino is installed but cannot be used: %s", error)
        return False


@dataclass(frozen=True)
class Choice:
    """A back-end, its device, and why it was chosen."""

    name: str
    device: str  # cpu | cuda
    why: str


def choices(card: ModelCard, options: BackendOptions) -> list[Choice]:
    """In the order of `--backend auto`: tensorrt, onnxruntime, torch on CUDA, then the CPU's:
    openvino where it is the faster one, onnxruntime, torch.

    Whether an engine says that it has a CUDA device is no proof (ONNX Runtime tells how it was
    built, not what is plugged in), so there is a next one for each.
    """
    needed = ("depth",) if is_depth_head(card) else ("encoder", "decoder")
    of_torch = options.weights is not None or options.precision != "fp32"
    graphs = all(card.has(role) for role in needed) and not of_torch
    found, reasons = [], []
    if options.device != "cpu":
        for name, usable in (("tensorrt", graphs), ("onnxruntime", graphs), ("torch", True)):
            if usable and _cuda_of(name):
                why = f"{name} is installed and tells of a CUDA device"
                found.append(Choice(name, "cuda", why))
        if not found:
            reasons.append("no engine here has a CUDA device")
    if options.device == "cuda":
        if not found:
            raise BackendUnavailable(
                "no engine here has a CUDA device: install tensorrt, onnxruntime-gpu or a CUDA "
                "build of torch, or use device cpu"
            )
        return found
    if graphs and not card.solve and not is_depth_head(card) and _openvino_is_faster():
        why = "this CPU multiplies in half precision"
        found.append(Choice("openvino", "cpu", "; ".join([*reasons, why])))
    if graphs and importlib.util.find_spec("onnxruntime") is not None:
        return [
            *found,
            Choice("onnxruntime", "cpu", "; ".join([*reasons, "ONNX graphs are there"])),
        ]
    reasons.append(
        f"precision {options.precision} is torch's"
        if options.precision != "fp32"
        else "onnxruntime is not installed"
        if graphs
        else f"{card.name} has no ONNX graphs of {card.input.width}x{card.input.height} here"
    )
    if importlib.util.find_spec("torch") is not None:
        return [*found, Choice("torch", "cpu", "; ".join(reasons))]
    if found:
        return found
    size = f"{card.input.height}x{card.input.width}"
    remedy = (
        "pip install 'l2m_ros[onnx]' (or [torch])"
        if graphs
        else "pip install 'l2m_ros[torch]', or make them on a machine that has torch: "
        f"l2m export {card.name} --size {size} --out DIR"
    )
    raise BackendUnavailable(
        f"nothing can run {card.name}: {'; '.join(reasons)}; torch is not installed: {remedy}"
    )


def _first_that_opens(card: ModelCard, options: BackendOptions) -> Backend:
    """The first choice whose engine really opens its device; each refusal is told."""
    refusals: list[str] = []
    tried = choices(card, options)
    for choice in tried:
        try:
            backend = BACKENDS[choice.name](card, replace(options, device=choice.device))
        except (BackendUnavailable, ModelError) as error:
            if choice is tried[-1] and choice.device == "cpu":
                raise
            refusals.append(f"{choice.name} on {choice.device} would not open ({error})")
            log.warning("%s: %s; trying the next engine", card.name, refusals[-1])
            continue
        why = "; ".join([*refusals, *([] if refusals else [choice.why])])
        log.info("%s runs by %s on %s: %s", card.name, choice.name, choice.device, why)
        return backend
    raise BackendUnavailable(f"no engine could run {card.name}: {'; '.join(refusals)}")


def load_backend(name: str, card: ModelCard, options: BackendOptions) -> Backend:
    """The back-end of that name, or for "auto" the best one here; says which and why."""
    if not card.trained:
        log.warning("the weights of %s are untrained: good for measuring speed only", card.name)
    if name == "auto":
        return _first_that_opens(card, options)
    if name not in BACKENDS:
        known = ["auto", *BACKENDS]
        raise InvalidInput(
            f"unknown back-end {name!r}, known: {', '.join(known)}{nearest(name, known)}"
        )
    if options.precision != "fp32" and name != "torch":
        raise InvalidInput(
            f"precision {options.precision} is for back-end torch; graphs of {name} have the "
            "precision that l2m export gave them"
        )
    return BACKENDS[name](card, options)
