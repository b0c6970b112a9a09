"""The package as others get it: its files, its versions, and an installed wheel that works."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import l2m_ros

ROOT = Path(__file__).parent.parent


def test_one_version_everywhere():
    assert ET.parse(ROOT / "package.xml").findtext("version") == l2m_ros.__version__
    assert l2m_ros.__version__ in (ROOT / "CHANGELOG.rst").read_text()


def test_the_package_is_ament_python():
    root = ET.parse(ROOT / "package.xml").getroot()
    assert root.get("format") == "3"
    assert root.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "l2m_ros").is_file()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """The wheel of this checkout, installed without its dependencies into an empty prefix.

    `--ignore-installed`, because `pip install --prefix` alone first uninstalls the package from
    the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    (wheel,) = folder.glob("l2m_ros-*.whl")
    install = [*pip, "install", "-q", "--no-deps", "--no-index", "--ignore-installed"]
    before = installed()
    subprocess.run([*install, "--prefix", str(folder / "root"), str(wheel)], check=True)
    assert installed() == before, "installing elsewhere changed the environment of the tests"
    return folder / "root"


def installed():
    """Where the environment of the tests has the package from."""
    code = "import importlib.metadata as m; print(m.distribution('l2m_ros').locate_file(''))"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd="/", env=env, capture_output=True, text=True, check=False
    ).stdout


def run(prefix, *argv):
    (site,) = prefix.glob("lib/python3*/site-packages")
    ament = os.pathsep.join([str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")])
    env = os.environ | {"PYTHONPATH": str(site), "AMENT_PREFIX_PATH": ament}
    return subprocess.run(
        argv, cwd=prefix, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_installed_command_runs(prefix):
    done = run(prefix, sys.executable, str(prefix / "bin" / "l2m"), "--help")
    assert done.returncode == 0, done.stderr
    assert "simulate" in done.stdout
    where = run(prefix, sys.executable, "-c", "import l2m_ros; print(l2m_ros.__file__)")
    assert where.stdout.startswith(str(prefix))


def test_ros2_run_finds_the_executable(prefix):
    assert os.access(prefix / "lib" / "l2m_ros" / "matcher", os.X_OK)
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "l2m_ros").exists()
    assert (prefix / "share" / "l2m_ros" / "package.xml").exists()


def test_every_shared_file_is_installed(prefix):
    """But the runs to go on with, which only a checkout has."""
    assert not (prefix / "share" / "l2m_ros" / "models" / "training").exists()
    for folder in ("launch", "config", "models"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not {"__pycache__", "training"} & set(path.parts):
                assert (prefix / "share" / "l2m_ros" / path.relative_to(ROOT)).exists(), path


# What takes long to import, and what a node with `lite` does not need.
HEAVY = ("torch", "scipy.stats", "scipy.optimize", "scipy.spatial", "scipy.sparse", "matplotlib",
         "onnx", "rosbags", "gtsam", "faiss", "pandas", "l2m_ros.workshop")  # fmt: skip


def test_a_node_starts_without_what_it_does_not_need(prefix):
    """3 s of processor time from the process to the first match of `lite`; 0.7 s where measured."""
    code = f"""
import importlib.util, resource, sys
import l2m_ros.matching.catalogue as c, l2m_ros.tracking.tracker
from l2m_ros.node.loading import warm_up
if importlib.util.find_spec("rclpy"):
    import l2m_ros.node.main
warm_up(c.load_matcher("lite", backend="auto"))
used = resource.getrusage(resource.RUSAGE_SELF)
print([name for name in {HEAVY} if name in sys.modules], used.ru_utime + used.ru_stime < 3.0)
"""
    pytest.importorskip("onnxruntime")
    done = run(prefix, sys.executable, "-c", code)
    assert done.stdout.strip() == "[] True", done.stdout + done.stderr


@pytest.mark.parametrize("argv", [["matcher", "--help"], ["l2m", "map", "--help"]])
def test_numpy_gets_no_second_thread(argv):
    """It would spin beside tracking; see `l2m_ros.threads`."""
    if argv[0] == "matcher":
        pytest.importorskip("rclpy")
    code = f"""
import contextlib, os, runpy, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "numpy":
            print("one thread:", os.environ.get("OPENBLAS_NUM_THREADS"))
sys.meta_path.insert(0, Watch())
sys.argv = {argv}
with contextlib.suppress(SystemExit):
    runpy.run_path({str(ROOT / "resource" / argv[0])!r}, run_name="__main__")
import numpy
"""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "one thread: 1" in done.stdout and "one thread: None" not in done.stdout, done.stderr
