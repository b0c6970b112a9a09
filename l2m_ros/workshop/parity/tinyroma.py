"""TinyRoMa's golden cases, with the published code's fault at batches of two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.networks.shared.xfeat import floored, standardised_grey
from l2m_ros.networks.tinyroma.network import TinyRoMa, correlation, soft_parts
from l2m_ros.workshop.parity.golden import EXACT, Answer, Cases, Report, Resize, cut_to
from l2m_ros.workshop.parity.published_schedule import scaled, tiny_warp
from l2m_ros.workshop.parity.tape import Tape

FEATURES, FLOW, LOGIT, PROBABILITY = 3e-4, 5e-5, 2e-3, 1e-3
TOLERANCES = [
    (r"norm|block\d|skip1|x2|feats|corr|coarse_in|fine_in|xfeat_descriptors_full", FEATURES),
    (r"coarse_warp|flow[48]|match_warp", FLOW),
    (r"cert[48]|best_gap|coarse_delta|fine_delta", LOGIT),  # deltas are in pixels
    (r"match_cert", PROBABILITY),
    (r"best_match", EXACT),
]
PARTS = r"xfeat\.0(\.block1|\.skip1|\.block3|\.block4|\.block5)?|(coarse|fine)_matcher"
IMAGE = re.compile(r"(\w+)/img_A_u8")

Golden = Mapping[str, np.ndarray]
Answers = dict[str, Answer]
Tensors = dict[str, Tensor]


@torch.inference_mode()
def run(
    network: TinyRoMa, cases: Cases, table: Mapping[str, Any], report: Report, resize: Resize
) -> None:
    for file in table["files"]:
        golden = cases.load(file)
        answers: dict[str, Answer] = {}
        for case in [match[1] for match in map(IMAGE.fullmatch, golden) if match]:
            answers |= report.answered(file, _case_answers, network, golden, case)
        crop = "same/xfeat_descriptors_full"  # a corner, where all else is every k-th entry
        answers |= _cropped(golden, answers, crop)
        if "batch2/flow8" in golden:
            answers |= report.answered(file, _batch_answers, network, golden)
        inputs = {key for key in golden if re.fullmatch(r"\w+/img_[AB]_u8", key)}
        report.inputs += len(inputs)
        report.add(file, {k: v for k, v in golden.items() if k not in inputs}, answers)


def _case_answers(network: TinyRoMa, golden: Golden, case: str) -> Answers:
    tensors = _case(network, *_pair(golden, case), exact=case.startswith("exact"))
    return {f"{case}/{name}": _answer(name, value) for name, value in tensors.items()}


def _batch_answers(network: TinyRoMa, golden: Golden) -> Answers:
    a, b = _pair(golden, "same")
    return {"batch2/flow8": Answer(_faulty_batch(network, floored(a), floored(b)).numpy(), FLOW)}


def _pair(golden: Golden, case: str) -> tuple[Tensor, Tensor]:
    return _image(golden[f"{case}/img_A_u8"]), _image(golden[f"{case}/img_B_u8"])


def _image(rgb: np.ndarray) -> Tensor:
    return scaled(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))))


def _answer(name: str, value: Tensor) -> Answer:
    tolerance = next(t for pattern, t in TOLERANCES if re.fullmatch(pattern, name))
    return Answer(value.numpy(), tolerance)


def _case(network: TinyRoMa, a: Tensor, b: Tensor, *, exact: bool) -> Tensors:
    """Everything that is named of one pair; images of one size go through as one batch."""
    ready = floored(a), floored(b)
    together = ready[0].shape == ready[1].shape
    first = torch.cat(ready) if together else ready[0]
    with Tape(network, PARTS) as tape:
        features = network.encode(first)
        out = _backbone(tape, first)
    if together:
        query, keyframe = ({k: v[i : i + 1] for k, v in features.items()} for i in (0, 1))
    else:
        query, keyframe = features, network.encode(ready[1])
    out |= _correlations(query["f"], keyframe["f"])
    with Tape(network, PARTS) as tape:
        out["coarse_warp"] = network.position(query["f"], keyframe["f"], exact=exact)
        coarse = network.refined_coarse(out["coarse_warp"], query, keyframe)
        fine = network.refined_fine(coarse, query, keyframe)
        for level in ("coarse", "fine"):
            out[f"{level}_in"] = tape.given(f"{level}_matcher")[0]
            out[f"{level}_delta"] = tape.gave(f"{level}_matcher")
    out |= {"flow8": coarse[:, :2], "cert8": coarse[:, 2:]}
    out |= {"flow4": fine[:, :2], "cert4": fine[:, 2:]}
    out["match_warp"], out["match_cert"] = tiny_warp(fine, (a.shape[-2], a.shape[-1]))
    return out


def _backbone(tape: Tape, images: Tensor) -> Tensors:
    x2, feats = tape.gave("xfeat.0")
    out = {"x2": x2, "feats": feats, "norm": standardised_grey(images)}
    for part in ("block1", "skip1", "block3", "block4", "block5"):
        out[part] = tape.gave(f"xfeat.0.{part}")
    out["xfeat_descriptors_full"] = out["block3"][:1]
    return out


def _correlations(query: Tensor, keyframe: Tensor) -> Tensors:
    """The volume with the keyframe's cells first, the best cell and its lead."""
    logits = correlation(query, keyframe)
    volume = logits.transpose(1, 2).reshape(-1, *keyframe.shape[-2:], *query.shape[-2:])
    top = logits.topk(2, dim=-1).values
    shape = (-1, *query.shape[-2:])
    best, gap = logits.argmax(dim=-1), top[..., 0] - top[..., 1]
    return {"corr": volume, "best_match": best.reshape(shape), "best_gap": gap.reshape(shape)}


def _cropped(
    golden: Mapping[str, np.ndarray], answers: Mapping[str, Answer], key: str
) -> dict[str, Answer]:
    if key not in golden or key not in answers:
        return {}
    full = answers[key]
    return {key: replace(full, value=cut_to(full.value, golden[key]))}


def _faulty_batch(network: TinyRoMa, a: Tensor, b: Tensor) -> Tensor:
    """Flow at stride 8 of the batch (A, B), (B, A) as the published code computes it.

    There the share of image 0's best cell weighs the x, and that of image 1 the y, of both.
    This network is right for every batch; the fault exists here only, to be compared.
    """
    features = network.encode(torch.cat([a, b]))
    other = {name: value.flip(0) for name, value in features.items()}
    rows, columns = features["f"].shape[-2:]
    logits = correlation(features["f"], other["f"])
    low, share, best = soft_parts(logits, rows, columns)
    mixed = share[:, :, 0].T[None]  # (1, n, 2): image 0 for x, image 1 for y
    position = (low + mixed * best).transpose(1, 2).reshape(2, 2, rows, columns)
    return network.refined_coarse(position, features, other)[:, :2]
