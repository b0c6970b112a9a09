"""Worlds, recordings and photographs for a depth head, as `depth_cuts` stores them.

draft_worlds(options)         rendered by several processes, for as long as allowed
recorded(folders, ...)        RGB-D recordings, or worlds of `l2m simulate`
Split.of(worlds)              every eighth world is held out
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.jobs.runners import runner_of
from l2m_ros.workshop.simulation.draft import draft_world, kind_of
from l2m_ros.workshop.training.depth_cuts import Size, Stored
from l2m_ros.workshop.training.depth_data import (
    Samples,
    images_of_sequence,
    merged,
)
from l2m_ros.workshop.training.depth_device import Eyes, seen_whole
from l2m_ros.workshop.training.depth_head import HeadOptions
from l2m_ros.workshop.training.depth_views import images_of_world

# The member of the head that never sees a kind of world.
FAMILIES = {
    "desk": 0, "kitchen": 1, "room": 1, "hall": 1, "corridor": 2, "street": 2, "yard": 2,
}  # fmt: skip
HELD_OUT_EVERY = 8  # worlds
READERS = 4  # threads
MEASURED_IMAGES = 600  # of what was trained on, for the card
Report = Callable[[str], None]


def stored_size(options: HeadOptions) -> Size:
    """Images wait at four fifths of the network's input: cuts show less than all of them."""
    return 4 * options.width // 5, 4 * options.height // 5


def number_of(options: HeadOptions, world: int) -> int:
    """The seed of a run's world."""
    return 10_000 * options.loop.seed + world


def family_of(options: HeadOptions, world: int, kind: str | None) -> int:
    """The member that shall not see it; of worlds of unknown kind nobody knows, so it is dealt."""
    if options.left_out == "worlds" or kind is None:
        return world % 3
    return FAMILIES[kind]


def draft_worlds(options: HeadOptions, report: Report) -> list[Stored]:
    """At most options.worlds of them, none begun after options.render_s."""
    begun = time.monotonic()
    work = functools.partial(_drafted_until, options, begun + options.render_s)
    drafted = runner_of(None, options.renderers).run(work, range(options.worlds))
    made = {world: _rebuilt(arrays) for world, arrays in drafted if arrays is not None}
    report(f"{len(made)} worlds rendered in {time.monotonic() - begun:.0f} s")
    return [made[world] for world in sorted(made)]


def _drafted_until(options: HeadOptions, ends_s: float, world: int) -> list[object] | None:
    """ends_s: by `time.monotonic`, which is the same in all processes of a machine."""
    return None if time.monotonic() > ends_s else draft_arrays(options, world)


def draft_arrays(options: HeadOptions, world: int) -> list[object]:
    """Of one world, as arrays: they travel between processes, tensors would keep files open."""
    number, size = number_of(options, world), stored_size(options)
    views = images_of_world(draft_world(number), number, options.views, size)
    stored = Stored.of(views, world, family_of(options, world, kind_of(number)), size)
    return [getattr(stored, name).numpy() for name in Stored.__dataclass_fields__]


def _rebuilt(arrays: Sequence[object]) -> Stored:
    return Stored(*(torch.from_numpy(array) for array in arrays))  # type: ignore[arg-type]


def recorded(
    folders: Sequence[Path], options: HeadOptions, first: int, *, dealt: bool
) -> list[Stored]:
    """Of each recording; numbered from `first`. dealt: members share them as they do worlds."""
    size = stored_size(options)

    def one(at: int) -> Stored:
        family = family_of(options, at, None) if dealt else -1
        return Stored.of(images_of_sequence(folders[at], options.every), first + at, family, size)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(one, range(len(folders))))


@dataclass(frozen=True, eq=False)
class Split:
    seen: Stored
    unseen: Stored

    @staticmethod
    def of(worlds: Sequence[Stored]) -> Split:
        if len(worlds) < HELD_OUT_EVERY:
            raise InvalidInput(
                f"{len(worlds)} worlds are too few, it takes {HELD_OUT_EVERY}: every eighth is "
                "held out; set `worlds` or name --pairs"
            )
        return Split(
            Stored.joined([w for k, w in enumerate(worlds) if k % HELD_OUT_EVERY]),
            Stored.joined(worlds[::HELD_OUT_EVERY]),
        )


def some_seen(split: Split, eyes: Eyes, size: Size) -> Samples:
    """Of every few images that were trained on, and of those held out: for the card."""
    step = max(len(split.seen) // MEASURED_IMAGES, 1)
    chosen = torch.arange(0, len(split.seen), step, device=split.seen.rgb.device)
    return merged(
        [seen_whole(part, eyes, size) for part in (split.seen.picked(chosen), split.unseen)]
    )
