"""Converts messages to the values of `l2m_ros.types` and back: pure functions.

Reading takes whatever has the message's fields (rclpy's classes, or those that rosbags makes of a
bag), so nothing of ROS is imported for it; writing imports the message classes when called.
Refusals are `InvalidInput`, in words that name the remedy.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.compressed_depth import decompress_depth
from l2m_ros.frames.encodings import ENCODINGS, bits_used, to_depth, to_rgb, unpacked
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import camera_from_info
from l2m_ros.image_header import USUAL, SizeLimits
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.place import Twist
from l2m_ros.types import ByteArray, Camera, FloatArray

NS_PER_S = 1_000_000_000
CLOUD_FIELDS = ("x", "y", "z", "u", "v", "ku", "kv", "confidence", "inlier")  # float32 each
FLOAT32 = 7  # sensor_msgs/PointField.FLOAT32
BASELINES_M = (1e-4, 10.0)  # of a stereo pair that a robot can carry
# Consumers invert covariances; robot_localization uses this floor too.
MIN_VARIANCE = 1e-9
WORST_CONDITION = 1e-12  # smallest over largest variance: a Cholesky needs some digits
UNKNOWN_VARIANCE = 1e6  # of a twist that nobody measured, and of an edge that is missing


def message_class(name: str) -> Any:
    """sensor_msgs/Image -> the class; imported when first asked for."""
    package, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


# ---- stamps and headers ------------------------------------------------------------------------


def stamp_ns(message: Any) -> int:
    """Nanoseconds of a message's header."""
    stamp = message.header.stamp
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def header(stamp: int, frame_id: str) -> Any:
    Time = message_class("builtin_interfaces/Time")
    Header = message_class("std_msgs/Header")
    sec, nanosec = divmod(stamp, NS_PER_S)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)


# ---- images ------------------------------------------------------------------------------------


def read_image(message: Any, limits: SizeLimits = USUAL, bits: int = 16) -> ByteArray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/Image or CompressedImage; bits: see `to_rgb`."""
    message = unpacked_image(message, limits)
    if message.encoding not in ENCODINGS and (bridge := _cv_bridge()) is not None:
        return _by_bridge(bridge, message)
    return to_rgb(message.data, bits=bits, **_layout(message))


def unpacked_image(message: Any, limits: SizeLimits = USUAL) -> Any:
    """A CompressedImage with the fields of an Image; an Image as it is."""
    if not hasattr(message, "format"):
        return message
    return unpacked(message.data, str(message.format), limits)


def image_bits(message: Any) -> int:
    """Bits of the brightest value of a 16-bit Image; 0 for any other."""
    return bits_used(message.data, **_layout(message))


def read_depth(message: Any, limits: SizeLimits = USUAL) -> FloatArray:
    """(H, W) float32 metres, NaN = unknown, of a sensor_msgs/Image 16UC1 or 32FC1, or of a
    CompressedImage by compressedDepth."""
    if hasattr(message, "format"):
        return decompress_depth(message.data, str(message.format), limits)
    return to_depth(message.data, **_layout(message))


def _layout(message: Any) -> dict[str, Any]:
    return {
        "width": int(message.width),
        "height": int(message.height),
        "step": int(message.step),
        "encoding": str(message.encoding),
        "big_endian": bool(message.is_bigendian),
    }


def _cv_bridge() -> Any:
    """cv_bridge's converter where it is installed and works with this NumPy, else None."""
    try:
        return importlib.import_module("cv_bridge").CvBridge()
    except (ImportError, AttributeError):  # AttributeError: built against NumPy 1
        return None


