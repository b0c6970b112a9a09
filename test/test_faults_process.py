"""The node as a process of its own: signals, kill -9, missing and damaged models, no cache."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_process import NodeProcess
from ros_bench import DOMAINS, claim_domain, image
from sensor_msgs.msg import Image

ROOT = Path(__file__).parent.parent
CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
# The same main with a matcher whose first frame (after the warm-up) takes for ever.
STUCK = """
import time
from functools import partial
import l2m_ros.node.main as m
from l2m_ros.matching.classical import OrbMatcher

class Stuck(OrbMatcher):
    calls = 0
    def encode(self, rgb):
        Stuck.calls += 1
        if Stuck.calls > {free}:
            print("stuck", flush=True)
            time.sleep(60)
        return super().encode(rgb)

m.MatcherNode = partial(m.MatcherNode, make_matcher=lambda name, **options: Stuck())
raise SystemExit(m.main())
"""


@pytest.fixture(scope="module")
def outside():
    one = NodeProcess()
    yield one
    one.close()


def test_no_two_benches_share_a_domain():
    """Two nodes of one name would answer each other's services: a cleanup was refused so once."""
    claims = []
    with pytest.raises(RuntimeError, match="taken"):
        for _ in range(len(DOMAINS) + 1):
            claims.append(claim_domain())
    assert len({domain for domain, _ in claims}) == len(claims)
    for _, claim in claims:
        claim.close()
    claim_domain()[1].close()


def test_kill_9_and_restart_then_sigint(outside):
    outside.start("model:=orb")
    outside.tracks()
    outside.process.kill()
    outside.process.wait(10)
    outside.start("model:=orb")
    outside.tracks()
    assert outside.end(signal.SIGINT) == 0


def test_sigterm_while_a_frame_is_being_worked_on(outside):
    """The worker is inside the model and cannot be interrupted; the process ends all the same."""
    outside.start(code=STUCK.format(free=3))
    outside.bench.connect()
    outside.bench.wait(
        lambda: outside.bench.send() and any("stuck" in line for line in outside.lines), 40, 0.05
    )
    assert outside.end(signal.SIGTERM) == 0


def test_sigint_while_the_model_loads(outside):
    outside.start(code=STUCK.format(free=0))
    outside.says("stuck")
    assert outside.end(signal.SIGINT) == 0


def damaged_model(folder: Path) -> Path:
    """A card whose weights are no graph."""
    folder.mkdir()
    (folder / "card.yaml").write_text("name: [broken\n")
    return folder


@pytest.mark.slow
def test_models_that_are_none_and_a_model_that_is(outside, tmp_path):
    """Missing, damaged, then a good one: the same process recovers by the life cycle."""
    cache = "/proc/none/cache"  # nobody may write there, root included
    outside.start("model:=no_such_model", XDG_CACHE_HOME=cache)
    words = outside.bench.says("node", "no_such_model", level=2)
    assert "configure failed" in words and "ros2 lifecycle set /l2m configure" in words
    assert outside.set("model", str(damaged_model(tmp_path / "damaged"))) == ""
    assert not outside.change(CONFIGURE)
    assert "card.yaml" in outside.bench.says("node", "damaged", level=2)
    assert outside.set("model", "orb") == ""
    assert outside.change(CONFIGURE) and outside.change(ACTIVATE)
    outside.tracks()
    # Asked of an active node, this is no transition: rclpy raises, the node goes on.
    client = outside.bench.driver.create_client(ChangeState, "/l2m/change_state")
    client.call_async(ChangeState.Request(transition=Transition(id=ACTIVATE)))
    outside.says("refused")
    outside.tracks()
    assert outside.end(signal.SIGTERM) == 0


def test_losses_of_large_best_effort_images_are_told_with_the_remedy(outside):
    """1.9 MB through shared memory of 512 KB: most are lost, and DDS says so."""
    bench = outside.bench
    bench.driver.destroy_publisher(bench.publishers["image"])
    bench.publishers["image"] = bench.publisher(Image, "image", reliable=False, depth=1)
    outside.start("model:=orb")
    outside.bench.statuses.clear()
    bench.connect("image")
    pixels = np.zeros((480, 1280, 3), np.uint8)

    def told():
        bench.publishers["image"].publish(image(bench.number, pixels=pixels))
        bench.number += 1
        return "images lost on the way" in bench.status("inputs")[1]

    bench.wait(told, 30, every_s=0.1)
    assert "fastdds_large_images.xml" in bench.status("inputs")[1]
    bench.driver.destroy_publisher(bench.publishers["image"])
    bench.publishers["image"] = bench.publisher(Image, "image")
    outside.tracks()
    assert outside.end(signal.SIGTERM) == 0


def test_l2m_run_is_the_same_node(outside):
    code = "import sys; from l2m_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["run", "--ros-args", "-p", "model:=orb", "-p", "autostart:=false"]
    env = {**os.environ, "ROS_DOMAIN_ID": str(outside.bench.domain)}
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, env=env)
    outside.process = process
    outside.bench.statuses.clear()
    outside.bench.wait(lambda: outside.bench.values("node").get("lifecycle") == "unconfigured", 30)
    assert outside.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--ros-args", "-p", "model"], {}, "model"),
        (
            [],
            {"ROS_LOG_DIR": "/proc/none"},
            "set ROS_LOG_DIR (or HOME) to a folder that may be written",
        ),
    ],
)
def test_what_ros_refuses_at_start_is_one_line(arguments, environment, words):
    run = [sys.executable, "-m", "l2m_ros.node.main", *arguments]
    env = {**os.environ, **environment}
    done = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and words in done.stderr
