"""The values that travel between the rooms: checked at birth, frozen afterwards.

Conventions, stated once:
    pixels      centres at integers; (u, v) = (x, y); arrays of points are (N, 2)
    transforms  b_from_a takes points of a into b: c_from_a = c_from_b @ b_from_a
    cameras     x right, y down, z forward (REP-103 optical)
    covariance  6x6, order x, y, z, rot x, rot y, rot z about the fixed axes of the frame
                that the pose is expressed in, as geometry_msgs/PoseWithCovariance has it
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput

FloatArray = npt.NDArray[np.floating[Any]]
ByteArray = npt.NDArray[np.uint8]

DISTORTION_LENGTHS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "plumb_bob": (4, 5),
    "rational_polynomial": (8,),
    "equidistant": (4,),
}


def _frozen(array: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """An array that this value owns or shares, and that nobody may write through it."""
    view: npt.NDArray[Any] = np.asarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise InvalidInput(message)


def _set(instance: object, **values: Any) -> None:
    """Normalised fields of a frozen dataclass, written once from __post_init__."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


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
        _require(
            self.width > 0 and self.height > 0,
            f"camera size must be positive, got {self.width}x{self.height}",
        )
        K, D = _frozen(self.K), _frozen(np.ravel(self.D))
        _require(K.shape == (3, 3), f"K must be 3x3, got shape {K.shape}")
        _require(np.isfinite(K).all(), f"K holds NaN or infinity: {K.ravel().tolist()}")
        _require(
            K[0, 0] > 0 and K[1, 1] > 0,
            f"K has no positive focal length (fx={K[0, 0]:g}, fy={K[1, 1]:g}): "
            "the camera is not calibrated",
        )
        _require(
            K[2, 0] == 0 and K[2, 1] == 0 and K[2, 2] == 1 and K[1, 0] == 0,
            f"K must read [fx s cx; 0 fy cy; 0 0 1], got {K.tolist()}",
        )
        _require(
            self.distortion in DISTORTION_LENGTHS,
            f"unknown distortion model {self.distortion!r}; known: {', '.join(DISTORTION_LENGTHS)}",
        )
        _require(
            D.size in DISTORTION_LENGTHS[self.distortion],
            f"{self.distortion} takes {' or '.join(map(str, DISTORTION_LENGTHS[self.distortion]))}"
            f" coefficients, got {D.size}",
        )
        _require(np.isfinite(D).all(), f"D holds NaN or infinity: {D.tolist()}")
        _require(
            (np.abs(D) < LARGEST_DISTORTION).all() and (np.abs(K) < LARGEST_K).all(),
            f"K {K.ravel().tolist()} or D {D.tolist()} is beyond any lens",
        )
        # Numbers below do nothing within an image, but their polynomials have no roots.
        D = _frozen(np.where(np.abs(D) < 1e-15, 0.0, D))
        _set(self, width=int(self.width), height=int(self.height), K=K, D=D)

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
        rgb = _checked_rgb(self.rgb, "rgb")
        size = (self.camera.height, self.camera.width)
        _require(
            rgb.shape[:2] == size,
            f"image is {rgb.shape[1]}x{rgb.shape[0]} but its camera says "
            f"{self.camera.width}x{self.camera.height}",
        )
        _set(self, rgb=rgb)
        if self.depth is not None:
            depth = _frozen(self.depth, np.float32)
            _require(
                depth.shape == size,
                f"depth is {depth.shape[::-1]} but the image is {size[::-1]}: register it first",
            )
            with np.errstate(invalid="ignore"):
                wrong = bool((depth <= 0).any())
            _require(not wrong, "depth must be positive metres; write unknown as NaN")
            _set(self, depth=depth)
        _require(bool(np.isfinite(self.depth_late_s)), "depth_late_s must be finite")
        stereo = (self.right_rgb, self.right_camera, self.right_from_camera)
        _require(
            all(part is None for part in stereo) or all(part is not None for part in stereo),
            "a right image needs right_rgb, right_camera and right_from_camera together",
        )
        if self.right_rgb is not None:
            _set(
                self,
                right_rgb=_checked_rgb(self.right_rgb, "right_rgb"),
                right_from_camera=_checked_transform(self.right_from_camera, "right_from_camera"),
            )

    @property
    def depth_stamp_ns(self) -> int:
        return self.stamp_ns + round(self.depth_late_s * 1e9)


