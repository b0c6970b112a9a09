"""VGG19 with batch normalisation, up to stride 8: an image's fine features.

The layers carry torchvision's indices (0 to 38), so released weights load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn

CONVOLUTIONS = (2, 2, 4, 4)  # per stage; each stage but the last ends in a 2x2 pool


class VGG19(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count, width in zip(CONVOLUTIONS, widths, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1)]
                layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """{stride: (B, C, H / stride, W / stride)}, each as it is before its pool; sizes floor."""
        pyramid, stride, features = {}, 1, image
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                pyramid[stride] = features
                stride *= 2
            features = layer(features)
        pyramid[stride] = features
        return pyramid
