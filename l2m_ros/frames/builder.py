"""Bundle of messages -> Frame -> tracker. No ROS, no threads: the node and a replay share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.inputs import CAMERA_INFO, DEPTH, IMAGE, RIGHT, RIGHT_INFO, Bundle, Note
from l2m_ros.frames.messages import read_camera, read_depth, read_image, read_right_from_camera
from l2m_ros.tracking.keyframes import OdometrySample
from l2m_ros.tracking.tracker import Tracker, TrackResult
from l2m_ros.types import Camera, FloatArray, Frame


@dataclass(frozen=True)
class Done:
    """One frame, tracked, and how long each stage took."""

    result: TrackResult
    stages_ms: dict[str, float] = field(default_factory=dict)


class FrameRefused(InvalidInput):
    """The messages make no frame; the builder has noted why."""


def is_rectified(setting: str, image_topic: str) -> bool:
    """What the parameter `rectified` (auto, use, ignore) says of a topic."""
    if setting != "auto":
        return setting == "use"
    return "rect" in image_topic.rsplit("/", 1)[-1]


class FrameBuilder:
    """Messages -> Frame. A wrong image or camera_info refuses the frame; wrong depth or a wrong
    right image is left out, in words."""

    def __init__(self, *, rectified: bool, note: Note = lambda key, words: None) -> None:
        self._rectified = rectified
        self._note = note
        self._cameras: dict[str, tuple[Any, Camera]] = {}

    def build(self, bundle: Bundle) -> Frame:
        """Raises InvalidInput where there can be no frame, after it has noted why."""
        messages = bundle.messages
        image = messages[IMAGE]
        rgb = self._checked(IMAGE, lambda: read_image(image))
        camera = self._checked(CAMERA_INFO, lambda: self._camera(CAMERA_INFO, messages, rgb.shape))
        depth = self._optional(DEPTH, messages, lambda: _depth(messages[DEPTH], camera))
        right = self._optional(RIGHT, messages, lambda: self._right(messages))
        return Frame(
            rgb,
            camera,
            depth,
            **({} if right is None else right),
            stamp_ns=bundle.stamp_ns,
            frame_id=image.header.frame_id or "camera",
        )

    def _checked(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` makes; a refusal is noted under the key and passed on."""
        try:
            made = make()
        except InvalidInput as error:
            self._note(key, str(error))
            raise
        self._note(key, None)
        return made

    def _optional(self, key: str, messages: dict[str, Any], make: Callable[[], Any]) -> Any:
        if key not in messages:
            return None
        try:
            return self._checked(key, make)
        except InvalidInput:
            return None

    def _camera(self, topic: str, messages: dict[str, Any], shape: tuple[int, ...]) -> Camera:
        info = messages[topic]
        known = self._cameras.get(topic)
        if known is None or known[0] is not info:
            known = (info, read_camera(info, rectified=self._rectified))
            self._cameras[topic] = known
        camera = known[1]
        if camera.size != (shape[1], shape[0]):
            raise InvalidInput(
                f"{topic} is of {camera.width}x{camera.height} but the image is "
                f"{shape[1]}x{shape[0]}: remap {topic} to the topic that belongs to the image"
            )
        return camera

    def _right(self, messages: dict[str, Any]) -> dict[str, Any]:
        rgb = read_image(messages[RIGHT])
        return {
            "right_rgb": rgb,
            "right_camera": self._camera(RIGHT_INFO, messages, rgb.shape),
            "right_from_camera": read_right_from_camera(messages[RIGHT_INFO]),
        }


def _depth(message: Any, camera: Camera) -> FloatArray:
    depth = read_depth(message)
    if depth.shape != (camera.height, camera.width):
        raise InvalidInput(
            f"depth is {depth.shape[1]}x{depth.shape[0]} but the image is "
            f"{camera.width}x{camera.height}: publish depth registered to the image "
            "(depth_image_proc's register node, or the driver's aligned depth)"
        )
    if not np.isfinite(depth).any():
        raise InvalidInput(
            "depth holds no known pixel (all NaN or 0): is the sensor covered, too near, or its "
            "projector off?"
        )
    return depth


class Pipeline:
    """One frame after another through the tracker."""

    def __init__(
        self,
        tracker: Tracker,
        builder: FrameBuilder,
        odometry_at: Callable[[int], OdometrySample | None] = lambda stamp_ns: None,
    ) -> None:
        self._tracker = tracker
        self._builder = builder
        self._odometry_at = odometry_at
        self._keyframe: Any = None

    def process(self, bundle: Bundle) -> Done:
        """Raises FrameRefused where the messages make no frame."""
        if bundle.reset:
            self._tracker.reset()
            self._keyframe = None
        started = time.perf_counter()
        try:
            frame = self._builder.build(bundle)
        except InvalidInput as error:
            raise FrameRefused(str(error)) from error
        frame_ms = (time.perf_counter() - started) * 1e3
        if self._gains_scale(frame):
            self._tracker.set_keyframe()
        result = self._tracker.process(frame, self._odometry_at(frame.stamp_ns))
        self._keyframe = result.keyframe
        return Done(result, {"frame": frame_ms, **result.stages_ms})

    def _gains_scale(self, frame: Frame) -> bool:
        """A keyframe taken before depth came has none: a new one makes poses metric."""
        if self._keyframe is None:
            return False
        has = frame.depth is not None or frame.right_rgb is not None
        kept = self._keyframe
        return has and kept.frame.depth is None and kept.stereo_depth is None
