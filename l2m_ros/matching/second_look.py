"""A second look at two images: turned alike, at one scale, and only what both of them see.

    first match -> good enough? its pairs (asked for "auto" only)
                -> unsure? the query turned by quarters, the surest is taken
                -> similarity between the images -> both cut to what they share, the query laid on
                   the keyframe -> match once more, there and back
                -> do the two ways hardly agree? the same from other turns, and from parts of the
                   images, until two ways agree; the best is taken
    pairs: in equal shares by the first match, by it back, by the second, by it back

A network sees a small overlap with few of its pixels, another scale with other features, and an
image that is rolled by a right angle hardly at all. It costs two to three more frames, and up to
sixty where nothing agrees, so it is for pictures, never for every frame of a camera. The map takes
a plainer one (`both_ways`, `agreed`) for an image that it does not find otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.canvas import (
    Canvas,
    Size,
    laid,
    part_to_fit,
    scale_of,
    size_of,
    turned_to_fit,
    untouched,
)
from l2m_ros.matching.look import Look, joined
from l2m_ros.matching.mask import only_used
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.pairs import DRAWING, Drawing
from l2m_ros.matching.sampling import LIMIT
from l2m_ros.types import (
    ByteArray,
    Correspondences,
    DenseMatch,
    Features,
    FloatArray,
    Reference,
)

WHEN = ("auto", "always", "never")
ROUGH = Drawing(subpixel=False)  # pairs for a similarity
QUARTERS_DEG = (90, 180, 270)
TURNS_DEG = (0, 45, 315, 90, 270, 135, 225, 180)
PARTS = ((0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))  # of the sides


@dataclass(frozen=True)
class SecondLookOptions:
    """Chosen for `lite` on five scenes of their own, graf, redkitchen, fox (docs/benchmarks.md)."""

    enough: float = 0.3  # auto: mean certainty from which one look is enough ...
    level_scale: float = 1.35  # ... if neither image is so many times larger than the other ...
    level_deg: float = 15.0  # ... or rolled against it by so much
    unsure: float = 0.05  # mean certainty below which the query is tried in other turns too
    both_ways: bool = True  # match the keyframe with the query as well
    agreed: float = 0.03  # agreement of the second look below which others are tried; 0 = none are
    return_px: float = 3.0  # both ways agree where a pixel comes back so close
    canvas_px: int = 640  # longest side of what is matched once more
    fewest: int = 30  # pairs of the first match
    agree_px: float = 25.0  # of the similarity, at 640 px: parallax is no mistake
    margin: float = 0.15  # about the shared part, of its size
    zoom: float = 4.0  # at most
    part_zoom: float = 2.0  # of the parts that are tried
    diagonal_zoom: float = 1.2  # of an image turned by 45 degrees: its corners are cut


def second_look(
    matcher: Matcher,
    first: DenseMatch,
    reference: Reference,
    query_rgb: ByteArray,
    keyframe_rgb: ByteArray,
    limit: int = LIMIT,
    *,
    when: str = "always",
    encoded: tuple[Features, Features] | None = None,
    drawing: Drawing = DRAWING,
    options: SecondLookOptions | None = None,
) -> Correspondences:
    """At most `limit` pairs of two looks, in pixels of the images.

    first, reference: what the matcher said of the two images, and the keyframe's reference.
    encoded: query and keyframe, where they are at hand. when: "auto" looks again only if the
    first match says that it is needed. options: None = those for this matcher.
    """
    if when not in WHEN[:2]:
        raise InvalidInput(f"a second look is taken {' or '.join(WHEN[:2])}, not {when!r}")
    options = options or options_for(matcher)
    eye = _Eye(matcher, reference, query_rgb, keyframe_rgb, encoded, limit, options)
    whole = Look(first, untouched(query_rgb), untouched(keyframe_rgb))
    if when == "auto" and good_enough(whole, options):
        return shares([eye.and_back(whole)], limit, drawing)
    start, closer = eye.looked_closer(whole)
    if closer is None or limit < 2:
        return start.pairs(limit, drawing)
    return shares([eye.and_back(start), closer], limit, drawing)


def options_for(matcher: Matcher) -> SecondLookOptions:
    """Other starts for `lite` alone: of others nobody measured how far two ways agree by chance,
    and a large network would take minutes."""
    card = getattr(matcher, "card", None)
    own = card is not None and card.architecture == "lite"
    return SecondLookOptions() if own else SecondLookOptions(agreed=0.0)


def good_enough(look: Look, options: SecondLookOptions) -> bool:
    """Whether the first look at the whole images needs no second."""
    if look.certainty < options.enough:
        return False
    found = similarity(
        look.pairs(LIMIT, ROUGH), _agree_px(size_of(look.keyframe.rgb), options), options
    )
    if found is None:
        return False
    affine = found[0]
    roll_deg = abs(np.degrees(np.arctan2(affine[1, 0], affine[0, 0])))
    apart = abs(np.log(scale_of(affine)))
    return bool(apart < np.log(options.level_scale) and roll_deg < options.level_deg)


def shares(looks: list[Look], limit: int, drawing: Drawing) -> Correspondences:
    """At most `limit` pairs; every way of every look has as many."""
    ways = sum(look.ways for look in looks)
    each = [limit * look.ways // ways for look in looks]
    each[0] += limit - sum(each)
    return joined([look.pairs(n, drawing) for look, n in zip(looks, each, strict=True) if n])


@dataclass(frozen=True, eq=False)
class _Eye:
    """Two images, and a matcher to look at them again."""

    matcher: Matcher
    reference: Reference  # of the keyframe's image
    query_rgb: ByteArray
    keyframe_rgb: ByteArray
    encoded: tuple[Features, Features] | None
    limit: int  # pairs of a similarity
    options: SecondLookOptions

    def looked_closer(self, whole: Look) -> tuple[Look, Look | None]:
        """(where it started, the closer look or None), by that start whose ways agree best."""
        turns = {0: whole}
        if whole.certainty < self.options.unsure:
            turns |= {degrees: self._turned(degrees) for degrees in QUARTERS_DEG}
        surest = max(turns, key=lambda degrees: turns[degrees].certainty)
        best = turns[surest], self.closer(turns[surest])
        most = self._agreement(best[1])
        if most >= self.options.agreed:
            return best
        for other in self._other_starts(turns, surest):
            closer = self.closer(other)
            agreement = self._agreement(closer)
            if agreement > most:
                best, most = (other, closer), agreement
            if most >= self.options.agreed:
                break
        return best

    def closer(self, look: Look) -> Look | None:
        """What both images see, cut out, the query laid on the keyframe, and matched."""
        options, size = self.options, size_of(self.keyframe_rgb)
        pairs = look.pairs(self.limit, ROUGH)
        found = similarity(pairs, _agree_px(size, options), options)
        if found is None:
            return None
        keyframe_from_query, agrees = found
        canvas = self._canvas()
        zoom = cut_out(pairs.keyframe_px[agrees], size, canvas, options)
        keyframe = laid(self.keyframe_rgb, zoom, canvas)
        query = laid(self.query_rgb, zoom @ keyframe_from_query, canvas)
        ends = self.matcher.encode(query.rgb), self.matcher.encode(keyframe.rgb)
        there = self._matched(ends[0], self.matcher.reference(ends[1]))
        closer = Look(only_used(there, query.shown, keyframe.shown), query, keyframe)
        return self._back(closer, ends) if options.both_ways else closer

    def and_back(self, look: Look) -> Look:
        """The same look, the keyframe matched with the query as well."""
        if not self.options.both_ways or look.back is not None:
            return look
        at_hand = self.encoded if _is_whole(look.query) and _is_whole(look.keyframe) else None
        if at_hand is None:
            at_hand = self.matcher.encode(look.query.rgb), self.matcher.encode(look.keyframe.rgb)
        return self._back(look, at_hand)

    def _back(self, look: Look, ends: tuple[Features, Features]) -> Look:
        query, keyframe = ends
        back = self._matched(keyframe, self.matcher.reference(query))
        return replace(look, back=only_used(back, look.keyframe.shown, look.query.shown))

    def _other_starts(self, turns: dict[int, Look], tried: int) -> Iterator[Look]:
        """The whole query in other turns, parts of it, parts of the keyframe; matched there."""
        for degrees in TURNS_DEG:
            if degrees != tried:
                yield turns.get(degrees) or self._turned(degrees)
        for u, v in PARTS:
            yield self._started(self._part(self.query_rgb, u, v), untouched(self.keyframe_rgb))
        query = untouched(self.query_rgb)
        for u, v in PARTS:
            keyframe = self._part(self.keyframe_rgb, u, v)
            reference = self.matcher.reference(self.matcher.encode(keyframe.rgb))
            yield self._started(query, keyframe, reference)

    def _turned(self, degrees: float) -> Look:
        """On a canvas of the keyframe's shape."""
        keyframe, canvas = untouched(self.keyframe_rgb), self._canvas()
        zoom = self.options.diagonal_zoom if degrees % 90 else 1.0
        turn = turned_to_fit(size_of(self.query_rgb), canvas, degrees, zoom)
        return self._started(laid(self.query_rgb, turn, canvas), keyframe)

    def _part(self, rgb: ByteArray, u: float, v: float) -> Canvas:
        size, canvas = size_of(rgb), self._canvas()
        middle = np.array([u * size[0], v * size[1]])
        return laid(rgb, part_to_fit(size, canvas, middle, self.options.part_zoom), canvas)

    def _started(self, query: Canvas, keyframe: Canvas, reference: Reference | None = None) -> Look:
        match = self._matched(self.matcher.encode(query.rgb), reference or self.reference)
        return Look(only_used(match, query.shown, keyframe.shown), query, keyframe)

    def _matched(self, query: Features, reference: Reference) -> DenseMatch:
        match = self.matcher.match(query, reference)
        assert isinstance(match, DenseMatch)
        return match

    def _agreement(self, look: Look | None) -> float:
        return 0.0 if look is None else look.agreement(self.options.return_px)

    def _canvas(self) -> Size:
        """Of the keyframe's shape, and no larger than what is matched."""
        width, height = size_of(self.keyframe_rgb)
        shrink = min(1.0, self.options.canvas_px / max(width, height))
        return round(width * shrink), round(height * shrink)


