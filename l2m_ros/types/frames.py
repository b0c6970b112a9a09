"""One moment of one camera: its image, its depth or right image, its lens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from l2m_ros.types.checks import (
    ByteArray,
    FloatArray,
    checked_rgb,
    checked_transform,
    frozen,
    require,
    set_fields,
)

DISTORTION_LENGTHS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "plumb_bob": (4, 5),
    "rational_polynomial": (8,),
    "equidistant": (4,),
}


def resized_K(K: FloatArray, size: tuple[int, int], new_size: tuple[int, int]) -> FloatArray:
    """K of an image of `size` (width, height) that is resized to `new_size`.

    Centres at integers: u' + 1/2 = (u + 1/2) width' / width.
    """
    scale = np.array([new_size[0] / size[0], new_size[1] / size[1], 1.0])
    resized = K * scale[:, None]
    resized[:2, 2] += 0.5 * (scale[:2] - 1.0)
    return np.asarray(resized)


LARGEST_DISTORTION, LARGEST_K = 1e6, 1e8  # coefficients; pixels


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics of one image: the projection itself is in `geometry.camera`."""

    width: int
    height: int
    K: FloatArray  # 3x3
    distortion: str = "none"
    D: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        require(
            self.width > 0 and self.height > 0,
            f"camera size must be positive, got {self.width}x{self.height}",
        )
        K, D = frozen(self.K), frozen(np.ravel(self.D))
        require(K.shape == (3, 3), f"K must be 3x3, got shape {K.shape}")
        require(np.isfinite(K).all(), f"K holds NaN or infinity: {K.ravel().tolist()}")
        require(
            K[0, 0] > 0 and K[1, 1] > 0,
            f"K has no positive focal length (fx={K[0, 0]:g}, fy={K[1, 1]:g}): "
            "the camera is not calibrated",
        )
        require(
            K[2, 0] == 0 and K[2, 1] == 0 and K[2, 2] == 1 and K[1, 0] == 0,
            f"K must read [fx s cx; 0 fy cy; 0 0 1], got {K.tolist()}",
        )
        require(
            self.distortion in DISTORTION_LENGTHS,
            f"unknown distortion model {self.distortion!r}; known: {', '.join(DISTORTION_LENGTHS)}",
        )
        require(
            D.size in DISTORTION_LENGTHS[self.distortion],
            f"{self.distortion} takes {' or '.join(map(str, DISTORTION_LENGTHS[self.distortion]))}"
            f" coefficients, got {D.size}",
        )
        require(np.isfinite(D).all(), f"D holds NaN or infinity: {D.tolist()}")
        require(
            (np.abs(D) < LARGEST_DISTORTION).all() and (np.abs(K) < LARGEST_K).all(),
            f"K {K.ravel().tolist()} or D {D.tolist()} is beyond any lens",
        )
        # Numbers below do nothing within an image, but their polynomials have no roots.
        D = frozen(np.where(np.abs(D) < 1e-15, 0.0, D))
        set_fields(self, width=int(self.width), height=int(self.height), K=K, D=D)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as OpenCV orders it."""
        return self.width, self.height

    def pinhole(self) -> Camera:
        """The same camera after undistortion to the same K."""
        return replace(self, distortion="none", D=np.zeros(0))

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the image resized to width x height.

        Centres at integers: u' + 1/2 = (u + 1/2) width' / width.
        """
        K = resized_K(self.K, self.size, (width, height))
        return replace(self, width=width, height=height, K=K)

    def cropped(self, *, x: int, y: int, width: int, height: int) -> Camera:
        """The camera of the sub-image whose upper-left pixel is (x, y); x, y may be negative."""
        K = self.K.copy()
        K[0, 2] -= x
        K[1, 2] -= y
        return replace(self, width=width, height=height, K=K)


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of one camera."""

    rgb: ByteArray  # (H, W, 3)
    camera: Camera
    depth: FloatArray | None = None  # (H, W) float32 metres, NaN = unknown, registered to rgb
    right_rgb: ByteArray | None = None  # (H, W, 3)
    right_camera: Camera | None = None
    right_from_camera: FloatArray | None = None  # 4x4
    stamp_ns: int = 0
    frame_id: str = "camera"
    depth_late_s: float = 0.0  # the depth image's stamp less that of rgb

    def __post_init__(self) -> None:
        rgb = checked_rgb(self.rgb, "rgb")
        size = (self.camera.height, self.camera.width)
        require(
            rgb.shape[:2] == size,
            f"image is {rgb.shape[1]}x{rgb.shape[0]} but its camera says "
            f"{self.camera.width}x{self.camera.height}",
        )
        set_fields(self, rgb=rgb)
        if self.depth is not None:
            depth = frozen(self.depth, np.float32)
            require(
                depth.shape == size,
                f"depth is {depth.shape[::-1]} but the image is {size[::-1]}: register it first",
            )
            with np.errstate(invalid="ignore"):
                wrong = bool((depth <= 0).any())
            require(not wrong, "depth must be positive metres; write unknown as NaN")
            set_fields(self, depth=depth)
        require(bool(np.isfinite(self.depth_late_s)), "depth_late_s must be finite")
        stereo = (self.right_rgb, self.right_camera, self.right_from_camera)
        require(
            all(part is None for part in stereo) or all(part is not None for part in stereo),
            "a right image needs right_rgb, right_camera and right_from_camera together",
        )
        if self.right_rgb is not None:
            set_fields(
                self,
                right_rgb=checked_rgb(self.right_rgb, "right_rgb"),
                right_from_camera=checked_transform(self.right_from_camera, "right_from_camera"),
            )

    @property
    def depth_stamp_ns(self) -> int:
        return self.stamp_ns + round(self.depth_late_s * 1e9)
