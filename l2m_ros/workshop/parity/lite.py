"""lite's golden numbers: every stage under the shipped weights, as the machine that trained has it.

models/cases.json     {"lite": {"weights": "lite.safetensors", "files": ["lite_golden.npz"]}}
models/lite_golden.npz    two small pictures (uint8) and the tensors that follow from them

So `l2m parity models --model lite` tells, on any machine, whether the weights are the shipped
ones and whether this torch computes what they were shipped with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import ModelError
from l2m_ros.networks.lite.network import Lite
from l2m_ros.workshop.parity.golden import Answer, Cases, Report, Resize

INPUTS = ("query", "keyframe")
# Sums in another order: threads, another processor, another torch.
TOLERANCES = {"warp": 1e-4, "certainty": 5e-3, "precision": 5e-3}
FEATURES = 5e-4


def run(
    network: Lite, cases: Cases, table: Mapping[str, Any], report: Report, resize: Resize
) -> None:
    """Load the shipped weights into `network`, and compare every tensor of every file."""
    load_shipped(network, cases.folder / str(table["weights"]))
    for file in table["files"]:
        golden = cases.load(file)
        values = stages(network, *(golden[name] for name in INPUTS))
        answers = {name: Answer(value, tolerance_of(name)) for name, value in values.items()}
        report.inputs += len(INPUTS)
        report.add(file, {k: v for k, v in golden.items() if k not in INPUTS}, answers)


def load_shipped(network: Lite, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: not the weights of this lite ({reason})") from error
    network.eval()


def tolerance_of(name: str) -> float:
    return TOLERANCES.get(name.rpartition("/")[2], FEATURES)


@torch.inference_mode()
def stages(network: Lite, query: np.ndarray, keyframe: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that the three steps give for two (H, W, 3) uint8 pictures."""
    first, second = _tensor(query), _tensor(keyframe)
    features, other = network.encode(first), network.encode(second)
    reference = network.reference(other)
    match = network.match(features, reference)
    parts = {"encode": features, "reference": reference, "match": match}
    return {
        f"{step}/{name}": value.numpy()
        for step, part in parts.items()
        for name, value in part.items()
    }


def _tensor(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 255.0


def save_golden(path: Path, network: Lite, query: np.ndarray, keyframe: np.ndarray) -> None:
    """The file that a shipped network is held to."""
    tensors = stages(network.eval(), query, keyframe)
    np.savez_compressed(path, query=query, keyframe=keyframe, **tensors)
