"""What the matcher sees of the map's keyframes, as arrays: the last used ones stay in memory."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from l2m_ros.mapping import codec
from l2m_ros.mapping.store import MapStore
from l2m_ros.matching import portable
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import Features

KEPT = 12  # keyframes: one and its candidates; `lite` has 4 MB each


class KeyframeArrays:
    """Just used, stored, or encoded again."""

    def __init__(self, store: MapStore, matcher: Matcher, checksum: str, kept: int = KEPT) -> None:
        self._store, self._matcher, self._checksum = store, matcher, checksum
        self._kept = kept
        self._used: OrderedDict[int, portable.Arrays] = OrderedDict()

    def put(self, id: int, arrays: portable.Arrays) -> None:
        """The newest; the one that was not used for longest goes."""
        self._used[id] = arrays
        self._used.move_to_end(id)
        if len(self._used) > self._kept:
            self._used.popitem(last=False)

    def get(self, id: int) -> portable.Arrays:
        arrays = self._used.get(id)
        if arrays is None:
            arrays = self._read(id)
        self.put(id, arrays)
        return arrays

    def _read(self, id: int) -> portable.Arrays:
        kept = self._store.features(id, self._matcher.name, self._checksum)
        if kept is not None:
            return kept.arrays
        rgb = codec.decode_image(self._store.keyframe(id).image)
        return portable.to_arrays(self._matcher, self._matcher.encode(rgb))

    def features(self, id: int, image_size: tuple[int, int]) -> Features:
        """What the matcher takes."""
        return portable.from_arrays(self._matcher, self.get(id), image_size)

    def local(self, id: int) -> np.ndarray:
        """(N, D) descriptors of the parts of the image."""
        return portable.local_descriptors(self.get(id))
