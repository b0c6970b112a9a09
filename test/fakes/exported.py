"""The toy network as graphs, exported once per test process: each export takes seconds."""

import tempfile
from functools import cache
from pathlib import Path

from fakes.toy_network import ToyNetwork
from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.export.stages import ExportOptions, export_model

KEPT = []  # the folders live as long as the process


@cache
def exported_toy(precision: str) -> ModelCard:
    """96x64 (width x height)."""
    KEPT.append(tempfile.TemporaryDirectory(prefix="toy_"))
    plain = ModelCard(name="toy", architecture="toy", input=InputSpec(64, 64, multiple=8))
    out = Path(KEPT[-1].name)
    return export_model(ToyNetwork(), plain, ExportOptions(out, 64, 96, precision))
