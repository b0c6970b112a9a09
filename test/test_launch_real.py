"""The launch files run by ROS's own `launch`, with the node's process over real DDS.

Skipped where launch_ros is not installed; there `test_launch.py` executes the files with stand-ins.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("launch_ros")

from fakes import ros2
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from ros_bench import Bench, stamp_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PATIENCE_S = 60.0
# What `ros2 launch FILE ARGUMENTS` does.
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *given = sys.argv[1:]
service = LaunchService(argv=given)
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(file),
    launch_arguments=[tuple(one.split(":=", 1)) for one in given])]))
sys.exit(service.run())
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """The package as `colcon build --symlink-install` lays it."""
    root = tmp_path_factory.mktemp("install")
    share, lib = root / "share" / "l2m_ros", root / "lib" / "l2m_ros"
    index = root / "share" / "ament_index" / "resource_index" / "packages"
    for folder in (share, lib, index):
        folder.mkdir(parents=True)
    for name in ("launch", "config", "models", "package.xml"):
        (share / name).symlink_to(ROOT / name)
    for name in ("matcher", "wait_until_listening"):
        (lib / name).symlink_to(ROOT / "resource" / name)
    (index / "l2m_ros").touch()
    return root


class Launched:
    """A launch in a process group of its own, as in a terminal."""

    def __init__(self, bench, prefix, file, *given, **environment):
        ament = os.pathsep.join([str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")])
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        env = os.environ | {"AMENT_PREFIX_PATH": ament, "PATH": path, "PYTHONUNBUFFERED": "1"}
        env |= {"ROS_DOMAIN_ID": str(bench.domain), **environment}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.bench, self.lines = bench, []
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(ROOT / "launch" / file), *given],
            env=env, cwd=prefix, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        self.lines.extend(self.process.stdout)

    @property
    def said(self):
        return "".join(self.lines)

    def node_pid(self):
        """Of the matcher, found among the children of the launch."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split():
            if "/matcher" in Path(f"/proc/{pid}/cmdline").read_text():
                return int(pid)
        return None

    def tracks(self):
        self.bench.statuses.clear()
        self.bench.connect(seconds=PATIENCE_S)
        self.bench.recover(seconds=PATIENCE_S)

    def interrupt(self):
        """Ctrl-C: the terminal sends it to every process."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait()

    def wait(self, seconds=PATIENCE_S):
        code = self.process.wait(seconds)
        self.reader.join(5)
        return code

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


@pytest.fixture
def bench():
    with Bench(inside=False) as one:
        yield one


@pytest.fixture
def launched(bench, prefix):
    running = []

    def start(*given, **environment):
        running.append(Launched(bench, prefix, *given, **environment))
        return running[-1]

    yield start
    for one in running:
        one.close()


MATCHER = ("matcher.launch.py", "model:=orb", "image:=/image", "depth:=/depth")


def test_a_killed_node_is_respawned_and_tracks_again(launched):
    run = launched(*MATCHER, "respawn:=true")
    run.tracks()
    for with_signal in (signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL):
        pid = run.node_pid()
        os.kill(pid, with_signal)
        run.bench.wait(lambda pid=pid: run.node_pid() not in (None, pid), PATIENCE_S)
        run.tracks()
    assert run.interrupt() == 0, run.said


@pytest.mark.parametrize("on_exit", ["nothing", "shutdown"])
def test_ctrl_c_ends_clean(launched, on_exit):
    for _ in range(3):
        run = launched(*MATCHER, f"on_exit:={on_exit}")
        run.tracks()
        assert run.interrupt() == 0, run.said
        assert "process has died" not in run.said and "Traceback" not in run.said, run.said


def test_the_end_of_the_node_ends_the_launch_where_asked(launched):
    run = launched(*MATCHER, "on_exit:=shutdown")
    run.tracks()
    os.kill(run.node_pid(), signal.SIGINT)
    assert run.wait() == 0, run.said


def test_rviz_that_is_not_there_is_said_and_the_matcher_runs(launched):
    run = launched(*MATCHER, "rviz:=true")
    run.tracks()
    assert "there is no rviz2" in run.said
    pid = run.node_pid()
    assert run.interrupt() == 0, run.said
    assert not Path(f"/proc/{pid}").exists()


def asked(bench, kind, service, request):
    client = bench.driver.create_client(kind, service)
    assert client.wait_for_service(PATIENCE_S)
    future = client.call_async(request)
    answer = bench.wait(lambda: future.done() and future.result(), PATIENCE_S)
    bench.driver.destroy_client(client)
    return answer


def test_configure_after_cleanup_does_not_activate(launched):
    run = launched(*MATCHER)
    run.tracks()
    names = ("DEACTIVATE", "CLEANUP", "CONFIGURE")
    for id in (getattr(Transition, f"TRANSITION_{name}") for name in names):
        request = ChangeState.Request(transition=Transition(id=id))
        assert asked(run.bench, ChangeState, "/l2m/change_state", request).success
    time.sleep(2.0)
    state = asked(run.bench, GetState, "/l2m/get_state", GetState.Request()).current_state
    assert state.id == State.PRIMARY_STATE_INACTIVE
    assert run.interrupt() == 0, run.said


def test_a_replay_loses_no_frame_and_ends_with_0(launched, tmp_path):
    command = tmp_path / "ros2"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {ros2.__file__} "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    for _ in range(2):
        run = launched(
            "replay.launch.py", "bag:=b", f"poses:={tmp_path}/poses", "model:=orb",
            "image:=/cam/image", "depth:=/cam/depth", PATH=path, L2M_FAKE_ROS2=str(tmp_path),
        )  # fmt: skip
        assert run.wait(120) == 0, run.said
        assert "process has died" not in run.said, run.said
        stamps = json.loads((tmp_path / "recorded").read_text())
        # The first frame is the keyframe; every other one is posed against it.
        assert stamps == [stamp_of(number) for number in range(1, ros2.FRAMES)], len(stamps)
        for name in ("recorded", "resumed"):
            (tmp_path / name).unlink()
