"""Where the metres come from: one function a source, in the order in which they are preferred.

A source looks at a `ScaleRequest` and gives `Depths` at the matches, a `TranslationPrior`, a
`Floor`, or None where it has nothing to say. A new source is one function and one line in
SCALE_SOURCES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.depth_image import (
    NO_NOISE,
    DepthNoise,
    nearest,
    sample_late,
    sample_surface,
    unknown,
)
from l2m_ros.geometry.image_motion import ImageMotion
from l2m_ros.geometry.late_depth import DepthMoments, turned_meanwhile
from l2m_ros.geometry.lifted import lifted_motion
from l2m_ros.geometry.scene_depth import MIN_POINTS, NEIGHBOUR, SceneDepth
from l2m_ros.types import Camera, Correspondences, FloatArray, Frame, Lost

DISPARITY_SIGMA_PX = 0.25  # of a stereo pair, where nothing is said of each pixel
MIN_LIFTED_SIGMA = 0.01  # relative, of one depth that a network reads from a single image


@dataclass(frozen=True, eq=False)
class Floor:
    """What is known of the floor in the keyframe's camera."""

    up: FloatArray  # (3,) unit, in the camera's axes
    height_m: float  # of the camera above it
    sigma_m: float = 0.01  # of that height
    tilt_sigma_rad: float = 0.03  # of `up`: the mount, and the body on its springs

    def __post_init__(self) -> None:
        if not (self.height_m > 0 and self.sigma_m >= 0 and self.tilt_sigma_rad >= 0):
            raise InvalidInput(f"a floor must lie below the camera, got {self}")


@dataclass(frozen=True, eq=False)
class ScaleEvidence:
    """What is known besides the frames: of the scale, and of the motion; all of it optional."""

    stereo_depth: FloatArray | None = None  # (H, W) of the keyframe, metres, NaN = unknown
    stereo_sigma_px: FloatArray | None = None  # (H, W) of its disparity; None: alike everywhere
    stereo_noise: DepthNoise | None = None  # None: from the keyframe's stereo baseline
    odometry: FloatArray | None = None  # 4x4 keyframe_from_camera
    odometry_covariance: FloatArray | None = None  # 6x6
    mono_depth: FloatArray | None = None  # (H, W) of the keyframe, metres, from a network
    mono_sigma: FloatArray | float = 0.1  # of each pixel (H, W), as a fraction of its depth
    mono_scale_sigma: float = 0.1  # common to all pixels, of the log of depth
    mono_shift_sigma_m: float = 0.05  # common to all pixels
    floor: Floor | None = None  # below the keyframe's camera
    motion: ImageMotion | None = None  # how fast the camera moved while the images were taken
    scene: SceneDepth | None = None  # points of the keyframe that an earlier motion showed
    depth_noise: float = 1.0  # of depth images: factor on the variance, as frames showed it
    moments: DepthMoments = field(default_factory=DepthMoments)  # at which depth images were taken

    def __post_init__(self) -> None:
        if (self.odometry is None) != (self.odometry_covariance is None):
            raise InvalidInput("odometry and odometry_covariance go together")
        sigmas = (float(np.min(self.mono_sigma)), self.mono_scale_sigma)
        if not min(sigmas) > 0 or not self.mono_shift_sigma_m >= 0:
            raise InvalidInput("the sigmas of mono_depth must be positive")


@dataclass(frozen=True, eq=False)
class ScaleRequest:
    """What a source may look at."""

    matches: Correspondences
    query: Frame
    keyframe: Frame
    evidence: ScaleEvidence
    depth_noise: DepthNoise
    depth_scale_sigma: float
    stereo_noise: float = 1.0  # factor of the disparities' sigmas
    depth_shared: float = 0.0  # of the noise's sigma, what the depths of a region share


@dataclass(frozen=True, eq=False)
class Depths:
    """Metric depth z at the matches, NaN = unknown.

    A variance factor of 1/4 says that the depth is the mean of four independent pixels. The noise
    itself is looked up at the depth that suits the pose: looked up at the measured one, points
    measured too near would weigh more than those measured too far.
    """

    keyframe_m: FloatArray  # (N,)
    keyframe_variance_factor: FloatArray  # (N,) of the noise's variance
    query_m: FloatArray  # (N,)
    query_variance_factor: FloatArray
    noise: DepthNoise
    keyframe_slope: FloatArray | None = None  # (2, N) metres per pixel to the right, and down
    bias: DepthNoise = NO_NOISE  # common to all, not estimated
    shared: float = 0.0  # of the noise's sigma, what the depths of a region have in common
    scale_sigma: float = 0.0  # common to all, as a fraction
    shift_sigma_m: float = 0.0  # common to all; > 0: estimated with the pose
    keyframe_shapes_m: FloatArray | None = None  # (m, N) errors common to all, one sigma each
    coarse: bool = False  # good for a length only where the matches show a direction
    sparse: bool = False  # of single points, which matches showed: see `metric_pose`
    initial: FloatArray | None = None  # 4x4 keyframe_from_camera to begin with where parallax fails

    @property
    def known(self) -> int:
        """Matches with a depth on either side."""
        return int((np.isfinite(self.keyframe_m) | np.isfinite(self.query_m)).sum())


