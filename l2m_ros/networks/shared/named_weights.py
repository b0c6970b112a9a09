"""Weights drawn from their names alone, for comparing implementations number for number.

    n = normal(PCG64(crc32(prefix + name)), shape), rounded to float32
    value = rule(bare name, shape)(n), evaluated in float64, rounded to float32

The prefix changes the draw and nothing else; rules look at the bare name: a state_dict key,
with "dinov2." before those of L2M's ViT. Gains keep activations of all layers near 1.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from l2m_ros.errors import InvalidInput

FIXED = {"eps": 1e-16, "offset_par1": 0.5, "offset_par2": 2.0, "ones_kernel": 1.0}

# Rules by the last part of the name; the first table that holds it decides.
BY_LEAF: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "running_mean": lambda n: 0.1 * n,
    "running_var": lambda n: 1.0 + 0.1 * np.abs(n),
    "gamma": lambda n: 0.4 * (1.0 + 0.1 * n),
    "pos_embed": lambda n: 0.6 * n,
    "cls_token": lambda n: 0.6 * n,
    "mask_token": lambda n: 0.02 * n,
    "dustbin_score": lambda n: 1.0 + 0.1 * n,
}

DEFAULT_GAIN = math.sqrt(2.0)
CENTRED_FROM = 16  # kernels with this many inputs or more have their mean taken off
GAINS = [  # the first pattern found in the name decides
    (r"^decoder\.embedding_decoder\.blocks\.\d+\.attn\.proj\.", 0.4),
    (r"(^|\.)blocks\.\d+\.attn\.proj\.", 0.7),
    (r"(^|\.)blocks\.\d+\.attn\.qkv\.", 1.6),
    (r"^encoder\.cnn\.", 1.8),
    (r"^decoder\.proj\.16\.", 0.35),
    (r"^decoder\.proj\.[84]\.", 0.8),
    (r"^decoder\.embedding_decoder\.to_out\.", 0.6),
    (r"^decoder\.conv_refiner\.16\.out_conv\.", 1.2),
    (r"^decoder\.conv_refiner\.[84]\.out_conv\.", 0.3),
    (r"^decoder\.conv_refiner\.2\.out_conv\.", 0.4),
    (r"^decoder\.conv_refiner\.1\.out_conv\.", 0.3),
    (r"^xfeat\.\d+\.block_fusion\.2\.", 0.6),
    (r"^xfeat\.", 1.7),
    (r"\.det_head\.score\.", 25.0),
    (r"\.det_offset\.xy_offset\.", 0.7),
    (r"\.depth_head\.depth\.", 0.5),
    (r"^(coarse|fine)_matcher\.4\.", 1.1),
    (r"^(coarse|fine)_matcher\.", 1.7),
]


def named_tensor(name: str, shape: Sequence[int], prefix: str = "") -> np.ndarray:
    """The value of one entry: float32, or int64 for batch counters."""
    shape = tuple(int(side) for side in shape)
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf in FIXED:
        return np.full(shape, FIXED[leaf], np.float32)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32((prefix + name).encode())))
    draw = np.asarray(generator.standard_normal(shape)).astype(np.float32).astype(np.float64)
    return np.asarray(_rule(name, leaf, draw)).astype(np.float32)


def _rule(name: str, leaf: str, draw: np.ndarray) -> np.ndarray:
    if leaf in BY_LEAF:
        return BY_LEAF[leaf](draw)
    if draw.ndim >= 2:
        return _kernel(name, draw)
    if draw.ndim == 1:
        return _bias(name, draw) if leaf == "bias" else 1.0 + 0.02 * draw
    raise InvalidInput(f"no rule draws a value for {name} of shape {draw.shape}")


def _bias(name: str, draw: np.ndarray) -> np.ndarray:
    value = 0.02 * draw
    if name.endswith("to_out.bias"):
        value[-1] -= 1.8
    elif name.endswith("out_conv.bias"):
        value[0] += 2.5
        value[1] -= 2.5
    return value


def _kernel(name: str, draw: np.ndarray) -> np.ndarray:
    if draw.shape[1] >= CENTRED_FROM:
        draw = draw - draw.mean(axis=tuple(range(1, draw.ndim)), keepdims=True)
    if name.endswith("depth_head.depth.weight"):
        draw = draw + 0.6
    gain = next((g for pattern, g in GAINS if re.search(pattern, name)), DEFAULT_GAIN)
    return (gain / math.sqrt(math.prod(draw.shape[1:]))) * draw


def fill(network: nn.Module, prefix: str = "") -> nn.Module:
    """The network with every parameter and buffer of its state drawn by name."""
    for name, value in network.state_dict().items():  # one at a time: L2M is 1.7 GB
        value.copy_(torch.from_numpy(named_tensor(name, tuple(value.shape), prefix)))
    return network.eval().requires_grad_(False)


def failed_checks(file: Path) -> list[str]:
    """Names in a list of spot checks (JSON) whose drawn values differ from what it states."""
    entries: list[Mapping[str, Any]] = json.loads(file.read_text())
    return [entry["draw_name"] for entry in entries if not _agrees(entry)]


def _agrees(entry: Mapping[str, Any]) -> bool:
    drawn = named_tensor(entry["draw_name"], entry["shape"], entry.get("prefix", ""))
    if "sha256" in entry:
        return hashlib.sha256(drawn.tobytes()).hexdigest() == entry["sha256"]
    first = np.asarray(entry["first4"], drawn.dtype)
    return bool(np.array_equal(drawn.ravel()[: first.size], first))
