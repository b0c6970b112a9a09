"""The depthwise convolution: torch's own numbers forwards, and its gradients in training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from l2m_ros.networks.shared.depthwise import DepthwiseConv


@pytest.mark.parametrize("kernel", [3, 5])
def test_gradients_in_training_are_those_of_torch(kernel: int) -> None:
    torch.manual_seed(0)
    layer, image = DepthwiseConv(6, kernel), torch.randn(2, 6, 7, 9, requires_grad=True)
    slope = torch.randn(2, 6, 7, 9)
    wanted = (image, layer.weight, layer.bias)
    own = layer.train()(image)
    plain = F.conv2d(image, layer.weight, layer.bias, padding=kernel // 2, groups=6)
    torch.testing.assert_close(own, plain)
    assert type(own.grad_fn).__name__ != type(plain.grad_fn).__name__  # not torch's own way back
    for mine, theirs in zip(
        torch.autograd.grad(own, wanted, slope), torch.autograd.grad(plain, wanted, slope),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_under_autocast_it_computes_in_half_and_trains_single_weights() -> None:
    torch.manual_seed(0)
    layer, image = DepthwiseConv(4, 5).train(), torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        spread = layer(image)
    assert spread.dtype == torch.bfloat16
    spread.float().square().sum().backward()
    half = layer.weight.grad.clone()
    layer.zero_grad()
    layer(image).square().sum().backward()
    assert half.dtype == torch.float32
    assert (half - layer.weight.grad).norm() < 0.03 * layer.weight.grad.norm()