@dataclass(frozen=True, eq=False)
class TranslationPrior:
    """The camera's position in the keyframe, measured without images."""

    translation_m: FloatArray  # (3,)
    covariance: FloatArray  # (3, 3) m^2
    # Its turn, where that is known too: it chooses among the motions that the matches cannot tell
    # apart. The pose is claimed no surer for it, or whoever fuses both would count it twice.
    rotation: FloatArray | None = None  # (3, 3)
    rotation_covariance: FloatArray | None = None  # (3, 3) rad^2, about the keyframe's axes


ScaleSource = Callable[[ScaleRequest], Depths | TranslationPrior | Floor | None]


def frame_depth(request: ScaleRequest) -> Depths | None:
    """The depth images of either frame."""
    noise = request.depth_noise
    if request.keyframe.depth is None and request.query.depth is None:
        return None
    matches, moments = request.matches, request.evidence.moments
    surface, other = (
        sample_late(frame, pixels, noise, turned_meanwhile(frame, rad_s))
        for frame, pixels, rad_s in (
            (request.keyframe, matches.keyframe_px, moments.keyframe_rad_s),
            (request.query, matches.query_px, moments.query_rad_s),
        )
    )
    return Depths(
        surface.z_m,
        surface.variance_factor,
        other.z_m,
        other.variance_factor,
        noise,
        surface.slope,
        shared=request.depth_shared,
        scale_sigma=request.depth_scale_sigma,
    )


def stereo_depth(request: ScaleRequest) -> Depths | None:
    """Depth of the keyframe from its right image (`stereo.py`)."""
    evidence = request.evidence
    if evidence.stereo_depth is None:
        return None
    noise = evidence.stereo_noise or _stereo_noise(request.keyframe)
    pixels = request.matches.keyframe_px
    surface = sample_surface(evidence.stereo_depth, pixels, noise)
    # Neighbouring disparities come from shared pixels: interpolation averages nothing out.
    ratio: FloatArray = np.full(len(pixels), request.stereo_noise)
    if evidence.stereo_sigma_px is not None:
        ratio *= nearest(evidence.stereo_sigma_px, pixels) / DISPARITY_SIGMA_PX
    return Depths(
        surface.z_m,
        ratio * ratio,
        *unknown(len(pixels)),
        noise,
        surface.slope,
        shared=request.depth_shared,
        scale_sigma=request.depth_scale_sigma,
    )


def odometry(request: ScaleRequest) -> TranslationPrior | None:
    """Motion between the two stamps, measured by wheels or an IMU."""
    evidence = request.evidence
    if evidence.odometry is None or evidence.odometry_covariance is None:
        return None
    T, P = np.asarray(evidence.odometry), np.asarray(evidence.odometry_covariance, np.float64)
    # Odometry that claims to be exact would make the sum singular: a tenth of a millimetre.
    least = 1e-8 * np.eye(3)
    return TranslationPrior(T[:3, 3], P[:3, :3] + least, T[:3, :3], P[3:, 3:] + least)


def floor(request: ScaleRequest) -> Floor | None:
    """The floor that the robot drives on, at a known distance below its camera."""
    return request.evidence.floor


def mono_depth(request: ScaleRequest) -> Depths | None:
    """A metric depth estimate of the keyframe from a single image."""
    evidence = request.evidence
    if evidence.mono_depth is None:
        return None
    # A network's depth is smooth: steps above EDGE_RATIO are edges, not noise.
    smooth = DepthNoise(0.0, 0.0)
    surface = sample_surface(evidence.mono_depth, request.matches.keyframe_px, smooth)
    own = _at_pixels(evidence.mono_sigma, request.matches.keyframe_px)
    usual = float(np.median(own)) if len(own) else 1.0
    return Depths(
        surface.z_m,
        (own / usual) ** 2,
        *unknown(len(own)),
        DepthNoise(0.0, 0.0, usual),
        surface.slope,
        scale_sigma=relative_sigma(evidence.mono_scale_sigma),
        shift_sigma_m=evidence.mono_shift_sigma_m,
        coarse=True,
    )


