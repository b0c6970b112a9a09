"""What a map holds: keyframes, what a matcher sees of them, and edges between them.

    map_from_camera    takes points of a keyframe's camera into the map
    a_from_b           an edge: points of keyframe b into keyframe a
    covariance         6x6 about the fixed axes of the map, or of a (see `l2m_ros.types`)

A keyframe without a pose is known but not placed: no chain of edges leads to the origin yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.mapping import codec
from l2m_ros.types import Camera, FloatArray, Frame

# odometry: tracking saw b from a; loop: seen and verified twice; motion: what wheels or an IMU say,
# used only where no camera connects two parts of a map.
EDGE_KINDS = ("odometry", "loop", "prior", "motion")
GIVEN_DEPTH = "frame_depth"
TRIANGULATED = "triangulated"


@dataclass(frozen=True, eq=False)
class MapKeyframe:
    """One keyframe as the store keeps it: pictures stay encoded until somebody asks."""

    id: int  # 0 = not stored yet
    stamp_ns: int
    camera: Camera
    image: bytes  # JPEG or PNG
    depth: bytes | None = None  # PNG of 16 bit, or None
    depth_scale_m: float = 0.001  # metres per unit of the PNG
    scale_source: str = "none"  # where the metres come from: a key of SCALE_SOURCES
    depth_source: str = GIVEN_DEPTH  # or stereo_depth, triangulated
    run: int = 0  # the recording or the drive that it was taken in
    name: str = ""  # of the image in its folder
    map_from_camera: FloatArray | None = None  # 4x4
    covariance: FloatArray | None = None  # 6x6
    truth: FloatArray | None = None  # 4x4 world_from_camera, where the recording knows it

    def frame(self) -> Frame:
        """The keyframe's picture, depth and camera, decoded."""
        depth = None
        if self.depth is not None:
            depth = codec.decode_depth(self.depth, self.depth_scale_m)
            if not np.isfinite(depth).any():
                depth = None
        rgb = codec.decode_image(self.image)
        return Frame(rgb, self.camera, depth, stamp_ns=self.stamp_ns)

    def placed(self, map_from_camera: FloatArray, covariance: FloatArray) -> MapKeyframe:
        return replace(self, map_from_camera=map_from_camera, covariance=covariance)


@dataclass(frozen=True, eq=False)
class Edge:
    """Keyframe b as seen from keyframe a; `prior`: a == b, and a_from_b is map_from_camera."""

    a: int
    b: int
    a_from_b: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    kind: str = "odometry"

    def __post_init__(self) -> None:
        if self.kind not in EDGE_KINDS:
            raise InvalidInput(f"edge kind {self.kind!r}; known: {', '.join(EDGE_KINDS)}")
        if (self.a == self.b) != (self.kind == "prior"):
            raise InvalidInput("an edge joins two keyframes; only a prior names one twice")


def outward(edge: Edge, id: int) -> Edge:
    """The same edge with `id` as its a."""
    if edge.a == id:
        return edge
    P = se3.inverse_covariance(edge.a_from_b, edge.covariance)
    return Edge(edge.b, edge.a, se3.inverse(edge.a_from_b), P, edge.kind)


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """What a matcher keeps of a keyframe's image, as arrays."""

    model: str
    checksum: str  # of the model's files: other weights see other features
    image_size: tuple[int, int]
    arrays: dict[str, FloatArray]


@dataclass(frozen=True, eq=False)
class StoredCells:
    """How a keyframe looks, in coarse cells: what tells without its features that a match with it
    would be in vain."""

    model: str
    checksum: str
    grid: FloatArray  # (H, W, D), a descriptor a cell


@dataclass(frozen=True)
class MapInfo:
    """A map in a few numbers."""

    address: str
    format: int
    keyframes: int
    placed: int
    edges: dict[str, int]
    with_depth: int
    with_features: dict[str, int]  # by model
    size_bytes: int
    meta: dict[str, str] = field(default_factory=dict)
