"""Which parts of a new keyframe moved into view: people, vehicles, doors.

Where a frame saw far into the distance a moment ago, and now something is near, there is a thing
that moves. A keyframe that shows one would give the next frames the thing's motion for the
camera's, the more surely the closer it is. So what stands in space that was seen empty is not
matched.

    depth of posed frames of the last seconds, thinned
    a new keyframe's depth -> points -> is each before all that those frames saw about there?
                           -> and what goes on from such points, where nothing was seen before
                           -> is it near, and was nothing known about there? It may move, too

A frame that no pose connects is taken to be where its velocity leads, and the less that tells, the
more of an image is looked at about each point. What was there from the first frame on, and what has
stood still for as long as frames are remembered, is part of the scene.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.matching.mask import Mask
from l2m_ros.types import Camera, FloatArray

F32 = npt.NDArray[np.float32]
Cells = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

ACROSS = 160  # samples of a depth image; every other one of a new keyframe is asked for
REMEMBERED_NS, APART_NS = 3_000_000_000, 500_000_000  # frames: for how long, how far apart
# By so much, of its distance and in metres, a point is nearer than what was seen.
NEARER, NEARER_M = 0.1, 0.1
LEAST_KNOWN = 0.3  # of the samples about a point, with depth
LEAST_SEEN_BEFORE = 0.1  # of the image: of less, what is new cannot be told from
SAME_THING = 0.1  # of the depth: neighbours that differ by less are of one thing
LEAST = 0.02  # of the image: less is noise
# What a camera does beside going on as it did: three times what hands do (velocity.py)
UNSEEN_M_S2, UNSEEN_RAD_S2 = 1.5, 2.4
LONGEST_UNSEEN_NS = 700_000_000
LATELY_NS = 1_000_000_000  # what moved so short a time ago may still be in view
WIDEST = 27  # samples across about a point
BESIDE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class View:
    """A camera's depth at one moment."""

    stamp_ns: int
    camera: Camera
    depth_m: FloatArray  # (H, W), NaN = unknown
    chain: int
    odom_from_camera: FloatArray  # 4x4
    unseen_ns: int = 0  # for how long its place in odom has been no more than its velocity says


