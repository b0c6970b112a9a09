"""The metric head of `lite`: samples, likelihood, the loop, and how far it errs where it never was.

    log depth read - log depth = place + image + cell

The likelihood is Laplace's, of the cells about their image's factor and of that factor. What a card
states is measured on places that the head was not trained on: `sigmas` takes the three parts apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.engines.backend import Array
from l2m_ros.errors import InvalidInput
from l2m_ros.spelling import nearest
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.depth_colours import dropped, mean_of
from l2m_ros.workshop.training.depth_data import Samples
from l2m_ros.workshop.training.loop import LoopOptions, Run, train
from l2m_ros.workshop.training.processes import Processes

LEAST_CELLS = 20  # whose depth is known
UNKNOWN_CORRELATION = 0.9  # of neighbouring keyframes, where no recording told
REAL_SIGMA = 0.33  # of the log: what lite_depth errs by in ten real places more than in worlds
KNOWN_PLACES = 3  # that this counts for beside recordings
UNKNOWN_SHARE = 0.9  # of an image's variance that the place's other images share
TWINS_WEIGHT = 0.5
LEFT_OUT = ("families", "worlds")
ALONE = 4  # fewer images of a place say little of its own factor


@dataclass(frozen=True)
class HeadOptions:
    """A training of the head; a config file gives any of these by name."""

    network: Mapping[str, int] = field(default_factory=dict)  # of DepthHeadConfig
    width: int = 640  # of the encoder's input; multiples of 32
    height: int = 480
    worlds: int = 500  # rendered; every eighth is held out
    views: int = 6  # of each
    anew: bool | None = None  # each step cuts and colours its images anew; None: on a GPU
    render_s: float = math.inf  # if so: no more worlds are begun after it
    renderers: int = 1  # if so: processes that render
    crops: int = 1  # if not: of each view, beside the whole
    every: int = 4  # frames of a recording: neighbours show the same
    left_out: str = "worlds"  # what a member never sees: a family of places, or some worlds
    place_sigma: float = 0.0  # of the card at least: what a run with `families` measured
    real_share: float = 0.3  # of a batch, where recordings are given
    batch: int = 12
    channel_dropout: float = 0.2  # of the features: with less the worlds are learnt by heart
    restyled: float = 0.0  # share of images whose features take another's style, where seen anew
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=500))

    def __post_init__(self) -> None:
        if not (0 <= self.real_share < 1 and self.worlds >= 0 and self.views > 0):
            raise InvalidInput("real_share must lie in [0, 1), worlds be 0 or more, views positive")
        if self.left_out not in LEFT_OUT:
            raise InvalidInput(
                f"left_out is {self.left_out!r}{nearest(self.left_out, LEFT_OUT)}; "
                f"there are {', '.join(LEFT_OUT)}"
            )


@dataclass(frozen=True)
class Twins:
    """Of a batch's last 2 k images, which are k photographs in two cuts each."""

    grid: Tensor  # (k, h, w, 2) where the second cuts' cells lie in the first, in [-1, 1]
    shift: Tensor  # (k,) log depth over focal length read in the second, less that in the first

    def to(self, device: str) -> Twins:
        return Twins(self.grid.to(device), self.shift.to(device))


@dataclass(frozen=True)
class HeadBatch:
    cells: Tensor  # (B, C, h, w) at 1/16
    context: Tensor  # (B, C, h / 2, w / 2) at 1/32
    labels: Tensor  # (B, 1, h, w), NaN = unknown
    family: Tensor  # (B,) the member that does not learn from it
    twins: Twins | None = None

    def to(self, device: str) -> HeadBatch:
        parts = (self.cells, self.context, self.labels, self.family)
        twins = None if self.twins is None else self.twins.to(device)
        return HeadBatch(*(t.to(device) for t in parts), twins)


class HeadBatches(Schedule):
    """Of rendered images and of recordings, drawn from (seed, step) alone."""

    def __init__(self, groups: Sequence[Samples], shares: Sequence[float], options: HeadOptions):
        size = SizeShare(options.width, options.height, options.batch, 1.0)
        super().__init__((size,), options.loop.seed)
        self.groups, self.shares = list(groups), np.array(shares) / np.sum(shares)
        self.dropout = options.channel_dropout
        self._means = [
            mean_of(torch.from_numpy(np.concatenate([some_of(f) for f in features])))
            for features in ([g.cells for g in groups], [g.context for g in groups])
        ]

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Any:
        part = self.part_of(self.sizes[0], count)
        rng = np.random.default_rng((self.seed, 5, step, rank))
        cells, context, labels, family = [], [], [], []
        for which in rng.choice(len(self.groups), part, p=self.shares):
            group = self.groups[which]
            at = int(rng.integers(len(group)))
            cells.append(group.cells[at])
            context.append(group.context[at])
            labels.append(group.labels[at])
            family.append(group.family[at])
        features = []
        for stored, mean in zip((cells, context), self._means, strict=True):
            x = torch.from_numpy(np.stack(stored)).float()
            drawn = torch.from_numpy(rng.random((*x.shape[:2], 1, 1)))
            features.append(dropped(x, mean, self.dropout, drawn))
        known = torch.from_numpy(np.stack(labels)[:, None])
        return HeadBatch(*features, known, torch.from_numpy(np.array(family)))


