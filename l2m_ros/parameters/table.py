"""Every parameter of the node: one table, from which declaration, checks and documentation come.

A default has one home: where an options dataclass exists, the table reads it from there.
`when` says what a change does:

    start      read-only: given at start, never changed
    configure  taken up by the configure transition; refused while the node is configured
    frame      dynamic: taken up by the next frame
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.inputs import InputOptions
from l2m_ros.frames.messages import checked_rotation
from l2m_ros.image_header import MAX_PIXELS
from l2m_ros.mapping.options import MODES, OFF, OnlineOptions
from l2m_ros.matching.catalogue import NO_ENGINE
from l2m_ros.matching.mask import Mask, read_mask
from l2m_ros.spelling import nearest, nearest_name
from l2m_ros.tracking.odometry import OdometryNoise
from l2m_ros.tracking.options import LEAST_HEIGHT_M, TrackerOptions
from l2m_ros.types import FloatArray

When = Literal["start", "configure", "frame"]
Value = bool | int | float | str | list[float]
Values = Mapping[str, Any]

TRACKER = TrackerOptions()
MAP = OnlineOptions()
INPUTS = InputOptions()
USE = ("auto", "use", "ignore")  # not yes/no or on/off: YAML reads those as booleans


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    name: str
    default: Value
    description: str
    when: When = "configure"
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def validation_error(self, value: Any) -> str | None:
        """An error message for this value, or None if it is valid."""
        if _is_list(value, self.default) and not all(map(_is_number, value)):
            return f"{self.name} takes {_kind(self.default)}, got {value!r}"
        if type(value) is not type(self.default) and not _is_list(value, self.default):
            return f"{self.name} takes {_kind(self.default)}, got {value!r}"
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}{nearest(str(value), self.choices)}; known: " + (
                ", ".join(self.choices)
            )
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if abs(value) >= 2**63 and isinstance(value, int):
                return f"{self.name} is a whole number of more than 64 bits"
            if not math.isfinite(value):
                return f"{self.name} is {value}: it must be a number"
            if self.low is not None and value < self.low:
                return f"{self.name} is {value:g}, but must be at least {self.low:g}"
            if self.high is not None and value > self.high:
                return f"{self.name} is {value:g}, but must be at most {self.high:g}"
        return None


def converted(name: str, value: Any) -> Any:
    """The value in its parameter's type: a whole number where a fraction belongs is what people
    mean. Anything else is left for `validation_error`."""
    default = PARAMETERS[name].default
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**53 else value
    if isinstance(default, list) and hasattr(value, "__len__") and not isinstance(value, str):
        whole = (int, np.integer)
        return [float(v) if isinstance(v, whole) and not isinstance(v, bool) else v for v in value]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list(value: Any, default: Value) -> bool:
    return isinstance(default, list) and not isinstance(value, str) and hasattr(value, "__len__")


def _kind(default: Value) -> str:
    if isinstance(default, list):
        return f"{len(default)} numbers"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[
        type(default)
    ]


# Optical axes (x right, y down, z forward) in a base that looks along x (REP-103).
FORWARD_LOOKING = [0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5]

_NODE = [
    Parameter("autostart", True,
              "configure and activate at start; false if a launch file or a life-cycle manager "
              "does it", "start"),
    Parameter("model", "lite",
              "matcher by name (lite, l2m, sift, orb, ...), or the folder or YAML card of an "
              "exported or trained model"),
    Parameter("backend", "auto",
              "engine that runs the network: auto, tensorrt, onnxruntime, openvino or torch"),
    Parameter("model_width", 0, "width of a network's input in pixels; 0 = as its card says",
              low=0, high=8192),
    Parameter("model_height", 0, "height of a network's input in pixels; 0 = as its card says",
              low=0, high=8192),
    Parameter("mono_depth", "",
              "a model that reads metres from a keyframe without depth: lite_depth, mickey, or "
              "a folder of `l2m train depth` or `l2m train metric`; empty = none"),
    Parameter("device", "auto", "where a network runs", choices=("auto", "cpu", "cuda")),
    Parameter("precision", "fp32",
              "of a network by torch; bf16: l2m, on a CPU that multiplies in bfloat16",
              choices=("fp32", "bf16")),
    Parameter("threads", 0, "CPU threads of a network; 0 = as many as there are cores",
              low=0, high=256),
    Parameter("cache_dir", "", "where TensorRT engines are kept; empty = ~/.cache/l2m_ros/engines"),
    Parameter("encode_ahead", True,
              "encode the next image while the pose of this one is computed: a higher rate; no "
              "effect on a single core or on a GPU"),
    Parameter("queue", "latest",
              "latest: only the newest image waits while another is worked on; all: nothing is "
              "dropped, and results do not depend on timing (for replays)",
              choices=("latest", "all")),
    Parameter("queue_mb", 1024,
              "with queue: all, memory of the images that may wait, MiB; images that come when "
              "it is full are dropped and reported", low=1, high=1048576),
]  # fmt: skip

_INPUTS = [
    Parameter("image_transport", "raw", "raw, or compressed: subscribe to <image>/compressed",
              choices=("raw", "compressed")),
    Parameter("depth_transport", "raw", "raw, or compressedDepth: subscribe to "
              "<depth>/compressedDepth (PNG or RVL)", choices=("raw", "compressedDepth")),
    Parameter("max_image_pixels", MAX_PIXELS, "a compressed image whose header states more is "
              "refused before it is decoded", low=1, high=2**30),
    Parameter("rectified", "auto",
              "is the image rectified (then camera_info's P holds instead of K and D)? use: "
              "yes; ignore: no; auto: yes where D = 0, R = I and P = K, or where the topic has "
              "the word `rect` (image_proc)", choices=("auto", "use", "ignore")),
    Parameter("image_bits", 0,
              "how many bits of a 16-bit image the camera uses (10, 12, 14); 0 = the most seen "
              "so far, of 10, 12, 14 and 16", low=0, high=16),
    Parameter("depth", "auto",
              "depth images. auto: used while somebody publishes them; use: waited for; ignore:"
              " not used",
              choices=USE),
    Parameter("right", "auto",
              "right image of a stereo pair, likewise", choices=USE),
    Parameter("odom", "auto",
              "odometry of the base, for the metres of a single camera, likewise",
              choices=USE),
    Parameter("sync.slop_s", INPUTS.slop_ns / 1e9,
              "largest difference of stamps within one frame, seconds; 0 = exactly equal",
              "frame", low=0.0, high=1.0),
    Parameter("sync.depth_stamps", True,
              "while the camera turns, depth is looked up as of its own stamp; false where the "
              "driver's stamps say less than that depth belongs to its image", "frame"),
    Parameter("sync.odom_gap_s", INPUTS.odom_gap_ns / 1e9,
              "odometry is interpolated only between messages at most this far apart, seconds",
              "frame", low=0.0, high=60.0),
    Parameter("sync.odom_delay_s", INPUTS.odom_delay_ns / 1e9,
              "odometry's messages are stamped so much later than what they tell of, by the "
              "images' clock, seconds; negative: the images are",
              "frame", low=-1.0, high=1.0),
    Parameter("sync.odom_delay_sigma_s", INPUTS.odom_delay_sigma_ns / 1e9,
              "how well that is known, one standard deviation, before turns have shown it",
              "frame", low=0.0, high=0.3),
    Parameter("sync.learn_odom_delay", INPUTS.learn_odom_delay,
              "learn from turns by how much it is another, up to 0.3 s", "frame"),
    Parameter("odometry.sigma_m_per_m", TRACKER.odometry.sigma_m_per_m,
              "noise of odometry's distance per metre, used where the messages' covariance is "
              "constant, zero or 1e6", "frame",
              low=1e-4, high=1.0),
    Parameter("odometry.sigma_rad_per_rad", TRACKER.odometry.sigma_rad_per_rad,
              "noise of odometry's turn per radian, likewise", "frame", low=1e-4, high=1.0),
    Parameter("stale_after_s", 2.0,
              "an input that is silent for longer is reported, seconds",
              "frame", low=0.1, high=3600.0),
]  # fmt: skip

_FRAMES = [
    Parameter("frames.odom", "odom", "frame of ~/odometry: x forward, z up, origin where the "
              "camera (or the base) was at the first frame"),
    Parameter("frames.base", "base_link", "the robot's base; parent of the camera for TF and odom"),
    Parameter("frames.keyframe", "l2m_keyframe", "frame of ~/pose: the keyframe's optical frame"),
    Parameter("frames.map", "map",
              "frame of ~/map_pose: the base where the map begins"),
    Parameter("base_from_camera", FORWARD_LOOKING, "pose of the camera's optical frame in the "
              "base: x y z (metres) qx qy qz qw; the default looks along the base's x axis"),
    Parameter("base_from_tf", False, "take base_from_camera from TF instead (needs tf2_ros)"),
    Parameter("publish_tf", False,
              "publish odom -> base and odom -> keyframe to /tf (needs tf2_ros); false if "
              "another node publishes odom -> base"),
]  # fmt: skip

_GATES, _KEYFRAMES, _POSE = TRACKER.gates, TRACKER.keyframes, TRACKER.pose

_TRACKING = [
    Parameter("tracking.max_matches", TRACKER.max_matches,
              "correspondences of a frame that the pose is computed from and that "
              "~/correspondences holds", "frame", low=50, high=100000),
    Parameter("tracking.subpixel", TRACKER.subpixel,
              "refine the correspondences of a dense matcher by their own patches of pixels: "
              "finer poses for a few ms a frame"),
    Parameter("tracking.mask", "",
              "a picture of the camera's view, black where tracking matches nothing: the robot's "
              "own parts, a fisheye's dark rim, letters burnt in; neither does the map; "
              "empty = none"),
    Parameter("tracking.leave_out_movers", TRACKER.leave_out_movers,
              "what moves otherwise than the scene is found and not matched: what came into a "
              "keyframe's view, by depth; parts of the robot that are always in view",
              "frame"),
    Parameter("tracking.min_inliers", _GATES.min_inliers, "a pose with fewer inliers is not "
              "published", "frame", low=6, high=100000),
    Parameter("tracking.min_support", float(TRACKER.trust.min_support),
              "a pose is not published if a smaller share of the matches with depth agrees with"
              " it", "frame", low=0.0,
              high=1.0),
    Parameter("tracking.max_disagreement", float(TRACKER.trust.max_disagreement),
              "a pose is not published if two-view geometry of the same matches differs from it"
              " by more (chi-square, 5 degrees of freedom), unless depth explains the matches",
              "frame", low=20.0, high=1e9),
    Parameter("tracking.max_depth_misfit", float(TRACKER.trust.max_depth_misfit),
              "a pose is not published if the median match lies further from where depth puts "
              "it: squared distance, over what twice the depth noise explains",
              "frame", low=1.0, high=1e9),
    Parameter("tracking.max_depth_unexplained", float(TRACKER.trust.max_depth_unexplained),
              "a pose is not published if depth leaves a larger share of the parallax "
              "unexplained", "frame", low=0.0,
              high=1e9),
    Parameter("tracking.max_second_motion", float(TRACKER.trust.max_second_motion),
              "a pose is not published if more matches, as a share of its own, agree on another "
              "motion: of people close by, or of a part of the robot", "frame", low=0.0,
              high=1e9),
    Parameter("tracking.depth_distrusted_after", TRACKER.trust.depth_distrusted_after,
              "if so many of the last ten frames with parallax contradict depth, it is not used"
              " in frames without parallax", "frame", low=1, high=11),
    Parameter("tracking.max_sigma_m", float(_GATES.max_sigma_m), "a pose whose position is less "
              "certain is not published, metres", "frame", low=1e-4, high=1000.0),
    Parameter("tracking.max_sigma_rad", float(_GATES.max_sigma_rad), "a pose whose rotation is "
              "less certain is not published, radians", "frame", low=1e-5, high=3.15),
    Parameter("tracking.max_speed_m_s", float(_GATES.max_speed_m_s),
              "a pose is not published if it means faster motion since the last pose",
              "frame", low=0.01, high=1000.0),
    Parameter("tracking.max_turn_rad_s", float(_GATES.max_turn_rad_s),
              "a pose is not published if it means a faster turn since the last pose",
              "frame", low=0.01, high=1000.0),
    Parameter("tracking.max_acceleration_m_s2", float(_GATES.max_acceleration_m_s2),
              "a pose is not published if it lies further from where the last velocity leads "
              "than this acceleration allows (docs/robots.md has values for robots)",
              "frame", low=0.01, high=10000.0),
    Parameter("tracking.max_turn_acceleration_rad_s2", float(_GATES.max_turn_acceleration_rad_s2),

              "the same for turns", "frame", low=0.01, high=10000.0),
    Parameter("tracking.accept_repeated", TRACKER.accept_repeated,
              "use images that equal the one before bit for bit. true: for a simulated camera "
              "that stands still; false: such images are a frozen driver", "frame"),
    Parameter("tracking.kept_keyframes", TRACKER.kept_keyframes,
              "how many earlier keyframes are tried after a loss", "frame", low=1, high=100),
    Parameter("tracking.restart_after", TRACKER.restart_after,
              "a new chain of keyframes begins after so many lost frames; sooner if keyframes "
              "last less than a third of it", "frame", low=1,
              high=100000),
    Parameter("keyframes.coverage_min", float(_KEYFRAMES.coverage_min),
              "new keyframe if the matched area is below this share of the best",
              "frame", low=0.0, high=0.99),
    Parameter("keyframes.inliers_min", float(_KEYFRAMES.inliers_min),
              "new keyframe if the number of inliers is below this share of the best",
              "frame", low=0.0, high=0.99),
    Parameter("keyframes.certain_min", float(_KEYFRAMES.certain_min),
              "new keyframe if the certain area is below this share of the best (dense "
              "matchers)", "frame", low=0.0, high=0.99),
    Parameter("keyframes.parallax_max_rad", float(_KEYFRAMES.parallax_max_rad),
              "new keyframe if the median parallax is above this, radians",
              "frame", low=0.01, high=3.0),
    Parameter("keyframes.zoom_max", float(_KEYFRAMES.zoom_max),
              "new keyframe if the matched scene has grown or shrunk by more (0.14: by 15 %), "
              "as in forward motion", "frame",
              low=0.01, high=3.0),
    Parameter("keyframes.hysteresis", float(_KEYFRAMES.hysteresis),
              "how far one of these measures must recover before no new keyframe is wanted any "
              "more", "frame", low=0.0, high=0.5),
    Parameter("keyframes.sharpness_min", float(_KEYFRAMES.sharpness_min), "an image below this "
              "share of the usual sharpness never becomes a keyframe", "frame", low=0.0, high=0.99),
    Parameter("keyframes.texture_min", float(_KEYFRAMES.texture_min), "an image with less texture "
              "(mean Laplacian, grey levels) never becomes a keyframe", "frame", low=0.0, high=99),
    Parameter("pose.max_scale_sigma", float(_POSE.max_scale_sigma),
              "metres that a network reads from images (mickey, mono_depth) are used only if "
              "their common error is below this fraction; else the pose has no metres",
              "frame", low=0.01, high=10.0),
    Parameter("pose.floor_below_base_m", -1.0,
              "for a robot on wheels: how far the floor lies below the origin of the base "
              "frame, metres (0: base_footprint). A camera without depth then has metres from "
              "its height (base_from_camera); -1: not used",
              "frame", low=-1.0, high=20.0),
    Parameter("pose.threshold_px", float(_POSE.threshold_px),
              "largest reprojection error of an inlier, pixels", "frame", low=0.1, high=50.0),
    Parameter("pose.common_px", float(_POSE.common_px), "error that the matches of a region (a "
              "twelfth of the image) have in common, pixels: more makes covariances larger",
              "frame", low=0.0, high=100.0),
    Parameter("pose.depth_noise_m", float(_POSE.depth_noise.constant_m), "noise of a depth image "
              "at any distance, metres: sigma = this + pose.depth_noise_per_m z^2", "frame",
              low=0.0, high=1.0),
    Parameter("pose.depth_noise_per_m", float(_POSE.depth_noise.quadratic_per_m),
              "noise of a depth image that grows with the square of the distance, 1/m",
              "frame", low=0.0,
              high=1.0),
    Parameter("pose.depth_scale_sigma", float(_POSE.depth_scale_sigma), "error that all depths "
              "have in common, as a share of each: focal length, baseline, calibration", "frame",
              low=0.0, high=0.5),
    Parameter("pose.depth_shared", float(_POSE.depth_shared), "of the depth noise's sigma, the "
              "share that all depths of a region (a 48th of the image) have in common: more makes "
              "covariances larger", "frame", low=0.0, high=10.0),
    Parameter("pose.stereo_noise", float(_POSE.stereo_noise),
              "factor on the assumed noise of a stereo pair's disparities",
              "frame", low=0.05, high=100.0),
    Parameter("pose.focal_sigma", float(_POSE.focal_sigma),
              "relative error of the focal length in camera_info", "frame", low=0.0, high=1.0),
    Parameter("pose.shutter_sigma_s", float(_POSE.shutter_sigma_s),
              "how long a rolling shutter may take from the first row to the last, seconds, "
              "until tracking has learnt it from depth; 0: a global shutter",
              "frame", low=0.0, high=1.0),
    Parameter("pose.depth_delay_sigma_s", float(_POSE.depth_delay_sigma_s),
              "how far apart in time a depth image and the image of its stamp may be, seconds",
              "frame", low=0.0, high=1.0),
    Parameter("pose.texture_grey", float(_POSE.texture.grey),
              "by how many grey levels two images of a point differ: a larger value trusts "
              "blank walls and edges less; 0 = all matches alike",
              "frame", low=0.0, high=255.0),
]  # fmt: skip

_MAP = [
    Parameter("map.mode", MAP.mode,
              "off; localize: find the robot in the map of map.path; build: make a map or "
              "extend it", choices=MODES),
    Parameter("map.path", MAP.path,
              "the map: a file, or postgresql://... that a fleet shares; call ~/load_map after "
              "a change", "frame"),
    Parameter("map.max_keyframes", MAP.mapper.max_keyframes,
              "beyond this number the most redundant keyframes are dropped; 0 = no bound",
              low=0, high=10_000_000),
    Parameter("map.every_m", MAP.picker.every_m,
              "a new keyframe where the view differs by this from all keyframes of this drive, "
              "metres (a turn of 0.6 rad counts as 1 m)", low=0.01, high=99.0),
    Parameter("map.period_s", MAP.period_s,
              "time between two relocalizations, seconds", low=0.0,
              high=3600.0),
    Parameter("map.max_roll_deg", MAP.relocalizer.max_roll_deg,
              "how far the camera may be rolled against the map's: an image that is not found is "
              "turned by up to as much; on wheels 0 saves 0.2 s for each such image", low=0.0,
              high=180.0),
    Parameter("map.publish_tf", False, "publish map -> odom to /tf, as AMCL does"),
    Parameter("map.voxel_m", MAP.voxel_m,
              "~/map_points has one point in each cube of this size, metres", low=0.005, high=10.0),
    Parameter("map.nice", MAP.nice,
              "how much the map process gives way on the CPU: 0 = not at all; from 15 on it "
              "takes only what no other process asks for, and on four cores or fewer stands "
              "still while a frame is at work", low=0, high=19),
]  # fmt: skip

PARAMETERS: dict[str, Parameter] = {p.name: p for p in _NODE + _INPUTS + _FRAMES + _TRACKING + _MAP}


def validation_error(values: Values) -> str | None:
    """An error message for these values together, or None if they are valid."""
    for name, value in values.items():
        words = PARAMETERS[name].validation_error(value) if name in PARAMETERS else None
        if words is not None:
            return words
    if bool(values.get("model_width")) != bool(values.get("model_height")):
        return "model_width and model_height go together: set both, or leave both 0"
    if values.get("map.mode", OFF) != OFF and not values.get("map.path"):
        return "map.mode needs map.path: name a file, or postgresql://..."
    try:
        if "base_from_camera" in values:
            base_from_camera(values)
        if {"base_from_camera", "base_from_tf", "pose.floor_below_base_m"} <= values.keys():
            _floor_below_base_m(values)
    except InvalidInput as error:
        return str(error)
    return None


def base_from_camera(values: Values) -> FloatArray:
    """4x4 of the parameter x y z qx qy qz qw."""
    numbers = np.asarray(list(values["base_from_camera"]), float)
    if numbers.shape != (7,) or not np.isfinite(numbers).all():
        raise InvalidInput("base_from_camera takes 7 numbers: x y z qx qy qz qw")
    T = np.eye(4)
    T[:3, :3] = checked_rotation(numbers[3:], "base_from_camera")
    T[:3, 3] = numbers[:3]
    return T


def _fields(values: Values, prefix: str, names: Iterable[str]) -> dict[str, Any]:
    return {name: values[f"{prefix}.{name}"] for name in names}


def sync_options(values: Values) -> InputOptions:
    """How messages are joined by their stamps; which topics there are is not known here."""
    return InputOptions(
        slop_ns=_nanoseconds(values["sync.slop_s"]),
        odom_gap_ns=_nanoseconds(values["sync.odom_gap_s"]),
        odom_delay_ns=_nanoseconds(values["sync.odom_delay_s"]),
        odom_delay_sigma_ns=_nanoseconds(values["sync.odom_delay_sigma_s"]),
        learn_odom_delay=values["sync.learn_odom_delay"],
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def tracker_options(values: Values) -> TrackerOptions:
    """The parameters as options of the tracker."""
    gates = ("min_inliers", "max_sigma_m", "max_sigma_rad", "max_speed_m_s", "max_turn_rad_s",
             "max_acceleration_m_s2", "max_turn_acceleration_rad_s2")  # fmt: skip
    trust = ("min_support", "max_disagreement", "max_depth_misfit", "max_depth_unexplained",
             "max_second_motion", "depth_distrusted_after")  # fmt: skip
    bands = ("coverage_min", "inliers_min", "certain_min", "hysteresis")
    moved = ("parallax_max_rad", "zoom_max")
    looks = ("sharpness_min", "texture_min")
    accuracy = ("threshold_px", "common_px", "depth_shared", "depth_scale_sigma", "stereo_noise",
                "max_scale_sigma", "focal_sigma", "shutter_sigma_s",
                "depth_delay_sigma_s")  # fmt: skip
    own = ("max_matches", "subpixel", "leave_out_movers", "kept_keyframes", "restart_after",
           "accept_repeated")  # fmt: skip
    return TrackerOptions(
        **_fields(values, "tracking", own),
        pose=replace(
            _POSE,
            texture=replace(_POSE.texture, grey=values["pose.texture_grey"]),
            depth_noise=replace(
                _POSE.depth_noise,
                constant_m=values["pose.depth_noise_m"],
                quadratic_per_m=values["pose.depth_noise_per_m"],
            ),
            **_fields(values, "pose", accuracy),
        ),
        trust=replace(TRACKER.trust, **_fields(values, "tracking", trust)),
        gates=replace(_GATES, **_fields(values, "tracking", gates)),
        keyframes=replace(_KEYFRAMES, **_fields(values, "keyframes", (*bands, *moved, *looks))),
        mask=_mask(values["tracking.mask"]),
        base_from_camera=base_from_camera(values),
        floor_below_base_m=_floor_below_base_m(values),
        odometry=OdometryNoise(
            **_fields(values, "odometry", ("sigma_m_per_m", "sigma_rad_per_rad"))
        ),
    )


def _mask(path: str) -> Mask | None:
    try:
        return read_mask(path) if path else None
    except OSError as error:
        raise InvalidInput(f"tracking.mask: {path}: {error.strerror or error}") from error


def _floor_below_base_m(values: Values) -> float | None:
    """None: not on wheels. Raises where the mount puts the camera on the floor or below."""
    floor_m = float(values["pose.floor_below_base_m"])
    if floor_m < 0:
        return None
    height_m = base_from_camera(values)[2, 3] + floor_m
    if height_m < LEAST_HEIGHT_M and not values["base_from_tf"]:
        raise InvalidInput(
            f"pose.floor_below_base_m is {floor_m:g} and base_from_camera's z puts the camera "
            f"{height_m:g} m above the floor: set that z, or base_from_tf: true"
        )
    return floor_m


def map_options(values: Values) -> OnlineOptions:
    """What the map needs of them."""
    return replace(
        MAP,
        path=values["map.path"],
        mode=values["map.mode"],
        period_s=values["map.period_s"],
        voxel_m=values["map.voxel_m"],
        nice=values["map.nice"],
        mapper=replace(MAP.mapper, max_keyframes=values["map.max_keyframes"]),
        picker=replace(MAP.picker, every_m=values["map.every_m"]),
        relocalizer=replace(MAP.relocalizer, max_roll_deg=values["map.max_roll_deg"]),
    )


def map_matcher_options(values: Values) -> dict[str, Any]:
    """The map's own copy of the matcher runs on one CPU thread: tracking keeps the others."""
    options = matcher_options(values)
    return options if values["model"] in NO_ENGINE else {**options, "threads": 1}


