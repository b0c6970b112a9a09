"""Whether compiled kernels are used: where numba is installed and can compile them.

    compiled.kernel(name)    the module of that name in MODULES, or None: NumPy does the same then
    compiled.switch_off(why) they would not compile here: NumPy from now on

Numba compiles a kernel when it is first called (10 s of one core for all) and keeps the result
beside the source, in NUMBA_CACHE_DIR or in the user's cache: the node does that when it is
configured. L2M_COMPILED=0 in the environment leaves the kernels out.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

MODULES = {
    "refine": "l2m_ros.geometry.refine_kernel",
    "covariance": "l2m_ros.geometry.covariance_kernel",
    "subpixel": "l2m_ros.matching.subpixel_kernel",
}
_lock = threading.Lock()
_kernels: dict[str, ModuleType | None] = {}  # those that were asked for


def kernel(name: str) -> ModuleType | None:
    """The compiled module, loaded when first asked for; None: go on with NumPy."""
    if name not in _kernels:
        with _lock:
            if name not in _kernels:
                _kernels[name] = _loaded(MODULES[name])
    return _kernels[name]


def switch_off(why: str) -> None:
    """NumPy from now on."""
    log.warning("NumPy finds poses, several times slower than compiled code: %s", why)
    with _lock:
        _kernels.update(dict.fromkeys(MODULES))


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """NumPy within the block: to compare the two."""
    global _kernels
    before, _kernels = _kernels, dict.fromkeys(MODULES)
    try:
        yield
    finally:
        _kernels = before


def _loaded(module: str) -> ModuleType | None:
    if os.environ.get("L2M_COMPILED", "1") == "0":
        return None
    try:
        kernels = importlib.import_module(module)
        _forget_damaged(kernels)
        return kernels
    except ImportError as error:
        log.info("NumPy finds poses; pip install 'l2m_ros[fast]' is faster (%s)", error)
    except RuntimeError as error:  # numba found no folder to keep its cache in
        log.warning("NumPy finds poses; set NUMBA_CACHE_DIR to a folder (%s)", error)
    except OSError as error:  # a damaged cache that may not be written to
        log.warning("NumPy finds poses; remove what numba kept (%s)", error)
    return None


def _forget_damaged(kernels: ModuleType) -> None:
    """Compiled anew where what was kept is cut short (a power cut, a full disk).

    Numba would raise at every call of every run from now on.
    """
    for function in list(vars(kernels).values()):
        file = getattr(getattr(function, "_cache", None), "_cache_file", None)
        if file is None:
            continue
        try:
            for name in file._load_index().values():
                with contextlib.suppress(FileNotFoundError):  # numba compiles it anew
                    file._load_data(name)
        except Exception as error:  # whatever unpickling raises over garbage
            log.info("compiling %s anew: what numba kept is damaged (%r)", function, error)
            file.flush()


def array(values: Any, dtype: Any = np.float64) -> npt.NDArray[Any]:
    """What a kernel takes: rows contiguous, of one type.

    Numba would compile once more for an array that may not be written to.
    """
    out = np.ascontiguousarray(values, dtype)
    return out if out.flags.writeable else out.copy()
