"""A run as a real ROS 2 bag (mcap or sqlite3), for Humble and everything later.

    topic                       type                       frame
    /camera/image_raw           sensor_msgs/Image          rgb8
    /camera/camera_info         sensor_msgs/CameraInfo
    /camera/depth               sensor_msgs/Image          16UC1 mm (default) or 32FC1 m
    /camera/right/image_raw     sensor_msgs/Image          only with stereo
    /camera/right/camera_info   sensor_msgs/CameraInfo     P[3] = -fx * baseline
    /odom                       nav_msgs/Odometry          odom -> base_link, with its drift
    /tf_static                  tf2_msgs/TFMessage         base_link -> the two optical frames
    /ground_truth/pose          geometry_msgs/PoseStamped  the camera's OPTICAL frame in `world`

Axes as REP-103 and REP-105 have them: world, odom and base_link are x forward, y left, z up;
optical frames are x right, y down, z forward. Ground truth takes points of
camera_optical_frame into world. Written in metadata version 8, which Humble, Iron, Jazzy and
later read: version 9 writes the QoS as a list, on which Humble fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from l2m_ros.errors import BackendUnavailable, InvalidInput
from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.simulation.output import written_whole
from l2m_ros.workshop.simulation.sequence import OPTICAL_FRAME, SimulatedFrame

STORAGES = {".mcap": "MCAP", ".db3": "SQLITE3"}  # suffix of the output -> rosbag2's name
DEPTH_ENCODINGS = ("16UC1", "32FC1")
BASE_FRAME, ODOM_FRAME, WORLD_FRAME = "base_link", "odom", "world"
RIGHT_FRAME = "camera_right_optical_frame"
TYPES = {
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/odom": "nav_msgs/msg/Odometry",
    "/ground_truth/pose": "geometry_msgs/msg/PoseStamped",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/depth": "sensor_msgs/msg/Image",
    "/camera/right/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/right/image_raw": "sensor_msgs/msg/Image",
}
INFINITE_S = (9223372036, 854775807)  # rmw's "no deadline", as recorders write it


def write_bag(
    path: str | Path,
    shots: Iterable[SimulatedFrame],
    *,
    depth_encoding: str = "16UC1",
    force: bool = False,
    custom_data: dict[str, str] | None = None,
) -> None:
    """Writes the folder `path`, whole or not at all; its suffix (.mcap, .db3) names the storage."""
    path = Path(path)
    if path.suffix not in STORAGES:
        raise InvalidInput(f"a bag's name ends in {' or '.join(STORAGES)}, got {path}")
    if depth_encoding not in DEPTH_ENCODINGS:
        raise InvalidInput(
            f"depth encoding must be {' or '.join(DEPTH_ENCODINGS)}, got {depth_encoding!r}"
        )
    with written_whole(path, force=force) as made:
        writer = _BagWriter(made, STORAGES[path.suffix], depth_encoding, custom_data or {})
        with writer:
            for shot in shots:
                writer.write(shot)


class _BagWriter:
    """Messages of one run into one rosbags writer."""

    def __init__(
        self, path: Path, storage: str, depth_encoding: str, custom_data: dict[str, str]
    ) -> None:
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
        except ImportError as error:
            raise BackendUnavailable("writing bags needs rosbags: pip install rosbags") from error
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage])
        for key, value in {"generator": "l2m simulate", **custom_data}.items():
            self._writer.set_custom_data(key, value)
        self._messages = Messages()
        self._depth_encoding = depth_encoding
        self._connections: dict[str, Any] = {}
        self._last: SimulatedFrame | None = None

    def __enter__(self) -> _BagWriter:
        self._writer.open()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._writer.__exit__(*failure)

    def write(self, shot: SimulatedFrame) -> None:
        make, frame = self._messages, shot.frame
        head = make.header(frame.stamp_ns, frame.frame_id)
        if self._last is None:
            self._send("/tf_static", frame.stamp_ns, make.static_transforms(shot))
        said = {
            "/odom": make.odometry(shot, self._last),
            "/ground_truth/pose": make.ground_truth(shot),
            "/camera/camera_info": make.camera_info(head, frame.camera, 0.0),
            "/camera/image_raw": make.image(head, frame.rgb),
        }
        if frame.depth is not None:
            said["/camera/depth"] = make.depth(head, frame.depth, self._depth_encoding)
        if frame.right_rgb is not None and frame.right_camera is not None:
            right = make.header(frame.stamp_ns, RIGHT_FRAME)
            baseline_m = -float(np.asarray(frame.right_from_camera)[0, 3])
            info = make.camera_info(right, frame.right_camera, baseline_m)
            said["/camera/right/camera_info"] = info
            said["/camera/right/image_raw"] = make.image(right, frame.right_rgb)
        for topic, message in said.items():
            self._send(topic, frame.stamp_ns, message)
        self._last = shot

    def _send(self, topic: str, stamp_ns: int, message: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic,
                TYPES[topic],
                typestore=self._messages.store,
                offered_qos_profiles=[_qos(latched=topic == "/tf_static")],
            )
        data = self._messages.store.serialize_cdr(message, TYPES[topic])
        self._writer.write(self._connections[topic], stamp_ns, data)


def _qos(*, latched: bool) -> Any:
    """Reliable, so that reliable and best-effort subscribers both connect; tf_static latched."""
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )

    never = QosTime(*INFINITE_S)
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        durability,
        never,
        never,
        QosLiveliness.AUTOMATIC,
        never,
        False,
    )


class Messages:
    """ROS 2 messages from simulated frames, in the definitions of Jazzy."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.store = get_typestore(Stores.ROS2_JAZZY)

    def _new(self, name: str, **fields: Any) -> Any:
        package, kind = name.split("/")
        return self.store.types[f"{package}/msg/{kind}"](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = self._new("builtin_interfaces/Time", sec=seconds, nanosec=nanoseconds)
        return self._new("std_msgs/Header", stamp=stamp, frame_id=frame_id)

    def image(self, header: Any, rgb: ByteArray) -> Any:
        return self._image(header, rgb, "rgb8", 3)

    def depth(self, header: Any, depth_m: FloatArray, encoding: str) -> Any:
        if encoding == "32FC1":
            return self._image(header, np.asarray(depth_m, "<f4"), encoding, 4)
        mm = np.where(np.isfinite(depth_m), np.rint(depth_m * 1000.0), 0.0)
        return self._image(header, np.where(mm < 65536, mm, 0).astype("<u2"), encoding, 2)

    def _image(self, header: Any, pixels: Any, encoding: str, pixel_bytes: int) -> Any:
        height, width = pixels.shape[:2]
        return self._new(
            "sensor_msgs/Image",
            header=header,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=width * pixel_bytes,
            data=np.ascontiguousarray(pixels).view(np.uint8).ravel(),
        )

    def camera_info(self, header: Any, camera: Camera, baseline_m: float) -> Any:
        """P belongs to the rectified image, which keeps K; P[3] = -fx * baseline on the right."""
        P = np.hstack([camera.K, [[-camera.K[0, 0] * baseline_m], [0.0], [0.0]]])
        plain = camera.distortion == "none"
        roi = self._new(
            "sensor_msgs/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        )
        return self._new(
            "sensor_msgs/CameraInfo",
            header=header,
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob" if plain else camera.distortion,
            d=np.zeros(5) if plain else np.array(camera.D),
            k=np.array(camera.K).ravel(),
            r=np.eye(3).ravel(),
            p=P.ravel(),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def odometry(self, shot: SimulatedFrame, last: SimulatedFrame | None) -> Any:
        header = self.header(shot.frame.stamp_ns, ODOM_FRAME)
        pose = self._new(
            "geometry_msgs/PoseWithCovariance",
            pose=self._pose(shot.odom_from_base),
            covariance=shot.odom_covariance.ravel(),
        )
        return self._new(
            "nav_msgs/Odometry",
            header=header,
            child_frame_id=BASE_FRAME,
            pose=pose,
            twist=self._twist(shot, last),
        )

    def _twist(self, shot: SimulatedFrame, last: SimulatedFrame | None) -> Any:
        """Mean velocity since the last frame, in base_link, with the covariance of the step."""
        velocity, covariance = np.zeros(6), np.zeros((6, 6))
        if last is not None:
            dt_s = shot.time_s - last.time_s
            step = np.linalg.inv(last.odom_from_base) @ shot.odom_from_base
            angle = Rotation.from_matrix(step[:3, :3]).as_rotvec()
            velocity = np.concatenate([step[:3, 3], angle]) / dt_s
            grown = np.diag(shot.odom_covariance - last.odom_covariance)
            covariance = np.diag(np.maximum(grown, 1e-9)) / dt_s**2
        vectors = {
            name: self._vector(part)
            for name, part in (("linear", velocity[:3]), ("angular", velocity[3:]))
        }
        twist = self._new("geometry_msgs/Twist", **vectors)
        return self._new(
            "geometry_msgs/TwistWithCovariance", twist=twist, covariance=covariance.ravel()
        )

    def ground_truth(self, shot: SimulatedFrame) -> Any:
        header = self.header(shot.frame.stamp_ns, WORLD_FRAME)
        pose = self._pose(shot.world_from_camera)
        return self._new("geometry_msgs/PoseStamped", header=header, pose=pose)

    def static_transforms(self, shot: SimulatedFrame) -> Any:
        frames = {OPTICAL_FRAME: shot.base_from_camera}
        if shot.frame.right_from_camera is not None:
            camera_from_right = np.linalg.inv(shot.frame.right_from_camera)
            frames[RIGHT_FRAME] = shot.base_from_camera @ camera_from_right
        header = self.header(shot.frame.stamp_ns, BASE_FRAME)
        transforms = [self._transform(header, child, T) for child, T in frames.items()]
        return self._new("tf2_msgs/TFMessage", transforms=transforms)

    def _transform(self, header: Any, child: str, parent_from_child: FloatArray) -> Any:
        transform = self._new(
            "geometry_msgs/Transform",
            translation=self._vector(parent_from_child[:3, 3]),
            rotation=self._quaternion(parent_from_child[:3, :3]),
        )
        return self._new(
            "geometry_msgs/TransformStamped",
            header=header,
            child_frame_id=child,
            transform=transform,
        )

    def _pose(self, T: FloatArray) -> Any:
        x, y, z = T[:3, 3].tolist()
        position = self._new("geometry_msgs/Point", x=x, y=y, z=z)
        orientation = self._quaternion(T[:3, :3])
        return self._new("geometry_msgs/Pose", position=position, orientation=orientation)

    def _vector(self, v: FloatArray) -> Any:
        x, y, z = np.asarray(v, float).tolist()
        return self._new("geometry_msgs/Vector3", x=x, y=y, z=z)

    def _quaternion(self, R: FloatArray) -> Any:
        x, y, z, w = Rotation.from_matrix(R).as_quat(canonical=True).tolist()
        return self._new("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)
