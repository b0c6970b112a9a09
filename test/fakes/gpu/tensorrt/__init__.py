"""TensorRT's interface over ONNX Runtime on the fake CUDA: what is called, in which order, works.

An engine is the ONNX file behind a header that names version and GPU, as a real one is bound to
both. What real TensorRT needs that a fake can check is checked: strongly typed networks, addresses
of the right buffers, a plain run before a capture.
"""

import ctypes
import enum

import numpy as np
import onnxruntime as ort
from cuda.bindings import runtime as cudart

__version__ = "10.3.0"

ALLOW_CAPTURE = True
BUILDS = []  # workspace, level, TF32, timing cache at the start of each build


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 0


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    INT64 = 8
    BOOL = 4


KINDS = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int64)": DataType.INT64,
}
NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT64: np.int64}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        self.ready = True


class IProgressMonitor:
    def __init__(self):
        self.ready = True


class IHostMemory(bytes):
    pass


class ParserError:
    def __init__(self, words):
        self.words = words

    def desc(self):
        return self.words

    def node_name(self):
        return "n"

    def node_operator(self):
        return "Op"


class INetworkDefinition:
    model = b""


class OnnxParser:
    def __init__(self, network, logger):
        assert logger.ready
        self.network, self.errors = network, []

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return self.errors[index]

    def parse_from_file(self, path):
        with open(path, "rb") as file:
            self.network.model = file.read()
        try:
            ort.InferenceSession(self.network.model)
        except Exception as error:
            self.errors.append(ParserError(str(error)))
            return False
        return True


class ITimingCache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return IHostMemory(self.content + b"+")


class IBuilderConfig:
    def __init__(self):
        self.flags = {BuilderFlag.TF32}
        self.builder_optimization_level = 3
        self.progress_monitor = None
        self.workspace = self.timing = None

    def set_memory_pool_limit(self, pool, size):
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = size

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def create_timing_cache(self, content):
        return ITimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content.startswith(b"damaged"):
            return False
        self.timing = cache
        return True

    def get_timing_cache(self):
        return self.timing


def header():
    return b"plan %s %s\n" % (__version__.encode(), cudart.state.name)


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def build_serialized_network(self, network, config):
        BUILDS.append(
            (
                config.workspace,
                config.builder_optimization_level,
                BuilderFlag.TF32 in config.flags,
                config.timing.content,
            )
        )
        monitor = config.progress_monitor
        assert monitor.ready
        monitor.phase_start("Building", None, 2)
        monitor.phase_start("Timing", "Building", 5)
        for step in range(2):
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building")
        if config.workspace < 1 << 20:
            self.logger.log(ILogger.ERROR, "no tactic fits the workspace")
            return None
        return IHostMemory(header() + network.model)


class Runtime:
    def __init__(self, logger):
        assert logger.ready

    def deserialize_cuda_engine(self, plan):
        if not plan.startswith(header()):
            return None
        return ICudaEngine(plan[len(header()) :])


class ICudaEngine:
    device_memory_size_v2 = 1000

    def __init__(self, model):
        self.session = ort.InferenceSession(model)
        self.tensors = {t.name: t for t in self.session.get_inputs()}
        self.names_in = list(self.tensors)
        self.tensors.update({t.name: t for t in self.session.get_outputs()})
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.names_in else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return self.tensors[name].shape

    def get_tensor_dtype(self, name):
        return KINDS[self.tensors[name].type]

    def create_execution_context(self):
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self.engine, self.addresses, self.ran = engine, {}, False

    def set_tensor_address(self, name, address):
        if name not in self.engine.tensors:
            return False
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert set(self.addresses) == set(self.engine.tensors)
        if stream in cudart.state.capturing and not (ALLOW_CAPTURE and self.ran):
            cudart.state.capturing[stream].append(None)
            return False
        self.ran = True
        addresses = dict(self.addresses)  # fixed when queued, also in a captured graph
        cudart.note("execute")
        cudart.enqueue(stream, lambda: self._compute(addresses))
        return True

    def _compute(self, addresses):
        feeds = {name: self._view(name, addresses[name]).copy() for name in self.engine.names_in}
        outputs = [name for name in addresses if name not in feeds]
        for name, value in zip(outputs, self.engine.session.run(outputs, feeds), strict=True):
            self._view(name, addresses[name])[...] = value

    def _view(self, name, address):
        dtype = np.dtype(NUMPY[self.engine.get_tensor_dtype(name)])
        shape = tuple(self.engine.get_tensor_shape(name))
        nbytes = int(np.prod(shape)) * dtype.itemsize
        assert cudart.state.inside(cudart.state.device, address, nbytes), f"{name}: freed memory"
        raw = (ctypes.c_byte * nbytes).from_address(address)
        return np.frombuffer(raw, dtype).reshape(shape)
