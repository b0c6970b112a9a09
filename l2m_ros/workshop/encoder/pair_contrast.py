"""An encoder learns from lifted pairs alone: a point's feature is told from all others of a view.

    photographs -> pairs of views, made where the network is -> features of both
                -> InfoNCE: a cell of one view against all cells of the other, both ways

Nothing is rendered in features and no teacher is asked, so a GPU takes tens of pairs a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.types import ByteArray
from l2m_ros.workshop.encoder.patch_encoders import PatchEncoder
from l2m_ros.workshop.encoder.stage import CONTRAST_SCALE, EncoderOptions
from l2m_ros.workshop.training.data import Batch, Schedule, SizeShare
from l2m_ros.workshop.training.device_data import DeviceBatches, InBlocks, LiftedViews
from l2m_ros.workshop.training.losses import corner_terms, pair_mean, truth_at

BLOCK = 8  # steps that share a draw


def contrast_pairs(
    photographs: Sequence[Path] | Sequence[ByteArray], options: EncoderOptions
) -> Schedule:
    """`photographs_per_step` lifted pairs a step, on the loop's device."""
    views, loop = options.views, options.loop
    size = SizeShare(views.width, views.height, BLOCK * options.photographs_per_step, 1.0)
    lifted = LiftedViews(photographs, loop.device)
    return InBlocks(DeviceBatches({lifted: 1.0}, (size,), loop.seed, True, loop.device), BLOCK)


def pair_contrast_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Mean of both ways, over the cells whose points the other view shows.

    The target lies between four cells: the mean of their log-probabilities.
    """
    encoder: PatchEncoder = model  # type: ignore[assignment]
    count = len(batch.query)
    features = F.normalize(encoder(torch.cat([batch.query, batch.keyframe])).float(), dim=1)
    rows, columns = features.shape[-2:]
    a, b = features.flatten(2).split(count)
    logits = CONTRAST_SCALE * a.transpose(1, 2) @ b  # (B, cells of a, cells of b)
    truth = truth_at(encoder.stride, batch.warp_px, batch.visible, batch.ignored)
    target = (truth.warp_px.flatten(2).transpose(1, 2) + 0.5) / encoder.stride - 0.5
    visible = truth.visible.flatten(1)
    scores = torch.cat([logits, logits.transpose(1, 2)]).log_softmax(dim=2)
    loss = pair_mean(-corner_terms(scores, target, rows, columns), visible)
    return loss, {}
