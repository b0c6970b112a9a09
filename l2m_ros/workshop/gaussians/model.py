"""A scene as 3D Gaussians: the parameters that are fitted, and what follows from them.

Quaternions are (w, x, y, z) and need not be of unit length. Colour is a spherical harmonic of
the viewing direction: colour = 0.5 + sum_k Y_k(direction) sh_k, as in the published 3DGS files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.types import Camera, FloatArray

SH_0 = 0.28209479177387814  # Y_0
DEGREES = {1: 0, 4: 1, 9: 2, 16: 3}  # number of coefficients -> degree


@dataclass(frozen=True, eq=False)
class PosedCamera:
    """A pinhole camera in the world."""

    camera: Camera
    camera_from_world: FloatArray  # 4x4

    def __post_init__(self) -> None:
        if self.camera.distortion != "none":
            raise InvalidInput("Gaussians are rendered without a lens: undistort the image first")

    @property
    def size(self) -> tuple[int, int]:
        return self.camera.size

    @property
    def world_from_camera(self) -> FloatArray:
        return se3.inverse(self.camera_from_world)

    def resized(self, width: int, height: int) -> PosedCamera:
        return replace(self, camera=self.camera.resized(width, height))


@dataclass
class Gaussians:
    """N Gaussians; every tensor is float32 (or float64 in tests) on one device."""

    means: Tensor  # (N, 3) in the world's units
    log_scales: Tensor  # (N, 3) log of the standard deviations along the three axes
    quaternions: Tensor  # (N, 4) w x y z: world_from_gaussian
    opacity_logits: Tensor  # (N,)
    sh: Tensor  # (N, K, 3), K = 1, 4, 9 or 16

    def __post_init__(self) -> None:
        n = len(self.means)
        shapes = {"means": (n, 3), "log_scales": (n, 3), "quaternions": (n, 4)}
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InvalidInput(f"{name} must be {shape}, is {tuple(getattr(self, name).shape)}")
        if self.sh.ndim != 3 or self.sh.shape[1] not in DEGREES or self.sh.shape[2] != 3:
            raise InvalidInput(f"sh must be (N, 1|4|9|16, 3), is {tuple(self.sh.shape)}")
        if self.opacity_logits.shape != (n,) or len(self.sh) != n:
            raise InvalidInput(f"opacities and colours must be of {n} Gaussians")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def opacities(self) -> Tensor:
        """(N,) in (0, 1)."""
        return torch.sigmoid(self.opacity_logits)

    @property
    def scales(self) -> Tensor:
        """(N, 3) standard deviations."""
        return torch.exp(self.log_scales)

    @property
    def sh_degree(self) -> int:
        return DEGREES[self.sh.shape[1]]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            yield field.name, getattr(self, field.name)

    def select(self, chosen: Tensor) -> Gaussians:
        """Those of an index or a mask, without gradients."""
        return Gaussians(**{name: value.detach()[chosen] for name, value in self.tensors()})

    def detached(self) -> Gaussians:
        return Gaussians(**{name: value.detach().clone() for name, value in self.tensors()})

    def to(self, device: str | torch.device) -> Gaussians:
        return Gaussians(**{name: value.to(device) for name, value in self.tensors()})

    def rotations(self) -> Tensor:
        """(N, 3, 3) world_from_gaussian: its columns are the axes."""
        w, x, y, z = torch.nn.functional.normalize(self.quaternions, dim=1).unbind(1)
        rows = [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ]  # fmt: skip
        return torch.stack(rows, dim=1).reshape(-1, 3, 3)

    def colours(self, camera_centre: Tensor) -> Tensor:
        """(N, 3) as seen from a point of the world; not limited to [0, 1] from above."""
        if self.sh.shape[1] == 1:
            return torch.relu(0.5 + SH_0 * self.sh[:, 0])
        direction = torch.nn.functional.normalize(self.means.detach() - camera_centre, dim=1)
        basis = harmonics(direction, self.sh_degree)  # (N, K)
        return torch.relu(0.5 + (basis[:, :, None] * self.sh).sum(dim=1))


def concatenated(parts: list[Gaussians]) -> Gaussians:
    names = [field.name for field in fields(Gaussians)]
    return Gaussians(**{n: torch.cat([getattr(part, n).detach() for part in parts]) for n in names})


def harmonics(direction: Tensor, degree: int) -> Tensor:
    """(N, 3) unit directions -> (N, (degree + 1)^2) real harmonics in the order of 3DGS files."""
    x, y, z = direction.unbind(1)
    basis = [torch.full_like(x, SH_0)]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, dim=1)
