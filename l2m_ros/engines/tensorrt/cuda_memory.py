"""One CUDA stream with what a robot's inference needs of it: buffers, uploads, graphs.

By cuda-python (cuda.bindings.runtime) and not by torch: 30 MB instead of 3 GB on a robot, and
one path to test instead of two. Everything here happens on ONE stream, so that a buffer may be
used again as soon as Python lets go of it: what still reads it was queued before.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cudart

from l2m_ros.errors import BackendUnavailable

PINNED_SLOTS = 2  # the CPU fills one while the GPU still reads the other
OUT_OF_MEMORY = "cudaErrorMemoryAllocation"

Array = npt.NDArray[Any]


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """A CUDA function's results without its status; a bad status becomes one line."""
    status, *results = function(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        hint = (
            ": the GPU's memory is full; use fp16, a smaller --size, or close other programs"
            if status.name == OUT_OF_MEMORY
            else ""
        )
        raise BackendUnavailable(f"{function.__name__} failed with {status.name}{hint}")
    return results[0] if len(results) == 1 else results


def device_count() -> int:
    """0 also where there is no driver."""
    status, count = cudart.cudaGetDeviceCount()
    return int(count) if status == cudart.cudaError_t.cudaSuccess else 0


@dataclass(frozen=True)
class Device:
    """What engines depend on."""

    name: str
    compute_capability: str
    cuda: str
    driver: str


def device() -> Device:
    properties = call(cudart.cudaGetDeviceProperties, 0)
    name = properties.name
    return Device(
        name=(name.decode() if isinstance(name, bytes) else name).strip("\0 "),
        compute_capability=f"{properties.major}.{properties.minor}",
        cuda=_version(call(cudart.cudaRuntimeGetVersion)),
        driver=_version(call(cudart.cudaDriverGetVersion)),
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class DeviceTensor:
    """An array on the GPU; its buffer goes back to the pool when nobody holds it any more."""

    __slots__ = ("__weakref__", "address", "dtype", "nbytes", "shape")

    def __init__(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.address, self.shape, self.dtype = address, shape, np.dtype(dtype)
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize


class Stream:
    """A stream, its device buffers, its pinned staging memory."""

    def __init__(self) -> None:
        self.handle = call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)
        self._pool = _Pool()
        self._uploads: dict[int, _PinnedRing] = {}
        self._downloads: dict[tuple[str, int], _Pinned] = {}

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceTensor:
        """Uninitialised; cudaMalloc (which waits for the GPU) only if no buffer is free."""
        size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        tensor = DeviceTensor(self._pool.take(size), shape, dtype)
        weakref.finalize(tensor, self._pool.give, size, tensor.address).atexit = False
        return tensor

    @property
    def allocated_bytes(self) -> int:
        return self._pool.allocated_bytes

    def upload(self, array: Array) -> DeviceTensor:
        """Through pinned memory: returns before the copy is done, and the array may change."""
        array = np.ascontiguousarray(array)
        ring = self._uploads.get(array.nbytes) or _PinnedRing(array.nbytes)
        self._uploads[array.nbytes] = ring
        slot = ring.next()
        np.copyto(slot.pinned.view(array.shape, array.dtype), array)
        tensor = self.empty(array.shape, array.dtype)
        self._copy(tensor.address, slot.pinned.address, array.nbytes, "HostToDevice")
        call(cudart.cudaEventRecord, slot.done, self.handle)
        return tensor

    def download(self, tensors: dict[str, DeviceTensor]) -> dict[str, Array]:
        """All of them with one wait."""
        views = {}
        for name, tensor in tensors.items():
            key = (name, tensor.nbytes)
            pinned = self._downloads.get(key) or _Pinned(tensor.nbytes)
            self._downloads[key] = pinned
            self._copy(pinned.address, tensor.address, tensor.nbytes, "DeviceToHost")
            views[name] = pinned.view(tensor.shape, tensor.dtype)
        self.synchronize()
        return {name: view.copy() for name, view in views.items()}

    def capture(self, work: Callable[[], bool]) -> Graph | None:
        """What `work` queues, as a graph; None if it says no or cannot be captured."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(cudart.cudaStreamBeginCapture, self.handle, mode)
        worked = False
        try:
            worked = work()
        finally:
            status, graph = cudart.cudaStreamEndCapture(self.handle)
        if not worked or status != cudart.cudaError_t.cudaSuccess:
            cudart.cudaGetLastError()  # a failed capture must not fail the next call
            return None
        return Graph(graph)

    def launch(self, graph: Graph) -> None:
        call(cudart.cudaGraphLaunch, graph.executable, self.handle)

    def synchronize(self) -> None:
        call(cudart.cudaStreamSynchronize, self.handle)

    def close(self) -> None:
        """Wait, and give back all memory: what a tensor still holds, when it lets go."""
        self.synchronize()
        self._pool.close()
        for ring in self._uploads.values():
            ring.close()
        for pinned in self._downloads.values():
            pinned.close()
        self._uploads.clear()
        self._downloads.clear()
        call(cudart.cudaStreamDestroy, self.handle)

    def _copy(self, to: int, source: int, nbytes: int, kind: str) -> None:
        direction = getattr(cudart.cudaMemcpyKind, f"cudaMemcpy{kind}")
        call(cudart.cudaMemcpyAsync, to, source, nbytes, direction, self.handle)


class _Pool:
    """Device buffers by size: cudaMalloc and cudaFree wait for the GPU, so both are rare."""

    def __init__(self) -> None:
        self.allocated_bytes = 0
        self._free: dict[int, list[int]] = {}
        self._closed = False

    def take(self, size: int) -> int:
        free = self._free.get(size)
        if free:
            return free.pop()
        address = int(call(cudart.cudaMalloc, size))
        self.allocated_bytes += size
        return address

    def give(self, size: int, address: int) -> None:
        if self._closed:
            call(cudart.cudaFree, address)
        else:
            self._free.setdefault(size, []).append(address)

    def close(self) -> None:
        self._closed = True
        for addresses in self._free.values():
            for address in addresses:
                call(cudart.cudaFree, address)
        self._free.clear()


class Graph:
    """A captured sequence of launches, replayed by one call."""

    def __init__(self, graph: Any) -> None:
        self.executable = call(cudart.cudaGraphInstantiate, graph, 0)
        call(cudart.cudaGraphDestroy, graph)

    def close(self) -> None:
        call(cudart.cudaGraphExecDestroy, self.executable)


class _Pinned:
    """Page-locked host memory: copies run at full speed and beside the CPU."""

    def __init__(self, nbytes: int) -> None:
        self.address = int(call(cudart.cudaMallocHost, max(nbytes, 1)))
        self._bytes = (ctypes.c_byte * max(nbytes, 1)).from_address(self.address)
        self._nbytes = nbytes

    def view(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        raw = np.frombuffer(memoryview(self._bytes), dtype=np.uint8, count=self._nbytes)
        view: Array = raw.view(dtype).reshape(shape)
        return view

    def close(self) -> None:
        call(cudart.cudaFreeHost, self.address)


class _Slot:
    def __init__(self, nbytes: int) -> None:
        self.pinned = _Pinned(nbytes)
        self.done = call(cudart.cudaEventCreateWithFlags, cudart.cudaEventDisableTiming)


class _PinnedRing:
    """Staging slots in turn; one is given out again only when its copy is done."""

    def __init__(self, nbytes: int) -> None:
        self._slots = [_Slot(nbytes) for _ in range(PINNED_SLOTS)]
        self._turn = 0

    def next(self) -> _Slot:
        slot = self._slots[self._turn % PINNED_SLOTS]
        self._turn += 1
        call(cudart.cudaEventSynchronize, slot.done)
        return slot

    def close(self) -> None:
        for slot in self._slots:
            call(cudart.cudaEventDestroy, slot.done)
            slot.pinned.close()