@dataclass(frozen=True, eq=False)
class Samples:
    """Of a view's depth image."""

    view: View
    step: int  # pixels from one to the next
    depth_m: F32  # (h, w), 0 = unknown
    new: Cells  # (h, w) what was near then, and not seen before

    @property
    def f(self) -> float:
        """Focal length in samples."""
        return float(self.view.camera.K[0, 0]) / self.step

    def pixels(self, row: Index, column: Index) -> FloatArray:
        return np.column_stack([column, row]) * float(self.step) + self.step // 2

    def at(self, pixels: FloatArray) -> FloatArray:
        """(N, 2) column and row."""
        return (pixels - self.step // 2) / self.step


@dataclass(frozen=True, eq=False)
class Asked:
    """Every other sample that has depth."""

    odom_from_camera: FloatArray
    row: Index
    column: Index
    points_m: FloatArray  # (N, 3) in the camera
    off_m: float  # as far as its place in odom is not known
    off_rad: float


@dataclass(frozen=True, eq=False)
class Stillness:
    """What of a new keyframe may be taken to stand. None: all."""

    still: Mask | None = None  # (H, W) where nothing is known to have moved into view
    seen_before: Mask | None = None  # (H, W) without what is near and was not seen before
    unsure: bool = False  # something moved lately, and whether it is in view cannot be told


@dataclass(frozen=True, eq=False)
class Found:
    """Every other sample."""

    moved: Cells | None = None  # into view; None: nothing did
    new: Cells | None = None  # near, where nothing was known; None: nothing is
    with_its_rest: Cells | None = None  # what is new, and goes on from it
    looked: bool = False  # whether any earlier view could be held against it


class Movers:
    """Remembers what posed frames saw lately."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._seen: deque[Samples] = deque()
        self._moved_ns: int | None = None  # when something was last seen to have moved into view

    def believe(self, view: View) -> None:
        """Of a posed frame. What moves in it says nothing of the space where it is."""
        self._forget(view)
        if self._due(view):
            now = _sampled(view)
            self._remember(now, self._found(now))

    def stillness(self, view: View) -> Stillness:
        """Of a new keyframe, which is believed as well where its place is known."""
        self._forget(view)
        now = _sampled(view)
        found = self._found(now)
        if not view.unseen_ns and self._due(view):
            self._remember(now, found)
        unsure = not found.looked and self._moved_lately(view)
        return Stillness(_outside(found.moved, view), _outside(found.with_its_rest, view), unsure)

    def _moved_lately(self, view: View) -> bool:
        return self._moved_ns is not None and 0 <= view.stamp_ns - self._moved_ns <= LATELY_NS

    def _due(self, view: View) -> bool:
        return not self._seen or view.stamp_ns - self._seen[-1].view.stamp_ns >= APART_NS

    def _remember(self, now: Samples, found: Found) -> None:
        if found.moved is not None:
            self._moved_ns = now.view.stamp_ns
            now.depth_m[_whole(found.moved, now)] = 0.0
        if found.new is not None:
            now.new[_whole(found.new, now)] = True
        self._seen.append(now)

    def _found(self, now: Samples) -> Found:
        if not self._seen or now.view.unseen_ns > LONGEST_UNSEEN_NS:
            return Found()
        asked = _asked(now)
        depth = now.depth_m[::2, ::2]
        moved, before, known = (np.zeros(depth.shape, bool) for _ in range(3))
        looked = False
        for seen in self._seen:
            side = _window(asked, seen)
            if side is None:
                continue
            looked = True
            nearer, same, vouched = _held_against(asked, seen, side)
            moved[asked.row[nearer], asked.column[nearer]] = True
            known[asked.row[vouched], asked.column[vouched]] = True
            if now.view.stamp_ns - seen.view.stamp_ns >= APART_NS:
                before[asked.row[same], asked.column[same]] = True
        found, free = _opened(moved), (depth > 0) & ~known
        if found is not None:
            found = _with_its_rest(found, depth, free)
            free = free & ~found
        new = _opened(_near(depth, before) & ~before & free)
        rest = None if new is None else _with_its_rest(new, depth, free)
        return Found(found, new, rest, looked)

    def _forget(self, now: View) -> None:
        def lasts(seen: View) -> bool:
            since_ns = now.stamp_ns - seen.stamp_ns
            return seen.chain == now.chain and 0 <= since_ns <= REMEMBERED_NS

        self._seen = deque(seen for seen in self._seen if lasts(seen.view))


def _outside(cells: Cells | None, view: View) -> Mask | None:
    """(H, W) all of the image but these."""
    if cells is None:
        return None
    wide = cv2.dilate(cells.astype(np.uint8), BESIDE)
    return cv2.resize(wide, view.camera.size, interpolation=cv2.INTER_NEAREST) == 0


def _whole(cells: Cells, samples: Samples) -> Cells:
    """(h, w) for every other one."""
    rows, columns = samples.depth_m.shape
    return cells.repeat(2, 0).repeat(2, 1)[:rows, :columns]


def _near(depth: F32, before: Cells) -> Cells:
    """What is nearer than most of what was seen before."""
    if before.mean() < LEAST_SEEN_BEFORE:
        return np.zeros(depth.shape, bool)
    return (depth > 0) & (depth < np.median(depth[before]))


def _sampled(view: View) -> Samples:
    step = max(1, round(view.depth_m.shape[1] / ACROSS))
    some = np.nan_to_num(view.depth_m[step // 2 :: step, step // 2 :: step], posinf=0.0)
    depth = cv2.medianBlur(np.ascontiguousarray(some, np.float32), 3)
    return Samples(view, step, depth, np.zeros(depth.shape, bool))


def _asked(now: Samples) -> Asked:
    row, column = np.nonzero(now.depth_m[::2, ::2])
    rays = unproject(now.view.camera, now.pixels(2 * row, 2 * column))
    unseen_s = now.view.unseen_ns * 1e-9
    return Asked(
        now.view.odom_from_camera,
        row,
        column,
        rays * now.depth_m[2 * row, 2 * column][:, None],
        0.5 * UNSEEN_M_S2 * unseen_s**2,
        0.5 * UNSEEN_RAD_S2 * unseen_s**2,
    )


def _window(asked: Asked, seen: Samples) -> int | None:
    """Samples across about a point, as far as its place is not known; None of too many."""
    if not len(asked.points_m):
        return None
    about = asked.off_rad + asked.off_m / float(np.median(asked.points_m[:, 2]))
    side = 2 * int(np.ceil(1.0 + seen.f * about)) + 1
    return side if side <= WIDEST else None


def _held_against(asked: Asked, seen: Samples, side: int) -> tuple[Index, Index, Index]:
    """Which are before all that was seen about there, which are what was seen, and which of those
    were not new then."""
    seen_from_now = se3.inverse(seen.view.odom_from_camera) @ asked.odom_from_camera
    there = asked.points_m @ seen_from_now[:3, :3].T + seen_from_now[:3, 3]
    at = seen.at(project(seen.view.camera, there))
    limits = np.array(seen.depth_m.shape[::-1]) - 1
    inside = np.flatnonzero(((at >= 0) & (at <= limits)).all(axis=1))
    column, row = np.rint(at[inside]).astype(np.intp).T
    window, known = np.ones((side, side), np.uint8), seen.depth_m > 0
    nearest = cv2.erode(np.where(known, seen.depth_m, np.float32(np.inf)), window)[row, column]
    farthest = cv2.dilate(seen.depth_m, window)[row, column]
    share = cv2.blur(known.astype(np.float32), (side, side))[row, column]
    z = there[inside, 2]
    slack = NEARER * z + NEARER_M + asked.off_m
    nearer = (share >= LEAST_KNOWN) & (nearest > z + slack)
    same = (nearest < z + slack) & (farthest > z - slack)
    new = cv2.dilate(seen.new.astype(np.uint8), window)[row, column] > 0
    return inside[nearer], inside[same], inside[same & ~new]


def _opened(cells: Cells) -> Cells | None:
    """Without single ones; None where there are few."""
    cells = cv2.morphologyEx(cells.astype(np.uint8), cv2.MORPH_OPEN, BESIDE) > 0
    return cells if cells.mean() >= LEAST else None


def _with_its_rest(cells: Cells, depth: F32, free: Cells) -> Cells:
    """With the free ones that go on from it at the same depth."""
    while True:
        beside = cv2.dilate(np.where(cells, depth, np.float32(0.0)), BESIDE)
        more = free & ~cells & (np.abs(beside - depth) < SAME_THING * depth)
        if not more.any():
            return cells
        cells = cells | more