class Features:
    """What a matcher keeps of one image; opaque to everyone but that matcher."""

    __slots__ = ("data", "image_size", "model")

    def __init__(self, model: str, image_size: tuple[int, int], data: Any) -> None:
        self.model = model
        self.image_size = image_size  # (width, height) of the image that was encoded
        self.data = data


class Reference(Features):
    """What a matcher keeps of a keyframe: everything that depends on the keyframe alone."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class DenseMatch:
    """Where each cell of the query's grid lies in the keyframe."""

    warp_px: FloatArray  # (h, w, 2) pixels of the keyframe; NaN where undefined
    certainty: FloatArray  # (h, w) in [0, 1]; 0 where the warp is NaN
    query_size: tuple[int, int]  # (width, height) of the query image that the grid covers
    keyframe_size: tuple[int, int]
    precision: FloatArray | None = None  # (h, w, 2, 2) inverse covariance, 1 / px^2 of keyframe

    def __post_init__(self) -> None:
        warp, certainty = _frozen(self.warp_px, np.float32), _frozen(self.certainty, np.float32)
        _require(
            warp.ndim == 3 and warp.shape[2] == 2 and warp.size > 0,
            f"warp_px must be (h, w, 2), got {warp.shape}",
        )
        _require(
            certainty.shape == warp.shape[:2],
            f"certainty is {certainty.shape} but the warp is {warp.shape[:2]}",
        )
        _require(
            np.isfinite(certainty).all() and (certainty >= 0).all() and (certainty <= 1).all(),
            "certainty must lie in [0, 1]",
        )
        undefined = ~np.isfinite(warp).all(axis=2)
        _require((certainty[undefined] == 0).all(), "certainty must be 0 where the warp is NaN")
        _set(self, warp_px=warp, certainty=certainty)
        if self.precision is not None:
            precision = _frozen(self.precision, np.float32)
            _require(
                precision.shape == (*certainty.shape, 2, 2),
                f"precision must be (h, w, 2, 2), got {precision.shape}",
            )
            _set(self, precision=precision)

    def grid_px(self) -> FloatArray:
        """(h, w, 2): the query pixel at the centre of each cell."""
        h, w = self.certainty.shape
        u = (np.arange(w, dtype=np.float32) + 0.5) * (self.query_size[0] / w) - 0.5
        v = (np.arange(h, dtype=np.float32) + 0.5) * (self.query_size[1] / h) - 0.5
        return np.stack(np.meshgrid(u, v), axis=-1)


@dataclass(frozen=True, eq=False)
class MatchDepths:
    """Depth z at both ends of each match, as a network reads it from the single images.

    Where `per_focal`, values are metres per pixel of the image's focal length: such a network
    does not know its camera, and z = value * focal length.
    """

    query: FloatArray  # (N,) may be NaN or not positive: no depth
    keyframe: FloatArray  # (N,)
    scale_sigma: float  # relative, common to all depths of all images of a place
    image_sigma: float  # relative, common to the depths of one image
    per_focal: bool = False

    def __post_init__(self) -> None:
        query, keyframe = _frozen(self.query), _frozen(self.keyframe)
        _require(
            query.ndim == 1 and query.shape == keyframe.shape,
            f"depths of matches must be (N,), got {query.shape} and {keyframe.shape}",
        )
        _require(
            self.scale_sigma > 0 and self.image_sigma > 0,
            f"sigmas of depths must be positive, got {self.scale_sigma}, {self.image_sigma}",
        )
        _set(self, query=query, keyframe=keyframe)

    def select(self, index: npt.NDArray[Any]) -> MatchDepths:
        return replace(self, query=self.query[index], keyframe=self.keyframe[index])


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Pairs of pixels with a confidence each."""

    query_px: FloatArray  # (N, 2)
    keyframe_px: FloatArray  # (N, 2)
    confidence: FloatArray  # (N,) in [0, 1]
    precision: FloatArray | None = None  # (N, 2, 2) of keyframe_px, 1 / px^2
    depths: MatchDepths | None = None

    def __post_init__(self) -> None:
        query, keyframe = _frozen(self.query_px), _frozen(self.keyframe_px)
        confidence = _frozen(self.confidence)
        n = len(confidence) if confidence.ndim == 1 else -1
        _require(
            query.shape == keyframe.shape == (n, 2),
            f"query_px {query.shape}, keyframe_px {keyframe.shape} and confidence "
            f"{confidence.shape} must be (N, 2), (N, 2), (N,)",
        )
        _require(
            np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1).all(),
            "confidence must lie in [0, 1]",
        )
        _set(self, query_px=query, keyframe_px=keyframe, confidence=confidence)
        if self.precision is not None:
            precision = _frozen(self.precision)
            _require(
                precision.shape == (n, 2, 2), f"precision must be (N, 2, 2), got {precision.shape}"
            )
            _set(self, precision=precision)
        if self.depths is not None:
            _require(
                len(self.depths.query) == n,
                f"there are {len(self.depths.query)} depths of {n} matches",
            )

    @classmethod
    def empty(cls) -> Correspondences:
        return cls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.confidence)

    def select(self, index: npt.NDArray[Any]) -> Correspondences:
        """The subset that a boolean mask or an index array names."""
        precision = None if self.precision is None else self.precision[index]
        depths = None if self.depths is None else self.depths.select(index)
        return Correspondences(
            self.query_px[index], self.keyframe_px[index], self.confidence[index], precision, depths
        )

    def reversed(self) -> Correspondences:
        """Query and keyframe exchanged; the precision was the old keyframe's and is dropped."""
        depths = self.depths
        if depths is not None:
            depths = replace(depths, query=depths.keyframe, keyframe=depths.query)
        return Correspondences(self.keyframe_px, self.query_px, self.confidence, None, depths)