def _by_bridge(bridge: Any, message: Any) -> ByteArray:
    try:
        return np.asarray(bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except Exception as error:  # cv_bridge raises CvBridgeError, and what Boost makes of others
        raise InvalidInput(
            f"image encoding {message.encoding!r} is known neither here nor to cv_bridge "
            f"({error}); set the camera driver to one of {', '.join(ENCODINGS)}"
        ) from error


def image_message(pixels: npt.NDArray[Any], encoding: str, head: Any) -> Any:
    """sensor_msgs/Image of an array (H, W[, C]) whose type the encoding names."""
    Image = message_class("sensor_msgs/Image")
    height, width = pixels.shape[:2]
    message = Image(
        header=head,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=False,
        step=width * pixels.itemsize * int(np.prod(pixels.shape[2:])),
    )
    fill_data(message, pixels)
    return message


def fill_data(message: Any, values: npt.NDArray[Any]) -> None:
    """The bytes of an array into a message's `data`, copied once: 0.1 ms for a 720p image.

    rclpy copies an array.array that is assigned or given to the constructor once more, and a
    list element by element: 100 ms.
    """
    contiguous: Any = np.ascontiguousarray(values)
    if contiguous.size:  # memoryview casts nothing that is empty
        message.data.frombytes(memoryview(contiguous).cast("B"))


# ---- cameras -----------------------------------------------------------------------------------


def read_camera(info: Any, *, rectified: bool = False) -> Camera:
    """The camera of the image that a CameraInfo belongs to, binning and ROI applied."""
    K = _field(info, "k").reshape(3, 3)
    if not K[0, 0]:
        raise InvalidInput(
            "camera_info has K[0] = 0: the camera is not calibrated; run camera_calibration, "
            "or give the driver its camera_info_url"
        )
    return camera_from_info(
        width=int(info.width),
        height=int(info.height),
        K=K,
        distortion_model=str(info.distortion_model),
        D=_field(info, "d"),
        P=_field(info, "p").reshape(3, 4),
        binning=(int(info.binning_x), int(info.binning_y)),
        roi=(
            int(info.roi.x_offset),
            int(info.roi.y_offset),
            int(info.roi.width),
            int(info.roi.height),
        ),
        rectified=rectified,
    )


def read_right_from_camera(right_info: Any, left_info: Any | None = None) -> FloatArray:
    """4x4 of a rectified stereo pair: P[0, 3] = -fx * baseline; of the left one, usually 0."""
    P = _field(right_info, "p").reshape(3, 4).copy()
    if left_info is not None:
        P[0, 3] -= _field(left_info, "p").reshape(3, 4)[0, 3]
    if not P[0, 0] or not P[0, 3]:
        raise InvalidInput(
            "right/camera_info holds no baseline (P[3] = 0): publish the rectified pair with its "
            "stereo calibration, or leave right/image unconnected"
        )
    with np.errstate(all="ignore"):
        baseline_m = -P[0, 3] / P[0, 0]
    if not (np.isfinite(P).all() and BASELINES_M[0] < abs(baseline_m) < BASELINES_M[1]):
        raise InvalidInput(
            f"right/camera_info says that the baseline is {baseline_m:g} m (P[3] = {P[0, 3]:g}, "
            f"P[0] = {P[0, 0]:g}): was the pair calibrated in millimetres? Calibrate it "
            "in metres, or leave right/image unconnected"
        )
    if baseline_m < 0:
        raise InvalidInput(
            f"right/camera_info says that the right camera is {-baseline_m:g} m to the left of the "
            "left one (P[3] > 0): swap the left and the right topics"
        )
    right_from_camera = np.eye(4)
    right_from_camera[0, 3] = -baseline_m
    return right_from_camera


def _field(info: Any, name: str) -> FloatArray:
    """A CameraInfo's matrix: small letters in ROS 2, capitals in ROS 1's bags."""
    return np.asarray(getattr(info, name if hasattr(info, name) else name.upper()), float)


def camera_info_message(camera: Camera, head: Any) -> Any:
    CameraInfo = message_class("sensor_msgs/CameraInfo")
    P = np.hstack([camera.K, np.zeros((3, 1))])
    return CameraInfo(
        header=head,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob" if camera.distortion == "none" else camera.distortion,
        d=(camera.D if camera.D.size else np.zeros(5)).tolist(),
        k=camera.K.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=P.ravel().tolist(),
    )


# ---- poses -------------------------------------------------------------------------------------


def read_odometry(message: Any) -> OdometrySample:
    """The robot's base in odom, of a nav_msgs/Odometry."""
    pose, covariance = read_pose(message.pose)
    return OdometrySample(stamp_ns(message), pose, covariance)


def read_pose(message: Any, what: str = "odom") -> tuple[FloatArray, FloatArray]:
    """(4x4, 6x6) of a geometry_msgs/PoseWithCovariance; `what` names it in a refusal."""
    p, q = message.pose.position, message.pose.orientation
    T = np.eye(4)
    T[:3, :3] = checked_rotation(np.array([q.x, q.y, q.z, q.w], float), what)
    T[:3, 3] = p.x, p.y, p.z
    covariance = np.asarray(message.covariance, float).reshape(6, 6)
    if not (np.isfinite(T).all() and np.isfinite(covariance).all()):
        raise InvalidInput(f"{what} holds NaN or infinity: check the node that publishes it")
    return T, covariance


def checked_rotation(q: FloatArray, what: str) -> FloatArray:
    """3x3 of a quaternion (x, y, z, w) of nearly length 1; `what` names it in a refusal."""
    length = float(np.linalg.norm(q))
    if not np.isfinite(length) or abs(length - 1) > 0.01:
        raise InvalidInput(f"{what} holds a quaternion of length {length:g}: it must be 1")
    return se3.rotation_from_quaternion(q / length)


def positive_definite(covariance: FloatArray) -> FloatArray:
    """The covariance made symmetric, with eigenvalues of at least MIN_VARIANCE and of a condition
    that double precision can invert."""
    symmetric: FloatArray = 0.5 * (covariance + covariance.T)
    values, vectors = np.linalg.eigh(symmetric)
    floor = max(MIN_VARIANCE, WORST_CONDITION * float(values[-1]))
    if values[0] < floor:
        symmetric = (vectors * np.maximum(values, floor)) @ vectors.T
        symmetric = 0.5 * (symmetric + symmetric.T)
    return symmetric


def plain_pose(T: FloatArray) -> Any:
    """geometry_msgs/Pose."""
    Point = message_class("geometry_msgs/Point")
    Pose = message_class("geometry_msgs/Pose")
    Quaternion = message_class("geometry_msgs/Quaternion")
    x, y, z = (float(value) for value in T[:3, 3])
    qx, qy, qz, qw = (float(value) for value in se3.quaternion(T[:3, :3]))
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def pose_with_covariance(T: FloatArray, covariance: FloatArray) -> Any:
    PoseWithCovariance = message_class("geometry_msgs/PoseWithCovariance")
    return PoseWithCovariance(pose=plain_pose(T), covariance=positive_definite(covariance).ravel())


def pose_message(T: FloatArray, covariance: FloatArray, head: Any) -> Any:
    """geometry_msgs/PoseWithCovarianceStamped."""
    PoseWithCovarianceStamped = message_class("geometry_msgs/PoseWithCovarianceStamped")
    return PoseWithCovarianceStamped(header=head, pose=pose_with_covariance(T, covariance))


def odometry_message(
    T: FloatArray, covariance: FloatArray, head: Any, child: str, twist: Twist | None = None
) -> Any:
    """nav_msgs/Odometry; an unknown twist says so by its covariance."""
    Odometry = message_class("nav_msgs/Odometry")
    pose = pose_with_covariance(T, covariance)
    return Odometry(header=head, child_frame_id=child, pose=pose, twist=twist_message(twist))


def twist_message(twist: Twist | None) -> Any:
    """geometry_msgs/TwistWithCovariance."""
    TwistWithCovariance = message_class("geometry_msgs/TwistWithCovariance")
    if twist is None:
        return TwistWithCovariance(covariance=(UNKNOWN_VARIANCE * np.eye(6)).ravel())
    Vector3 = message_class("geometry_msgs/Vector3")
    linear, angular = (
        Vector3(x=float(x), y=float(y), z=float(z)) for x, y, z in twist.velocity.reshape(2, 3)
    )
    return TwistWithCovariance(
        twist=message_class("geometry_msgs/Twist")(linear=linear, angular=angular),
        covariance=positive_definite(twist.covariance).ravel(),
    )


def status_message(level: int, name: str, words: str, values: dict[str, str]) -> Any:
    """diagnostic_msgs/DiagnosticStatus."""
    DiagnosticStatus = message_class("diagnostic_msgs/DiagnosticStatus")
    KeyValue = message_class("diagnostic_msgs/KeyValue")
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(level=bytes([level]), name=name, message=words, values=pairs)


def transform_message(T: FloatArray, head: Any, child: str) -> Any:
    """geometry_msgs/TransformStamped."""
    Quaternion = message_class("geometry_msgs/Quaternion")
    Transform = message_class("geometry_msgs/Transform")
    TransformStamped = message_class("geometry_msgs/TransformStamped")
    Vector3 = message_class("geometry_msgs/Vector3")
    x, y, z = (float(value) for value in T[:3, 3])
    qx, qy, qz, qw = (float(value) for value in se3.quaternion(T[:3, :3]))
    transform = Transform(
        translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)
    )
    return TransformStamped(header=head, child_frame_id=child, transform=transform)


