"""L2M's golden cases: every named tensor of one pair, in one direction and in both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.l2m.network import L2M, Level
from l2m_ros.workshop.parity import published_schedule as like_reference
from l2m_ros.workshop.parity.golden import EXACT, Answer, Cases, Report, Resize
from l2m_ros.workshop.parity.published_schedule import Direction, ImageInputs
from l2m_ros.workshop.parity.tape import Tape
from l2m_ros.workshop.parity.units import unit_groups, unit_inputs

FEATURES, TOKENS, FLOW, LOGIT, PROBABILITY = 3e-4, 1e-3, 5e-5, 1e-3, 1e-3
# First pattern that the bare name (without #2) fits; the figures are the data's own README's.
TOLERANCES = [
    (r"vit_block\d+|dec\d+|cls|cls_top3_(idx|val)|gap_min", TOKENS),
    (r"feat\d+|vit_patch|vit_tokens|proj\d+|gp", FEATURES),
    (r"cls_flow|flow\d+|flowin\d+", FLOW),
    (r"cls_cert|cert\d+|dcert\d+|dflow\d+|refin\d+|refb1\d+", LOGIT),
]
ENCODER = r"dinov2|dinov2\.(patch_embed|blocks\.\d+)|encoder\.cnn|decoder\.proj\.\d+"
DECODER = (
    r"decoder\.gps\.16|decoder\.embedding_decoder(\.blocks\.\d+)?"
    r"|decoder\.conv_refiner\.\d+(\.block1)?"
)
MATCH = re.compile(r"(nonsym|sym)/match_(up|noup)_(att|noatt)(_normalize)?/(warp|cert)")

Tensors = dict[str, Tensor]


@dataclass
class Turn:
    """One direction: all that the golden file may ask about it."""

    tensors: Tensors
    levels: list[Level]  # of the first pass
    fine_levels: list[Level]


@dataclass
class Pair:
    """Both images, encoded as one batch of two as the reference does."""

    tensors: Tensors  # of the encoder: (2, ...)
    turns: tuple[Turn, Turn]  # A to B, B to A


def run(
    network: L2M, cases: Cases, table: Mapping[str, Any], report: Report, resize: Resize
) -> None:
    for name in table["files"]:
        golden = cases.load(name)
        for image in ("img_A", "img_B"):
            if image not in golden:
                raise InvalidInput(f"{name} holds no {image}, which its cases start from")
        report.inputs += sum(key.startswith("img_") for key in golden)
        asked = {k: v for k, v in golden.items() if not k.startswith("img_")}
        answers = case_answers(network, golden, _sizes(table, name), resize)
        report.add(name, asked, answers)
    if "units" in table:
        golden = cases.load(table["units"])
        answers, inputs = {}, unit_inputs(golden)
        for group in unit_groups(golden, resize):
            answers |= report.answered(table["units"], group, golden)
        report.inputs += len(inputs)
        asked = {k: v for k, v in golden.items() if k not in inputs}
        report.add(table["units"], asked, answers)


def _sizes(table: Mapping[str, Any], name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of both passes."""
    try:
        sizes = table["sizes"][name]
        return tuple(sizes["coarse"]), tuple(sizes["upsample"])  # type: ignore[return-value]
    except KeyError as error:
        raise InvalidInput(f"cases.json states no {error} for {name} under l2m.sizes") from error


@torch.inference_mode()
def case_answers(
    network: L2M,
    golden: Mapping[str, np.ndarray],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    resize: Resize,
) -> dict[str, Answer]:
    """Answers to all that this file's keys may ask."""
    answers: dict[str, Answer] = {}
    resized: dict[str, np.ndarray] = {}
    for image in "AB":
        for kind, (height, width) in zip(("coarse", "up"), sizes, strict=True):
            rgb = resize(golden[f"img_{image}"], width, height).transpose(2, 0, 1)
            resized[f"in_{kind}_{image}_u8"] = rgb
            answers[f"in_{kind}_{image}_u8"] = Answer(rgb, EXACT)
    # Without normalisation always: all but match() itself is recorded so.
    asked = {match[4] is not None for match in map(MATCH.match, golden) if match}
    for normalize in sorted({False, *asked}):
        pair = run_pair(network, *_inputs(resized, normalize))
        answers |= _match_answers(pair, normalize)
        if not normalize:
            answers |= _pair_answers(pair)
        del pair  # hundreds of megabytes at the published sizes
    return answers


