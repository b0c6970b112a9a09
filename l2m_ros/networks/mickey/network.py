"""MicKey: keypoints with metres, one of each cell, learnt from image pairs and relative poses.

    encode(image)              keypoints, depth, score, descriptors     once per frame
    reference(features)        the same: nothing of the keyframe is solved
    match(query, reference)    each cell's best partner, both ways, and its probability

The pose comes from the matched points in space (`solver`, or `geometry.lifted` on a robot).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.networks.mickey.compact import CompactExtractor
from l2m_ros.networks.mickey.heads import DepthHead, DescriptorHead, OffsetHead, ScoreHead
from l2m_ros.networks.mickey.matching import DualSoftmax, keypoint_scores
from l2m_ros.networks.shared.vit import ViT

# The network that `l2m train metric` trains on a CPU.
COMPACT: dict[str, Any] = {"backbone": "compact", "per_focal": True, "temperature": 0.07}

# The same parts, thin: for tests.
TINY: dict[str, Any] = {
    "vit_width": 48,
    "vit_depth": 2,
    "vit_heads": 4,
    "vit_native": 5,
    "widths": [32, 24, 16],
    "last_width": 8,
    "descriptor_width": 16,
    "attention_heads": 2,
}


@dataclass(frozen=True)
class MicKeyConfig:
    """Defaults: the published network. `compact` is this package's own, see `compact.py`."""

    backbone: str = "dinov2"  # dinov2 | compact
    per_focal: bool = False  # depth is over focal length in pixels (compact: always)
    temperature: float = 0.1  # of descriptors' products
    width: int = 64  # compact: channels
    learnt_descriptor: int = 32  # compact: numbers beside RootSIFT's 128
    vit_width: int = 1024
    vit_depth: int = 24
    vit_heads: int = 16
    vit_native: int = 37  # cells along a side of the stored position embedding
    patch: int = 14
    widths: Sequence[int] = (512, 256, 128)  # of each head's first three blocks
    last_width: int = 64  # of the fourth; the descriptor's is its own width
    descriptor_width: int = 128
    attention_layers: int = 3
    attention_heads: int = 8

    def __post_init__(self) -> None:
        if len(self.widths) != 3:
            raise ModelError("widths must be three numbers, of each head's first three blocks")
        if self.backbone not in ("dinov2", "compact"):
            raise ModelError(f"backbone is {self.backbone!r}, known: dinov2, compact")
        if self.per_focal != (self.backbone == "compact"):
            raise ModelError("depth is over focal length (per_focal) with backbone compact only")


class Extractor(nn.Module):
    """Parts are named as in released checkpoints."""

    def __init__(self, config: MicKeyConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.dinov2_vitl14 = ViT(
            config.vit_width,
            config.vit_depth,
            config.vit_heads,
            patch=config.patch,
            native=config.vit_native,
        )
        rest = (config.attention_layers, config.attention_heads)
        last, described = (
            (*config.widths, width) for width in (config.last_width, config.descriptor_width)
        )
        self.depth_head = DepthHead(config.vit_width, last, *rest)
        self.det_offset = OffsetHead(config.vit_width, last, *rest)
        self.dsc_head = DescriptorHead(config.vit_width, described, *rest)
        self.det_head = ScoreHead(config.vit_width, last, *rest)

    def trunk(self, image: Tensor) -> Tensor:
        """The ViT's features (B, C, h, w); in half precision where the ViT is."""
        kind = self.dinov2_vitl14.cls_token.dtype
        return self.dinov2_vitl14(whole_cells(image, self.patch).to(kind)).to(image.dtype)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.read(self.trunk(image))

    def read(self, cells: Tensor) -> dict[str, Tensor]:
        """What the heads say of each cell, row-major."""
        offset = self.det_offset(cells)
        return {
            "keypoints": keypoints(offset, self.patch),  # (B, 2, n) px of the image
            "depth": self.depth_head(cells).flatten(2),  # (B, 1, n) m
            "score": self.det_head(cells).flatten(2),  # (B, 1, n), sum 1
            "descriptors": self.dsc_head(cells).flatten(2),  # (B, C, n)
        }


class Matching(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.matching_mat = DualSoftmax(temperature)


class Matches(nn.Module):
    def __init__(self, config: MicKeyConfig) -> None:
        super().__init__()
        compact = config.backbone == "compact"
        self.extractor: Any = (
            CompactExtractor(config.width, config.learnt_descriptor)
            if compact
            else Extractor(config)
        )
        self.matcher = Matching(config.temperature)


class MicKey(nn.Module):
    def __init__(self, config: MicKeyConfig | None = None) -> None:
        super().__init__()
        self.config = config or MicKeyConfig()
        self.compute_matches = Matches(self.config)

    @property
    def extractor(self) -> Any:
        return self.compute_matches.extractor

    # --- the three steps ------------------------------------------------------------------

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1], not normalised; what exceeds whole cells is cut off."""
        features: dict[str, Tensor] = self.extractor(image)
        return features

    def reference(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(features)

    def match(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Tensor]:
        """partner (B, n) and back (B, m): the other image's best cell of each cell, by the
        probability of drawing the pair; probability (B, n): that both cells show one thing.
        """
        fit = self.scores(features, reference)
        # Times the number of cells: near 1, where half precision has its digits.
        query, keyframe = (side["score"] * side["score"].shape[2] for side in (features, reference))
        partner = (fit * keyframe).argmax(dim=2)
        back = (fit * query.transpose(1, 2)).argmax(dim=1)
        return {
            "partner": partner.float(),  # whole numbers: engines hand on one type
            "back": back.float(),
            "probability": fit.gather(2, partner[..., None])[..., 0],
        }

    # --- what training and the published solver draw from ---------------------------------

    def scores(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> Tensor:
        """(B, n, m): how well two cells' descriptors fit, dustbin taken off."""
        match: Tensor = self.compute_matches.matcher.matching_mat(
            features["descriptors"], reference["descriptors"]
        )
        return match

    def final_scores(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> Tensor:
        """(B, n, m): the probability of drawing each pair, not normalised."""
        likely = keypoint_scores(features["score"], reference["score"])
        return self.scores(features, reference) * likely


def whole_cells(image: Tensor, patch: int) -> Tensor:
    """The image without what exceeds whole cells at the right and at the bottom."""
    height, width = image.shape[-2:]
    if min(height, width) < patch:
        raise InvalidInput(f"image is {width}x{height}, smaller than one cell of {patch} px")
    return image[..., : height // patch * patch, : width // patch * patch]


def keypoints(offset: Tensor, patch: int) -> Tensor:
    """(B, 2, h, w) places within cells -> (B, 2, h w) px, x and y."""
    rows, columns = offset.shape[-2:]
    x = torch.arange(columns, device=offset.device).to(offset).expand(rows, columns)
    y = torch.arange(rows, device=offset.device).to(offset)[:, None].expand(rows, columns)
    return ((offset + torch.stack([x, y])) * patch).flatten(2)


def build_mickey(**config: Any) -> MicKey:
    """`mickey` from the plain numbers that a model card holds."""
    return MicKey(MicKeyConfig(**config))
