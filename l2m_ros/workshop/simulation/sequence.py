"""A run of a simulated robot: frame after frame, with everything that is true about each.

for shot in simulate(SimulationOptions(scene="room", path="handheld", frames=200)):
    shot.frame               rgb, depth, right image, camera: what a robot would get
    shot.world_from_camera   where it really was
    shot.odom_from_base      what its odometry says
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.types import ByteArray, Camera, FloatArray, Frame
from l2m_ros.workshop.simulation.faults import Faults, Imperfections
from l2m_ros.workshop.simulation.odometry import Odometer, OdometryNoise
from l2m_ros.workshop.simulation.path import Path, make_path
from l2m_ros.workshop.simulation.render import render
from l2m_ros.workshop.simulation.world import View, World, make_world

START_NS = 1_700_000_000_000_000_000
OPTICAL_FRAME = "camera_optical_frame"


# What can be rendered: years of frames would not fit a stamp, nor a baseline beyond the world.
BOUNDS = {"frames": (1, 1_000_000), "rate_hz": (1e-3, 1e4), "baseline_m": (1e-4, 100.0)}


@dataclass(frozen=True)
class SimulationOptions:
    scene: str = "room"
    path: str = "handheld"
    frames: int = 200
    width: int = 640
    height: int = 480
    hfov_deg: float = 70.0
    rate_hz: float = 15.0
    stereo: bool = True
    baseline_m: float = 0.12
    faults: Faults = field(default_factory=Faults)
    odometry: OdometryNoise = field(default_factory=OdometryNoise)
    seed: int = 0  # of the path and of every noise
    scene_seed: int = 0  # of the world: a new one takes seconds to build
    start_ns: int = START_NS

    def __post_init__(self) -> None:
        if not 16 <= min(self.width, self.height) <= max(self.width, self.height) <= 8192:
            raise InvalidInput(f"image size must be 16 to 8192, got {self.width}x{self.height}")
        if not 10.0 <= self.hfov_deg <= 150.0:
            raise InvalidInput(f"hfov_deg must be 10 to 150, got {self.hfov_deg:g}")
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidInput(
                    f"{name} lies from {low:g} to {high:g}, got {getattr(self, name):g}"
                )
        if not (self.seed >= 0 and self.scene_seed >= 0):
            raise InvalidInput(
                f"seeds are not negative, got {self.seed} and {self.scene_seed} of the scene"
            )

    def camera(self) -> Camera:
        """Square pixels, the principal point in the middle, the lens that the faults name."""
        focal_px = 0.5 * self.width / np.tan(np.deg2rad(self.hfov_deg) / 2)
        centre = (self.width - 1) / 2, (self.height - 1) / 2
        K = np.array([[focal_px, 0, centre[0]], [0, focal_px, centre[1]], [0, 0, 1]])
        return Camera(self.width, self.height, K, *self.faults.lens())


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """Which camera was where, and when: all that exact correspondences need, and light to keep."""

    world: World
    camera: Camera
    world_from_camera: FloatArray  # 4x4
    time_s: float = 0.0
    moving: bool = False

    def view(self) -> View:
        return self.world.view(self.world_from_camera, self.time_s, moving=self.moving)


@dataclass(frozen=True, eq=False)
class SimulatedFrame:
    """One moment: what the sensors say, and the truth."""

    index: int  # of the path; dropped frames leave gaps
    time_s: float  # since the first frame, at the middle of the exposure
    frame: Frame
    world: World
    world_from_camera: FloatArray  # 4x4, optical axes
    base_from_camera: FloatArray  # 4x4
    odom_from_base: FloatArray  # 4x4, as measured
    odom_covariance: FloatArray  # 6x6 of odom_from_base
    true_depth_m: FloatArray  # (H, W) float32, NaN = sky; frame.depth with its faults aside
    moving: bool  # whether moving objects are shown
    odom_published: bool = True
    odom_late_ns: int = 0  # its message is stamped, and comes, so much later
    # 4x4: where the images were taken, if the world repeats itself between there and the truth
    seen_from_camera: FloatArray | None = None

    @property
    def world_from_base(self) -> FloatArray:
        return self.world_from_camera @ se3.inverse(self.base_from_camera)

    @property
    def odom_from_camera(self) -> FloatArray:
        return self.odom_from_base @ self.base_from_camera

    @property
    def viewpoint(self) -> Viewpoint:
        pose = self.world_from_camera if self.seen_from_camera is None else self.seen_from_camera
        return Viewpoint(self.world, self.frame.camera, pose, self.time_s, self.moving)

    @property
    def right_viewpoint(self) -> Viewpoint | None:
        """Of the right image, if there is one."""
        frame = self.frame
        if frame.right_camera is None or frame.right_from_camera is None:
            return None
        pose = self.viewpoint.world_from_camera @ se3.inverse(frame.right_from_camera)
        return Viewpoint(self.world, frame.right_camera, pose, self.time_s, self.moving)


Shots = Iterator[SimulatedFrame]  # of a run


@dataclass(frozen=True, eq=False)
class Pictures:
    """What takes the time of a frame: rendered, with the faults of its sensors."""

    rgb: ByteArray
    depth: FloatArray
    true_depth_m: FloatArray


def simulate(
    options: SimulationOptions, kept: Mapping[int, Pictures] | None = None
) -> Iterator[SimulatedFrame]:
    """The frames of a run, rendered one by one as they are asked for.

    kept: pictures of an earlier run of the same options without stereo, by index; nothing is
    rendered then.
    """
    if kept is not None and options.stereo:
        raise InvalidInput("kept pictures have no right image: stereo=False goes with them")
    world = make_world(options.scene, options.scene_seed)
    path = make_path(
        options.path,
        world=world,
        frames=options.frames,
        seed=options.seed,
        rate_hz=options.rate_hz,
        start_ns=options.start_ns,
    )
    odometer = Odometer(
        np.random.default_rng([options.seed, 20]), options.odometry, planar=path.planar
    )
    faults = Imperfections(options.faults, np.random.default_rng([options.seed, 30]), len(path))
    bases = path.base_at(path.times_s)
    for index in range(len(path)):
        odometer.update(bases[index])
        if not faults.dropped[index]:
            pictures = None if kept is None else kept[index]
            yield _shot(options, world, path, index, odometer, faults, pictures)


def _shot(
    options: SimulationOptions,
    world: World,
    path: Path,
    index: int,
    odometer: Odometer,
    faults: Imperfections,
    kept: Pictures | None,
) -> SimulatedFrame:
    camera, time_s = options.camera(), float(path.times_s[index])
    pose = path.camera_at(time_s)[0]
    stereo: dict[str, Any] = {}
    if kept is None:
        kept, stereo = _rendered(options, world, path, index, faults)
    frame = Frame(
        kept.rgb,
        camera,
        kept.depth,
        stamp_ns=int(path.stamps_ns[index]),
        frame_id=OPTICAL_FRAME,
        **stereo,
    )
    return SimulatedFrame(
        index,
        time_s,
        frame,
        world,
        pose,
        path.base_from_camera,
        odometer.odom_from_base,
        odometer.covariance,
        kept.true_depth_m,
        options.faults.moving_objects,
    )


def _rendered(
    options: SimulationOptions, world: World, path: Path, index: int, faults: Imperfections
) -> tuple[Pictures, dict[str, Any]]:
    """The pictures of a frame, and what a stereo pair adds to it."""
    camera, time_s = options.camera(), float(path.times_s[index])
    moving = options.faults.moving_objects
    pose = path.camera_at(time_s)[0]
    around = path.camera_at(time_s + np.array([-0.5, 0.5]) * options.faults.exposure_s)
    left = render(world.view(pose, time_s, moving=moving), camera)
    stereo = {}
    if options.stereo:
        camera_from_right = np.eye(4)
        camera_from_right[0, 3] = options.baseline_m
        right = render(world.view(pose @ camera_from_right, time_s, moving=moving), camera)
        stereo = {
            "right_rgb": faults.image(right, camera, around @ camera_from_right, index),
            "right_camera": camera,
            "right_from_camera": se3.inverse(camera_from_right),
        }
    rgb = faults.image(left, camera, around, index)
    return Pictures(rgb, faults.depth(left), left.depth_m), stereo
