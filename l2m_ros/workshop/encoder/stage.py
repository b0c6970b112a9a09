"""L2M's first stage: an encoder learns what its own features are in 3D.

    photograph -> lifted -> views -> the encoder as it was sees the gathered ones
               -> Gaussians carrying 64-d features are fitted to that (closed form, few steps)
               -> features rendered at all views, new ones among them
               -> the encoder is fine-tuned to them (1 - cosine, or L1; AdamW)

A step is one or more photographs; a step's photographs and views follow from (seed, step) alone,
so that the training loop resumes to the same weights and several processes share the work.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.encoder.feature_field import LEAST_ALPHA, fit_field
from l2m_ros.workshop.encoder.lifted_views import PROCEDURAL, LiftedPhotograph, ViewOptions, lifted
from l2m_ros.workshop.encoder.patch_encoders import PatchEncoder, image_tensor
from l2m_ros.workshop.encoder.photographs import Photograph
from l2m_ros.workshop.encoder.surfels import surfels
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.lifting.depth import DepthSource
from l2m_ros.workshop.lifting.sky import SkyMask, sky_by_rule
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.decoder import filled
from l2m_ros.workshop.training.loop import LoopOptions, LossOf, Run, Validate, train
from l2m_ros.workshop.training.processes import Processes

METHODS = ("field", "contrast")
SAME_POINT = 0.75  # of a cell's extent: points of two cells that are nearer are one
CONTRAST_SCALE = 20.0
TRIES = 8  # photographs that may fail in a row


@dataclass(frozen=True)
class EncoderOptions:
    """The stage; FiT3D's figures where nothing is said: 64 dimensions, batch 2, one pass."""

    photographs_per_step: int = 2
    dimensions: int = 64
    fit_steps: int = 4
    block_px: int = 4  # pixels of the photograph that one Gaussian stands for
    method: str = "field"  # or "contrast": lifted pairs alone, see `pair_contrast`
    loss: str = "cosine"  # or "l1"
    contrast: float = 0.0  # weight of telling a point from all others of another view
    views: ViewOptions = field(default_factory=ViewOptions)
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=1))

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InvalidInput(f"loss {self.loss!r}: use {' or '.join(LOSSES)}")
        if not self.contrast >= 0.0:
            raise InvalidInput(f"contrast must not be negative, got {self.contrast}")
        if min(self.photographs_per_step, self.dimensions, self.fit_steps, self.block_px) < 1:
            raise InvalidInput("photographs, dimensions, fit steps and block_px are positive")


def options_from(settings: Mapping[str, Any]) -> EncoderOptions:
    """Of a parsed config file; unknown names fail with the nearest right one."""
    settings = dict(settings)
    kinds = {"views": ViewOptions, "loop": LoopOptions}
    parts = {
        name: filled(kind, settings.pop(name), name)
        for name, kind in kinds.items()
        if name in settings
    }
    made: EncoderOptions = filled(EncoderOptions, {**settings, **parts}, "the config")
    return made


