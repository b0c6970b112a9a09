"""L2M, and RoMa, whose architecture it shares: a dense matcher, split for keyframes.

    encode(image)              ViT and VGG, projected           once per frame
    reference(features)        the Gaussian process' solve      once per KEYFRAME
    match(query, reference)    decoder and five refiners        once per frame, one direction

    encode_fine(image), refine(...)    the second pass at a higher resolution, VGG only

Features are named p16, p8, p4, p2, p1 by their strides ("16" is the ViT's grid of stride 14).
A reference has the keyframe's features and `solution`. Only `reference` solves; what a graph
can hold of it is `system` (matrix and right side).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.networks.l2m.anchors import Anchors
from l2m_ros.networks.l2m.gp import MatchEncoder, solve
from l2m_ros.networks.l2m.refiner import Refiner
from l2m_ros.networks.l2m.vgg import VGG19
from l2m_ros.networks.shared.grid import both, resize
from l2m_ros.networks.shared.transformer import MatchDecoder
from l2m_ros.networks.shared.vit import ViT

STRIDES = (16, 8, 4, 2, 1)
FINE_STRIDES = STRIDES[1:]
DELTA_UNIT = 4  # a refiner's delta of 1 at stride s is s / 4 pixels of the pass's input

# The same parts, thin: for tests, and for training trials on a laptop (0.3 M parameters).
TINY: dict[str, Any] = {
    "vit_width": 48,
    "vit_depth": 2,
    "vit_heads": 4,
    "vit_native": 5,
    "vgg_widths": [8, 8, 16, 16],
    "gp_width": 32,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "anchors": 8,
    "projections": [32, 16, 16, 8, 5],
    "embeddings": [16, 8, 8, 6, 4],
    "radii": [2, 2, 1, 0, 0],
    "refiner_blocks": 2,
}


@dataclass(frozen=True)
class L2MConfig:
    """Defaults: the published L2M, L2M++ and RoMa. Lists go by stride: 16, 8, 4, 2, 1."""

    vit_width: int = 1024
    vit_depth: int = 24
    vit_heads: int = 16
    vit_native: int = 37  # cells along a side of the stored position embedding
    vit_patch: int = 14
    vgg_widths: Sequence[int] = (64, 128, 256, 512)
    gp_width: int = 512
    decoder_depth: int = 5
    decoder_heads: int = 8
    anchors: int = 64  # along a side
    projections: Sequence[int] = (512, 512, 256, 64, 9)
    embeddings: Sequence[int] = (128, 64, 32, 16, 6)
    radii: Sequence[int] = (7, 3, 2, 0, 0)  # of the local correlation; 0 = none
    refiner_blocks: int = 8
    attenuate: bool = True  # half of a negative coarse certainty is taken off `match`'s logits

    def __post_init__(self) -> None:
        for name in ("projections", "embeddings", "radii"):
            if len(getattr(self, name)) != len(STRIDES):
                raise ModelError(f"{name} must be five numbers, for strides 16, 8, 4, 2, 1")


@dataclass(frozen=True)
class Level:
    """What one refiner was given and what it gave; flows are normalised, certainties logits."""

    stride: int
    flow: Tensor  # (B, 2, h, w) after the refiner
    certainty: Tensor  # (B, 1, h, w)
    delta: Tensor = field(repr=False)  # (B, 2, h, w) as the refiner gives it
    start: Tensor = field(repr=False)  # the flow that it began with


@dataclass(frozen=True)
class Coarse:
    """The classifier's answer, before any refiner."""

    logits: Tensor  # (B, anchors, h, w)
    certainty: Tensor  # (B, 1, h, w)
    flow: Tensor  # (B, 2, h, w)


class Encoder(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.cnn = VGG19(tuple(widths))


class Decoder(nn.Module):
    """Parts are named and ordered as in released checkpoints."""

    def __init__(self, config: L2MConfig) -> None:
        super().__init__()
        inputs = (config.vit_width, *reversed(config.vgg_widths))
        self.embedding_decoder = MatchDecoder(
            config.gp_width + config.projections[0],
            config.decoder_depth,
            config.decoder_heads,
            config.anchors**2,
        )
        self.gps = nn.ModuleDict({"16": MatchEncoder(config.gp_width)})
        self.proj = nn.ModuleDict()
        self.conv_refiner = nn.ModuleDict()
        sizes = (config.projections, config.embeddings, config.radii)
        for stride, channels, width, embedding, radius in zip(STRIDES, inputs, *sizes, strict=True):
            self.proj[str(stride)] = nn.Sequential(
                nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width)
            )
            self.conv_refiner[str(stride)] = Refiner(
                width, embedding, radius, config.refiner_blocks
            )
        self.anchors = Anchors(config.anchors)