def _inputs(resized: Mapping[str, np.ndarray], normalize: bool) -> tuple[ImageInputs, ImageInputs]:
    def image(name: str) -> Tensor:
        return like_reference.scaled(
            torch.from_numpy(np.ascontiguousarray(resized[name])), normalize
        )

    a, b = (ImageInputs(image(f"in_coarse_{i}_u8"), image(f"in_up_{i}_u8")) for i in "AB")
    return a, b


def run_pair(network: L2M, a: ImageInputs, b: ImageInputs) -> Pair:
    with Tape(network, ENCODER) as tape:
        features = network.encode(torch.cat([a.coarse, b.coarse]))
        tensors = _encoder_tensors(tape)
    fine = network.encode_fine(torch.cat([_fine(a), _fine(b)]))
    scale = like_reference.scale_factor(a)
    first, second = (
        _turn(network, _half(features, q), _half(features, 1 - q), _half(fine, q),
              _half(fine, 1 - q), scale)
        for q in (0, 1)
    )  # fmt: skip
    return Pair(tensors, (first, second))


def _fine(image: ImageInputs) -> Tensor:
    if image.fine is None:
        raise InvalidInput("a golden case needs the size of the second pass")
    return image.fine


def _half(features: Tensors, index: int) -> Tensors:
    return {name: value[index : index + 1] for name, value in features.items()}


def _turn(
    network: L2M, query: Tensors, keyframe: Tensors, fine: Tensors, fine_keyframe: Tensors,
    scale: float,
) -> Turn:  # fmt: skip
    with Tape(network, DECODER) as tape:
        coarse = network.coarse(query, network.reference(keyframe))
        levels = network.refined_from(coarse, query, keyframe)
        last = levels[-1]
        second = network.refine(fine, fine_keyframe, last.flow, last.certainty, scale)
        tensors = _decoder_tensors(tape)
    top = coarse.logits.topk(3, dim=1)
    tensors |= {"cls": coarse.logits, "cls_cert": coarse.certainty, "cls_flow": coarse.flow}
    tensors |= {"cls_top3_idx": top.indices, "cls_top3_val": top.values}
    for suffix, group in (("", levels), ("#2", second)):
        for level in group:
            tensors |= _level_tensors(level, suffix)
    return Turn(tensors, levels, second)


def _level_tensors(level: Level, suffix: str) -> Tensors:
    named = {"flowin": level.start, "dflow": level.delta, "flow": level.flow}
    named["cert"] = level.certainty
    return {f"{name}{level.stride}{suffix}": value for name, value in named.items()}


def _encoder_tensors(tape: Tape) -> Tensors:
    out = {"feat16": tape.gave("dinov2"), "vit_patch": tape.gave("dinov2.patch_embed")}
    out["vit_tokens"] = tape.given("dinov2.blocks.0")[0]
    out |= {f"feat{stride}": value for stride, value in tape.gave("encoder.cnn").items()}
    for name in tape.names():
        kind, _, index = name.rpartition(".")
        if kind == "dinov2.blocks":
            out[f"vit_block{index}"] = tape.gave(name)
        elif kind == "decoder.proj":
            out[f"proj{index}"] = tape.gave(name)
    return out


def _decoder_tensors(tape: Tape) -> Tensors:
    out = {"gp": tape.gave("decoder.gps.16")}
    for name in tape.names():
        parts = name.split(".")
        if parts[-2] == "blocks":
            out[f"dec{parts[-1]}"] = tape.gave(name)
        elif parts[1] == "conv_refiner":
            calls = ("",) if parts[2] == "16" else ("", "#2")
            for call, suffix in enumerate(calls):
                if parts[-1] == "block1":
                    out[f"refin{parts[2]}{suffix}"] = tape.given(name, call)[0]
                    out[f"refb1{parts[2]}{suffix}"] = tape.gave(name, call)
                else:
                    out[f"dcert{parts[2]}{suffix}"] = tape.gave(name, call)[1]
    return out


