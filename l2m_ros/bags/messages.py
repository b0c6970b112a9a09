"""ROS 2 messages without ROS: the definitions of Jazzy, as rosbags has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from l2m_ros.frames.messages import NS_PER_S
from l2m_ros.geometry import se3
from l2m_ros.types import ByteArray, Camera, FloatArray


class Messages:
    """Makes messages; `store` serialises them."""

    def __init__(self) -> None:
        self.store = get_typestore(Stores.ROS2_JAZZY)

    def new(self, type_name: str, /, **fields: Any) -> Any:
        """sensor_msgs/Image and every field of it -> the message."""
        package, kind = type_name.split("/")
        return self.store.types[f"{package}/msg/{kind}"](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
        stamp = self.new("builtin_interfaces/Time", sec=seconds, nanosec=nanoseconds)
        return self.new("std_msgs/Header", stamp=stamp, frame_id=frame_id)

    def image(self, header: Any, rgb: ByteArray) -> Any:
        return self._image(header, rgb, "rgb8")

    def depth(self, header: Any, depth_m: FloatArray, encoding: str) -> Any:
        """16UC1 millimetres, 0 = unknown, or 32FC1 metres."""
        if encoding == "32FC1":
            return self._image(header, np.asarray(depth_m, "<f4"), encoding)
        mm = np.where(np.isfinite(depth_m), np.rint(depth_m * 1000.0), 0.0)
        return self._image(header, np.where(mm < 65536, mm, 0).astype("<u2"), encoding)

    def _image(self, header: Any, pixels: Any, encoding: str) -> Any:
        pixels = np.ascontiguousarray(pixels)
        return self.new(
            "sensor_msgs/Image",
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels.nbytes // pixels.shape[0],
            data=pixels.view(np.uint8).ravel(),
        )

    def camera_info(self, header: Any, camera: Camera, baseline_m: float = 0.0) -> Any:
        """P belongs to the rectified image, which keeps K; P[3] = -fx * baseline on the right."""
        P = np.hstack([camera.K, [[-camera.K[0, 0] * baseline_m], [0.0], [0.0]]])
        plain = camera.distortion == "none"
        roi = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
        return self.new(
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
            roi=self.new("sensor_msgs/RegionOfInterest", **roi),
        )

    def pose(self, T: FloatArray) -> Any:
        x, y, z = T[:3, 3].tolist()
        position = self.new("geometry_msgs/Point", x=x, y=y, z=z)
        orientation = self.quaternion(T[:3, :3])
        return self.new("geometry_msgs/Pose", position=position, orientation=orientation)

    def pose_with_covariance(self, T: FloatArray, covariance: FloatArray) -> Any:
        return self.new(
            "geometry_msgs/PoseWithCovariance", pose=self.pose(T), covariance=covariance.ravel()
        )

    def twist_with_covariance(self, twist: FloatArray, covariance: FloatArray) -> Any:
        """twist: (6,) linear, angular."""
        linear, angular = self.vector(twist[:3]), self.vector(twist[3:])
        return self.new(
            "geometry_msgs/TwistWithCovariance",
            twist=self.new("geometry_msgs/Twist", linear=linear, angular=angular),
            covariance=covariance.ravel(),
        )

    def transform(self, header: Any, child: str, parent_from_child: FloatArray) -> Any:
        """geometry_msgs/TransformStamped."""
        transform = self.new(
            "geometry_msgs/Transform",
            translation=self.vector(parent_from_child[:3, 3]),
            rotation=self.quaternion(parent_from_child[:3, :3]),
        )
        return self.new(
            "geometry_msgs/TransformStamped",
            header=header,
            child_frame_id=child,
            transform=transform,
        )

    def vector(self, v: FloatArray) -> Any:
        x, y, z = np.asarray(v, float).tolist()
        return self.new("geometry_msgs/Vector3", x=x, y=y, z=z)

    def quaternion(self, R: FloatArray) -> Any:
        x, y, z, w = se3.quaternion(R).tolist()
        return self.new("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)
