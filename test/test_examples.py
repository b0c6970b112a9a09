"""What README and examples/ tell newcomers to run, run as written."""

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2m_ros import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A folder with `pair`, rendered by the command that README names."""
    pytest.importorskip("embreex")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("examples")
    (command,) = re.findall(r"`l2m (simulate --out\s+pair [^`]*)`", README)
    arguments = command.split()
    arguments[arguments.index("pair")] = str(folder / "pair")
    assert cli.main(arguments) == 0
    return folder


def truth(folder, name_a, name_b):
    """a_from_b of two rendered cameras."""
    import json

    cameras = json.loads((folder / "pair" / "meta.json").read_text())["cameras"]
    a, b = (np.array(cameras[name]["world_from_camera"]) for name in (name_a, name_b))
    return np.linalg.inv(a) @ b


def test_the_lines_of_the_readme_print_a_metric_pose(rendered, monkeypatch, capsys):
    (lines,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len([line for line in lines.splitlines() if line]) <= 11
    monkeypatch.chdir(rendered)
    scope: dict = {}
    exec(compile(lines, "README.md", "exec"), scope)
    assert "MetricPose" in capsys.readouterr().out
    found = scope["estimate_pose"](
        scope["correspondences"](scope["match"]), scope["query"], scope["keyframe"]
    )
    expected = truth(rendered, "000000.png", "000007.png")
    assert np.abs(found.keyframe_from_camera - expected).max() < 0.01
    assert found.scale_source == "depth"


@pytest.fixture
def run(rendered, monkeypatch, capsys):
    """An example as a script beside `pair`, in this process: what it prints; it must end with 0."""
    monkeypatch.chdir(rendered)

    def script(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert not end.value.code
        return capsys.readouterr().out

    return script


def command_of(name):
    """The arguments of the last command in an example's own docstring."""
    text = (EXAMPLES / name).read_text().split('"""')[1].replace("\\\n", " ")
    (command,) = re.findall(rf"python examples/{name} (.*)", text)
    return command.split()


def test_match_two_images(rendered, run):
    said = run("match_two_images.py", *command_of("match_two_images.py"))
    x, y, z = map(float, re.findall(r"is at (\S+) (\S+) (\S+) m", said)[0])
    expected = truth(rendered, "000000.png", "000007.png")[:3, 3]
    assert np.abs(np.array([x, y, z]) - expected).max() < 0.01


def test_track_a_folder(rendered, run):
    run("track_folder.py", "pair", "--out", "pair.tum")
    poses = np.loadtxt(rendered / "pair.tum")
    assert len(poses) == 7  # the first frame becomes the keyframe
    expected = truth(rendered, "000000.png", "000007.png")[:3, 3]
    assert np.abs(poses[-1, 1:4] - expected).max() < 0.01


def test_read_correspondences_in_another_node(capfd):
    pytest.importorskip("rclpy")
    from ros_bench import Bench

    spec = importlib.util.spec_from_file_location("reader", EXAMPLES / "read_correspondences.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    seen = []
    with Bench() as bench:
        reader = example.CorrespondenceReader(context=bench.driver_context)
        keep = lambda message: seen.append(example.read_matches(message))  # noqa: E731
        reader.create_subscription(example.PointCloud2, "/l2m/correspondences", keep, 5)
        thread = bench._spin(reader)
        bench.wait(lambda: bench.send() and len(seen) >= 3, every_s=0.03)
    thread.join(5.0)
    matches = seen[-1]
    assert len(matches) > 100 and np.isfinite(matches["x"]).all()
    assert "since the keyframe" in capfd.readouterr().err


def test_the_front_door_imports_nothing_until_asked():
    code = (
        "import sys, l2m_ros; assert not [m for m in sys.modules if m.startswith('l2m_ros.')];"
        "assert set(l2m_ros.__all__) <= set(dir(l2m_ros));"
        "[getattr(l2m_ros, name) for name in l2m_ros.__all__];"
        "assert 'torch' not in sys.modules and 'rclpy' not in sys.modules;"
        "from l2m_ros.types import Camera; assert l2m_ros.Camera is Camera"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
