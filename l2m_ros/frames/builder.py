"""Bundle of messages -> Frame. No ROS, no threads: the node and `l2m replay` both use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.depth_ceiling import DepthCeiling
from l2m_ros.frames.encodings import BIT_DEPTHS
from l2m_ros.frames.inputs import CAMERA_INFO, DEPTH, IMAGE, RIGHT, RIGHT_INFO, Bundle, Report
from l2m_ros.frames.messages import (
    image_bits,
    read_camera,
    read_depth,
    read_image,
    stamp_ns,
    unpacked_image,
)
from l2m_ros.frames.rectified import camera_info_bytes, is_rectified
from l2m_ros.frames.stereo_pair import StereoPairs
from l2m_ros.image_header import USUAL, SizeLimits, check_sides
from l2m_ros.types import ByteArray, Camera, FloatArray, Frame

# Of depth that is known, a share that is nearer than that, or it is in millimetres: no sensor sees
# so far, and none sees anything within 10 cm. A simulator may, but not in whole numbers.
NEAREST_SHARE, NEAREST_M, STRIDE = 0.05, 100.0, 8
# Of the size, both ways alike: a K of half or of twice the resolution is 0.25 and 0.5 off.
MOST_OFF_CENTRE = 0.2
# Of the size: a principal point that is so near the middle of the image on its side, and so far
# from the middle of the image as it is.
CENTRED, CENTRED_OTHERWISE = 0.04, 0.08
FAR_DEPTH = "far depth"  # what is said of it


class FrameBuilder:
    """Messages -> Frame.

    A bad image or camera_info refuses the whole frame. Bad depth or a bad right image is left out.
    A raw stereo pair is rectified (`stereo_pair.py`).
    Either is reported under the topic's name. `limits` bounds what is decoded, `rectified` is the
    parameter, `image_topic` the full name of the topic that the images come on, `depth_stamps`
    whether the stamp of a depth image tells when it was taken.
    """

    def __init__(
        self,
        *,
        rectified: str = "auto",
        image_topic: str = "",
        report: Report = lambda key, words: None,
        limits: SizeLimits = USUAL,
        image_bits: int = 0,
        depth_stamps: bool = True,
    ) -> None:
        self._rectified = rectified
        self._image_topic = image_topic
        self._report = report
        self._limits = limits
        self._image_bits = image_bits  # of a camera that fills fewer than 16; 0: as observed
        self._depth_stamps = depth_stamps
        self._bits_seen: dict[str, int] = {}
        self._left: tuple[bytes, Camera] | None = None
        self._pairs, self._ceiling = StereoPairs(rectified, image_topic), DepthCeiling()

    def build(self, bundle: Bundle) -> Frame:
        """Raises InvalidInput where the messages make no frame; the reason is reported too."""
        messages = bundle.messages
        image = messages[IMAGE]
        rgb = self._checked(IMAGE, lambda: self._image(IMAGE, image))
        camera = self._checked(CAMERA_INFO, lambda: self._camera(messages, rgb.shape))
        depth = self._optional(DEPTH, messages, lambda: self._depth(messages, camera))
        right: dict[str, Any] | None = None
        if depth is None:  # depth is of the image as it is: with it, nothing is rectified
            pair = self._optional(RIGHT, messages, lambda: self._pair(messages, rgb))
            rgb, camera, right = pair or (rgb, camera, None)
        return Frame(
            rgb,
            camera,
            depth,
            **({} if right is None else right),
            stamp_ns=bundle.stamp_ns,
            frame_id=image.header.frame_id or "camera",
            depth_late_s=self._late_s(messages[DEPTH], bundle) if depth is not None else 0.0,
        )

    def _late_s(self, depth: Any, bundle: Bundle) -> float:
        """Seconds from the image to its depth, by their stamps."""
        return (stamp_ns(depth) - bundle.stamp_ns) * 1e-9 if self._depth_stamps else 0.0

    def _checked(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of `make`; its InvalidInput is reported under the key and raised again."""
        try:
            made = make()
        except InvalidInput as error:
            self._report(key, str(error))
            raise
        self._report(key, None)
        return made

    def _optional(self, key: str, messages: dict[str, Any], make: Callable[[], Any]) -> Any:
        if key not in messages:
            return None
        try:
            return self._checked(key, make)
        except InvalidInput:
            return None

    def _camera(self, messages: dict[str, Any], shape: tuple[int, ...]) -> Camera:
        info = messages[CAMERA_INFO]
        says = camera_info_bytes(info)
        if self._left is None or self._left[0] != says:
            rectified = is_rectified(self._rectified, info, self._image_topic)
            self._left = (says, read_camera(info, rectified=rectified))
        camera = self._left[1]
        _check_size(CAMERA_INFO, camera, shape)
        if not (info.roi.width and info.roi.height):
            _check_centre(camera)
        return camera

    def _pair(
        self, messages: dict[str, Any], rgb: ByteArray
    ) -> tuple[ByteArray, Camera, dict[str, Any]]:
        """(left image, its camera, the right one), all of them rectified."""
        right = self._image(RIGHT, messages[RIGHT])
        _check_size(RIGHT_INFO, read_camera(messages[RIGHT_INFO]), right.shape)
        pair = self._pairs.of(messages[CAMERA_INFO], messages[RIGHT_INFO])
        rgb, right = pair.images(rgb, right)
        parts = {"right_camera": pair.right, "right_from_camera": pair.right_from_left}
        return rgb, pair.left, {"right_rgb": right, **parts}

    def _image(self, topic: str, message: Any) -> ByteArray:
        message = unpacked_image(message, self._limits)
        rgb = read_image(message, self._limits, self._bits(topic, message))
        check_sides(rgb.shape[1], rgb.shape[0], "the image", self._limits)
        return rgb

    def _bits(self, topic: str, message: Any) -> int:
        """How many of 16 bits the camera fills: as told, or the most it ever used.

        It only grows, so that brightness does not follow the scene.
        """
        used = self._image_bits or image_bits(message)
        if not used:
            return 16
        seen = max(used, self._bits_seen.get(topic, BIT_DEPTHS[0]))
        self._bits_seen[topic] = next(depth for depth in BIT_DEPTHS if depth >= seen)
        return self._bits_seen[topic]

    def _depth(self, messages: dict[str, Any], camera: Camera) -> FloatArray:
        depth = read_depth(messages[DEPTH], self._limits)
        if depth.shape != (camera.height, camera.width):
            raise InvalidInput(
                f"depth is {depth.shape[1]}x{depth.shape[0]} but the image is "
                f"{camera.width}x{camera.height}: publish depth registered to the image "
                "(depth_image_proc's register node, or the driver's aligned depth)"
            )
        if not np.isfinite(depth).any():
            raise InvalidInput(
                "depth holds no known pixel (all NaN or 0): is the sensor covered, too near, or "
                "its projector off?"
            )
        _check_unit(depth)
        depth, far = self._ceiling.below(depth)
        self._report(FAR_DEPTH, far)
        return depth


