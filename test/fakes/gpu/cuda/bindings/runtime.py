"""A CUDA runtime without a GPU, stricter than a real one.

Device memory is host memory. What is queued on a stream happens only when somebody waits for
it, so that code which forgets to wait, or overwrites what a queued copy still reads, gives
wrong numbers here always and not once in a thousand times on a robot.
"""

import ctypes
import enum

cudaStreamNonBlocking = 1
cudaEventDisableTiming = 2


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
BAD = cudaError_t.cudaErrorInvalidValue


class State:
    """What a test may set and look at."""

    def __init__(self):
        self.devices = 1
        self.name = b"Fake GPU"
        self.capability = (8, 7)
        self.memory_limit = 1 << 30
        self.device = {}  # address: buffer
        self.pinned = {}
        self.queues = {}  # stream: list of work
        self.capturing = {}  # stream: list of work, while capturing
        self.calls = []  # names, in order

    def inside(self, table, address, nbytes):
        for start, buffer in table.items():
            if start <= address and address + nbytes <= start + len(buffer):
                return True
        return False


state = State()


class Handle:
    count = 0

    def __init__(self, **values):
        Handle.count += 1
        self.number = Handle.count
        self.__dict__.update(values)

    def __int__(self):
        return self.number


def enqueue(stream, work):
    """Queue on a stream (by handle or number), or record while it is captured."""
    number = int(stream)
    target = state.capturing if number in state.capturing else state.queues
    target[number].append(work)


def note(name):
    state.calls.append(name)


def cudaGetDeviceCount():
    return (OK, state.devices) if state.devices else (cudaError_t.cudaErrorNoDevice, 0)


def cudaGetDeviceProperties(device):
    major, minor = state.capability
    return OK, Handle(name=state.name, major=major, minor=minor)


def cudaRuntimeGetVersion():
    return OK, 12060


def cudaDriverGetVersion():
    return OK, 12080


def cudaGetLastError():
    return (OK,)


def _allocate(table, nbytes):
    buffer = (ctypes.c_byte * nbytes)()
    address = ctypes.addressof(buffer)
    table[address] = buffer
    return address


def cudaMalloc(nbytes):
    note("malloc")
    if sum(map(len, state.device.values())) + nbytes > state.memory_limit:
        return cudaError_t.cudaErrorMemoryAllocation, None
    return OK, _allocate(state.device, nbytes)


def cudaFree(address):
    if address not in state.device:
        return (BAD,)
    del state.device[address]
    return (OK,)


def cudaMallocHost(nbytes):
    return OK, _allocate(state.pinned, nbytes)


def cudaFreeHost(address):
    del state.pinned[address]
    return (OK,)


def cudaStreamCreateWithFlags(flags):
    assert flags == cudaStreamNonBlocking
    stream = Handle()
    state.queues[int(stream)] = []
    return OK, stream


def cudaStreamDestroy(stream):
    del state.queues[int(stream)]
    return (OK,)


def cudaStreamSynchronize(stream):
    note("synchronize")
    if int(stream) in state.capturing:
        return (cudaError_t.cudaErrorStreamCaptureInvalidated,)
    queue = state.queues[int(stream)]
    while queue:
        queue.pop(0)()
    return (OK,)


def cudaMemcpyAsync(to, source, nbytes, kind, stream):
    up = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
    device, host = (to, source) if up else (source, to)
    if not state.inside(state.device, device, nbytes) or not state.inside(
        state.pinned, host, nbytes
    ):
        return (BAD,)  # freed, or a copy from pageable memory, which would not be asynchronous
    note("upload" if up else "download")
    enqueue(stream, lambda: ctypes.memmove(to, source, nbytes))
    return (OK,)


def cudaEventCreateWithFlags(flags):
    return OK, Handle(stream=None, done=True)


def cudaEventRecord(event, stream):
    event.stream, event.done = int(stream), False

    def happen():
        event.done = True

    enqueue(stream, happen)
    return (OK,)


def cudaEventSynchronize(event):
    queue = state.queues.get(event.stream, [])
    while not event.done and queue:
        queue.pop(0)()
    return (OK,)


def cudaEventDestroy(event):
    return (OK,)


def cudaStreamBeginCapture(stream, mode):
    note("begin capture")
    state.capturing[int(stream)] = []
    return (OK,)


def cudaStreamEndCapture(stream):
    note("end capture")
    work = state.capturing.pop(int(stream))
    if None in work:
        return cudaError_t.cudaErrorStreamCaptureInvalidated, None
    return OK, Handle(work=work)


def cudaGraphInstantiate(graph, flags):
    return OK, Handle(work=list(graph.work), alive=True)


def cudaGraphDestroy(graph):
    return (OK,)


def cudaGraphLaunch(executable, stream):
    note("launch graph")
    assert executable.alive
    for work in executable.work:
        enqueue(stream, work)
    return (OK,)


def cudaGraphExecDestroy(executable):
    note("destroy graph")
    executable.alive = False
    return (OK,)
