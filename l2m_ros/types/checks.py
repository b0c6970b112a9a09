"""What the values are checked by when they are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput

FloatArray = npt.NDArray[np.floating[Any]]
ByteArray = npt.NDArray[np.uint8]


def frozen(array: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """An array that this value owns or shares, and that nobody may write through it."""
    view: npt.NDArray[Any] = np.asarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise InvalidInput(message)


def set_fields(instance: object, **values: Any) -> None:
    """Normalised fields of a frozen dataclass, written once from __post_init__."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def checked_rgb(image: npt.ArrayLike, name: str) -> ByteArray:
    array = np.asarray(image)
    require(
        array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3,
        f"{name} must be (H, W, 3) uint8, got shape {array.shape} of {array.dtype}",
    )
    require(array.size > 0, f"{name} is empty")
    return frozen(array, np.uint8)


def checked_transform(matrix: npt.ArrayLike | None, name: str) -> FloatArray:
    T = frozen(np.asarray(matrix, dtype=np.float64))
    require(T.shape == (4, 4), f"{name} must be 4x4, got shape {T.shape}")
    require(np.isfinite(T).all(), f"{name} holds NaN or infinity")
    R = T[:3, :3]
    require(
        np.abs(R @ R.T - np.eye(3)).max() < 1e-6 and np.linalg.det(R) > 0,
        f"{name} does not hold a rotation (R R^T = I, det R = 1)",
    )
    if np.abs(T[3] - [0, 0, 0, 1]).max() != 0:  # printing an array takes 0.2 ms
        raise InvalidInput(f"{name} must end in the row 0 0 0 1, got {T[3]}")
    return T


def checked_covariance(matrix: npt.ArrayLike) -> FloatArray:
    P = np.asarray(matrix, dtype=np.float64)
    require(P.shape == (6, 6), f"covariance must be 6x6, got shape {P.shape}")
    require(np.isfinite(P).all(), "covariance holds NaN or infinity")
    scale = float(np.abs(P).max()) or 1.0
    require(np.abs(P - P.T).max() <= 1e-6 * scale, "covariance is not symmetric")
    P = 0.5 * (P + P.T)
    require(np.linalg.eigvalsh(P).min() >= -1e-9 * scale, "covariance has a negative eigenvalue")
    return frozen(P)
