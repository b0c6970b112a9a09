"""The toy network as graphs, exported once per test process: each export takes seconds."""

import copy
import tempfile
from functools import cache
from pathlib import Path

import pytest

from fakes.toy_network import ToyNetwork
from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.export import stages
from l2m_ros.export.stages import ExportOptions

KEPT = []  # the folders live as long as the process
GRAPHS = {}
trace = stages._onnx


@cache
def exported_toy(precision: str) -> ModelCard:
    """96x64 (width x height)."""
    KEPT.append(tempfile.TemporaryDirectory(prefix="toy_"))
    plain = ModelCard(name="toy", architecture="toy", input=InputSpec(64, 64, multiple=8))
    options = ExportOptions(Path(KEPT[-1].name), 64, 96, precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_onnx", traced_once)
        return stages.export_model(ToyNetwork(), plain, options)


def traced_once(network, job, opset):
    """The graph of a stage before its precision: the same for both, and what takes the seconds."""
    if job.stage not in GRAPHS:
        GRAPHS[job.stage] = trace(network, job, opset)
    return copy.deepcopy(GRAPHS[job.stage])
