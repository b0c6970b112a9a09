"""XFeat's backbone, as TinyRoMa v1 holds it: a grey image -> features at strides 4 and 8."""

from __future__ import annotations

from torch import Tensor, nn

from l2m_ros.networks.shared.grid import resize

VARIANCE_EPS = 1e-5


class ConvNormRelu(nn.Module):
    """Convolution without bias, normalisation without affine parameters, ReLU."""

    def __init__(self, channels: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out, affine=False),
            nn.ReLU(inplace=True),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


class XFeat(nn.Module):
    """(B, 3, H, W), multiples of 32 -> x2 (B, 24, H/4, W/4) and f (B, 64, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        L = ConvNormRelu
        self.skip1 = nn.Sequential(nn.AvgPool2d(4, stride=4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(L(1, 4), L(4, 8, stride=2), L(8, 8), L(8, 24, stride=2))
        self.block2 = nn.Sequential(L(24, 24), L(24, 24))
        self.block3 = nn.Sequential(L(24, 64, stride=2), L(64, 64), L(64, 64, kernel=1))
        self.block4 = nn.Sequential(L(64, 64, stride=2), L(64, 64), L(64, 64))
        self.block5 = nn.Sequential(
            L(64, 128, stride=2), L(128, 128), L(128, 128), L(128, 64, kernel=1)
        )
        self.block_fusion = nn.Sequential(L(64, 64), L(64, 64), nn.Conv2d(64, 64, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        grey = standardised_grey(image)
        x2 = self.block2(self.block1(grey) + self.skip1(grey))
        x3 = self.block3(x2)
        x4 = self.block4(x3)
        x5 = self.block5(x4)
        size = tuple(x3.shape[-2:])
        return x2, self.block_fusion(x3 + resize(x4, size) + resize(x5, size))


def standardised_grey(image: Tensor) -> Tensor:
    """(B, 1, H, W): mean of the channels, zero mean and unit variance per image; no gradient."""
    grey = image.detach().mean(dim=1, keepdim=True)
    grey = grey - grey.mean(dim=(2, 3), keepdim=True)
    variance = grey.square().mean(dim=(2, 3), keepdim=True)
    return grey / (variance + VARIANCE_EPS).sqrt()


def floored(image: Tensor, multiple: int = 32) -> Tensor:
    """The image resized down to whole multiples, as the published matcher prepares it."""
    height, width = (side // multiple * multiple for side in image.shape[-2:])
    return resize(image, (height, width))
