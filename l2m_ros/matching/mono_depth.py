"""Metres from a single image: a depth map of a keyframe by a metric network, with what it errs.

    reader = load_depth_reader("runs/depth/model", matcher)   a head on the features of `lite`
    reader = load_depth_reader("runs/metric/model")           a network of its own
    depth = reader.read(rgb, camera, features)                MonoDepth of the whole image

Any matcher may then have metres: this one reads the keyframe, another one matches. A head takes the
features that its own matcher computed for tracking, so that a keyframe costs it a few ms.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from l2m_ros.engines.backend import Array, Backend, backend_options, is_depth_head, load_backend
from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.matching.catalogue import NO_ENGINE, find_card, load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.metric_matcher import MetricMatcher
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.matching.portable import HEAD_FEATURES
from l2m_ros.matching.preprocess import content_size
from l2m_ros.matching.shaped import ShapedMatcher, is_shaped
from l2m_ros.matching.turned import is_turned
from l2m_ros.types import ByteArray, Camera, Features, FloatArray

log = logging.getLogger(__name__)

FARTHEST_RATIO = 20.0  # from the median depth: beyond, the network does not mean it
LEAST_SIGMA = 0.02
# Of a head: cameras unlike those that it was trained with, and how little its metres mean of these
# and of scenes larger than its card knows.
MOST_SQUEEZED = 0.6  # |log| of the two focal lengths' ratio in the network's input
FOCAL_OF_WIDTH = (0.4, 2.5)
UNFAMILIAR = 2.0  # log sigma: a factor of 7, which no parameter lets through

# Of a head's card that was not measured on places it never saw: it knows next to nothing.
UNMEASURED = {
    "place_sigma": 0.5, "image_factor": 1.5, "cell_factor": 1.5, "image_correlation": 0.9,
    "common_share": 0.9, "shift_sigma_m": 0.05,
    "farthest_m": float("inf"),  # median of an image, as read, up to which its sigmas were measured
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ScaleReadings:
    """What the images of a chain of keyframes said of its scale, each alone; the newest last."""

    off: FloatArray  # (n,) log of depth read over the depth that the chain has settled on
    sigma: FloatArray  # (n,) of the image's factor
    link: FloatArray  # (n,) variance of how the scale came to it from the one before; the first's 0

    def newest(self, count: int) -> ScaleReadings:
        return ScaleReadings(self.off[-count:], self.sigma[-count:], self.link[-count:])


@dataclass(frozen=True, eq=False)
class MonoDepth:
    """Depth of one image and how far it errs; all sigmas are of the log of depth."""

    depth: FloatArray  # (H, W) float32 metres, NaN = unknown
    pixel_sigma: FloatArray | float  # each on its own, (H, W) or one for all
    place_sigma: float  # common to all images of a place: no second image helps
    image_sigma: float  # common to this image
    image_correlation: float = 0.0  # between the image factors of neighbouring keyframes
    shift_sigma_m: float = 0.05  # metres, common to all depths of the image
    readings: ScaleReadings | None = None  # of a chain's keyframe: its own and those before

    @property
    def scale_sigma(self) -> float:
        """Of all depths of this image together."""
        return float(np.hypot(self.place_sigma, self.image_sigma))


class DepthReader(Protocol):
    """Reads metres from an image (H, W, 3) of that camera; features: a matcher's, of the image."""

    def read(self, rgb: ByteArray, camera: Camera, features: Features | None) -> MonoDepth: ...


class MetricDepthReader:
    """By a network with one keypoint and depth in each cell (`mickey`, `l2m train metric`)."""

    def __init__(self, matcher: MetricMatcher) -> None:
        self.name, self._matcher = matcher.name, matcher

    def read(self, rgb: ByteArray, camera: Camera, features: Features | None = None) -> MonoDepth:
        if features is None or features.model != self.name:
            features = self._matcher.encode(rgb)
        _, depth, good = self._matcher.cells(features)
        if self._matcher.per_focal:
            depth = depth * np.sqrt(camera.K[0, 0] * camera.K[1, 1])
        rows, columns = self._matcher.grid()
        cells = _meant(np.where(good, depth, np.nan)).reshape(rows, columns)
        sigmas = self._matcher.sigmas()
        return MonoDepth(
            _full(cells, camera),
            sigmas["depth_sigma"],
            sigmas["scale_sigma"],
            sigmas["image_sigma"],
        )