def matcher_options(values: Values) -> dict[str, Any]:
    """Keywords of `load_matcher`. Engine parameters do not apply to classical matchers."""
    if values["model"] in NO_ENGINE:
        return {}
    options: dict[str, Any] = {"backend": values["backend"]}
    if values["model_width"]:
        options["size"] = (values["model_width"], values["model_height"])
    for name in ("device", "precision", "threads", "cache_dir"):
        if values[name] != PARAMETERS[name].default:
            options[name] = values[name]
    return options


def depth_reader_options(values: Values) -> dict[str, Any]:
    """Keywords of `load_depth_reader`; its input size is its card's."""
    its_own = {"model": values["mono_depth"], "model_width": 0, "precision": "fp32"}
    options = matcher_options({**values, **its_own})
    return {name: value for name, value in options.items() if name != "size"}


# Parameters that every node has.
EVERY_NODE = ("use_sim_time", "start_type_description_service", "qos_overrides.")


def unknown_names(given: Iterable[str]) -> list[str]:
    """Names of no parameter, each with the nearest right spelling."""
    unknown = [n for n in given if n not in PARAMETERS and not n.startswith(EVERY_NODE)]
    guesses = {name: nearest_name(name, PARAMETERS) for name in unknown}
    return [f"{n} (did you mean {guess}?)" if guess else n for n, guess in guesses.items()]
