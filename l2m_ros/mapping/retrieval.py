"""The nearest descriptors: exact up to EXACT_UP_TO keyframes, by inverted lists beyond.

faiss: exact search with SIMD is fast enough for the largest map that one robot makes, so nothing
is missed; its inverted lists with fp16 codes hold a million in about 1 GB.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

EXACT_UP_TO = 100_000
LISTS_PER_ROOT = 4.0  # number of lists = this times the root of the number of keyframes
PROBED = 1 / 16  # of the lists are searched
TRAINING_PER_LIST = 40


class PlaceIndex:
    """Ids by their descriptors (unit vectors of one length)."""

    def __init__(self, ids: Sequence[int], descriptors: Array) -> None:
        self._index = _index(np.ascontiguousarray(descriptors, np.float32))
        self._ids = np.asarray(ids, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, id: int, descriptor: Array) -> None:
        """One more keyframe, searchable at once."""
        if self._index is None:
            self._index = _index(descriptor[None])
        else:
            self._index.add(np.ascontiguousarray(descriptor[None], np.float32))
        self._ids = np.append(self._ids, id)

    def nearest(self, descriptor: Array, count: int) -> list[tuple[int, float]]:
        """(id, cosine) of the most similar ones, best first."""
        if self._index is None or count < 1:
            return []
        query = np.ascontiguousarray(descriptor[None], np.float32)
        similar, rows = self._index.search(query, min(count, len(self)))
        found = zip(rows[0], similar[0], strict=True)
        return [(int(self._ids[row]), float(cosine)) for row, cosine in found if row >= 0]


def _index(descriptors: Array) -> faiss.Index | None:
    if not len(descriptors):
        return None
    count, size = descriptors.shape
    if count <= EXACT_UP_TO:
        index = faiss.IndexFlatIP(size)
    else:
        index = _lists(descriptors, max(1, int(LISTS_PER_ROOT * np.sqrt(count))))
    index.add(descriptors)
    return index


def _lists(descriptors: Array, lists: int) -> faiss.Index:
    count, size = descriptors.shape
    inner = faiss.IndexFlatIP(size)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(inner, size, lists, half, faiss.METRIC_INNER_PRODUCT)
    inner.this.disown()  # the index owns it from here
    index.own_fields = True
    rng = np.random.default_rng(0)
    index.train(descriptors[rng.permutation(count)[: TRAINING_PER_LIST * lists]])
    index.nprobe = max(1, round(PROBED * lists))
    return index
