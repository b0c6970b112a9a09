"""Fitting Gaussians to posed images by gradient descent.

The first tenth is photometric. Then the regularisers join (flat Gaussians, normals that agree
with the depth, depth that agrees between views and with given depth); the last 15 % are
photometric again. `Fit` holds all that changes, so that a run is stored and resumed exactly; what
is random is drawn from (seed, step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.gaussians.captures import Capture
from l2m_ros.workshop.gaussians.density import GradientTally, grown, pruned
from l2m_ros.workshop.gaussians.labels import BoolArray
from l2m_ros.workshop.gaussians.losses import (
    Weights,
    depth_error,
    flatness,
    normal_consistency,
    photometric,
    psnr,
    spread_error,
    view_consistency,
)
from l2m_ros.workshop.gaussians.model import Gaussians, concatenated
from l2m_ros.workshop.gaussians.neighbours import SKY, usual_distance, views_around
from l2m_ros.workshop.gaussians.patches import Photograph, patch_consistency
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.gaussians.rendering import render

PARTNERS = 4  # views whose depth and photograph each view is compared with, in turn

# Share of the run. The photometric end brings 0.1 dB of PSNR; where depth comes from matches it
# would cost a tenth of the depth's exactness.
REGULARISED = 0.85


@dataclass(frozen=True)
class FitOptions:
    """Learning rates are those of 3DGS but for scales; the means' is in units of the extent.

    3DGS takes 30,000 steps. In some hundred its scales do not arrive: PSNR 1 dB lower on a yard.
    """

    steps: int = 2000
    max_gaussians: int = 30_000
    regularise_from: float = 0.1  # share of the run; 1 = never
    # None: REGULARISED, and where depth comes from matches 1.
    regularise_until: float | None = None
    grow_until: float = 0.5
    grow_every: int = 25
    rate_means: float = 1.6e-4
    rate_means_end: float = 1.6e-6
    rate_scales: float = 1.5e-2  # 3DGS: 5e-3
    rate_quaternions: float = 1e-3
    rate_opacities: float = 2.5e-2
    rate_colours: float = 2.5e-3
    weights: Weights = field(default_factory=Weights)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.max_gaussians < 10:
            raise InvalidInput(
                f"a fit takes at least 1 step and 10 Gaussians, got {self.steps} and "
                f"{self.max_gaussians}"
            )


class Fit:
    """A scene under optimisation.

    `sharp` are the same views in larger images, whose patches are compared: given where depth was
    not measured.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        captures: list[Capture],
        rasterizer: Rasterizer,
        options: FitOptions,
        sharp: list[Capture] | None = None,
    ) -> None:
        self.options, self.captures, self.rasterizer = options, captures, rasterizer
        device = gaussians.means.device
        self.targets = [torch.from_numpy(c.rgb).to(device) for c in captures]  # uint8: a quarter
        self.known = [_known_depth(c, device) for c in captures]
        self.photographs = [
            Photograph.of(torch.from_numpy(c.rgb).to(device), c.view) for c in sharp or []
        ]
        self.extent = scene_extent(captures, gaussians)
        distance = usual_distance(gaussians, captures)
        self.far = SKY * distance
        self.near = [views_around(captures, i, distance, PARTNERS) for i in range(len(captures))]
        self.step = 0
        self.depths: dict[int, Tensor] = {}  # last plane depth of each view
        self._set(gaussians, None)

    def _set(self, gaussians: Gaussians, moments: dict[str, Any] | None) -> None:
        """New parameters; Adam's moments by parameter name are kept where given."""
        self.gaussians = Gaussians(
            **{name: t.detach().clone().requires_grad_(True) for name, t in gaussians.tensors()}
        )
        o = self.options
        rates = {
            "means": o.rate_means * self.extent,
            "log_scales": o.rate_scales,
            "quaternions": o.rate_quaternions,
            "opacity_logits": o.rate_opacities,
            "sh": o.rate_colours,
        }
        groups = [
            {"params": [t], "lr": rates[name], "name": name} for name, t in self.gaussians.tensors()
        ]
        self.adam = torch.optim.Adam(groups, eps=1e-15)
        for group in self.adam.param_groups:
            if moments and group["name"] in moments:
                self.adam.state[group["params"][0]] = moments[group["name"]]
        self.tally = GradientTally(len(gaussians))

    def _moments(self) -> dict[str, Any]:
        return {g["name"]: self.adam.state[g["params"][0]] for g in self.adam.param_groups}

    def advance(self, share: float) -> float:
        """One step at `share` of the run; returns its loss."""
        o = self.options
        index = self._view_of(self.step)
        decay = (o.rate_means_end / o.rate_means) ** share
        self.adam.param_groups[0]["lr"] = o.rate_means * self.extent * decay
        regular = o.regularise_from <= share < self._regularise_until()
        rendering = render(
            self.rasterizer, self.gaussians, self.captures[index].view, far=self.far,
            spread=regular and o.weights.spread > 0,
        )  # fmt: skip
        target = self.targets[index].float() / 255.0
        loss = photometric(rendering.colour, target)
        loss = loss + o.weights.flatten * flatness(self.gaussians)
        if regular:
            loss = loss + self._geometry(index, rendering, target)
            self.depths[index] = rendering.plane_depth.detach()
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.tally.add(rendering.raster.means_px, rendering.raster.drawn)
        self.adam.step()
        self.step += 1
        if share < o.grow_until and self.step % o.grow_every == 0:
            self._revise(share)
        return float(loss.detach())

    def _regularise_until(self) -> float:
        if self.options.regularise_until is not None:
            return self.options.regularise_until
        return 1.0 if self.photographs else REGULARISED

    def _view_of(self, step: int) -> int:
        """Every view once a round, in an order of the round's own."""
        count = len(self.captures)
        order = np.random.default_rng((self.options.seed, step // count)).permutation(count)
        return int(order[step % count])

    def _geometry(self, index: int, rendering: Any, target: Tensor) -> Tensor:
        """The regularisers of one view."""
        capture, w = self.captures[index], self.options.weights
        loss = w.normal * normal_consistency(rendering, capture.view, target)
        if w.spread:
            loss = loss + w.spread * spread_error(rendering)
        depth = self.known[index]
        if depth is not None:
            loss = loss + w.depth * depth_error(rendering, depth)
        known = [j for j in self.near[index] if j in self.depths]
        if known:
            rng = np.random.default_rng((self.options.seed, 1, self.step))
            other = known[int(rng.integers(len(known)))]
            weight = w.matched_views if self.photographs else w.views
            loss = loss + weight * view_consistency(
                rendering, capture.view, self.depths[other], self.captures[other].view
            )
            if self.photographs and w.patches:
                loss = loss + w.patches * patch_consistency(
                    rendering, capture.view, self.photographs[index], self.depths[other],
                    self.captures[other].view, self.photographs[other],
                    torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.step),
                )  # fmt: skip
        return loss

    def _revise(self, share: float) -> None:
        """Prune, and grow so that the limit is reached when growth ends."""
        random = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.step)
        keep = pruned(self.gaussians, self.extent)
        room = self.options.max_gaussians - int(keep.sum())
        left = (self.options.grow_until - share) * self.step / share / self.options.grow_every
        count = max(0, math.ceil(room / (1 + left)))
        need = torch.where(keep.cpu(), self.tally.mean(), torch.zeros(len(keep)))
        stays, new = grown(self.gaussians, need, count, random)
        stays, new = stays.to(keep.device) & keep, new.to(keep.device)
        old = self.gaussians.select(stays)
        moments = {}
        for name, state in self._moments().items():
            grown_state = {"step": state["step"]}
            for key in ("exp_avg", "exp_avg_sq"):
                kept = state[key][stays]
                zeros = torch.zeros(len(new), *kept.shape[1:], device=kept.device)
                grown_state[key] = torch.cat([kept, zeros])
            moments[name] = grown_state
        self._set(concatenated([old, new]), moments)

    def state(self) -> dict[str, Any]:
        """All that changes, as tensors and numbers."""
        return {
            "step": self.step,
            "gaussians": {name: t.detach() for name, t in self.gaussians.tensors()},
            "moments": self._moments() if self.adam.state else None,
            "depths": self.depths,
            "tally": [self.tally.total, self.tally.seen],
            "extent": self.extent,
            "near": self.near,
            "far": self.far,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.extent = state["step"], state["extent"]
        self.near, self.far = state["near"], state["far"]
        device = self.targets[0].device
        self.depths = {index: depth.to(device) for index, depth in state["depths"].items()}
        gaussians = Gaussians(**state["gaussians"]).to(device)
        moments = state["moments"] and {
            name: {key: value if key == "step" else value.to(device) for key, value in one.items()}
            for name, one in state["moments"].items()
        }
        self._set(gaussians, moments)
        self.tally.total, self.tally.seen = state["tally"]


def _known_depth(capture: Capture, device: torch.device) -> Tensor | None:
    """(H, W) with 0 = unknown."""
    if capture.depth is None:
        return None
    return torch.from_numpy(np.nan_to_num(capture.depth).astype(np.float32)).to(device)


def scene_extent(captures: list[Capture], gaussians: Gaussians) -> float:
    """The scene's size: the larger of the cameras' spread and a third of the median distance."""
    centres = np.stack([c.view.world_from_camera[:3, 3] for c in captures])
    spread = float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())
    means = gaussians.means.detach().cpu().numpy()
    distance = float(np.median(np.linalg.norm(means - centres.mean(axis=0), axis=1)))
    return 1.1 * max(spread, distance / 3, 1e-6)


@torch.no_grad()
def psnr_on(
    gaussians: Gaussians,
    captures: list[Capture],
    rasterizer: Rasterizer,
    masks: list[BoolArray] | None = None,
) -> list[float]:
    """PSNR of each view, or of the pixels of its mask (H, W)."""
    values = []
    for index, capture in enumerate(captures):
        colour = render(rasterizer, gaussians, capture.view).colour
        target = torch.from_numpy(capture.rgb).to(colour) / 255.0
        if masks is not None:
            here = torch.from_numpy(masks[index]).to(colour.device)
            colour, target = colour[here], target[here]
        values.append(psnr(colour, target))
    return values
