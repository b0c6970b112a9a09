"""A run on disk: written whole and renamed, read without unpickling anything but tensors.

A process killed at any moment leaves the last complete checkpoint; everything random in a run
is drawn from (seed, step), so that a resumed run is the run that was never interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.files import whole_file
from l2m_ros.networks.checkpoint import torch_tensors

NAME = "checkpoint.pt"
PARTS = ("model", "ema", "optimizer", "step", "elapsed_s")


def save(folder: Path, state: dict[str, Any], name: str = NAME) -> None:
    path = folder / name
    try:
        with whole_file(path) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise InvalidInput(
            f"{path}: the checkpoint could not be written ({error}); free some space and start "
            "the same command again: it resumes from the last whole checkpoint"
        ) from error


def load(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """The last whole checkpoint of a run's folder, or None for a new run."""
    path = folder / name
    if not path.exists():
        return None
    try:
        state = torch_tensors(path)
    except ModelError as error:
        raise ModelError(f"{error}; remove it to start again") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path}: is no checkpoint; remove it to start again")
    return state


def require_parts(state: dict[str, Any], source: str) -> None:
    """Refuse a file of weights, or another program's checkpoint, where a run is wanted."""
    if lacking := [part for part in PARTS if part not in state]:
        raise ModelError(
            f"{source}: is no checkpoint of a training here (it lacks {', '.join(lacking)}); name "
            "another --out, or begin with its weights by --start"
        )


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Strictly: every parameter named, of the right shape, and nothing else."""
    try:
        module.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{source}: the weights do not fit this architecture: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
