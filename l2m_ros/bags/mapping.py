"""A recording into a map, and a recording's images found in a map."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from l2m_ros.bags.recording import Recording, Shot
from l2m_ros.mapping.keyframe_picker import KeyframePicker
from l2m_ros.mapping.mapper import Mapper
from l2m_ros.mapping.meta import WORLD
from l2m_ros.mapping.options import MapperOptions, PickerOptions
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.store import MapStore
from l2m_ros.mapping.tracked_mapper import TrackedMapper
from l2m_ros.matching.matcher import Matcher
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import FloatArray, Lost

Progress = Callable[..., Iterable[object]]
REMEMBERED = 1000  # frames whose name and truth are known when tracking makes keyframes of them


@dataclass(frozen=True)
class BuildOptions:
    """How a recording becomes a map."""

    mapper: MapperOptions = field(default_factory=MapperOptions)
    picker: PickerOptions = field(default_factory=PickerOptions)
    tracker: TrackerOptions = field(default_factory=TrackerOptions)


@dataclass(frozen=True)
class Built:
    """What building did, in numbers."""

    frames: int
    keyframes: int
    placed: int
    loops: int


def build_map(
    recording: Recording,
    store: MapStore,
    matcher: Matcher,
    options: BuildOptions = BuildOptions(),
    progress: Callable[[Iterable[Shot]], Iterable[Shot]] = iter,
    finishing: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Built:
    """Tracks the recording, keeps keyframes, closes loops; poses of the recording's truth are
    stored beside the keyframes, to compare with, and are not used."""
    tracker, picker = Tracker(matcher, options.tracker), KeyframePicker(options.picker)
    mapper = Mapper(store, matcher, options.mapper)
    tracked = TrackedMapper(mapper, options.tracker.odometry)
    if recording.world and not store.meta().get(WORLD):
        store.set_meta({WORLD: recording.world})
    frames = 0
    known: OrderedDict[int, tuple[str, FloatArray | None]] = OrderedDict()  # by stamp
    for shot in progress(recording.shots()):
        frames += 1
        known[shot.frame.stamp_ns] = shot.name, shot.truth
        if len(known) > REMEMBERED:
            known.popitem(last=False)
        base = shot.base_from_camera
        tracker.reconfigure(replace(tracker.options, base_from_camera=base))
        picked = picker.pick(tracker.process(shot.frame, shot.odometry), shot.odometry, base)
        if picked is not None:  # this frame or one before
            tracked.add(picked, *known.get(picked.frame.stamp_ns, ("", None)))
    mapper.finish(finishing)
    info = store.info()
    return Built(frames, info.keyframes, info.placed, info.edges.get("loop", 0))


@dataclass(frozen=True, eq=False)
class Query:
    """One image and what the map says of it."""

    stamp_ns: int
    name: str
    outcome: Localized | Lost
    ms: float
    truth: FloatArray | None


def localize_all(
    shots: Iterable[Shot], relocalizer: Relocalizer, clock: Callable[[], float]
) -> Iterator[Query]:
    """Each image on its own: no tracking, no hint."""
    for shot in shots:
        started = clock()
        outcome = relocalizer.localize(shot.frame)
        yield Query(shot.frame.stamp_ns, shot.name, outcome, (clock() - started) * 1e3, shot.truth)
