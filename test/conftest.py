"""One thread for each library: on a busy machine its idle threads spin, which took 80 s of 88."""

import gc
import os
import sys

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import pytest  # noqa: E402

from l2m_ros.engines import backend  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays():
    """Tests and the node call `gc.collect`: it looks at what a file made, not at a million objects
    of all that was imported before (0.7 s each time)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _onnxruntime_on_the_cpu(monkeypatch):
    """`backend: auto` means one engine on every machine: results must not depend on the CPU."""
    monkeypatch.setattr(backend, "_openvino_is_faster", lambda: False)


@pytest.fixture
def drawn_curves():
    """Asks for the curves of a training run, as pictures and in TensorBoard."""


@pytest.fixture(autouse=True)
def _curves_on_request(request, monkeypatch):
    """They take longer than the few steps of the runs here."""
    curves = sys.modules.get("l2m_ros.workshop.training.curves")
    if curves is not None and "drawn_curves" not in request.fixturenames:
        monkeypatch.setattr(curves, "draw", lambda folder: None)
        monkeypatch.setattr(curves, "_tensorboard", lambda folder: None)