def head_loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
    """Of each member over the images that it may see."""
    found = model(batch.cells, batch.context)
    known = torch.isfinite(batch.labels)  # (B, 1, h, w)
    count = known.sum(dim=(2, 3)).clamp_min(1)
    error = torch.where(known, found["member_log_depth"] - batch.labels, 0.0)
    factor = error.sum(dim=(2, 3)) / count  # (B, members)
    apart = torch.where(known, (error - factor[..., None, None]).abs(), 0.0)
    log_sigma = found["member_log_sigma"]
    cells = torch.where(known, apart * torch.exp(-log_sigma) + log_sigma, 0.0)
    cells = cells.sum(dim=(2, 3)) / count
    spread = found["member_image_log_sigma"]
    image = factor.abs() * torch.exp(-spread) + spread
    taught = known.sum(dim=(2, 3)) > 0
    members = torch.arange(factor.shape[1], device=factor.device)
    sees = (taught & (batch.family[:, None] != members)).float()
    loss = ((cells + image) * sees).sum() / sees.sum().clamp_min(1)
    terms = {"factor": (factor.abs() * sees).sum().detach() / sees.sum().clamp_min(1)}
    if batch.twins is not None:
        apart = disputed(found["member_log_depth"], batch.twins)
        loss, terms["twins"] = loss + TWINS_WEIGHT * apart, apart.detach()
    return loss, terms


def disputed(log_depth: Tensor, twins: Twins) -> Tensor:
    """How far two cuts of one photograph are apart about what both show."""
    count = len(twins.shift)
    first, second = log_depth[-2 * count : -count], log_depth[-count:]
    there = F.grid_sample(first, twins.grid, "bilinear", "border", align_corners=False)
    both = (twins.grid.abs() < 1.0).all(dim=-1)[:, None].float()
    off = (second - there - twins.shift[:, None, None, None]) * both
    shown = both.sum(dim=(2, 3)).clamp_min(1)  # (k, 1)
    whole = off.sum(dim=(2, 3)) / shown  # (k, members)
    return (whole.abs() + 0.5 * off.abs().sum(dim=(2, 3)) / shown).mean()


