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
from l2m_ros.workshop.training.loop import LoopOptions, Run, Validate, train
from l2m_ros.workshop.training.processes import Processes

TRIES = 8  # photographs that may fail in a row


@dataclass(frozen=True)
class EncoderOptions:
    """The stage; FiT3D's figures where nothing is said: 64 dimensions, batch 2, one pass."""

    photographs_per_step: int = 2
    dimensions: int = 64
    fit_steps: int = 4
    block_px: int = 4  # pixels of the photograph that one Gaussian stands for
    loss: str = "cosine"  # or "l1"
    views: ViewOptions = field(default_factory=ViewOptions)
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=1))

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InvalidInput(f"loss {self.loss!r}: use {' or '.join(LOSSES)}")
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

    def to(self, device: str) -> EncoderBatch:
        return EncoderBatch(*(t.to(device) for t in (self.images, self.targets, self.weights)))


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
        images, targets, weights = (torch.cat(parts) for parts in zip(*made, strict=True))
        return EncoderBatch(images, targets, weights)

    def one(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, targets and weights of all views of photograph number `index` of the run."""
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
        targets, weights = self.rendered(made)
        return torch.stack([image_tensor(v.altered) for v in made.views]), targets, weights

    def lifted(self, chosen: int, rng: np.random.Generator) -> LiftedPhotograph:
        photograph, views = self.photographs[chosen], self.options.views
        rgb = photograph.rgb(2 * max(views.width, views.height))
        return lifted(rng, rgb, photograph.name, views, self.depth, self.sky)

    @torch.no_grad()
    def rendered(self, made: LiftedPhotograph) -> tuple[Tensor, Tensor]:
        """(V, C, h, w) features rendered at all views and (V, 1, h, w) weights."""
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
        return targets, torch.where(alpha > LEAST_ALPHA, seen, 0.0)


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


def train_encoder(
    options: EncoderOptions,
    encoder: PatchEncoder,
    batches: Schedule,
    folder: Path,
    validate: Validate | None = None,
) -> Run:
    """Fine-tune `encoder` in place; the run (its mean weights are what ships)."""
    folder.mkdir(parents=True, exist_ok=True)
    loss = LOSSES[options.loss]

    def loss_of(model: nn.Module, batch: EncoderBatch) -> tuple[Tensor, dict[str, float]]:
        features = model(batch.images).float()
        with torch.no_grad():
            cosine = 1.0 - float(cosine_loss(features, batch))
        return loss(features, batch), {"cosine": cosine}

    with Processes.joined(options.loop.device) as processes:
        run = Run(encoder, loss_of, batches, options.loop, processes)  # type: ignore[arg-type]
        train(run, folder, validate)
        run.ema.copy_to(encoder)
        return run
