"""MicKey's golden cases: the network of one pair, its solver, and single functions.

The published solver is random: golden files hold its draws, which are inputs here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.networks.mickey.matching import keypoint_scores, mutual_maxima
from l2m_ros.networks.mickey.network import MicKey
from l2m_ros.networks.mickey.solver import Draws, SolverOptions, Views, solve
from l2m_ros.workshop.parity import mickey_units
from l2m_ros.workshop.parity.golden import EXACT, Answer, Cases, Report, Resize
from l2m_ros.workshop.parity.published_schedule import scaled
from l2m_ros.workshop.parity.tape import Tape

FEATURES, PIXEL, DEPTH, SCORE, SCORE_MAP = 3e-4, 1e-3, 3e-4, 1e-5, 1e-6
ROTATION, TRANSLATION, INLIERS = 1e-4, 1e-3, 1e-2
TIE = 1e-3  # relative: likelihoods closer than this may come in either order
RAW = 3e-3  # of the score's logits, whose magnitude is 150
HEADS = "det_head|det_offset|depth_head|dsc_head"
STEPS = r"resblock[1-4]|att_layer(\.layers\.0)?|score|xy_offset"
PARTS = rf"compute_matches\.extractor\.({HEADS})(\.({STEPS}))?"
HALF = ("kps0", "depth_kp0", "scr0", "dsc0", "scores")
INPUTS = (
    r"net/(img_[AB]_u8|K)|(net/)?solver/idx_\w+|solver/in/\w+|train/(in/\w+|\w+/idx_\w+)"
    r"|pc/[ABw]|proj/[XK]|ds/d[01]|loss/(T|R|t|K0|K1)"
)

Golden = Mapping[str, np.ndarray]
Answers = dict[str, Answer]
Tensors = dict[str, Tensor]


def run(
    network: MicKey, cases: Cases, table: Mapping[str, Any], report: Report, resize: Resize
) -> None:
    for file in table["files"]:
        golden = cases.load(file)
        inputs = {key for key in golden if re.fullmatch(INPUTS, key)}
        golden.update({key: _single(golden[key]) for key in inputs})
        answers: Answers = {}
        for group in _groups(network, golden):
            answers |= report.answered(file, group, golden)
        report.inputs += len(inputs)
        report.add(file, {k: v for k, v in golden.items() if k not in inputs}, answers)


def _single(value: np.ndarray) -> np.ndarray:
    """The reference's precision: inputs may be stored in another."""
    return value.astype(np.float32) if np.issubdtype(value.dtype, np.floating) else value


def _groups(network: MicKey, golden: Golden) -> Iterator[Callable[[Golden], Mapping[str, Answer]]]:
    yield from mickey_units.unit_groups(golden)
    if any(key.startswith("net/") for key in golden):
        yield partial(network_answers, network)
    if any(key.startswith("solver/") for key in golden):
        yield recorded_answers


# --- the network ------------------------------------------------------------------------------


@torch.inference_mode()
def network_answers(network: MicKey, golden: Golden) -> Answers:
    images = [_image(golden[f"net/img_{i}_u8"]) for i in "AB"]
    answers: Answers = {}
    trunks = [network.extractor.trunk(image) for image in images]
    features = []
    for image, cells in zip("AB", trunks, strict=True):
        with Tape(network, PARTS) as tape:
            features.append(network.extractor.read(cells))
            answers |= _head_answers(image, tape)
        answers[f"net/dino_{image}"] = _answer(cells, FEATURES)
    answers |= _keypoint_answers(features)
    answers |= _score_answers(network, features, golden)
    if "net/solver/idx_matches" in golden:
        K = torch.from_numpy(golden["net/K"])
        views = Views(*_lifted(features), K, K)
        scores = network.final_scores(*features)
        answers |= solver_answers(golden, "net/solver", (views, scores))
    if any(key.startswith("net/fp16_maxdiff") for key in golden):
        answers |= _half_answers(network, images, features, golden)
    return answers


