"""L2M made ready for a CPU: the same network in fewer passes over memory.

Batch normalisations are folded into the convolutions before them. The VGG and the narrow refiners
keep a cell's channels together (channels_last); the wide refiners would be slower so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NARROW_STRIDES = ("2", "1")


def prepare(network: Any) -> Any:
    """An L2M, in place, for inference; the same numbers up to rounding. No checkpoint fits then."""
    fold_normalisations(network)
    refiners = network.decoder.conv_refiner
    for part in (network.encoder.cnn, *(refiners[stride] for stride in NARROW_STRIDES)):
        part.to(memory_format=torch.channels_last)
    return network


def fold_normalisations(network: nn.Module) -> None:
    """Each batch normalisation that follows a convolution becomes part of it."""
    for layers in list(network.modules()):
        if not isinstance(layers, (nn.Sequential, nn.ModuleList)):
            continue
        for index in range(len(layers) - 1):
            convolution, normalisation = layers[index], layers[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
                layers[index] = fuse_conv_bn_eval(convolution, normalisation)
                layers[index + 1] = nn.Identity()