class HeadDepthReader:
    """By a head on the features of a matching network, which are computed anyway."""

    def __init__(self, card: ModelCard, backend: Backend, matcher: NetworkMatcher) -> None:
        self.name, self.card = card.name, card
        self._backend, self._matcher = backend, matcher
        self._stated = {**UNMEASURED, **card.depth}

    def read(self, rgb: ByteArray, camera: Camera, features: Features | None = None) -> MonoDepth:
        if features is None or not self._reads(features):
            features = self._matcher.encode_upright(rgb)
        data = {name: features.data[name] for name in HEAD_FEATURES}
        host = self._matcher.backend.to_host(data)
        inputs = {name: np.asarray(host[name], np.float32) for name in HEAD_FEATURES}
        found = self._backend.to_host(self._backend.run("depth", inputs))
        return self._in_metres(found, camera)

    def _reads(self, features: Features) -> bool:
        """Whether they are of its matcher, upright, of its shape, and with what it looks at."""
        own = features.model == self._matcher.name
        whole = own and not is_turned(features) and not is_shaped(features)
        return whole and all(name in features.data for name in HEAD_FEATURES)

    def _in_metres(self, found: dict[str, Array], camera: Camera) -> MonoDepth:
        spec = self.card.input
        content = content_size(spec, camera.size)
        shrunk = np.sqrt(content[0] / camera.width * content[1] / camera.height)
        focal_px = np.sqrt(camera.K[0, 0] * camera.K[1, 1]) * shrunk  # of the network's input
        log_depth, log_sigma = (np.asarray(found[n][0, 0], np.float64)
                                for n in ("log_depth", "log_sigma"))  # fmt: skip
        rows, columns = (log_depth.shape[0] * content[1] // spec.height,
                         log_depth.shape[1] * content[0] // spec.width)  # fmt: skip
        cells = _meant(np.exp(log_depth[:rows, :columns]) * focal_px)
        sigma = self._stated["cell_factor"] * np.exp(log_sigma[:rows, :columns])
        sigma = np.maximum(sigma, LEAST_SIGMA).astype(np.float32)
        image = self._stated["image_factor"] * float(np.exp(found["image_log_sigma"][0, 0]))
        # Images of one place look alike: most of what one is off by, the others are off by, too.
        shared = float(self._stated["common_share"])
        known = familiar(camera, content) and not self._too_far(cells)
        place = float(np.hypot(self._stated["place_sigma"], np.sqrt(shared) * image))
        own = max(float(np.sqrt(1.0 - shared)) * image, LEAST_SIGMA)
        return MonoDepth(
            _full(cells, camera),
            cv2.resize(sigma, camera.size, interpolation=cv2.INTER_LINEAR),
            place if known else UNFAMILIAR,
            own if known else UNFAMILIAR,
            float(self._stated["image_correlation"]),
            float(self._stated["shift_sigma_m"]),
        )

    def _too_far(self, cells: FloatArray) -> bool:
        """Whether the scene is larger than any that its sigmas were measured on."""
        read = cells[np.isfinite(cells)]
        return bool(len(read)) and float(np.median(read)) > self._stated["farthest_m"]


def familiar(camera: Camera, content: tuple[int, int]) -> bool:
    """Whether training showed such a camera: a street of 3.3 to 1, squeezed, is read as a shelf."""
    across, down = camera.K[0, 0] / camera.width, camera.K[1, 1] / camera.height
    squeezed = abs(float(np.log(across * content[0] / (down * content[1]))))
    return squeezed < MOST_SQUEEZED and FOCAL_OF_WIDTH[0] < across < FOCAL_OF_WIDTH[1]


def _meant(depth: FloatArray) -> FloatArray:
    """NaN where it is not positive, or far off the image's median."""
    known = np.isfinite(depth) & (depth > 0)
    middle = float(np.median(depth[known])) if known.any() else np.nan
    known &= (depth < FARTHEST_RATIO * middle) & (depth > middle / FARTHEST_RATIO)
    return np.where(known, depth, np.nan).astype(np.float32)


def _full(cells: FloatArray, camera: Camera) -> FloatArray:
    """(H, W) of the image; NaN spreads to its neighbours, as it should."""
    return np.asarray(cv2.resize(cells, camera.size, interpolation=cv2.INTER_LINEAR))


def load_depth_reader(
    name: str, matcher: Matcher | None = None, **options: Any
) -> DepthReader | None:
    """By a model's name or folder, "" = none.

    matcher: the one that tracks; a head on its features uses it. options: of `load_matcher`.
    """
    if not name:
        return None
    card = None if name in NO_ENGINE else find_card(name)
    if card is not None and is_depth_head(card):
        return _load_head(card, matcher, options)
    own = load_matcher(name, **options)
    if not isinstance(own, MetricMatcher):
        raise InvalidInput(
            f"mono_depth is {name!r}, which reads no metres: name lite_depth, mickey, or a model "
            "of `l2m train depth` or `l2m train metric`"
        )
    return MetricDepthReader(own)


def _load_head(card: ModelCard, matcher: Matcher | None, options: dict[str, Any]) -> DepthReader:
    engine = dict(options)
    backend = load_backend(engine.pop("backend", "auto"), card, backend_options(**engine))
    wanted = card.encoder.get("model", "")
    matcher = matcher.own if isinstance(matcher, ShapedMatcher) else matcher
    if not (
        isinstance(matcher, NetworkMatcher)
        and matcher.card.name == wanted
        and matcher.card.input.size == card.input.size
    ):
        loaded = load_matcher(wanted, size=card.input.size, **options)
        assert isinstance(loaded, NetworkMatcher)
        matcher = loaded
    check_encoder(card, matcher.card)
    warn_of_height(card)
    return HeadDepthReader(card, backend, matcher)


def warn_of_height(head: ModelCard) -> None:
    """Of a head for one robot's camera: no image shows that it hangs elsewhere."""
    if "camera_height_m" in head.depth:
        log.warning(
            "%s is for a camera %.2f m above the floor: at another height all its metres are wrong "
            "by as much, and no pose tells (for yours: `l2m train metric --camera-height`)",
            head.name, head.depth["camera_height_m"],
        )  # fmt: skip


def check_encoder(head: ModelCard, encoder: ModelCard) -> None:
    """Raises unless the head was trained on these eyes: what others see means nothing to it."""
    if encoder.eyes_id is None:
        raise ModelError(
            f"{encoder.name} has no eyes for a depth head (its card says no eyes_id): export it "
            f"again, `l2m export {encoder.name} --out DIR`"
        )
    if encoder.eyes_id != head.encoder.get("eyes_id"):
        raise ModelError(
            f"{head.name} was trained on other eyes than {encoder.name} has here: train it again "
            "with `l2m train depth`"
        )