@dataclass(frozen=True, eq=False)
class RelativePose:
    """Rotation and UNIT direction: not metric, so no publisher of metric poses takes it."""

    keyframe_from_camera: FloatArray  # 4x4; the translation has length 1, or 0 for pure rotation
    inliers: npt.NDArray[np.bool_]  # (N,) over the correspondences given
    kind: str = "general"  # general | planar | rotation
    covariance: FloatArray | None = None  # 6x6 of rotation and direction (rank 5)
    why_not_metric: str = ""  # what failed, where a source of metres was there
    contradicted: bool = False  # ... because the matches speak against it

    def __post_init__(self) -> None:
        pose = _checked_transform(self.keyframe_from_camera, "keyframe_from_camera")
        length = float(np.linalg.norm(pose[:3, 3]))
        _require(
            abs(length - 1.0) < 1e-6 or length == 0.0,
            f"the direction of a RelativePose has length 1 (or 0: pure rotation), got {length:g}",
        )
        _set(self, keyframe_from_camera=pose, inliers=_frozen(self.inliers, np.bool_))
        if self.covariance is not None:
            _set(self, covariance=_checked_covariance(self.covariance))


@dataclass(frozen=True)
class DepthNoiseShown:
    """What neighbouring matches show of the noise of depth (`geometry.depth_noise`)."""

    factor: float  # on the variance that was claimed
    pairs: int  # of neighbours that show it


@dataclass(frozen=True)
class DepthCheck:
    """How well depths explain what the matches show; 1 is what noise explains.

    Over the matches that two-view geometry agrees on, see `geometry.depth_check`.
    """

    checked: int = 0  # matches with depth among them
    left_over: float = 0.0  # squared distance from where depth puts a match
    rotation_only: float = 0.0  # ... from where a rotation alone would put it: the parallax
    misfit: float = 0.0  # the first with the range, at twice the depth noise
    agreed: float = 1.0  # share of the matches that two-view geometry agrees on
    left_over_learnt: float | None = None  # `left_over` at the noise that was learnt; None: alike
    noise: DepthNoiseShown | None = None
    # Squared distance of the frame's own ranges from those that the pose predicts by the
    # keyframe's, and by how much it says that they changed; None: one of the two has no depth
    ranges: tuple[float, float] | None = None


@dataclass(frozen=True)
class ShutterHint:
    """What the residuals of a pose say of a rolling shutter (`geometry.shutter`)."""

    readout_s: float  # from the first row to the last
    information: float  # one over its variance


@dataclass(frozen=True, eq=False)
class Turn:
    """How the camera turned, by the matches alone."""

    keyframe_from_camera: FloatArray  # 3x3
    covariance: FloatArray  # 3x3, about the keyframe's axes