def relative_sigma(log_sigma: float) -> float:
    """Standard deviation of truth / estimate - 1 where the log of the ratio has `log_sigma`.

    Twice too near is as likely as twice too far, but in metres of the estimate it is off by twice
    as much: E (e^x - 1)^2 = e^(2 s^2) - 2 e^(s^2 / 2) + 1.
    """
    square = log_sigma**2
    return float(np.sqrt(np.expm1(2.0 * square) - 2.0 * np.expm1(0.5 * square)))


def scene(request: ScaleRequest) -> Depths | None:
    """Points whose depth an earlier motion showed, at the matches among them."""
    known = request.evidence.scene
    if known is None:
        return None
    depth_m, shapes = known.between(request.matches.keyframe_px)
    if np.count_nonzero(np.isfinite(depth_m)) < MIN_POINTS:
        return None
    n = len(depth_m)
    return Depths(
        depth_m,
        np.ones(n),
        *unknown(n),
        DepthNoise(0.0, 0.0, float(np.hypot(known.noise, NEIGHBOUR))),
        shared=request.depth_shared,
        scale_sigma=float(np.hypot(known.sigma, NEIGHBOUR)),
        keyframe_shapes_m=None if shapes is None else shapes * np.nan_to_num(depth_m),
        sparse=True,
    )


def _at_pixels(image: FloatArray | float, pixels: FloatArray) -> FloatArray:
    """(N,) the value of the nearest pixel; a number is that of all."""
    if np.ndim(image) == 0:
        return np.full(len(pixels), float(image))
    return nearest(np.asarray(image), pixels)


def mickey(request: ScaleRequest) -> Depths | None:
    """Depths that the matcher read from both images themselves.

    They err as a whole: by a factor common to a place, which the matcher states, and by one of each
    image, of which the two clouds' sizes are a sample. The two are made to agree half way, and half
    the variance of one image's factor is left.
    """
    depths, matches = request.matches.depths, request.matches
    if depths is None:
        return None
    query, keyframe = request.query.camera, request.keyframe.camera
    z_query = _positive_m(depths.query, query if depths.per_focal else None)
    z_keyframe = _positive_m(depths.keyframe, keyframe if depths.per_focal else None)
    x = unproject(query, matches.query_px) * z_query[:, None]
    y = unproject(keyframe, matches.keyframe_px) * z_keyframe[:, None]
    motion = lifted_motion(x, y, matches.confidence)
    if isinstance(motion, Lost):
        return None
    half = 0.5 * motion.log_size
    image_variance = 0.5 * (depths.image_sigma**2 + 2.0 * half**2)
    middle_m = float(np.median(y[motion.inliers, 2]))
    n = len(z_query)
    return Depths(
        z_keyframe * np.exp(-half),
        np.ones(n),
        z_query * np.exp(half),
        np.ones(n),
        DepthNoise(0.0, 0.0, max(motion.spread, MIN_LIFTED_SIGMA)),
        scale_sigma=relative_sigma(
            float(np.hypot(depths.scale_sigma, np.sqrt(0.5 * image_variance)))
        ),
        shift_sigma_m=0.5 * depths.image_sigma * middle_m,
        initial=motion.pose,
    )


def _positive_m(depth: FloatArray, camera: Camera | None) -> FloatArray:
    """(N,) metres, NaN where the network gave none; `camera`: whose focal length they lack."""
    z = depth if camera is None else depth * np.sqrt(camera.K[0, 0] * camera.K[1, 1])
    return np.where(np.isfinite(z) & (z > 0), z, np.nan)


SCALE_SOURCES: dict[str, ScaleSource] = {
    "depth": frame_depth,
    "stereo": stereo_depth,
    "odometry": odometry,
    "floor": floor,
    "mickey": mickey,
    "mono_depth": mono_depth,
    "scene": scene,
}


def _stereo_noise(keyframe: Frame) -> DepthNoise:
    """sigma_z = z^2 sigma_d / (f baseline), or an ordinary depth camera's where unknown."""
    if keyframe.right_from_camera is None:
        return DepthNoise()
    baseline_m = float(np.linalg.norm(keyframe.right_from_camera[:3, 3]))
    return DepthNoise(0.0, DISPARITY_SIGMA_PX / (float(keyframe.camera.K[0, 0]) * baseline_m))