@dataclass(frozen=True, eq=False)
class EncoderBatch:
    """Images and the features that the encoder should have for them."""

    images: Tensor  # (B, 3, H, W)
    targets: Tensor  # (B, C, h, w)
    weights: Tensor  # (B, 1, h, w) share of a cell that is shown and known
    points: Tensor  # (B, 3, h, w) where a cell's surface lies, in its photograph's frame
    extents: Tensor  # (B, 1, h, w) how large a cell is there
    photograph: Tensor  # (B,) which photograph of the batch a view shows

    def to(self, device: str) -> EncoderBatch:
        return EncoderBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class FeatureLifting(Schedule):
    """Batches: photographs lifted, their features fitted in space and rendered."""

    def __init__(
        self,
        photographs: Sequence[Photograph],
        teacher: PatchEncoder,
        rasterizer: Rasterizer,
        options: EncoderOptions,
        depth: DepthSource = PROCEDURAL,
        sky: SkyMask = sky_by_rule,
    ) -> None:
        views, seed = options.views, options.loop.seed
        size = SizeShare(views.width, views.height, options.photographs_per_step, 1.0)
        super().__init__((size,), seed)
        check_size(teacher, views)
        self.photographs, self.options, self.rasterizer = photographs, options, rasterizer
        self.skipped: dict[str, str] = {}  # photographs that cannot be lifted, and why
        self.teacher = copy.deepcopy(teacher).requires_grad_(False).eval()
        self.depth, self.sky = depth, sky

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> EncoderBatch:
        part = self.part_of(self.sizes[0], count)
        first = step * self.sizes[0].batch + rank * part
        made = [self.one(index) for index in range(first, first + part)]
        parts = [torch.cat(column) for column in zip(*made, strict=True)]
        views = torch.tensor([len(images) for images, *_ in made])
        return EncoderBatch(*parts, torch.arange(len(made)).repeat_interleave(views))

    def one(self, index: int) -> tuple[Tensor, ...]:
        """Of all views of photograph number `index` of the run: images, targets, weights, points
        and extents."""
        rounds, at = divmod(index, len(self.photographs))
        order = np.random.default_rng((self.seed, 11, rounds)).permutation(len(self.photographs))
        # One that cannot be lifted (no depth for it) is replaced by the next of the round.
        for chosen in np.roll(order, -at)[:TRIES]:
            try:
                made = self.lifted(int(chosen), np.random.default_rng((self.seed, 12, index)))
                break
            except InvalidInput as error:
                self.skipped[self.photographs[chosen].name] = str(error)
        else:
            raise InvalidInput(f"{TRIES} photographs in a row cannot be lifted: {self.skipped}")
        return torch.stack([image_tensor(v.altered) for v in made.views]), *self.rendered(made)

    def lifted(self, chosen: int, rng: np.random.Generator) -> LiftedPhotograph:
        photograph, views = self.photographs[chosen], self.options.views
        rgb = photograph.rgb(2 * max(views.width, views.height))
        return lifted(rng, rgb, photograph.name, views, self.depth, self.sky)

    @torch.no_grad()
    def rendered(self, made: LiftedPhotograph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(V, C, h, w) features rendered at all views, (V, 1, h, w) weights, (V, 3, h, w) points
        and (V, 1, h, w) extents of the cells."""
        options = self.options
        device = next(self.teacher.parameters()).device
        gathered = made.views[: options.views.gathered]
        clean = torch.stack([image_tensor(view.rgb) for view in gathered]).to(device)
        features = self.teacher(clean).float().cpu()
        cells = features.shape[-2], features.shape[-1]
        seen = torch.stack([torch.from_numpy(view.seen)[None].float() for view in made.views])
        seen = F.adaptive_avg_pool2d(seen, cells)
        cameras = [view.camera for view in made.views]
        # The first camera only turned: what it sees is the photograph, not a surface's warp.
        trust = torch.full((len(gathered), 1, 1, 1), options.views.moved_weight)
        trust[0] = 1.0
        with torch.enable_grad():
            scene = fit_field(
                self.rasterizer, surfels(made.relief, made.rgb, options.block_px),
                cameras[: len(gathered)], features, trust * seen[: len(gathered)],
                dimensions=options.dimensions, steps=options.fit_steps,
            )  # fmt: skip
        targets, alpha = scene.rendered(self.rasterizer, cameras, cells)
        weights = torch.where(alpha > LEAST_ALPHA, seen, 0.0)
        return targets, weights, *scene.placed(self.rasterizer, cameras, cells)


def check_size(encoder: PatchEncoder, views: ViewOptions) -> None:
    if views.width % encoder.multiple or views.height % encoder.multiple:
        near = [max(1, round(s / encoder.multiple)) for s in (views.width, views.height)]
        raise InvalidInput(
            f"views of {views.width}x{views.height}: {encoder.label} takes multiples of "
            f"{encoder.multiple}, e.g. --size {near[0] * encoder.multiple}x"
            f"{near[1] * encoder.multiple}"
        )


def cosine_loss(features: Tensor, batch: EncoderBatch) -> Tensor:
    """1 - cosine, the mean over known cells."""
    off = 1 - F.cosine_similarity(features, batch.targets, dim=1)[:, None]
    return (batch.weights * off).sum() / batch.weights.sum().clamp_min(1e-6)


def l1_loss(features: Tensor, batch: EncoderBatch) -> Tensor:
    """L1 in units of the targets' own mean size, the mean over known cells."""
    off = (features - batch.targets).abs().mean(dim=1, keepdim=True)
    size = batch.targets.abs().mean(dim=1, keepdim=True)
    return (batch.weights * off).sum() / (batch.weights * size).sum().clamp_min(1e-6)


LOSSES: dict[str, Callable[[Tensor, EncoderBatch], Tensor]] = {
    "cosine": cosine_loss,
    "l1": l1_loss,
}


def contrast_loss(features: Tensor, batch: EncoderBatch) -> Tensor:
    """InfoNCE: a cell's feature against those of all cells of another view of its photograph.

    The positive is the cell that shows the same point; its neighbours are no negatives.
    """
    terms = []
    for number in torch.unique(batch.photograph).tolist():
        views = (batch.photograph == number).nonzero()[:, 0].tolist()
        for step in (1, 2)[: len(views) - 1]:
            pairs = zip(views, views[step:] + views[:step], strict=True)
            terms += [_told_apart(features, batch, a, b) for a, b in pairs]
    found = [term for term in terms if term is not None]
    return torch.stack(found).mean() if found else 0.0 * features.sum()


def _told_apart(features: Tensor, batch: EncoderBatch, a: int, b: int) -> Tensor | None:
    """Of the cells of view a whose points view b shows, or None where there are none."""
    rows, columns = features.shape[-2:]
    point_a, point_b = (batch.points[view].flatten(1).T for view in (a, b))
    known_a, known_b = (batch.weights[view].flatten() > 0.5 for view in (a, b))
    apart = torch.cdist(point_a, point_b, compute_mode="donot_use_mm_for_euclid_dist")
    near, of = apart.masked_fill(~known_b, torch.inf).min(dim=1)
    extent = torch.maximum(batch.extents[a].flatten(), batch.extents[b].flatten()[of])
    shown = known_a & (near < SAME_POINT * extent)
    if not shown.any():
        return None
    unit_a, unit_b = (F.normalize(features[view].flatten(1).T, dim=1) for view in (a, b))
    of = of[shown]
    logits = CONTRAST_SCALE * unit_a[shown] @ unit_b.T
    cell = torch.arange(rows * columns, device=features.device)
    across = (cell % columns - (of % columns)[:, None]).abs()
    down = (cell // columns - (of // columns)[:, None]).abs()
    beside = (torch.maximum(across, down) == 1) | ~known_b
    return F.cross_entropy(logits.masked_fill(beside, -1e4), of)


def train_encoder(
    options: EncoderOptions,
    encoder: PatchEncoder,
    batches: Schedule,
    folder: Path,
    validate: Validate | None = None,
    loss_of: LossOf | None = None,
) -> Run:
    """Fine-tune `encoder` in place; the run (its mean weights are what ships).

    `loss_of` belongs to the batches; by default they are those of `FeatureLifting`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Processes.joined(options.loop.device) as processes:
        loss_of = loss_of or _field_loss(options)
        run = Run(encoder, loss_of, batches, options.loop, processes)
        train(run, folder, validate)
        run.ema.copy_to(encoder)
        return run


def _field_loss(options: EncoderOptions) -> LossOf:
    loss = LOSSES[options.loss]

    def loss_of(model: nn.Module, batch: EncoderBatch) -> tuple[Tensor, dict[str, float]]:
        features = model(batch.images).float()
        with torch.no_grad():
            cosine = 1.0 - float(cosine_loss(features, batch))
        total, terms = loss(features, batch), {"cosine": cosine}
        if options.contrast:
            contrast = contrast_loss(features, batch)
            total = total + options.contrast * contrast
            terms["contrast"] = float(contrast.detach())
        return total, terms

    return loss_of  # type: ignore[return-value]
