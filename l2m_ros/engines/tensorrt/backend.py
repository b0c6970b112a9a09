"""TensorRT 10.3 to 11: engines from ONNX graphs whose types are taken as they are written.

    network   STRONGLY_TYPED: what is fp16 was decided at export (TensorRT 11 has no FP16 flag)
    TF32      off: coordinates and the GP kernel are fp32 because ten bits are not enough
    run       execute_async_v3 on an own stream; tensors stay on the GPU between stages; a stage
              that sees the same buffers twice is captured as a CUDA graph and replayed

Engines are cached (`engine_cache.py`); a stale or damaged one is built again.
Every name of TensorRT that occurs here is checked against its versions by a test, which is why
each variable that holds one of its objects says so.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

from l2m_ros.engines.backend import (
    GRAPHS,
    Array,
    BackendOptions,
    Tensors,
    checked_inputs,
    stages_of,
)
from l2m_ros.engines.graph_engine import GraphEngine
from l2m_ros.engines.model_card import ModelCard, sha256_of
from l2m_ros.engines.tensorrt import cuda_memory
from l2m_ros.engines.tensorrt.cuda_memory import DeviceTensor, Graph, Stream
from l2m_ros.engines.tensorrt.engine_cache import EngineCache, EngineKey, engines_folder
from l2m_ros.errors import BackendUnavailable, InvalidInput, ModelError
from l2m_ros.files import write_whole
from l2m_ros.progress import progress

MIB = 1 << 20
OLDEST = (10, 3)
# Query features alternate between two sets of buffers: four graphs serve a keyframe's stages.
GRAPHS_KEPT = 16

log = logging.getLogger(__name__)


def has_cuda() -> bool:
    return cuda_memory.device_count() > 0


def load(card: ModelCard, options: BackendOptions) -> TensorRTBackend:
    """Engines from the cache or built now, which takes minutes and says so."""
    check_usable(options)
    runtime: trt.Runtime = trt.Runtime(_Log())
    stream = Stream()
    stages = {
        stage: _Stage(_engine(runtime, card, stage, options), stream, options.cuda_graphs)
        for stage in stages_of(card)
    }
    return TensorRTBackend(card, stages, stream)


def check_usable(options: BackendOptions) -> None:
    """Refuse what cannot work, in words."""
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < OLDEST:
        raise BackendUnavailable(f"TensorRT {trt.__version__} is too old: 10.3 or newer is needed")
    if options.device == "cpu" or not has_cuda():
        raise BackendUnavailable(
            "TensorRT needs an NVIDIA GPU and its driver, and device cuda: use the back-end "
            "onnxruntime on the CPU"
        )


# --- building -------------------------------------------------------------------------------


def key_of(card: ModelCard, stage: str, options: BackendOptions) -> EngineKey:
    gpu = cuda_memory.device()
    return EngineKey(
        model=card.name,
        stage=stage,
        onnx_sha256=sha256_of(card.file(GRAPHS[stage])),
        precision=card.precision,
        width=card.input.width,
        height=card.input.height,
        tensorrt=trt.__version__,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        cuda=gpu.cuda,
        driver=gpu.driver,
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
    )


def cache_of(options: BackendOptions) -> EngineCache:
    return EngineCache(engines_folder(options.cache_dir))


def ensure_engine(card: ModelCard, stage: str, options: BackendOptions) -> tuple[EngineKey, bytes]:
    """The engine of a stage: cached, or built and cached."""
    key, cache = key_of(card, stage, options), cache_of(options)
    engine = cache.get(key)
    if engine is None:
        engine = build(card.file(GRAPHS[stage]), key, options, cache.timing(key))
        with _kept_if_it_can_be(cache.folder):
            log.info("engine written: %s", cache.put(key, engine))
    return key, engine


@contextmanager
def _kept_if_it_can_be(folder: Path) -> Iterator[None]:
    """A full or read-only disk costs the next start minutes, not this one its engine."""
    try:
        yield
    except (OSError, InvalidInput) as error:
        words = " ".join(str(error).split())
        log.warning("%s keeps nothing (%s): set cache_dir to a folder of yours", folder, words)


def build(path: Path, key: EngineKey, options: BackendOptions, timing: Path) -> bytes:
    """A serialised engine of one ONNX file."""
    logger = _Log()
    builder: trt.Builder = trt.Builder(logger)
    network: trt.INetworkDefinition = builder.create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser: trt.OnnxParser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise ModelError(f"TensorRT {trt.__version__} cannot parse {path}: {_errors(parser)}")
    config: trt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    config.builder_optimization_level = options.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)
    monitor = _Monitor(f"building {key.model} {key.stage}")
    config.progress_monitor = monitor
    _use_timing(config, timing)
    plan: trt.IHostMemory = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelError(
            f"TensorRT {trt.__version__} cannot build {path} with {options.workspace_mib} MiB of "
            f"workspace ({logger.last_error or 'no reason given'}): raise workspace_mib, or close "
            "other programs that use the GPU"
        )
    _keep_timing(config, timing)
    return bytes(plan)


def _errors(parser: trt.OnnxParser) -> str:
    words = []
    for index in range(parser.num_errors):
        error: trt.ParserError = parser.get_error(index)
        words.append(f"{error.node_operator()} {error.node_name()}: {error.desc()}")
    return "; ".join(words[:3]) or "no reason given"


def _use_timing(config: trt.IBuilderConfig, path: Path) -> None:
    """Start from measured kernel times; an unusable file starts an empty cache."""
    content = path.read_bytes() if path.is_file() else b""
    cache: trt.ITimingCache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        log.warning("%s is of another GPU or damaged: timing starts anew", path)
        empty: trt.ITimingCache = config.create_timing_cache(b"")
        config.set_timing_cache(empty, False)


def _keep_timing(config: trt.IBuilderConfig, path: Path) -> None:
    cache: trt.ITimingCache = config.get_timing_cache()
    serialized: trt.IHostMemory = cache.serialize()
    with _kept_if_it_can_be(path.parent):
        write_whole(path, bytes(serialized))


class _Log(trt.ILogger):  # type: ignore[misc]
    """TensorRT's messages in Python's log."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.last_error = ""

    def log(self, severity: Any, msg: str) -> None:
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
            self.last_error = msg
            log.error("TensorRT: %s", msg)
        elif severity == trt.ILogger.WARNING:
            log.info("TensorRT: %s", msg)


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """One line of progress: the outermost phases; Ctrl-C ends the build at its next step."""

    def __init__(self, what: str) -> None:
        trt.IProgressMonitor.__init__(self)
        self._what = what
        self._bars: dict[str, progress] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        if not parent_phase:
            self._bars[phase_name] = progress(num_steps, f"{self._what}: {phase_name}")
            self._bars[phase_name].__enter__()

    def step_complete(self, phase_name: str, step: int) -> bool:
        if phase_name in self._bars:
            try:
                self._bars[phase_name].update()
            except KeyboardInterrupt:
                return False  # an exception would not pass through TensorRT
        return True

    def phase_finish(self, phase_name: str) -> None:
        bar = self._bars.pop(phase_name, None)
        if bar is not None:
            bar.__exit__(None, None, None)