def some_of(features: Array) -> Array:
    """Every few images: enough for a mean."""
    return np.asarray(features[:: max(len(features) // 100, 1)].astype(np.float32))


@torch.no_grad()
def normalised(model: Any, samples: Samples) -> None:
    """Mean and deviation of the features, from every few images."""
    for part, features in ((model.cells, samples.cells), (model.context, samples.context)):
        some = some_of(features)
        part.mean.copy_(torch.from_numpy(some.mean(axis=(0, 2, 3))))
        part.scale.copy_(torch.from_numpy(1.0 / (some.std(axis=(0, 2, 3)) + 1e-3)))


# --- how far it errs --------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadErrors:
    """Of N images: all in the log of depth."""

    place: Any  # (N,)
    factor: Any  # (N,) median of what was read over the truth
    image_sigma: Any  # (N,) as the head states it
    cell_ratio: Any  # (N,) robust spread of the cells over what the head states
    spread: Any  # (N,) that spread itself


@torch.no_grad()
def head_errors(model: nn.Module, samples: Samples) -> HeadErrors:
    """Of the head as it is used."""
    rows = [_row(found, samples, at) for at, found in _readings(model, samples)]
    return _errors([row for row in rows if row])


@torch.no_grad()
def left_out_errors(model: nn.Module, samples: Samples) -> HeadErrors:
    """Of each image as that member reads it which never saw such a place."""
    rows = []
    for at, found in _readings(model, samples):
        member = int(samples.family[at])
        if 0 <= member < found["member_log_depth"].shape[1]:
            one = {
                name: found[f"member_{name}"][:, member : member + 1]
                for name in ("log_depth", "log_sigma", "image_log_sigma")
            }
            rows.append(_row(one, samples, at))
    return _errors([row for row in rows if row])


def _readings(model: nn.Module, samples: Samples) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for at in range(len(samples)):
        features = (samples.cells[at], samples.context[at])
        yield at, model(*(torch.from_numpy(x.astype(np.float32))[None] for x in features))


def _row(found: dict[str, Tensor], samples: Samples, at: int) -> tuple[float, ...] | None:
    truth = torch.from_numpy(samples.labels[at])
    known = torch.isfinite(truth)
    if known.sum() < LEAST_CELLS:
        return None
    error = (found["log_depth"][0, 0] - truth)[known].numpy()
    factor = float(np.median(error))
    stated = np.exp(found["log_sigma"][0, 0][known].numpy())
    return (
        float(samples.place[at]),
        factor,
        float(np.exp(found["image_log_sigma"][0, 0])),
        1.4826 * float(np.median(np.abs(error - factor) / stated)),
        1.4826 * float(np.median(np.abs(error - factor))),
    )


def _errors(rows: Sequence[tuple[float, ...]]) -> HeadErrors:
    if not rows:
        raise InvalidInput("no image with known depth to measure on")
    return HeadErrors(*(np.array(column) for column in zip(*rows, strict=True)))


# --- what the card states ---------------------------------------------------------------------


def stated(left_out: HeadErrors | None, seen_never: Sequence[HeadErrors]) -> dict[str, float]:
    """The card's sigmas: the largest of what each kind of unseen place shows.

    left_out: families of worlds, as members read them that never saw one. seen_never: held-out
    worlds first, then recordings, which alone tell what real places are read wrong by, and what
    neighbours have in common.
    """
    worlds, recordings = seen_never[0], seen_never[1:]
    families = [] if left_out is None else [left_out]
    rendered = [sigmas(errors) for errors in (worlds, *families)]
    real = [sigmas(errors) for errors in recordings]
    card = {name: max(kind[name] for kind in (*rendered, *real)) for name in rendered[0]}
    card["place_sigma"] = _of_real_places(
        max(kind["place_sigma"] for kind in rendered), [kind["place_sigma"] for kind in real]
    )
    if not recordings:
        return {**card, "image_correlation": UNKNOWN_CORRELATION, "common_share": UNKNOWN_SHARE}
    correlation = max(neighbour_correlation(e, step=2) for e in recordings)
    share = max(common_share(e, card["image_factor"]) for e in recordings)
    return {**card, "image_correlation": round(correlation, 4), "common_share": round(share, 4)}


def _of_real_places(rendered: float, real: Sequence[float]) -> float:
    """Of the log, root mean square: real places err by more than worlds; few of them say little."""
    expected = rendered**2 + REAL_SIGMA**2
    total = KNOWN_PLACES * expected + float(np.sum(np.square(real)))
    return round(float(np.sqrt(total / (KNOWN_PLACES + len(real)))), 4)


def common_share(recording: HeadErrors, image_factor: float) -> float:
    """Of the variance of an image's factor: what is not seen to change within a recording.

    A world's images are drawn far apart, a recording's are not: they look alike and err alike.
    """
    stated = np.mean((image_factor * recording.image_sigma) ** 2)
    return float(np.clip(1.0 - recording.factor.var() / stated, 0.0, 0.98))


def sigmas(errors: HeadErrors) -> dict[str, float]:
    """Of one kind: the place's sigma, and factors on the sigmas that the head gives."""
    means, apart, own_sigma = [], [], []
    for place in np.unique(errors.place):
        own = errors.place == place
        if own.sum() < ALONE:
            continue
        mean = float(errors.factor[own].mean())
        means.append(mean)
        apart += list(errors.factor[own] - mean)
        own_sigma += list(errors.image_sigma[own])
    if not means:
        raise InvalidInput(f"no place with {ALONE} images or more: nothing to measure sigmas on")
    return {
        "place_sigma": round(float(np.sqrt(np.mean(np.square(means)))), 4),
        "image_factor": round(float(np.sqrt(np.mean((np.array(apart) / own_sigma) ** 2))), 4),
        "cell_factor": round(float(np.median(errors.cell_ratio)), 4),
    }


def neighbour_correlation(errors: HeadErrors, step: int = 1) -> float:
    """Of the image factors of a sequence, about their mean, `step` images apart."""
    x = errors.factor - errors.factor.mean()
    if len(x) <= step + 2 or not x.any():
        return 0.0
    return float(np.clip((x[step:] * x[:-step]).mean() / (x * x).mean(), 0.0, 0.95))


@dataclass(frozen=True)
class HeadValidation:
    samples: Samples

    def __call__(self, model: nn.Module) -> dict[str, float]:
        where = next(model.parameters()).device
        errors = head_errors(model.cpu(), self.samples)
        model.to(where)
        return {
            "factor_error_percent": 100 * float(np.median(np.expm1(np.abs(errors.factor)))),
            "cell_error_percent": 100 * float(np.median(errors.spread)),
            **sigmas(errors),
        }


def train_head(
    options: HeadOptions,
    network: nn.Module,
    batches: Schedule,
    some: Samples,
    held_out: Samples,
    folder: Path,
    *,
    fresh: bool,
) -> bool:
    """Train, measuring on `held_out`; True in the process that wrote the folder.

    some: of what the batches show, for the features' mean and deviation; fresh: those are not yet
    the network's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fresh:
        normalised(network, some)
    with Processes.joined(options.loop.device) as processes:
        run = Run(network, head_loss, batches, options.loop, processes)  # type: ignore[arg-type]
        train(run, folder, HeadValidation(held_out))
        return processes.leads


def shares_of(rendered: bool, recordings: int, options: HeadOptions) -> list[float]:
    """Of a batch: the worlds', then each recording's."""
    if not recordings:
        return [1.0]
    real = options.real_share if rendered else 1.0
    return [1.0 - real] * rendered + [real / recordings] * recordings