def _check_unit(depth: FloatArray) -> None:
    some = depth[::STRIDE, ::STRIDE]
    known = some[np.isfinite(some)]
    nearest_m = float(np.quantile(known, NEAREST_SHARE)) if len(known) else 0.0
    if nearest_m > NEAREST_M and bool((known == np.round(known)).all()):
        raise InvalidInput(
            f"depth begins at {nearest_m:.0f} m: 32FC1 holds metres (REP-118); does the driver "
            "write millimetres? Publish them as 16UC1, or divide by 1000"
        )


def _check_size(topic: str, camera: Camera, shape: tuple[int, ...]) -> None:
    if camera.size != (shape[1], shape[0]):
        raise InvalidInput(
            f"{topic} is of {camera.width}x{camera.height} but the image is "
            f"{shape[1]}x{shape[0]}: remap {topic} to the topic that belongs to the image"
        )


def _check_centre(camera: Camera) -> None:
    """The axis of a whole image meets it near its middle, unless K is of another resolution."""
    off = camera.K[:2, 2] / camera.size - 0.5
    exchanged = camera.K[:2, 2] / camera.size[::-1] - 0.5
    if max(abs(exchanged)) < CENTRED < CENTRED_OTHERWISE < min(abs(off)):
        x, y = camera.K[:2, 2]
        raise InvalidInput(
            f"camera_info has its principal point at ({x:.0f}, {y:.0f}) of an image of "
            f"{camera.width}x{camera.height}, which is the middle of one of "
            f"{camera.height}x{camera.width}: its cx and cy are exchanged"
        )
    if min(abs(off)) > MOST_OFF_CENTRE and off[0] * off[1] > 0:
        x, y = camera.K[:2, 2]
        raise InvalidInput(
            f"camera_info has its principal point at ({x:.0f}, {y:.0f}) of an image of "
            f"{camera.width}x{camera.height}: its K (or P) is of another resolution, or of a part "
            "of the sensor that its roi should name; calibrate at this resolution"
        )
