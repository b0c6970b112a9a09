"""A run's state in one small file, to go on with another day or on another machine.

    the weights' mean over the steps, how far the weights are from it, AdamW's moments (both
    bfloat16), step and seconds

What does not train is kept once. `lite` takes 10 MB where its checkpoint takes 17.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.networks.checkpoint import save_tensors
from l2m_ros.workshop.training import checkpoint

NAME = "carry.safetensors"
TOLD = ("step", "elapsed_s", "ema_steps", "updates")


def write_carry(folder: Path, path: Path) -> None:
    """The checkpoint of a run's folder as one file."""
    state = checkpoint.load(folder)
    if state is None:
        raise InvalidInput(f"{folder}: holds no {checkpoint.NAME}: train first")
    tensors: dict[str, Tensor] = {}
    for name, weight in state["model"].items():
        mean = state["ema"].get(name, weight)  # whole numbers have no mean
        tensors[f"mean.{name}"] = mean
        if not torch.equal(mean, weight):
            tensors[f"off.{name}"] = (weight - mean).to(torch.bfloat16)
    optimizer = state["optimizer"]
    for index, moments in optimizer["state"].items():
        for kind in ("exp_avg", "exp_avg_sq"):
            tensors[f"{kind}.{index}"] = moments[kind].to(torch.bfloat16)
    told = {
        "step": str(state["step"]),
        "elapsed_s": str(state["elapsed_s"]),
        "ema_steps": str(state["ema"]["steps"]),
        "updates": str(int(next(iter(optimizer["state"].values()), {"step": 0})["step"])),
    }
    save_tensors(path, tensors, told)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """The file, and the numbers that its head tells."""
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            if missing := [name for name in TOLD if not _is_number(name, told.get(name, ""))]:
                words = f"its head tells no {', '.join(missing)}: name a {NAME} of l2m train"
                raise ModelError(f"{path}: is no state to go on with ({words})")
            yield file, told
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: is no state to go on with ({error})") from error


def _is_number(name: str, text: str) -> bool:
    kind = float if name == "elapsed_s" else int
    try:
        return 0 <= kind(text) < math.inf
    except ValueError:
        return False


def check_carry(path: Path) -> None:
    """Before the work begins: refuse what is no such file."""
    with _opened(path):
        pass


def begin_from(path: Path, folder: Path, groups: list[dict[str, object]]) -> None:
    """Write the checkpoint that a run in `folder` goes on from, unless it already has its own.

    groups: the optimiser's, as the new run would begin with (`Run.optimizer.state_dict()`).
    """
    if (folder / checkpoint.NAME).exists():
        return
    with _opened(path) as (file, told):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    mean, off = _part(tensors, "mean."), _part(tensors, "off.")
    model = {name: w + off[name].float() if name in off else w for name, w in mean.items()}
    moments = {kind: _part(tensors, f"{kind}.") for kind in ("exp_avg", "exp_avg_sq")}
    updates = torch.tensor(float(told["updates"]))
    state = {
        int(index): {
            "step": updates.clone(),
            **{kind: values[index].float() for kind, values in moments.items()},
        }
        for index in moments["exp_avg"]
    }
    means = {name: w for name, w in mean.items() if w.is_floating_point()}
    checkpoint.save(
        folder,
        {
            "model": model,
            "ema": {"steps": int(told["ema_steps"]), **means},
            "optimizer": {"state": state, "param_groups": groups},
            "step": int(told["step"]),
            "elapsed_s": float(told["elapsed_s"]),
        },
    )


def _part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
