"""The node as a process of its own, beside a bench that drives it over real DDS."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_bench import Bench

ROOT = Path(__file__).parent.parent
PACE_S = 0.2  # between frames while a process starts: each costs tens of ms to make and to match
# 2 s are promised of a machine that has a core for it.
END_S = 2.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class NodeProcess:
    """A bench whose node is a process; started again with `start`."""

    def __init__(self, patience_s: float = 30.0):
        self.bench = Bench(inside=False)
        self.patience_s = patience_s  # for an answer of the node
        self.process = None
        self.lines = []

    def start(self, *parameters: str, code: str | None = None, **environment: str) -> None:
        ros = ["--ros-args", *(word for p in parameters for word in ("-p", p))]
        run = ["-m", "l2m_ros.node.main"] if code is None else ["-c", code]
        env = {**os.environ, "ROS_DOMAIN_ID": str(self.bench.domain), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *run, *(ros if parameters else [])],
            cwd=ROOT,
            env={**env, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream) -> None:
        for line in stream:
            self.lines.append(line)

    def says(self, words: str) -> None:
        self.bench.wait(lambda: any(words in line for line in self.lines), self.patience_s)

    def tracks(self, seconds: float = 40.0) -> None:
        """Until poses come of a node that has just been started."""
        self.bench.statuses.clear()
        self.bench.connect(seconds=seconds)
        self.bench.recover(seconds=seconds, every_s=PACE_S)

    def end(self, with_signal: int, seconds: float = END_S) -> int:
        """The exit code; an error where the process does not end in time."""
        self.process.send_signal(with_signal)
        code = self.process.wait(seconds)
        assert not any("Traceback" in line for line in self.lines), "".join(self.lines)
        return code

    def change(self, transition: int) -> bool:
        """Ask for a transition; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.answer(ChangeState, "/l2m/change_state", request).success

    def set(self, name: str, value: object) -> str:
        """Set a parameter; the reason of a refusal, or ''."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        (result,) = self.answer(SetParameters, "/l2m/set_parameters", request).results
        return "" if result.successful else result.reason

    def answer(self, kind, service: str, request):
        """The answer of a service of the node."""
        client = self.bench.driver.create_client(kind, service)
        assert client.wait_for_service(self.patience_s)
        future = client.call_async(request)
        answer = self.bench.wait(lambda: future.done() and future.result(), self.patience_s)
        self.bench.driver.destroy_client(client)
        return answer

    def memory_mb(self) -> float:
        """Resident memory of the node's process and of its children, MB."""
        return sum(map(_resident_mb, [self.process.pid, *_children(self.process.pid)]))

    def own_memory_mb(self) -> float:
        """Of the node's process alone, MB."""
        return _resident_mb(self.process.pid)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.bench.close()


def _children(pid: int) -> list[int]:
    """Processes that this one started, and theirs."""
    stats = {int(one.name): _text(one / "stat") for one in Path("/proc").glob("[0-9]*")}
    parents = {one: int(stat.rpartition(")")[2].split()[1]) for one, stat in stats.items() if stat}
    found = [pid]
    for parent in found:  # grows while it is walked
        found += [one for one, its in parents.items() if its == parent]
    return found[1:]


def _resident_mb(pid: int) -> float:
    fields = _text(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if fields else 0.0


def _text(path: Path) -> str:
    """'' where the process has just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""
