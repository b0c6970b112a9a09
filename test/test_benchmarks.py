"""The benchmarks as programs: what they take, and what is said where it is not there."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import Camera, Frame

pytest.importorskip("torch")
pytest.importorskip("faiss")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# All in one process: torch is imported once. Each line of stdin is a call; a line of stdout says
# what it ended with and what it wrote to stdout and stderr.
RUNNER = """
import contextlib, io, json, runpy, sys
for line in sys.stdin:
    name, *sys.argv[1:] = line.split()
    sys.argv[0] = name
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(name, run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            try:
                sys.excepthook(*sys.exc_info())
            except SystemExit as ended:
                code = ended.code
    said = [text.getvalue().splitlines() for text in (out, err)]
    print(json.dumps([line.strip(), code, *said]), flush=True)
"""
MISSING = """
relocalization.py NOWHERE --kept NEW
relocalization.py NOWHERE --kept NEW --cases sideways
relocalization.py NOWHERE --kept NEW --cases negatives
relocalization.py NOWHERE --kept NEW --cases negatives --negatives EMPTY
map_latency.py NOWHERE
twins.py NOWHERE
map_scale.py NOWHERE NOWHERE --others EMPTY
map_scale.py NOWHERE NOWHERE --others NOWHERE
splat_worth.py bank NOWHERE --out NEW
splat_worth.py train --arm both --out NEW
splat_worth.py train --arm pairs --bank NOWHERE --out NEW
splat_worth.py train --arm photographs --photographs EMPTY --out NEW
splat_worth.py measure EMPTY --scenes EMPTY
sequences.py EMPTY
sequences.py NOWHERE
recorded_trust.py NOWHERE
mono.py EMPTY
lifting.py NOWHERE
lifting.py EMPTY
retrieval.py --sizes 10 --recall NOWHERE
"""


def ends_of(lines: list[str], folder: Path) -> list[tuple[str, int, list[str], list[str]]]:
    environment = {**os.environ, "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=folder, env=environment, text=True,
        input="\n".join(lines), capture_output=True, timeout=300,
    )  # fmt: skip
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ends) == len(lines), done.stderr
    return ends


def programs() -> list[Path]:
    return [path for path in sorted(BENCHMARKS.glob("*.py")) if "__main__" in path.read_text()]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Of every program's --help, and of each line above."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "empty").mkdir()
    names = {"NOWHERE": folder / "nowhere", "EMPTY": folder / "empty", "NEW": folder / "new"}
    lines = [f"{path} --help" for path in programs()]
    for line in MISSING.strip().splitlines():
        name, *words = line.split()
        lines.append(" ".join(map(str, [BENCHMARKS / name, *(names.get(w, w) for w in words)])))
    return ends_of(lines, folder)


def test_every_benchmark_explains_itself(ends):
    pytest.importorskip("rclpy")
    assert len(programs()) > 20
    for call, code, out, err in ends[: len(programs())]:
        assert code == 0 and out[0].startswith("usage:"), (call, err[-1:])


def test_what_is_missing_is_one_line(ends):
    for call, code, _, said in ends[len(programs()) :]:
        assert code == 2 and len(said) == 1, (call, code, said[-1:])
        assert said[0].startswith(Path(call.split()[0]).name), said


@pytest.fixture
def recordings(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # benchmarks set one of their own
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("recordings")


@pytest.mark.parametrize("stereo", [False, True])
@pytest.mark.parametrize("variant", ["as_it_is", "mirrored", "backwards", "mirrored+backwards"])
def test_odometry_tells_of_the_camera_that_the_images_are_of(
    recordings, monkeypatch, variant, stereo
):
    """Exact odometry stays exact, whichever camera of a pair a mirror makes the left one."""
    seen = importlib.import_module("sequences")
    rng = np.random.default_rng(0)
    camera = Camera(8, 6, np.array([[5.0, 0, 3], [0, 5, 2], [0, 0, 1]]))
    right_from_left = np.eye(4)
    right_from_left[0, 3] = -0.5
    odom_from_world = se3.exp(np.array([1.0, 2, 3, 0.3, -0.2, 0.9]))
    views = []
    for number in range(3):
        world_from_camera = se3.exp(rng.normal(size=6))
        frame = Frame(rng.integers(0, 255, (6, 8, 3), np.uint8), camera, stamp_ns=number * 10**8)
        if stereo:
            other = {"right_camera": camera, "right_from_camera": right_from_left}
            frame = replace(frame, right_rgb=frame.rgb[::-1].copy(), **other)
        said = OdometrySample(frame.stamp_ns, odom_from_world @ world_from_camera, np.eye(6))
        views.append(seen.View(frame, world_from_camera, 0, said))
    monkeypatch.setattr(recordings, "views", lambda folder, every: iter(views))
    shots = recordings.recorded(Path("x"), recordings.VARIANTS[variant])
    truth = [shot.world_from_camera for shot in shots]
    odometry = [shot.odom_from_base @ shot.base_from_camera for shot in shots]
    for a, b in ((0, 1), (1, 2)):
        true = se3.inverse(truth[a]) @ truth[b]
        assert np.allclose(se3.inverse(odometry[a]) @ odometry[b], true, atol=1e-9)


def test_a_missing_extra_is_named_and_the_exit_code_is_2(tmp_path):
    code = "import sys; sys.modules['faiss'] = None; sys.argv = ['b.py']; import refusals, faiss"
    environment = {**os.environ, "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr == "b.py: this needs faiss: pip install 'l2m_ros[map]'\n"