@dataclass(frozen=True, eq=False)
class MetricPose:
    """The camera in the keyframe's optical frame, in metres, with its covariance."""

    keyframe_from_camera: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    inliers: npt.NDArray[np.bool_]  # (N,) over the correspondences given
    scale_source: str  # a key of geometry.scale.SCALE_SOURCES
    support: float = 1.0  # of the matches that could contradict the pose, the share that agrees
    disagreement: float = 0.0  # with two-view geometry: chi-square of five degrees of freedom
    depth_check: DepthCheck | None = None  # None: no depth, or no two-view geometry to check it by
    scale_sigma: float = 0.0  # of the error that all metres share, a fraction; in `covariance` too
    shutter: ShutterHint | None = None  # by depth of a sensor, where the camera's motion is known
    seen_turn: Turn | None = None  # before odometry's turn was taken in; None: none was

    def __post_init__(self) -> None:
        _set(
            self,
            keyframe_from_camera=_checked_transform(
                self.keyframe_from_camera, "keyframe_from_camera"
            ),
            covariance=_checked_covariance(self.covariance),
            inliers=_frozen(self.inliers, np.bool_),
        )


class LostReason(enum.Enum):
    """Why there is no pose."""

    TOO_FEW_MATCHES = "too_few_matches"
    NOT_CONFIDENT = "not_confident"  # every match has zero confidence
    INVALID_INPUT = "invalid_input"  # NaN or infinity in the matches
    DEGENERATE = "degenerate"  # collinear, identical, or otherwise without a unique answer
    TOO_FEW_INLIERS = "too_few_inliers"
    NO_DEPTH = "no_depth"  # depth was promised but unknown at the matches
    NO_SCALE = "no_scale"  # a direction is known, its length is not
    UNCERTAIN = "uncertain"  # the covariance exceeds what the caller accepts
    IMPLAUSIBLE = "implausible"  # speed or reprojection beyond the gate
    CONTRADICTED = "contradicted"  # independent evidence speaks against it (`tracking.trust`)
    UNKNOWN_PLACE = "unknown_place"  # no keyframes of the map agree on where this is
    AMBIGUOUS = "ambiguous"  # two places of the map look like this one
    REPEATED_IMAGE = "repeated_image"  # the image before under a new stamp
    LOOKS_ALIKE = "looks_alike"  # another place than the keyframe's, odometry says
    TWO_MOTIONS = "two_motions"  # a person or a part of the robot moves otherwise than the scene


@dataclass(frozen=True)
class Lost:
    """No pose, and why. Expected failure is a value, never a fake pose."""

    reason: LostReason
    detail: str


def _checked_rgb(image: npt.ArrayLike, name: str) -> ByteArray:
    array = np.asarray(image)
    _require(
        array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3,
        f"{name} must be (H, W, 3) uint8, got shape {array.shape} of {array.dtype}",
    )
    _require(array.size > 0, f"{name} is empty")
    return _frozen(array, np.uint8)


def _checked_transform(matrix: npt.ArrayLike | None, name: str) -> FloatArray:
    T = _frozen(np.asarray(matrix, dtype=np.float64))
    _require(T.shape == (4, 4), f"{name} must be 4x4, got shape {T.shape}")
    _require(np.isfinite(T).all(), f"{name} holds NaN or infinity")
    R = T[:3, :3]
    _require(
        np.abs(R @ R.T - np.eye(3)).max() < 1e-6 and np.linalg.det(R) > 0,
        f"{name} does not hold a rotation (R R^T = I, det R = 1)",
    )
    if np.abs(T[3] - [0, 0, 0, 1]).max() != 0:  # printing an array takes 0.2 ms
        raise InvalidInput(f"{name} must end in the row 0 0 0 1, got {T[3]}")
    return T


def _checked_covariance(matrix: npt.ArrayLike) -> FloatArray:
    P = np.asarray(matrix, dtype=np.float64)
    _require(P.shape == (6, 6), f"covariance must be 6x6, got shape {P.shape}")
    _require(np.isfinite(P).all(), "covariance holds NaN or infinity")
    scale = float(np.abs(P).max()) or 1.0
    _require(np.abs(P - P.T).max() <= 1e-6 * scale, "covariance is not symmetric")
    P = 0.5 * (P + P.T)
    _require(np.linalg.eigvalsh(P).min() >= -1e-9 * scale, "covariance has a negative eigenvalue")
    return _frozen(P)
