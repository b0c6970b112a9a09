"""The node's parameters as values: topics, sources of scale, TF frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from l2m_ros.frames.inputs import (
    CAMERA_INFO,
    DEPTH,
    IMAGE,
    ODOM,
    RIGHT,
    RIGHT_INFO,
    InputOptions,
)
from l2m_ros.frames.outputs import FrameNames
from l2m_ros.image_header import SizeLimits
from l2m_ros.node.subscriptions import LOSSLESS_DEPTH, TopicRequest
from l2m_ros.parameters.table import Values, base_from_camera, sync_options
from l2m_ros.types import FloatArray

OPTIONAL = (DEPTH, RIGHT, ODOM)
OWNER = {RIGHT_INFO: RIGHT}  # the input that a topic belongs to, where its key is another


@dataclass(frozen=True)
class NodeConfig:
    """What `FramePipeline` needs of the parameters."""

    input_options: InputOptions
    use: dict[str, str]  # auto, use or ignore, by optional topic
    compressed: bool
    compressed_depth: bool
    size_limits: SizeLimits
    rectified: str
    stale_after_s: float
    frames: FrameNames
    base_from_camera: FloatArray
    base_from_tf: bool
    publish_tf: bool
    image_bits: int
    depth_stamps: bool
    encode_ahead: bool

    @classmethod
    def from_parameters(cls, values: Values) -> NodeConfig:
        return cls(
            input_options=replace(
                sync_options(values),
                lossless=values["queue"] == "all",
                waiting_bytes=values["queue_mb"] * 2**20,
            ),
            use={
                DEPTH: values["depth"],
                RIGHT: values["right"],
                ODOM: values["odom"],
            },
            compressed=values["image_transport"] == "compressed",
            compressed_depth=values["depth_transport"] == "compressedDepth",
            size_limits=SizeLimits(pixels=values["max_image_pixels"]),
            rectified=values["rectified"],
            stale_after_s=values["stale_after_s"],
            frames=FrameNames(
                values["frames.odom"],
                values["frames.base"],
                values["frames.keyframe"],
                values["frames.map"],
            ),
            base_from_camera=base_from_camera(values),
            base_from_tf=values["base_from_tf"],
            publish_tf=values["publish_tf"],
            image_bits=values["image_bits"],
            depth_stamps=values["sync.depth_stamps"],
            encode_ahead=values["encode_ahead"],
        )

    def topic_requests(self, resolve: Callable[[str], str]) -> list[TopicRequest]:
        """The topics to subscribe to; `resolve` gives the full, remapped topic of an input."""
        kind = "sensor_msgs/CompressedImage" if self.compressed else "sensor_msgs/Image"
        ending = "/compressed" if self.compressed else ""
        packed = self.compressed_depth
        depth_kind = "sensor_msgs/CompressedImage" if packed else "sensor_msgs/Image"
        depth_ending = "/compressedDepth" if packed else ""
        types = {
            IMAGE: (kind, ending, 2),
            CAMERA_INFO: ("sensor_msgs/CameraInfo", "", 2),
            DEPTH: (depth_kind, depth_ending, 5),
            RIGHT: (kind, ending, 5),
            RIGHT_INFO: ("sensor_msgs/CameraInfo", "", 2),
            ODOM: ("nav_msgs/Odometry", "", 100),
        }
        ignored = {key for key, use in self.use.items() if use == "ignore"}
        ignored |= {RIGHT_INFO} if RIGHT in ignored else set()
        return [
            TopicRequest(
                key,
                kind,
                resolve(key) + end,
                LOSSLESS_DEPTH if self.lossless else depth,
                needed=self.use.get(OWNER.get(key, key), "use") == "use",
            )
            for key, (kind, end, depth) in types.items()
            if key not in ignored
        ]

    @property
    def lossless(self) -> bool:
        return self.input_options.lossless

    def uses(self, key: str, *, published: bool) -> bool:
        """Whether an optional input (depth, right/image, odom) is part of a frame."""
        return self.use[key] == "use" or (self.use[key] == "auto" and published)
