"""One vector for a whole image: VLAD over the matcher's local descriptors, whitened.

    local (N, D) -> residuals to the nearest of WORDS centres, summed by centre -> (WORDS * D,)
                 -> each centre's sum to length 1 -> whitened to at most SIZE -> length 1

The vocabulary is learnt from the map itself, so that it suits any matcher and no photographs are
needed; it is stored in the map and learnt again when the map has doubled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.mapping import codec

Array = npt.NDArray[np.float32]

SIZE = 512
WORDS = 32
LOCAL = 64  # local descriptors are reduced to this many numbers first
SAMPLED = 400  # of an image's local descriptors, to learn from
REGULARISED = 0.02  # of the largest variance, added to each: few images know few directions well
ITERATIONS = 15


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What turns local descriptors into one vector."""

    model: str  # whose local descriptors
    checksum: str
    mean: Array  # (D,)
    axes: Array  # (LOCAL, D)
    centres: Array  # (WORDS, LOCAL)
    vlad_mean: Array  # (WORDS * LOCAL,)
    whitening: Array  # (SIZE, WORDS * LOCAL)

    def describe(self, local: Array) -> Array:
        """(SIZE,) float32 of length 1."""
        return _unit(self.whitening @ (self._vlad(local) - self.vlad_mean))

    def _vlad(self, local: Array) -> Array:
        return vlad((local - self.mean) @ self.axes.T, self.centres)

    def to_bytes(self) -> bytes:
        names = np.array([self.model, self.checksum])
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return codec.encode_arrays({"names": names, **arrays})

    @classmethod
    def from_bytes(cls, content: bytes) -> Vocabulary:
        arrays = codec.decode_arrays(content)
        model, checksum = map(str, arrays.pop("names"))
        return cls(model, checksum, **{name: arrays[name] for name in ARRAYS})


ARRAYS = ("mean", "axes", "centres", "vlad_mean", "whitening")


def vlad(local: Array, centres: Array) -> Array:
    """(WORDS * LOCAL,) of reduced local descriptors (N, LOCAL)."""
    if not len(local):
        return np.zeros(centres.size, np.float32)
    nearest = np.argmax(local @ centres.T - 0.5 * (centres**2).sum(axis=1), axis=1)
    member = np.zeros((len(centres), len(local)), np.float32)
    member[nearest, np.arange(len(local))] = 1.0
    sums = member @ local - member.sum(axis=1, keepdims=True) * centres
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return _unit((sums / np.maximum(lengths, 1e-9)).ravel())


def learn(
    images: Sequence[Array], model: str, checksum: str, *, size: int = SIZE, seed: int = 0
) -> Vocabulary:
    """A vocabulary from the local descriptors (N, D) of several images."""
    images = [image for image in images if len(image)]
    if len(images) < 2:
        raise InvalidInput("a vocabulary is learnt from two images or more")
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([i[rng.permutation(len(i))[:SAMPLED]] for i in images])
    mean = drawn.mean(axis=0)
    axes = _principal(drawn - mean, min(LOCAL, drawn.shape[1]))[0]
    reduced = np.ascontiguousarray((drawn - mean) @ axes.T, np.float32)
    words = int(min(WORDS, max(1, len(reduced) // 40)))
    clusters = faiss.Kmeans(reduced.shape[1], words, niter=ITERATIONS, seed=seed, verbose=False)
    clusters.train(reduced)
    centres = np.asarray(clusters.centroids, np.float32)
    vlads = np.stack([vlad((i - mean) @ axes.T, centres) for i in images])
    vlad_mean = vlads.mean(axis=0)
    basis, variance = _principal(vlads - vlad_mean, min(size, len(vlads) - 1))
    scale = 1.0 / np.sqrt(variance + REGULARISED * variance[0] + 1e-12)
    whitening = (basis * scale[:, None]).astype(np.float32)
    return Vocabulary(model, checksum, mean, axes, centres, vlad_mean, whitening)


def _principal(centred: Array, count: int) -> tuple[Array, Array]:
    """(count, D) directions of the largest variance, and the variances."""
    rows, columns = centred.shape
    if rows > columns:  # the same, without matrices of all rows: 400 MB for 500 images
        variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64) / rows)
        variances, axes = np.maximum(variances[::-1], 0.0), axes[:, ::-1].T
    else:
        _, values, axes = np.linalg.svd(centred, full_matrices=False)
        variances = values**2 / rows
    count = max(count, 1)
    return axes[:count].astype(np.float32), variances[:count].astype(np.float32)


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)
