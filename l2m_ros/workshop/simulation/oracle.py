"""A matcher that knows the truth: for testing whoever uses a matcher.

    oracle = OracleMatcher(noise_px=0.5, outlier_share=0.2)
    for shot in oracle.watch(simulate(options)):
        oracle.encode(shot.frame.rgb) ...

It recognises images by their bytes, so it works behind messages and bags as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, DenseMatch, Features, FloatArray, Reference
from l2m_ros.workshop.simulation.sequence import SimulatedFrame, Viewpoint
from l2m_ros.workshop.simulation.truth import true_match

OUTLIER_CERTAINTY = 0.9  # a wrong match that looks like a right one


class OracleMatcher:
    """Satisfies `runtime.matcher.Matcher`; the same pair always gives the same match.

    noise_px        deviation of the warp, stated truthfully in the match's precision
    outlier_share   of the visible cells: anywhere in the keyframe, with high certainty
    certain_share   of the visible cells: the rest have certainty 0
    stride          pixels from one cell of the grid to the next
    """

    name = "oracle"

    def __init__(
        self,
        *,
        noise_px: float = 0.0,
        outlier_share: float = 0.0,
        certain_share: float = 1.0,
        stride: int = 8,
        seed: int = 0,
    ) -> None:
        self.noise_px, self.outlier_share = noise_px, outlier_share
        self.certain_share, self.stride, self.seed = certain_share, stride, seed
        self._known: dict[bytes, Viewpoint] = {}

    def watch(self, shots: Iterable[SimulatedFrame]) -> Iterator[SimulatedFrame]:
        """The same frames, each made known to the oracle before it is handed on."""
        for shot in shots:
            self.register(shot)
            yield shot

    def register(self, shot: SimulatedFrame) -> None:
        self._known[_fingerprint(shot.frame.rgb)] = shot.viewpoint
        right = shot.right_viewpoint
        if right is not None and shot.frame.right_rgb is not None:
            self._known[_fingerprint(shot.frame.right_rgb)] = right

    def encode(self, rgb: ByteArray) -> Features:
        key = _fingerprint(rgb)
        if key not in self._known:
            raise InvalidInput("the oracle has not seen this image: register its frame first")
        return Features(self.name, (rgb.shape[1], rgb.shape[0]), key)

    def reference(self, features: Features) -> Reference:
        return Reference(self.name, features.image_size, features.data)

    def match(self, query: Features, reference: Reference) -> DenseMatch:
        a, b = self._known[query.data], self._known[reference.data]
        truth = true_match(a, b, stride=self.stride)
        entropy = [self.seed, *query.data[:8], *reference.data[:8]]
        return self._spoilt(truth, np.random.default_rng(entropy))

    def _spoilt(self, truth: DenseMatch, rng: np.random.Generator) -> DenseMatch:
        shape = truth.certainty.shape
        warp = truth.warp_px + self.noise_px * rng.standard_normal((*shape, 2))
        visible = truth.certainty > 0
        kept = visible & (rng.random(shape) < self.certain_share)
        wrong = kept & (rng.random(shape) < self.outlier_share)
        anywhere = rng.uniform(-0.5, np.array(truth.keyframe_size) - 0.5, (*shape, 2))
        warp = np.where(wrong[..., None], anywhere, warp)
        certainty = np.where(wrong, OUTLIER_CERTAINTY, kept.astype(np.float32))
        sizes = truth.query_size, truth.keyframe_size
        return DenseMatch(warp, certainty, *sizes, precision=self._precision(shape))

    def _precision(self, shape: tuple[int, ...]) -> FloatArray | None:
        if self.noise_px == 0:
            return None
        return np.broadcast_to(np.eye(2) / self.noise_px**2, (*shape, 2, 2))


def _fingerprint(rgb: ByteArray) -> bytes:
    shape = np.array(rgb.shape, np.int64).tobytes()
    return hashlib.blake2b(np.ascontiguousarray(rgb).tobytes() + shape, digest_size=16).digest()