def _pair_answers(pair: Pair) -> dict[str, Answer]:
    """nonsym/NAME is A to B; sym/NAME is the batch [A to B; B to A]."""
    answers: dict[str, Answer] = {}
    for name, value in pair.tensors.items():
        swapped = value.flip(0)
        if name.startswith("proj"):  # query, then keyframe
            answers |= _answers("nonsym", {name: value[:1], f"{name}#2": value[1:]})
            answers |= _answers("sym", {name: value, f"{name}#2": swapped})
        else:
            answers |= _answers("nonsym", {name: value}) | _answers("sym", {name: value})
    there, back = (turn.tensors for turn in pair.turns)
    both = {name: torch.cat([there[name], back[name]]) for name in there}
    answers |= _answers("nonsym", there) | _answers("sym", both)
    answers["gap_min"] = Answer(_gap(both["cls_top3_val"]), TOKENS)
    return answers


def _answers(side: str, tensors: Mapping[str, Tensor]) -> dict[str, Answer]:
    out = {f"{side}/{name}": Answer(_array(v), _tolerance(name)) for name, v in tensors.items()}
    key = f"{side}/cls_top3_idx"
    if key in out:
        # Of two logits within the tolerance either may be named first.
        out[key] = Answer(out[key].value, EXACT, _swapped_ties(tensors))
    return out


def _swapped_ties(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """The 2nd and 3rd index exchanged where their logits tie; the 1st decides and must stand."""
    index, value = tensors["cls_top3_idx"].clone(), tensors["cls_top3_val"]
    tie = value[:, 1] - value[:, 2] < TOKENS
    index[:, 1] = torch.where(tie, tensors["cls_top3_idx"][:, 2], index[:, 1])
    index[:, 2] = torch.where(tie, tensors["cls_top3_idx"][:, 1], index[:, 2])
    return _array(index)


def _gap(top: Tensor) -> np.ndarray:
    return _array((top[:, 0] - top[:, 1]).min().reshape(1))


def _tolerance(name: str) -> float:
    bare = name.partition("#")[0]
    return next(value for pattern, value in TOLERANCES if re.fullmatch(pattern, bare))


def _match_answers(pair: Pair, normalize: bool) -> dict[str, Answer]:
    """All of match()'s variants; those that nobody asks for cost little."""
    answers: dict[str, Answer] = {}
    for second in (True, False):
        for attenuate in (True, False):
            turns = [_direction(turn, second, attenuate) for turn in pair.turns]
            ending = f"{'up' if second else 'noup'}_{'att' if attenuate else 'noatt'}"
            ending += "_normalize" if normalize else ""
            for side, used in (("nonsym", turns[:1]), ("sym", turns)):
                answers |= _joined_answers(f"{side}/match_{ending}", used)
        name = f"nonsym/match_{'up' if second else 'noup'}_outside_count"
        name += "_normalize" if normalize else ""
        answers[name] = _outside_count(turns[0])
    return answers


def _direction(turn: Turn, second: bool, attenuate: bool) -> Direction:
    last = (turn.fine_levels if second else turn.levels)[-1]
    return like_reference.direction(turn.levels[0], last, attenuate)


def _joined_answers(key: str, turns: list[Direction]) -> dict[str, Answer]:
    warp, certainty = like_reference.joined(turns)
    other = torch.cat([_other_side(turn)[0, 0] for turn in turns], dim=1)
    return {
        f"{key}/shape": Answer(np.array(warp.shape), EXACT),
        f"{key}/warp": Answer(_array(warp), FLOW),
        f"{key}/cert": Answer(_array(certainty), PROBABILITY, _array(other)),
    }


def _other_side(turn: Direction) -> Tensor:
    """The probability as if flows within the tolerance of the border lay on its other side."""
    kept = turn.logits.sigmoid()
    flipped = torch.where(turn.outside(), kept, torch.zeros_like(kept))
    return torch.where(_at_border(turn), flipped, turn.probability())


def _at_border(turn: Direction) -> Tensor:
    return ((turn.flow.abs() - 1.0).abs() < FLOW).any(dim=1, keepdim=True)


def _outside_count(turn: Direction) -> Answer:
    count = turn.outside().sum().reshape(1)
    return Answer(_array(count), float(_at_border(turn).sum()))


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