def _image(rgb: np.ndarray) -> Tensor:
    return scaled(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))))


def _head_answers(image: str, tape: Tape) -> Answers:
    answers: Answers = {}
    for name in tape.names():
        part = name.removeprefix("compute_matches.extractor.")
        gave = tape.gave(name)
        if part.endswith(".layers.0"):
            head = part.partition(".")[0]
            answers[f"net/{image}/{head}.att_in"] = _answer(tape.given(name)[0], FEATURES)
            answers[f"net/{image}/{head}.att0"] = _answer(gave, FEATURES)
        elif part == "det_head.score":
            answers[f"net/{image}/score_raw"] = _answer(gave, RAW)
        elif part == "det_offset.xy_offset":
            answers[f"net/{image}/offset_raw"] = _answer(gave, FEATURES)
        else:
            tolerance = SCORE_MAP if part == "det_head" else FEATURES
            answers[f"net/{image}/{part}"] = _answer(gave, tolerance)
    return answers


def _lifted(features: list[Tensors]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b = features
    return a["keypoints"], b["keypoints"], a["depth"], b["depth"]


def _keypoint_answers(features: list[Tensors]) -> Answers:
    answers = {}
    for i, found in enumerate(features):
        answers[f"net/kps{i}"] = _answer(found["keypoints"], PIXEL)
        answers[f"net/depth_kp{i}"] = _answer(found["depth"], DEPTH)
        answers[f"net/scr{i}"] = _answer(found["score"], SCORE_MAP)
    return answers


def _score_answers(network: MicKey, features: list[Tensors], golden: Golden) -> Answers:
    fit = network.scores(*features)
    likely = keypoint_scores(features[0]["score"], features[1]["score"])
    final = fit * likely
    answers: Answers = {}
    named = {"scores": (fit, SCORE), "kp_scores": (likely, SCORE_MAP),
             "final_scores": (final, SCORE_MAP)}  # fmt: skip
    for name, (value, tolerance) in named.items():
        answers[f"net/{name}"] = _answer(value, tolerance)
        for axis, side in ((2, "rowsum"), (1, "colsum")):
            answers[f"net/{name}/{side}"] = _answer(value.sum(dim=axis), 10 * tolerance)
    for key, matrix in (("", final), ("_scores", fit)):
        name = f"net/mutual_matches{key}"
        # As published, without the last row and column (of a dustbin that is already gone).
        pairs = mutual_maxima(matrix[0, :-1, :-1])
        rank = matrix[0, pairs[:, 0], pairs[:, 1]]
        answers[name] = Answer(in_golden_order(pairs, rank, golden.get(name)), EXACT)
    return answers


def in_golden_order(rows: Tensor, rank: Tensor, golden: np.ndarray | None) -> np.ndarray:
    """Rows sorted by rank, in the golden file's order where ranks tie."""
    ours, value = rows.numpy(), rank.double().numpy()
    if golden is None or golden.shape != ours.shape:
        return ours
    left, order = list(range(len(ours))), []
    for i, wanted in enumerate(golden):
        tied = [k for k in left if abs(value[k] - value[i]) <= TIE * abs(value[i])]
        nearest = min(tied or left, key=lambda k: float(np.abs(ours[k] - wanted).max()))
        order.append(nearest)
        left.remove(nearest)
    return ours[order]


def _half_answers(
    network: MicKey, images: list[Tensor], exact: list[Tensors], golden: Golden
) -> Answers:
    """[largest difference with the ViT in half precision, largest magnitude].

    The first is rounding noise: it is held to within half of itself.
    """
    vit = network.extractor.dinov2_vitl14
    whole = {name: value.clone() for name, value in vit.state_dict().items()}
    try:
        vit.half()
        half = [network.encode(image) for image in images]
    finally:
        vit.float()
        vit.load_state_dict(whole)
    answers: Answers = {}
    for name, (a, b) in _half_pairs(network, exact, half).items():
        key = f"net/fp16_maxdiff/{name}"
        figures = np.array([float((a - b).abs().max()), float(a.abs().max())])
        if key in golden:
            answers[key] = Answer(figures, 0.5 * float(golden[key][0]))
    return answers


def _half_pairs(
    network: MicKey, exact: list[Tensors], half: list[Tensors]
) -> dict[str, tuple[Tensor, Tensor]]:
    named = dict(zip(HALF, ("keypoints", "depth", "score", "descriptors"), strict=False))
    pairs = {name: (exact[0][part], half[0][part]) for name, part in named.items()}
    return {**pairs, "scores": (network.scores(*exact), network.scores(*half))}


# --- the solver -------------------------------------------------------------------------------


def recorded_answers(golden: Golden) -> Answers:
    """The solver on inputs that the file holds."""
    given = (golden[f"solver/in/{name}"] for name in mickey_units.VIEWS)
    problem = Views(*map(torch.from_numpy, given)), _tensor(golden["solver/in/final_scores"])
    return solver_answers(golden, "solver", problem)


@torch.inference_mode()
def solver_answers(golden: Golden, group: str, problem: tuple[Views, Tensor]) -> Answers:
    views, scores = problem
    draws = mickey_units.recorded(golden, group, len(scores))
    found = solve(views, scores, draws, SolverOptions())
    answers = {
        f"{group}/R": _answer(found.R, ROTATION),
        f"{group}/t": _answer(found.t[:, None], TRANSLATION),
        f"{group}/inliers": _answer(found.confidence[:, None], INLIERS),
        f"{group}/best_hyp": _answer(found.hypotheses.best, EXACT),
        f"{group}/hyp_R_best": _answer(found.hypotheses.R, ROTATION),
        f"{group}/hyp_t_best": _answer(found.hypotheses.t, TRANSLATION),
    }
    for b, pairs in enumerate(found.inliers):
        rows = _inlier_rows(views, scores, b, pairs)
        for key in (f"{group}/list{b}", f"{group}/inliers_list"):
            ordered = in_golden_order(rows, rows[:, 4], golden.get(key))
            answers[key] = Answer(ordered, PIXEL)
    if f"{group}/hyp_score" in golden:
        columns = views.kps1.shape[2]
        answers[f"{group}/hyp_score"] = _hypothesis_answer(
            golden[f"{group}/hyp_score"], columns, draws, found.hypotheses.score
        )
    if f"{group}/in/T_0to1" in golden:
        answers |= mickey_units.pose_error_answers(golden, found.R, found.t)
    return answers


def _inlier_rows(views: Views, scores: Tensor, b: int, pairs: Tensor) -> Tensor:
    """(k, 7): x0, y0, x1, y1, score, depth0, depth1."""
    i, j = pairs.unbind(1)
    parts = [views.kps0[b][:, i].T, views.kps1[b][:, j].T, scores[b, i, j][:, None]]
    return torch.cat([*parts, views.depth0[b, 0, i, None], views.depth1[b, 0, j, None]], dim=1)


def _hypothesis_answer(golden: np.ndarray, columns: int, draws: Draws, score: Tensor) -> Answer:
    """Where corners share a keypoint the pose is not determined, and the golden score stands."""
    cells = draws.pairs.unsqueeze(2).expand(-1, -1, draws.corners.shape[2], -1)
    cells = cells.gather(3, draws.corners)
    free = (_repeats(cells // columns) | _repeats(cells % columns)).flatten(1).numpy()
    return Answer(np.where(free, golden, score.numpy()), INLIERS)


def _repeats(index: Tensor) -> Tensor:
    ordered = index.sort(dim=-1).values
    return (ordered[..., 1:] == ordered[..., :-1]).any(dim=-1)


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(value)


def _answer(value: Tensor, tolerance: float) -> Answer:
    return Answer(value.detach().numpy(), tolerance)
