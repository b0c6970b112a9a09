"""Golden numbers of single functions: correlation, anchors, GP, positions, sampling, ..."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from l2m_ros.networks.l2m.anchors import Anchors
from l2m_ros.networks.l2m.gp import MatchEncoder, cells_of, kernel, solve
from l2m_ros.networks.shared.correlation import local_correlation, local_correlation_plain
from l2m_ros.networks.shared.grid import centre_grid
from l2m_ros.networks.shared.vit import resized_position
from l2m_ros.networks.shared.warp import forward_backward, match_keypoints, to_edge_pixels
from l2m_ros.workshop.parity.golden import EXACT, Answer, Resize
from l2m_ros.workshop.parity.published_sampling import SamplingOptions, balance_weights, density
from l2m_ros.workshop.parity.published_schedule import scaled

FEATURES, FLOW = 3e-4, 5e-5
PIXEL = 1e-3
DENSITY, HALF_DENSITY = 1e-3, 0.05  # of densities up to some tens; half has 11 bits
WEIGHT, HALF_WEIGHT = 1e-5, 1e-3
INPUTS = {
    "lc": ("f0", "f1", "flow", "r"), "cls": ("in",), "gp": ("x", "y", "w", "b"), "pos": ("in",),
    "resize": ("in",), "kde": ("pts",), "fb": ("fwd", "bwd"), "mk": ("warp", "cert", "xa", "xb"),
}  # fmt: skip
PATCH = 14
KEYPOINT_LIMITS = {"max_distance": 0.2, "min_certainty": 0.3}

Golden = Mapping[str, np.ndarray]
Answers = dict[str, Answer]


def unit_groups(golden: Golden, resize: Resize) -> Iterator[Callable[[Golden], Answers]]:
    """The groups of functions that this file asks about."""
    groups: dict[str, Callable[[Golden], Answers]] = {
        "lc": _correlation, "cls": _anchors, "gp": _process, "pos": _positions,
        "kde": _density, "fb": _forward_backward, "mk": _keypoints,
        "resize": partial(_resizes, resize=resize),
    }  # fmt: skip
    named = {key.partition("/")[0] for key in golden}
    return (torch.inference_mode()(group) for name, group in groups.items() if name in named)


def unit_inputs(golden: Golden) -> set[str]:
    inputs = {f"{group}/{name}" for group, names in INPUTS.items() for name in names}
    return inputs & set(golden)


def _tensor(golden: Golden, key: str) -> Tensor:
    return torch.from_numpy(golden[key])


def _correlation(golden: Golden) -> Answers:
    query, support, flow = (_tensor(golden, f"lc/{k}") for k in ("f0", "f1", "flow"))
    radius = int(golden["lc/r"].reshape(-1)[0])
    still = centre_grid(*query.shape[-2:], like=query)[None].expand_as(flow)
    out = {}
    for key, at, r in (("lc/out", flow, radius), ("lc/out_noflow", still, 1)):
        fast = local_correlation(query, support, at, r).numpy()
        plain = local_correlation_plain(query, support, at, r).numpy()
        golden_value = golden.get(key, plain)
        # Both forms are held to the golden numbers: the worse entry of the two is compared.
        worse = np.abs(fast - golden_value) > np.abs(plain - golden_value)
        out[key] = Answer(np.where(worse, fast, plain), FEATURES)
    return out


def _anchors(golden: Golden) -> Answers:
    logits = _tensor(golden, "cls/in")
    flow = Anchors(math.isqrt(logits.shape[1]))(logits).permute(0, 2, 3, 1)
    return {"cls/out": Answer(flow.numpy(), FLOW)}


def _process(golden: Golden) -> Answers:
    query, keyframe = _tensor(golden, "gp/x"), _tensor(golden, "gp/y")
    weight, bias = _tensor(golden, "gp/w"), _tensor(golden, "gp/b")
    process = MatchEncoder(weight.shape[0])
    process.pos_conv.weight.copy_(weight)
    process.pos_conv.bias.copy_(bias)
    matrix, right = process.system(keyframe)
    code = right.transpose(1, 2).reshape(right.shape[0], -1, *keyframe.shape[-2:])
    return {
        "gp/out": Answer(process(query, keyframe, solve(matrix, right)).numpy(), FEATURES),
        "gp/f": Answer(code.numpy(), FEATURES),
        "gp/K_xy": Answer(kernel(cells_of(query), cells_of(keyframe)).numpy(), FEATURES),
    }


def _positions(golden: Golden) -> Answers:
    stored = _tensor(golden, "pos/in")
    native = math.isqrt(stored.shape[1] - 1)
    out = {}
    for key, first, second in _sized(golden, "pos"):
        resized = resized_position(stored, native, first // PATCH, second // PATCH)
        out[key] = Answer(resized.numpy(), FEATURES)
    return out


def _resizes(golden: Golden, resize: Resize) -> Answers:
    out = {}
    for key, height, width in _sized(golden, "resize"):
        rgb = np.ascontiguousarray(resize(golden["resize/in"], width, height).transpose(2, 0, 1))
        out[key] = Answer(rgb, EXACT)
        normalised = scaled(torch.from_numpy(rgb), normalize=True)[0].numpy()
        out[f"{key}_normalized"] = Answer(normalised, FLOW)
    return out


def _sized(golden: Golden, group: str) -> list[tuple[str, int, int]]:
    """group/HEIGHTxWIDTH, also of keys that carry an ending."""
    found = {}
    for key in golden:
        match = re.match(rf"({group}/(\d+)x(\d+))", key)
        if match:
            found[match[1]] = (match[1], int(match[2]), int(match[3]))
    return list(found.values())


def _density(golden: Golden) -> Answers:
    points = _tensor(golden, "kde/pts")
    out = {}
    for half in (False, True):
        full = density(points, SamplingOptions(half=half))
        ending = f"half{int(half)}"
        tolerance = HALF_DENSITY if half else DENSITY
        out[f"kde/density_{ending}"] = Answer(full.float().numpy(), tolerance)
        weight = balance_weights(full).float().numpy()
        out[f"kde/p_{ending}"] = Answer(weight, HALF_WEIGHT if half else WEIGHT)
        for every in (2, 4, 8, 16):
            part = density(points, SamplingOptions(half=half, every=every))
            out[f"kde/density_{ending}_down{every}"] = Answer(part.float().numpy(), tolerance)
    for key in golden:  # the first points serve as coordinates in pixels
        match = re.fullmatch(r"px/([AB])_(\d+)x(\d+)", key)
        if match:
            columns = points[:, :2] if match[1] == "A" else points[:, 2:]
            pixels = to_edge_pixels(columns[: len(golden[key])], int(match[2]), int(match[3]))
            out[key] = Answer(pixels.numpy(), PIXEL)
    return out


def _forward_backward(golden: Golden) -> Answers:
    forward, backward = _tensor(golden, "fb/fwd"), _tensor(golden, "fb/bwd")
    out = {}
    for key in golden:
        match = re.fullmatch(r"fb/th(\d+)", key)
        if match:
            agreed = forward_backward(forward, backward, float(match[1]))
            out[key] = Answer(agreed.float().numpy(), EXACT)
    return out


def _keypoints(golden: Golden) -> Answers:
    inputs = (_tensor(golden, f"mk/{key}") for key in ("xa", "xb", "warp", "cert"))
    index_a, index_b = match_keypoints(*inputs, **KEYPOINT_LIMITS)
    return {"mk/ia": Answer(index_a.numpy(), EXACT), "mk/ib": Answer(index_b.numpy(), EXACT)}
