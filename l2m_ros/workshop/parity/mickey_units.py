"""Golden numbers of MicKey's single functions and of its training step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from l2m_ros.networks.mickey.attention import sine_code
from l2m_ros.networks.mickey.matching import dual_softmax, sinkhorn
from l2m_ros.networks.mickey.rigid import distances, lift, procrustes, project, soft_inliers
from l2m_ros.networks.mickey.solver import Draws, Views
from l2m_ros.types import Camera
from l2m_ros.workshop.parity.golden import EXACT, Answer
from l2m_ros.workshop.training import metric_losses
from l2m_ros.workshop.training.metric_losses import Truth
from l2m_ros.workshop.training.metric_ransac import (
    RansacOptions,
    curriculum,
    expected_loss,
    learnt,
)

VIEWS = ("kps0", "kps1", "depth_kp0", "depth_kp1", "K_color0", "K_color1")
ROTATION, TRANSLATION, INLIERS, LOSS = 1e-4, 1e-3, 1e-2, 1e-4
PIXEL, SCORE, FEATURES, DEGREES = 1e-3, 1e-5, 3e-4, 0.05
MASK_ABOVE = 0.4  # of the golden weights
SCALED_BY = (0.5, 0.375)
WIDTH_PX, HEIGHT_PX = 540.0, 720.0  # of the benchmark's images
LOGGED_EPS = 1e-6  # of the direction error that the published training logs
EASIEST_PERCENT = 30.0
GRADIENTS = ("grad_kps0", "grad_kps1", "grad_depth0", "grad_depth1")
JITTERS, NOISES = 3, 4.0  # draws of the noise, and how many times it is tolerated

Golden = Mapping[str, np.ndarray]
Answers = dict[str, Answer]


def unit_groups(golden: Golden) -> Iterator[Callable[[Golden], Answers]]:
    """The groups of functions that this file asks about."""
    groups: dict[str, Callable[[Golden], Answers]] = {
        "pc": _procrustes, "proj": _projection, "loss": _losses, "ds": _dual_softmax,
        "pe": _sine_codes,
    }  # fmt: skip
    named = {key.partition("/")[0] for key in golden}
    yield from (group for name, group in groups.items() if name in named)
    for name in sorted({key.split("/")[1] for key in golden if re.match(r"train/(?!in/)", key)}):
        yield partial(training_answers, name=name)


def _sine_codes(golden: Golden) -> Answers:
    codes = {key: re.fullmatch(r"pe/(\d+)", key) for key in golden}
    return {
        key: Answer(sine_code(int(code[1]), *golden[key].shape[1:]), SCORE)
        for key, code in codes.items()
        if code
    }


@torch.inference_mode()
def _procrustes(golden: Golden) -> Answers:
    x, y, weight = (_tensor(golden, f"pc/{name}") for name in "ABw")
    mask = (weight > MASK_ABOVE).float()
    answers = {}
    for name, used in (("plain", None), ("w", weight), ("mask", mask)):
        R, t = procrustes(x, y, used)
        answers[f"pc/{name}_R"] = _answer(R, ROTATION)
        answers[f"pc/{name}_t"] = _answer(t[:, None], TRANSLATION)
    distance = distances(*procrustes(x, y, mask), x, y)
    for threshold in (0.15, 0.3):
        answers[f"pc/soft_{threshold}"] = _answer(
            soft_inliers(distance, threshold)[:, None], INLIERS
        )
        answers[f"pc/hard_{threshold}"] = _answer((distance <= threshold).float(), EXACT)
    return answers


@torch.inference_mode()
def _projection(golden: Golden) -> Answers:
    points, K = _tensor(golden, "proj/X"), _tensor(golden, "proj/K")
    pixels = project(points, K)
    answers = {
        "proj/uv": _answer(pixels, PIXEL),
        "proj/back": _answer(lift(pixels, points[..., 2], K), FEATURES),
    }
    # The camera follows its image: scale times a round size, so that both are whole.
    camera = Camera(1600, 1600, golden["proj/K"][0].astype(np.float64))
    scaled = camera.resized(*(round(1600 * share) for share in SCALED_BY))
    answers["K/scaled"] = Answer(np.asarray(scaled.K), PIXEL)
    return answers


@torch.inference_mode()
def _losses(golden: Golden) -> Answers:
    T, R = _tensor(golden, "loss/T"), _tensor(golden, "loss/R")
    t = _tensor(golden, "loss/t")[:, 0]
    truth = Truth(T[:, :3, :3], T[:, :3, 3], _tensor(golden, "loss/K0"), _tensor(golden, "loss/K1"))
    errors = [
        metric_losses.rotation_error_rad(R, truth.R),
        metric_losses.translation_error_m(t, truth.t),
    ]
    answers: Answers = {}
    for name, loss in metric_losses.LOSSES.items():
        for soft in (True, False):
            columns = torch.stack([loss.of(R, t, truth, soft=soft), *errors], dim=1)
            tolerance = LOSS if soft or name == "pose" else PIXEL  # in pixels
            answers[f"loss/{name}_soft{int(soft)}"] = _answer(columns, tolerance)
    there = (R, t), (truth.R, truth.t), truth.K0
    wide = metric_losses.vcre_px(*there)
    narrow = metric_losses.vcre_px(*there, width=WIDTH_PX, height=HEIGHT_PX)
    answers["loss/vcre_loss_0"] = _answer(wide[:, None], PIXEL)
    answers["loss/vcre_torch"] = _answer(narrow[:, None], PIXEL)
    points = metric_losses.virtual_points()
    answers["loss/eye_coords"] = Answer(np.hstack([points, np.ones((len(points), 1))]), SCORE)
    direction = metric_losses.direction_error_rad(t, truth.t, LOGGED_EPS)
    answers["loss/trans_ang"] = _answer(direction[:, None], LOSS)
    return answers


@torch.inference_mode()
def _dual_softmax(golden: Golden) -> Answers:
    sides, dustbin = (_tensor(golden, "ds/d0"), _tensor(golden, "ds/d1")), torch.tensor(1.0)
    return {
        "ds/out_dustbin1": _answer(dual_softmax(*sides, dustbin), SCORE),
        "ds/out_dustbin0": _answer(dual_softmax(*sides, None), SCORE),
        "ds/sinkhorn": _answer(sinkhorn(*sides, dustbin), SCORE),
    }


def pose_error_answers(golden: Golden, R: Tensor, t: Tensor) -> Answers:
    T = _tensor(golden, "solver/in/T_0to1")
    truth = T[:, :3, 3]
    ratio = (t.norm(dim=1) / truth.norm(dim=1))[:, None]
    angle = torch.rad2deg(metric_losses.direction_error_rad(t, truth))[:, None]
    turned = ((R.transpose(1, 2) @ T[:, :3, :3]).diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    return {
        "solver/err/t_err_ang": _answer(torch.minimum(angle, 180 - angle), DEGREES),
        "solver/err/t_err_scale": _answer(ratio, TRANSLATION),
        "solver/err/t_err_scale_sym": _answer(torch.maximum(ratio, 1 / ratio), TRANSLATION),
        "solver/err/t_err_euc": _answer((t - truth).norm(dim=1, keepdim=True), TRANSLATION),
        "solver/err/R_err": _answer(torch.rad2deg(torch.arccos(turned.clamp(-1, 1))), DEGREES),
    }


def training_answers(golden: Golden, name: str) -> Answers:
    """One training step: the run's name says its loss, null hypothesis and share of pairs kept.

    Gradients through a rotation's angle divide by its sine: one unit in the last place of the
    inputs moves them by more than the loss's tolerance, and by how much is measured here.
    """
    step = _step(golden, name)
    noise = dict.fromkeys(GRADIENTS, 0.0)
    for seed in range(JITTERS):
        moved = _step(_jittered(golden, seed), name)
        for key in GRADIENTS:
            noise[key] = max(noise[key], float((moved[key] - step[key]).abs().max()))
    tolerances = {"loss": LOSS, "mask_topk": EXACT, "grad_logp": LOSS}
    tolerances |= {key: max(LOSS, NOISES * noise[key]) for key in GRADIENTS}
    return {f"train/{name}/{key}": _answer(step[key], tolerances[key]) for key in tolerances}


def _jittered(golden: Golden, seed: int) -> Golden:
    rng = np.random.default_rng(seed)
    moved = dict(golden)
    for key in (f"train/in/{name}" for name in VIEWS[:4]):
        way = rng.choice(np.array([-np.inf, np.inf], np.float32), golden[key].shape)
        moved[key] = np.nextafter(golden[key], way)
    return moved


def _step(golden: Golden, name: str) -> dict[str, Tensor]:
    given = {key: _tensor(golden, f"train/in/{key}") for key in (*VIEWS, "final_scores", "T_0to1")}
    leaves = [given[key].clone().requires_grad_() for key in VIEWS[:4]]
    views = Views(*leaves, given["K_color0"], given["K_color1"])
    draws = recorded(golden, f"train/{name}", len(leaves[0]))
    T = given["T_0to1"]
    cameras = (_tensor(golden, f"train/in/Kori_color{i}") for i in (0, 1))
    truth = Truth(T[:, :3, :3], T[:, :3, 3], *cameras)
    expected = expected_loss(views, truth, draws, run_options(name))
    easiest = re.search(r"top(\d+)", name)
    kept = curriculum(expected.loss, float(easiest[1]) if easiest else EASIEST_PERCENT)
    step = learnt(expected, kept, given["final_scores"].shape)
    step.loss.backward()
    figures = [step.loss, expected.rotation_rad.mean(), expected.translation_m.mean()]
    figures.append(torch.isfinite(step.loss).float())
    gradients = {key: leaf.grad for key, leaf in zip(GRADIENTS, leaves, strict=True)}
    return {
        "loss": torch.stack(figures).double(),
        "mask_topk": kept,
        "grad_logp": step.log_p,
        **{key: value for key, value in gradients.items() if value is not None},
    }


def run_options(name: str) -> RansacOptions:
    """`pose_nonull` is the pose loss without a null hypothesis, and so on."""
    return RansacOptions(
        loss="pose" if "pose" in name else "vcre", null_share=None if "nonull" in name else 0.35
    )


def recorded(golden: Golden, group: str, batch: int) -> Draws:
    """The draws of a golden file: pairs by (pair of images, round), corners by hypothesis too."""
    pairs = _tensor(golden, f"{group}/idx_matches").long()
    corners = _tensor(golden, f"{group}/idx_ransac").long()
    rounds, per_round = len(pairs) // batch, len(corners) // len(pairs)
    return Draws(pairs.view(batch, rounds, -1), corners.view(batch, rounds, per_round, -1))


def _tensor(golden: Golden, key: str) -> Tensor:
    return torch.from_numpy(golden[key])


def _answer(value: Tensor, tolerance: float) -> Answer:
    return Answer(value.detach().numpy(), tolerance)
