"""Pairs of banked views of scenes: chosen by what both show, labelled where the network is.

    bank = BankViews(view_bank([Path("scene.ply")], BankOptions()).to("cuda"))
    pairs = bank.sample(32, (320, 256), 0.5, Draws(bank.device, seed=0))

Any two views of a scene that overlap make a pair; they are drawn evenly over the overlap.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.gaussians.bank import ViewBank
from l2m_ros.workshop.gaussians.labels import SAME_SURFACE
from l2m_ros.workshop.gaussians.torch_labels import depth_at, labels_between, moved_pixels
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.torch_effects import camera_effects
from l2m_ros.workshop.lifting.torch_pairs import PairBatch
from l2m_ros.workshop.lifting.torch_scenes import Draws

LEAST_OVERLAP, EASIEST_OVERLAP = 0.15, 0.6  # the least overlap of a pair at difficulty 1 and 0
PROBE_STEP = 12  # pixels between those that the overlap is measured at
BINS = 12  # of overlap, which are equally likely


class BankViews:
    """Draws pairs of the views of a bank."""

    def __init__(self, bank: ViewBank, effects: EffectOptions | None = None) -> None:
        self.bank, self.effects = bank, effects or EffectOptions()
        self.device = bank.depth.device
        self.a, self.b, self.overlap, self.weight = _pairs_of(bank)
        if not len(self.a):
            raise InvalidInput(
                "no two of the rendered views show the same surface: render more of each scene"
            )

    def __len__(self) -> int:
        return len(self.a)

    def draw(self, draws: Draws, count: int, difficulty: float) -> tuple[Tensor, Tensor]:
        """Numbers (B,) of the first and of the second view of each pair."""
        least = EASIEST_OVERLAP + (LEAST_OVERLAP - EASIEST_OVERLAP) * difficulty
        weight = torch.where(self.overlap >= least, self.weight, 0.0)
        weight = torch.where(weight.sum() > 0, weight, self.weight)
        bounds = weight.double().cumsum(0)
        at = draws.uniform(count).double() * bounds[-1]
        chosen = torch.searchsorted(bounds, at, right=True).clamp(max=len(self.a) - 1)
        swap = draws.uniform(count) < 0.5
        a = torch.where(swap, self.b[chosen], self.a[chosen])
        return a, torch.where(swap, self.a[chosen], self.b[chosen])

    def images(self, draws: Draws, which: Tensor, difficulty: float) -> Tensor:
        """(B, 3, H, W) in [0, 1]: the views through a camera each."""
        strength = 0.4 + 0.6 * difficulty * draws.uniform(len(which)).sqrt()
        return camera_effects(draws, self.bank.rgb[which].float() / 255, self.effects, strength)

    def labels(
        self, a: Tensor, b: Tensor, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Warp of a's pixels into b, visible, unknown; at another size where one is given."""
        views = [self._resized(view, size) for view in (a, b)]
        (depth_a, K_a, sure_a), (depth_b, K_b, sure_b) = views
        return labels_between(
            depth_a, K_a, _b_from_a(self.bank, a, b), depth_b, K_b, sure_a, sure_b
        )

    @torch.no_grad()
    def sample(
        self, count: int, size: tuple[int, int], difficulty: float, draws: Draws
    ) -> PairBatch:
        a, b = self.draw(draws, count, difficulty)
        images = [self.images(draws, view, difficulty) for view in (a, b)]
        if size != self.bank.size:
            images = [
                F.interpolate(image, size[::-1], mode="bilinear", antialias=True)
                for image in images
            ]
        K_a, K_b = (self._resized(view, size)[1] for view in (a, b))
        there, back = self.labels(a, b, size), self.labels(b, a, size)
        return PairBatch(*images, *there, *back, K_a, K_b, _b_from_a(self.bank, a, b))

    def _resized(
        self, which: Tensor, size: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Depth, K and sureness of views; inverse depth is interpolated: exact on planes."""
        depth, K, sure = (t[which] for t in (self.bank.depth, self.bank.K, self.bank.sure))
        if size is None or size == self.bank.size:
            return depth, K, sure
        factor = K.new_tensor([size[0] / self.bank.size[0], size[1] / self.bank.size[1]])
        middle = torch.cat([K[:, :2, :2], K[:, :2, 2:] + 0.5], dim=2) * factor[:, None]
        K = torch.cat([middle - K.new_tensor([0, 0, 0.5]), K[:, 2:]], dim=1)
        known = depth > 0
        inverse = torch.where(known, 1.0 / torch.where(known, depth, 1.0), 0.0)
        three = torch.stack([inverse, known.float(), sure.float()], dim=1)
        inverse, share, sure = F.interpolate(three, size[::-1], mode="bilinear").unbind(1)
        whole = share > 0.999
        return torch.where(whole, 1.0 / torch.where(whole, inverse, 1.0), 0.0), K, sure > 0.999


def _b_from_a(bank: ViewBank, a: Tensor, b: Tensor) -> Tensor:
    """(B, 4, 4), in double precision: worlds may lie far from their origin."""
    pose_a, pose_b = (bank.camera_from_world[view].double() for view in (a, b))
    return (pose_b @ torch.linalg.inv(pose_a)).float()


@torch.no_grad()
def _pairs_of(bank: ViewBank) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers a < b of the views of each pair, its overlap, and how likely it is drawn.

    Scenes are equally likely, and so are bins of overlap that have pairs.
    """
    parts = []
    for scene in torch.unique(bank.scene).tolist():
        views = (bank.scene == scene).nonzero()[:, 0]
        shared = torch.stack([_shown_in(bank, view, views) for view in views.tolist()])
        overlap = (shared * shared.T).sqrt()
        i, j = torch.triu_indices(len(views), len(views), 1, device=views.device)
        both = torch.minimum(shared, shared.T)[i, j] >= 0.5 * LEAST_OVERLAP
        keep = both & (overlap[i, j] >= LEAST_OVERLAP)
        i, j = i[keep], j[keep]
        found = overlap[i, j]
        bins = ((found - LEAST_OVERLAP) / (1 - LEAST_OVERLAP) * BINS).long().clamp(0, BINS - 1)
        counts = torch.bincount(bins, minlength=BINS)
        weight = 1.0 / (counts[bins] * (counts > 0).sum())
        parts.append((views[i], views[j], found, weight))
    a, b, overlap, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return a, b, overlap, weight


def _shown_in(bank: ViewBank, view: int, others: Tensor) -> Tensor:
    """(V,) share of the view's known pixels that each of the others shows, from a few of them."""
    count = len(others)
    step = PROBE_STEP
    depth = bank.depth[view][step // 2 :: step, step // 2 :: step]
    # Pixel (v, u) of the coarse grid is pixel step (v, u) + step / 2 of the view.
    K = bank.K[view].clone()
    K[:2, 2] -= step // 2
    K[:2] /= step
    known = (depth > 0).expand(count, -1, -1)
    warp, z = moved_pixels(
        torch.where(depth > 0, depth, 1.0).expand(count, -1, -1),
        K.expand(count, -1, -1),
        _b_from_a(bank, torch.full_like(others, view), others),
        bank.K[others],
    )
    width, height = bank.size
    x, y = warp.unbind(-1)
    inside = known & (z > 1e-6) & (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    shown = depth_at(bank.depth[others], warp, inside)
    seen = inside & (shown > 0) & ((shown / torch.where(z > 1e-6, z, 1.0) - 1).abs() < SAME_SURFACE)
    return seen.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
