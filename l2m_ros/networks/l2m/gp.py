"""The Gaussian process that carries positions from the keyframe to the query.

    mu = K_qk (K_kk + s I)^-1 F_k,    k(a, b) = exp((cos(a, b) - 1) / T)

F_k is a Fourier code of where each keyframe cell lies. All but K_qk belongs to the keyframe,
so `solution` = (K_kk + s I)^-1 F_k is computed once per keyframe and a frame needs two
matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from l2m_ros.errors import ModelError
from l2m_ros.networks.shared.grid import centre_grid

TEMPERATURE = 0.2
NOISE = 0.1  # s
FREQUENCY = 8 * math.pi
NORM_EPS = 1e-6


class MatchEncoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_conv = nn.Conv2d(2, width, 1)

    def forward(self, query: Tensor, keyframe: Tensor, solution: Tensor) -> Tensor:
        """Query (B, C, h, w), keyframe (B, C, H, W), solution (B, H W, D) -> (B, D, h, w)."""
        with _exact(query):
            mean = kernel(cells_of(query), cells_of(keyframe)) @ solution.float()
        return mean.transpose(1, 2).reshape(query.shape[0], -1, *query.shape[-2:])

    def system(self, keyframe: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix K_kk + s I (B, n, n) and right side F_k (B, n, D) of the keyframe's equation."""
        cells = cells_of(keyframe)
        identity = torch.eye(cells.shape[1], device=cells.device, dtype=cells.dtype)
        with _exact(keyframe):
            return kernel(cells, cells) + NOISE * identity, self.code(keyframe)

    def code(self, keyframe: Tensor) -> Tensor:
        """(B, H W, D): cos of 8 pi (W q + b) at every cell's centre q."""
        grid = centre_grid(*keyframe.shape[-2:], like=self.pos_conv.weight)[None]
        code = torch.cos(FREQUENCY * self.pos_conv(grid)).flatten(2).transpose(1, 2)
        return code.expand(keyframe.shape[0], -1, -1)


def _exact(tensor: Tensor) -> torch.autocast:
    """Out of training's half precision, in which the matrix is not positive definite."""
    return torch.autocast(tensor.device.type, enabled=False)


def cells_of(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C), row-major, in float32: the kernel is steep."""
    return features.flatten(2).transpose(1, 2).float()


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(B, n, C), (B, m, C) -> (B, n, m)."""
    lengths = a.square().sum(-1, keepdim=True).sqrt() @ b.square().sum(-1)[:, None].sqrt()
    cosine = (a @ b.transpose(1, 2)) / (lengths + NORM_EPS)
    return torch.exp((cosine - 1.0) / TEMPERATURE)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix^-1 right by Cholesky, never by an inverse: (B, n, n), (B, n, D) -> (B, n, D).

    On the CPU by scipy in float64: once per keyframe, and LAPACK's potrf beats a batch of
    one through torch. On the GPU, and where a gradient is wanted, by torch.
    """
    if matrix.is_cuda or (
        torch.is_grad_enabled() and (matrix.requires_grad or right.requires_grad)
    ):
        return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
    return _solve_on_host(matrix, right)


def _solve_on_host(matrix: Tensor, right: Tensor) -> Tensor:
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    try:
        solutions = [
            cho_solve(cho_factor(A.double().numpy(), lower=True), b.double().numpy())
            for A, b in zip(matrix.detach().cpu(), right.detach().cpu(), strict=True)
        ]
    except (LinAlgError, ValueError) as error:
        raise ModelError(
            f"the keyframe's kernel matrix cannot be solved ({error}): the weights or the image "
            "hold NaN or infinity"
        ) from error
    return torch.stack([torch.from_numpy(x) for x in solutions]).to(right)
