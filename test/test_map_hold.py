"""The map's process stands still while a frame is at work, but neither for long nor for good."""

import contextlib
import itertools
import subprocess
import sys
import time

import pytest

from l2m_ros.mapping.hold import Hold

PATIENCE_S = 60.0  # on a busy machine


def is_stopped(pid):
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "T"


def until(condition):
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


@pytest.fixture
def process():
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@contextlib.contextmanager
def holding(process, longest_s=PATIENCE_S, free_s=PATIENCE_S):
    hold = Hold(longest_s, free_s)
    hold.allow(process)
    yield hold
    hold.close()


def test_process_is_stopped_until_the_last_of_two_frames_is_done(process):
    with holding(process) as hold:
        assert not is_stopped(process.pid)
        with hold.frame():
            until(lambda: is_stopped(process.pid))
            with hold.frame():
                pass
            assert is_stopped(process.pid)
        until(lambda: not is_stopped(process.pid))
        with contextlib.suppress(ValueError), hold.frame():
            until(lambda: is_stopped(process.pid))
            raise ValueError  # a frame that fails
        until(lambda: not is_stopped(process.pid))


def test_a_frame_that_never_ends_does_not_hold_it_for_ever_and_it_keeps_its_share(process):
    with holding(process, longest_s=0.05, free_s=0.05) as hold, hold.frame():
        states, end_s = [], time.monotonic() + 1.0
        while time.monotonic() < end_s:
            states.append(is_stopped(process.pid))
            time.sleep(0.001)
    changes = sum(a != b for a, b in itertools.pairwise(states))
    assert changes >= 4  # stopped and let go in turn
    assert states.count(False) > len(states) // 10


def test_it_goes_on_when_it_may_no_longer_be_stopped_and_when_all_ends(process):
    with holding(process) as hold:
        with hold.frame():
            until(lambda: is_stopped(process.pid))
            hold.allow(None)
            until(lambda: not is_stopped(process.pid))
            hold.allow(process)
            until(lambda: is_stopped(process.pid))
            hold.close()
            until(lambda: not is_stopped(process.pid))
            hold.allow(process)
        with hold.frame():
            time.sleep(0.01)
            assert not is_stopped(process.pid)


def test_a_process_that_ended_is_no_error(process):
    process.kill()
    process.wait()
    with holding(process) as hold, hold.frame():
        pass


def test_a_process_that_was_stopped_goes_on_and_ends_when_the_node_is_killed(tmp_path):
    """The node dies within a frame: Linux wakes the process, which then sees its stdin closed."""
    program = (
        "import os, signal, sys, time\nfrom l2m_ros.mapping.map_process import *\n"
        "options = OnlineOptions(mode='build', path=sys.argv[1], nice=15)\n"
        "map_process = MapProcess(Spec('sift', {}, options))\n"
        "map_process._few_cores = True\n"
        "end_s = time.monotonic() + 60.0\n"
        "while map_process.hold._process is None and time.monotonic() < end_s:\n"
        "    map_process.answers(0.1)\n"
        "with map_process.hold.frame():\n"
        "    print(map_process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "map.l2m")]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = int(node.stdout.readline())
    node.wait()
    until(lambda: not _exists(pid) or not is_stopped(pid))
    until(lambda: not _exists(pid))


def _exists(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