# --- running --------------------------------------------------------------------------------


def _engine(
    runtime: trt.Runtime, card: ModelCard, stage: str, options: BackendOptions
) -> trt.ICudaEngine:
    """Deserialised; one that TensorRT refuses is dropped and built once more."""
    for attempt in ("cached", "rebuilt"):
        key, plan = ensure_engine(card, stage, options)
        engine: trt.ICudaEngine = runtime.deserialize_cuda_engine(plan)
        if engine is not None:
            return engine
        log.warning("TensorRT refuses the %s engine of %s %s", attempt, card.name, stage)
        cache_of(options).drop(key)
    raise ModelError(
        f"TensorRT {trt.__version__} refuses its own engine of {card.name} {stage}: check that "
        "one TensorRT is installed and that the driver is not older than it"
    )


def _numpy_type(kind: trt.DataType) -> Any:
    known = {
        trt.DataType.FLOAT: np.float32,
        trt.DataType.HALF: np.float16,
        trt.DataType.INT32: np.int32,
        trt.DataType.INT64: np.int64,
        trt.DataType.BOOL: np.bool_,
    }
    if kind not in known:
        raise ModelError(f"the engine has tensors of type {kind}, which nothing here gives it")
    return known[kind]


class _Stage:
    """One engine: its execution context, and the graphs captured of it."""

    def __init__(self, engine: trt.ICudaEngine, stream: Stream, capture: bool) -> None:
        self._engine: trt.ICudaEngine = engine  # a context does not keep its engine alive
        self._context: trt.IExecutionContext = engine.create_execution_context()
        if self._context is None:
            raise BackendUnavailable("the GPU has no memory left for this engine: use fp16")
        self._stream, self._capture = stream, capture
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, Any] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            given = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape = tuple(engine.get_tensor_shape(name))
            (self.inputs if given else self.outputs)[name] = shape
            self.types[name] = _numpy_type(engine.get_tensor_dtype(name))
        self._graphs: OrderedDict[tuple[int, ...], Graph | None] = OrderedDict()

    @property
    def memory_bytes(self) -> int:
        return int(self._engine.device_memory_size_v2)

    def run(self, tensors: Mapping[str, DeviceTensor]) -> Tensors:
        outputs = {
            name: self._stream.empty(shape, self.types[name])
            for name, shape in self.outputs.items()
        }
        everything = {**{name: tensors[name] for name in self.inputs}, **outputs}
        self._launch({name: tensor.address for name, tensor in everything.items()})
        return outputs

    def close(self) -> None:
        for graph in filter(None, self._graphs.values()):
            graph.close()
        self._graphs.clear()

    def _launch(self, addresses: dict[str, int]) -> None:
        """First time with these buffers: plain (TensorRT sets itself up then). Second: captured."""
        key = tuple(addresses.values())
        graph = self._graphs.get(key)
        if graph is None:
            self._bind(addresses)
            if key in self._graphs and self._capture:
                graph = self._stream.capture(self._enqueue)
                if graph is None:
                    log.info("this engine cannot be captured as a CUDA graph: launched plainly")
                    self._capture = False
        self._remember(key, graph)
        if graph is not None:
            self._stream.launch(graph)
        elif not self._enqueue():
            raise ModelError("TensorRT could not run the engine: see its messages in the log")

    def _bind(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise ModelError(f"TensorRT takes no tensor {name}: the engine is of another model")

    def _enqueue(self) -> bool:
        return bool(self._context.execute_async_v3(int(self._stream.handle)))

    def _remember(self, key: tuple[int, ...], graph: Graph | None) -> None:
        self._graphs[key] = graph
        self._graphs.move_to_end(key)
        while len(self._graphs) > GRAPHS_KEPT:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self._stream.synchronize()  # it may still be running
                oldest.close()


def _release(stages: Mapping[str, _Stage], stream: Stream) -> None:
    stream.synchronize()
    for stage in stages.values():
        stage.close()
    stream.close()


class TensorRTBackend(GraphEngine):
    """Tensors are `DeviceTensor`s; only `to_host` waits for the GPU.

    When the last matcher that uses it is dropped, the GPU's memory is given back.
    """

    name = "tensorrt"

    def __init__(self, card: ModelCard, stages: Mapping[str, _Stage], stream: Stream) -> None:
        self.card, self._stages, self._stream = card, stages, stream
        self.device = f"cuda: {cuda_memory.device().name}"
        weakref.finalize(self, _release, dict(stages), stream).atexit = False

    def to_host(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        return self._stream.download(dict(tensors))

    def device_memory_bytes(self) -> int | None:
        engines = sum(stage.memory_bytes for stage in self._stages.values())
        return self._stream.allocated_bytes + engines

    def _to_device(self, name: str, array: Array) -> DeviceTensor:
        kind = self._stages["match"].types[f"keyframe_{name}"]
        return self._stream.upload(array.astype(kind))

    def _run_graph(self, stage: str, inputs: Mapping[str, Any]) -> Tensors:
        runner = self._stages[stage]
        tensors = {}
        for name in checked_inputs(stage, runner.inputs, inputs):
            value = inputs[name]
            tensor = self._stream.upload(value) if isinstance(value, np.ndarray) else value
            if tensor.shape != runner.inputs[name] or tensor.dtype != runner.types[name]:
                given = f"{tensor.shape} {tensor.dtype}"
                raise self._of_another(stage, name, given, runner.inputs[name])
            tensors[name] = tensor
        return runner.run(tensors)