def similarity(
    pairs: Correspondences, agree_px: float, options: SecondLookOptions
) -> tuple[FloatArray, npt.NDArray[np.bool_]] | None:
    """(3x3 keyframe px by query px, which pairs agree): turn, scale, shift. None: too few do."""
    if len(pairs) < options.fewest:
        return None
    query, keyframe = np.float32(pairs.query_px), np.float32(pairs.keyframe_px)
    matrix, agrees = cv2.estimateAffinePartial2D(
        query, keyframe, method=cv2.RANSAC, ransacReprojThreshold=agree_px, maxIters=1000
    )
    if matrix is None or int(agrees.sum()) < options.fewest:
        return None
    if not 1 / options.zoom < scale_of(matrix) < options.zoom:
        return None
    return np.vstack([matrix, [0.0, 0.0, 1.0]]), agrees.ravel() > 0


def cut_out(points: FloatArray, size: Size, canvas: Size, options: SecondLookOptions) -> FloatArray:
    """3x3 canvas px by keyframe px: the part about the points, a few strays left out."""
    low, high = np.percentile(points, 2, axis=0), np.percentile(points, 98, axis=0)
    grow = options.margin * (high - low)
    low = np.maximum(low - grow, -0.5)
    high = np.minimum(high + grow, np.array(size) - 0.5)
    shrink = min(canvas[0] / size[0], canvas[1] / size[1])
    zoom = min(*(np.array(canvas) / np.maximum(high - low, 1.0)), options.zoom * shrink)
    shift = (np.array(canvas) - 1) / 2 - zoom * (low + high) / 2
    return np.array([[zoom, 0.0, shift[0]], [0.0, zoom, shift[1]], [0.0, 0.0, 1.0]])


def _agree_px(keyframe: Size, options: SecondLookOptions) -> float:
    return options.agree_px * max(keyframe) / 640


def _is_whole(canvas: Canvas) -> bool:
    return bool(np.array_equal(canvas.canvas_from_image, np.eye(3)))
