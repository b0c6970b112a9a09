"""Numbered pieces of work, here, in processes of this machine, or on a Ray cluster.

    for number, result in runner.run(work, numbers): ...        as they finish, in any order

`work(number)` must depend on nothing but its number and what it was made of, and may be done
twice: then every runner gives the same result, and a worker that dies costs its piece's time only.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from l2m_ros.errors import BackendUnavailable, InvalidInput, L2MError

T = TypeVar("T")
ANSWERS_S = 10.0
TRIES = 4  # of a piece whose worker dies
AHEAD = 2  # pieces waiting for each worker
# Ray gives its own processes 15 to 30 s to start, which a busy machine exceeds. Not all of it can
# be told to wait longer.
STARTS = 3  # of a cluster of this machine
QUIET = {"log_to_driver": False, "include_dashboard": False, "logging_level": "ERROR"}
PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_NUM_REDIS_GET_RETRIES": "300",
}


class Runner(Protocol):
    def run(self, work: Callable[[int], T], numbers: Sequence[int]) -> Iterator[tuple[int, T]]: ...


@dataclass(frozen=True)
class Here:
    """One after the other, in this process."""

    def run(self, work: Callable[[int], T], numbers: Sequence[int]) -> Iterator[tuple[int, T]]:
        for number in numbers:
            yield number, work(number)


HERE = Here()


@dataclass(frozen=True)
class Processes:
    """A pool of processes; `work` is pickled to each."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidInput(f"{self.count} processes do nothing: at least 1 is needed")

    def run(self, work: Callable[[int], T], numbers: Sequence[int]) -> Iterator[tuple[int, T]]:
        waiting, died = list(reversed(numbers)), dict.fromkeys(numbers, 0)
        while waiting:
            # A process that is killed breaks its pool: what was under way goes to a new one.
            pool = ProcessPoolExecutor(self.count, multiprocessing.get_context("spawn"))
            running: dict[Future[T], int] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < AHEAD * self.count:
                        with _interrupts_held():  # a pool may break before it takes the piece
                            running[pool.submit(work, waiting[-1])] = waiting[-1]
                        waiting.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                for number in sorted(running.values(), reverse=True):
                    died[number] += 1
                    if died[number] >= TRIES:
                        raise InvalidInput(
                            f"piece {number} of the work was lost {TRIES} times because its "
                            "process was killed: is there enough memory? Give fewer processes"
                        ) from None
                    waiting.append(number)
            except BaseException:  # Ctrl-C: nobody waits for the pieces under way
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C: each would print a traceback of its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class RayCluster:
    """Tasks of a Ray cluster; those of a worker or node that dies are done again elsewhere.

    address: of the cluster's head, or "auto": the cluster that this machine belongs to, else one
    that is started here and ends with this process.
    """

    address: str
    cores: float = 1.0  # of a task

    def __post_init__(self) -> None:
        if self.address not in ("auto", "local") and self._place() is None:
            raise InvalidInput(f"--ray {self.address!r}: give HOST:PORT, ray://HOST:PORT or auto")

    def _place(self) -> tuple[str, int] | None:
        found = re.fullmatch(r"(?:ray://)?([^:/\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", self.address)
        return (found[1].strip("[]"), int(found[2])) if found else None

    def _check_that_it_answers(self) -> None:
        """Ray itself asks a dead address for minutes."""
        if (place := self._place()) is None:
            return
        try:
            socket.create_connection(place, timeout=ANSWERS_S).close()
        except (OSError, OverflowError) as error:
            raise InvalidInput(f"--ray {self.address}: no cluster answers: {error}") from error

    def run(self, work: Callable[[int], T], numbers: Sequence[int]) -> Iterator[tuple[int, T]]:
        ray = self._joined()
        task = ray.remote(max_retries=TRIES - 1, num_cpus=self.cores)(_call)
        shared, waiting = ray.put(work), list(reversed(numbers))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                width = max(1, int(ray.cluster_resources().get("CPU", 1) / self.cores))
                while waiting and len(running) < AHEAD * width:
                    number = waiting.pop()
                    running[task.remote(shared, number)] = number
                (ready, *_), _ = ray.wait(list(running), num_returns=1)
                yield running.pop(ready), self._result(ray, ready)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _joined(self) -> Any:
        self._check_that_it_answers()
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise BackendUnavailable("--ray needs Ray: pip install 'l2m_ros[scale]'") from error
        if ray.is_initialized():
            return ray
        try:
            if self.address == "local" or not self._found(ray):
                _start(ray)
        except L2MError:
            raise
        # A package that does not fit, a process that does not come up: Ray has no class for either.
        except Exception as error:
            raise BackendUnavailable(
                f"--ray: Ray does not start here ({error}): is there enough memory? "
                "--processes N does the same work without Ray"
            ) from error
        return ray

    def _found(self, ray: Any) -> bool:
        """Whether the cluster was there to be joined."""
        try:
            ray.init(address=self.address, **QUIET)
        except ConnectionError as error:
            if self.address == "auto":
                return False
            raise InvalidInput(f"--ray {self.address}: no cluster answers: {error}") from error
        return True

    @staticmethod
    def _result(ray: Any, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, L2MError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise InvalidInput(
                f"a task was lost {TRIES} times on the cluster ({type(error).__name__}): is there "
                "enough memory, and is l2m_ros installed on every node?"
            ) from error


def _start(ray: Any) -> None:
    """A cluster of this machine; again where Ray gave up on its own processes."""
    for left in reversed(range(STARTS)):
        try:
            ray.init(address="local", **QUIET)
            return
        except ImportError:
            raise
        except Exception:
            ray.shutdown()
            if not left:
                raise


def _call(work: Callable[[int], T], number: int) -> T:
    return work(number)


def runner_of(ray: str | None, processes: int) -> Runner:
    """What the options of a command name."""
    if ray is not None:
        return RayCluster(ray)
    return Here() if processes == 1 else Processes(processes)
