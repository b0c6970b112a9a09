"""Parsers under inputs guided by coverage: in `make test-slow`, where atheris is installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = ("picture", "depth", "npy", "npz", "shard", "card", "parameters", "scene", "recording",
         "bag", "map", "truth", "gaussians", "record", "nerfstudio")  # fmt: skip
RUNS = 5000  # of each
MOST_BYTES = 1 << 18  # of an input; a map has 90 kB


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_refusals_comes_out(name, tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not here: pip install atheris (Linux)")
    command = [sys.executable, str(HERE / "coverage_guided.py"), name, str(RUNS), str(MOST_BYTES)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = [path.read_bytes()[:500] for path in tmp_path.iterdir()]
    assert done.returncode == 0, (found, done.stderr[-3000:])
    assert f"number_of_executed_units: {RUNS}" in done.stderr


def test_every_target_is_tried():
    pytest.importorskip("torch")
    pytest.importorskip("faiss")
    from fuzz.guided_targets import targets
    from l2m_ros.errors import L2MError

    found = targets()
    assert tuple(found) == NAMES
    for name, target in found.items():
        assert all(len(seed) <= MOST_BYTES for seed in target.seeds), name
        for seed in target.seeds:
            try:
                target.parse(seed)
            except L2MError as error:  # the depth by RVL is made up, and a card has no graph
                assert name in ("depth", "card"), error
