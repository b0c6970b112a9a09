"""More Gaussians where the picture asks for them, none where they are not seen."""

from __future__ import annotations

import torch
from torch import Tensor

from l2m_ros.workshop.gaussians.model import Gaussians

LEAST_OPACITY = 0.01
SPLIT_SHRINK = 1.6  # as in 3DGS


class GradientTally:
    """Mean length of each Gaussian's gradient in the image: how much its place matters."""

    def __init__(self, count: int) -> None:
        self.total, self.seen = torch.zeros(count), torch.zeros(count)

    def add(self, means_px: Tensor, drawn: Tensor) -> None:
        if means_px.grad is not None:
            grad = means_px.grad.reshape(-1, 2).norm(dim=1).cpu()
            self.total += torch.where(drawn.cpu(), grad, torch.zeros_like(grad))
            self.seen += drawn.cpu().float()

    def mean(self) -> Tensor:
        return self.total / self.seen.clamp_min(1)


def pruned(gaussians: Gaussians, extent: float) -> Tensor:
    """(N,) bool: which stay. Faint, huge and broken ones go."""
    g = gaussians
    finite = g.means.isfinite().all(1) & g.log_scales.isfinite().all(1)
    finite &= g.opacity_logits.isfinite()
    near = (g.means - g.means.median(dim=0).values).norm(dim=1) < 5 * extent
    huge = near & (g.scales.max(dim=1).values > 0.5 * extent)
    return (finite & (g.opacities > LEAST_OPACITY) & ~huge).detach()


def grown(
    gaussians: Gaussians, need: Tensor, count: int, random: torch.Generator
) -> tuple[Tensor, Gaussians]:
    """(which stay, the new ones): the `count` neediest are split in two if large, else cloned.

    On the CPU, whatever the Gaussians lie on, so that the same seed draws the same on any device.
    """
    g = gaussians.detached().to("cpu")
    chosen = torch.topk(need, min(count, int((need > 0).sum()))).indices
    size = g.scales.max(dim=1).values
    large = size[chosen] > size.median()
    split, cloned = chosen[large], chosen[~large]
    noise = torch.randn(2 * len(split), 3, generator=random)
    parts = g.select(torch.cat([split, split, cloned]))
    two = 2 * len(split)
    offset = (parts.rotations()[:two] @ (noise * parts.scales[:two])[..., None])[..., 0]
    parts.means[:two] += offset
    thinnest = parts.log_scales[:two].argmin(dim=1, keepdim=True)
    shrink = torch.full((two, 3), -float(torch.tensor(SPLIT_SHRINK).log()))
    parts.log_scales[:two] += shrink.scatter(1, thinnest, 0.0)
    stays = torch.ones(len(g), dtype=torch.bool)
    stays[split] = False
    return stays, parts