def read_transform(message: Any) -> FloatArray:
    """4x4 of a geometry_msgs/Transform."""
    t, q = message.translation, message.rotation
    T = np.eye(4)
    T[:3, :3] = checked_rotation(np.array([q.x, q.y, q.z, q.w], float), "the transform")
    T[:3, 3] = t.x, t.y, t.z
    return T


# ---- correspondences ---------------------------------------------------------------------------


def cloud_message(columns: FloatArray, head: Any) -> Any:
    """sensor_msgs/PointCloud2 of (N, 9) float32 in the order of CLOUD_FIELDS."""
    PointCloud2 = message_class("sensor_msgs/PointCloud2")
    PointField = message_class("sensor_msgs/PointField")
    fields = [
        PointField(name=name, offset=4 * i, datatype=FLOAT32, count=1)
        for i, name in enumerate(CLOUD_FIELDS)
    ]
    points = np.ascontiguousarray(columns, np.dtype("<f4"))
    message = PointCloud2(
        header=head,
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=4 * len(CLOUD_FIELDS),
        row_step=4 * len(CLOUD_FIELDS) * len(points),
        is_dense=bool(np.isfinite(points).all()),
    )
    fill_data(message, points)
    return message


def read_cloud(message: Any) -> dict[str, FloatArray]:
    """Each field of a PointCloud2 of float32 fields, by name, (N,)."""
    order = np.dtype(">f4" if message.is_bigendian else "<f4")
    if wrong := [field.name for field in message.fields if field.datatype != FLOAT32]:
        raise InvalidInput(f"fields {', '.join(wrong)} of the cloud are not float32")
    layout: Any = {
        "names": [field.name for field in message.fields],
        "formats": [order] * len(message.fields),
        "offsets": [int(field.offset) for field in message.fields],
        "itemsize": int(message.point_step),
    }
    try:
        points = np.frombuffer(memoryview(message.data).cast("B"), np.dtype(layout))
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"the cloud's fields contradict its bytes: {error}") from error
    return {field.name: np.asarray(points[field.name]) for field in message.fields}
