"""TinyRoMa v1: XFeat's features, one global correlation, two convolutional matchers.

encode(image)            x2 (stride 4) and f (stride 8)
reference(features)      the same: nothing of the keyframe is solved
match(query, reference)  warp and certainty at stride 4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.shared.grid import centre_grid, resize, sample
from l2m_ros.networks.shared.xfeat import ConvNormRelu, XFeat

MULTIPLE = 32
LOW = 4  # every 4th row and column of the keyframe takes part in the soft position


@dataclass(frozen=True)
class TinyRoMaConfig:
    exact_softmax: bool = False  # the expectation over all cells, as in training


@dataclass(frozen=True)
class TinyLevels:
    """Flows are normalised, certainties logits; `position` is the coarse match."""

    position: Tensor  # (B, 2, h/8, w/8)
    coarse: Tensor  # (B, 3, h/8, w/8): flow and certainty
    fine: Tensor  # (B, 3, h/4, w/4)


class TinyRoMa(nn.Module):
    def __init__(self, config: TinyRoMaConfig | None = None) -> None:
        super().__init__()
        self.config = config or TinyRoMaConfig()
        self.xfeat = nn.ModuleList([XFeat()])  # the list gives checkpoints' name, xfeat.0
        self.coarse_matcher = _matcher(2 * 64 + 2, 256)
        self.fine_matcher = _matcher(2 * 24 + 2, 64)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1], sides multiples of 32."""
        if image.shape[-2] % MULTIPLE or image.shape[-1] % MULTIPLE:
            raise InvalidInput(
                f"tinyroma takes heights and widths that are multiples of {MULTIPLE}, got "
                f"{image.shape[-1]}x{image.shape[-2]}: resize first"
            )
        x2, f = self.xfeat[0](image)
        return {"x2": x2, "f": f}

    def reference(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(features)

    def match(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Tensor]:
        """The query's warp (B, 2, H/4, W/4) into the keyframe and its certainty in logits."""
        fine = self.levels(features, reference).fine
        return {"warp": fine[:, :2], "certainty": fine[:, 2:]}

    def levels(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> TinyLevels:
        exact = self.config.exact_softmax or self.training
        position = self.position(features["f"], reference["f"], exact=exact)
        coarse = self.refined_coarse(position, features, reference)
        return TinyLevels(position, coarse, self.refined_fine(coarse, features, reference))

    def position(self, query: Tensor, keyframe: Tensor, *, exact: bool) -> Tensor:
        """(B, 2, h, w): where each query cell lies, from the correlation of all pairs."""
        logits = correlation(query, keyframe)
        read = expected_position if exact else nearly_best_position
        place = read(logits, *keyframe.shape[-2:])
        return place.transpose(1, 2).reshape(-1, 2, *query.shape[-2:])

    def refined_coarse(
        self, position: Tensor, features: dict[str, Tensor], reference: dict[str, Tensor]
    ) -> Tensor:
        """(B, 3, h/8, w/8): flow, certainty."""
        certainty = torch.zeros_like(position[:, :1])
        start = torch.cat([position, certainty], dim=1)
        return self._refined(self.coarse_matcher, start, features["f"], reference, "f")

    def refined_fine(
        self, coarse: Tensor, features: dict[str, Tensor], reference: dict[str, Tensor]
    ) -> Tensor:
        """(B, 3, h/4, w/4): flow, certainty; no gradient reaches the coarse level."""
        start = resize(coarse.detach(), tuple(features["x2"].shape[-2:]))
        return self._refined(self.fine_matcher, start, features["x2"], reference, "x2")

    @staticmethod
    def _refined(
        matcher: nn.Module, start: Tensor, query: Tensor, reference: dict[str, Tensor], name: str
    ) -> Tensor:
        flow = start[:, :2]
        delta = matcher(torch.cat([query, sample(reference[name], flow), flow], dim=1))
        return start + delta_unit(reference["x2"]).to(delta) * delta


def delta_unit(x2: Tensor) -> Tensor:
    """(1, 3, 1, 1): one pixel of the keyframe's input (x2 has stride 4) in x and y, and 1."""
    height, width = x2.shape[-2:]
    return torch.tensor([2.0 / (4 * width), 2.0 / (4 * height), 1.0])[None, :, None, None]


def correlation(query: Tensor, keyframe: Tensor) -> Tensor:
    """(B, n, m): <query cell, keyframe cell> / sqrt(C), cells row-major."""
    scale = query.shape[1] ** -0.5
    return (query.flatten(2).transpose(1, 2).float() @ keyframe.flatten(2).float()) * scale


def expected_position(logits: Tensor, rows: int, columns: int) -> Tensor:
    """(B, n, 2): the mean over all keyframe cells."""
    places = centre_grid(rows, columns, like=logits).flatten(1).T
    return logits.softmax(dim=-1) @ places


def nearly_best_position(logits: Tensor, rows: int, columns: int) -> Tensor:
    """(B, n, 2): the best cell, mixed with every 16th cell as the published evaluation does."""
    low, best_share, best = soft_parts(logits, rows, columns)
    return low + best_share * best


def soft_parts(logits: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over every 16th cell (B, n, 2); the best cell's share (B, n, 1) and place (B, n, 2).

    The best cell's logit is its INDEX, not its correlation: the published weights are evaluated
    so, and it makes the share 1 except for the keyframe's first few cells. The place of a
    4x4 block is its centre although its logit is the upper left cell's.
    """
    batch, count, _ = logits.shape
    best = logits.argmax(dim=-1)  # (B, n)
    grid = logits.reshape(batch, count, rows, columns)[:, :, ::LOW, ::LOW].flatten(2)
    share = torch.cat([grid, best[..., None].to(logits)], dim=-1).softmax(dim=-1)
    low_places = centre_grid(rows // LOW, columns // LOW, like=logits).flatten(1).T
    places = centre_grid(rows, columns, like=logits).flatten(1).T.contiguous()
    return share[..., :-1] @ low_places, share[..., -1:], places[best]


def _matcher(channels: int, width: int) -> nn.Sequential:
    layers = [ConvNormRelu(channels, width), *(ConvNormRelu(width, width) for _ in range(3))]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 1))


def build_tinyroma(**config: Any) -> TinyRoMa:
    return TinyRoMa(TinyRoMaConfig(**config))