class L2M(nn.Module):
    def __init__(self, config: L2MConfig | None = None) -> None:
        super().__init__()
        config = config or L2MConfig()
        self.config = config
        self.encoder = Encoder(config.vgg_widths)
        self.decoder = Decoder(config)
        self.dinov2 = ViT(
            config.vit_width,
            config.vit_depth,
            config.vit_heads,
            patch=config.vit_patch,
            native=config.vit_native,
        )

    # --- the three steps ------------------------------------------------------------------

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1] (RoMa: normalised), multiples of the patch -> p16 ... p1."""
        coarse = self.decoder.proj["16"](self.dinov2(image))
        return {"p16": coarse, **self.encode_fine(image)}

    def reference(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The keyframe's features and the solution of its Gaussian process."""
        system = self.system(features)
        return {**features, "solution": solve(system["matrix"], system["right"])}

    def system(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """matrix (B, n, n) and right (B, n, D); solution = matrix^-1 right."""
        matrix, right = self.decoder.gps["16"].system(features["p16"])
        return {"matrix": matrix, "right": right}

    def match(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Tensor]:
        """The query's warp (B, 2, H, W) into the keyframe, certainty (B, 1, H, W) in logits."""
        levels = self.levels(features, reference)
        last = levels[-1]
        certainty = last.certainty
        if self.config.attenuate:
            certainty = certainty - attenuation(levels[0].certainty, certainty.shape[-2:])
        return {"warp": last.flow, "certainty": certainty}

    def prepare_for_cpu(self, *, bf16: bool = False) -> None:
        """In place, before inference on a CPU: fewer passes over memory. It trains no more.

        bf16: the transformers' linear layers in bfloat16.
        """
        from l2m_ros.networks.l2m.cpu import prepare

        prepare(self, bf16=bf16)

    # --- the second pass ------------------------------------------------------------------

    def encode_fine(self, image: Tensor) -> dict[str, Tensor]:
        """p8 ... p1 of an image of any size (multiples of 8 keep the pyramid exact)."""
        if min(image.shape[-2:]) < FINE_STRIDES[0]:
            raise InvalidInput(
                f"image is {image.shape[-1]}x{image.shape[-2]}, smaller than one cell of stride 8"
            )
        pyramid = self.encoder.cnn(image)
        return {f"p{s}": self.decoder.proj[str(s)](pyramid[s]) for s in FINE_STRIDES}

    def refine(
        self,
        features: dict[str, Tensor],
        reference: dict[str, Tensor],
        flow: Tensor,
        certainty: Tensor,
        scale_factor: float,
    ) -> list[Level]:
        """Levels of strides 8 to 1 on `encode_fine`'s features of both, from the first pass'.

        scale_factor = sqrt(area of this pass's input / area of the first pass's).
        """
        size = tuple(features["p8"].shape[-2:])
        start = resize(flow, size), resize(certainty, size)
        return self._refined(features, reference, *start, FINE_STRIDES, scale_factor)

    # --- what both are made of ------------------------------------------------------------

    def levels(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> list[Level]:
        """Levels of strides 16 to 1; the last one is the answer."""
        coarse = self.coarse(features, reference)
        return self.refined_from(coarse, features, reference)

    def coarse(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> Coarse:
        query = features["p16"]
        carried = self.decoder.gps["16"](query, reference["p16"], reference["solution"])
        cells = torch.cat([carried.to(query.dtype), query], dim=1)
        logits, certainty = self.decoder.embedding_decoder(cells)
        return Coarse(logits, certainty.float(), self.decoder.anchors(logits))

    def refined_from(
        self, coarse: Coarse, features: dict[str, Tensor], reference: dict[str, Tensor]
    ) -> list[Level]:
        return self._refined(features, reference, coarse.flow, coarse.certainty, STRIDES, 1.0)

    def _refined(
        self,
        features: dict[str, Tensor],
        reference: dict[str, Tensor],
        flow: Tensor,
        certainty: Tensor,
        strides: tuple[int, ...],
        scale_factor: float,
    ) -> list[Level]:
        height, width = features["p1"].shape[-2:]
        levels: list[Level] = []
        for stride in strides:
            query, support = features[f"p{stride}"], reference[f"p{stride}"]
            size = tuple(query.shape[-2:])
            # Between strides no gradient passes: each refiner answers for its own.
            start, belief = resize(flow.detach(), size), resize(certainty.detach(), size)
            refiner = self.decoder.conv_refiner[str(stride)]
            delta, correction = refiner(query, support, start, scale_factor)
            unit = both(stride / (DELTA_UNIT * width), stride / (DELTA_UNIT * height), delta)
            flow = start + unit * delta
            certainty = belief + correction
            levels.append(Level(stride, flow, certainty, delta, start))
        return levels


def attenuation(coarse_certainty: Tensor, size: Sequence[int]) -> Tensor:
    """Half of the stride-16 certainty where it is negative, else 0; to be SUBTRACTED.

    So the logits rise where the coarse level doubted; the reference does so and is followed.
    """
    resized = resize(coarse_certainty, (size[0], size[1]))
    return 0.5 * torch.minimum(resized, torch.zeros_like(resized))


def build_l2m(**config: Any) -> L2M:
    """`l2m` from the plain numbers that a model card holds."""
    return L2M(L2MConfig(**config))
