"""Posed images of recordings: folders with images/ and meta.json, and bags."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.evaluation.scenes import load_cameras
from l2m_ros.workshop.training.metric_data import Group, PosedFrame, Size, resized
from l2m_ros.workshop.training.posed_bags import NO_POSES, bags_below, frames_of_bag

READERS = 4  # threads


def frames_of_sequences(folder: Path, size: Size, report: Callable[[str], None]) -> list[Group]:
    """Groups of every sequence and bag found at or below `folder`; one a segment of a sequence."""
    found = sorted(path.parent for path in folder.glob("**/meta.json"))
    bags = bags_below(folder)
    if not found and not bags:
        raise InvalidInput(f"{folder} holds no meta.json and no bag: name a folder of sequences")
    groups: list[Group] = []
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda sequence: _sequence(sequence, size), found)
        for sequence, named in zip(found, read, strict=True):
            report(f"{sequence.name}: {sum(map(len, named.values()))} posed images")
            groups += [group for group in named.values() if len(group) > 1]
    for bag in bags:
        taken = frames_of_bag(bag, size)
        count = sum(map(len, taken))
        report(f"{bag.name}: {count} posed images" + ("" if count else f"; {NO_POSES}"))
        groups += [group for group in taken if len(group) > 1]
    if not groups:
        raise InvalidInput(f"{folder}: no sequence or bag tells the poses of two images")
    return groups


def _sequence(folder: Path, size: Size) -> dict[Any, list[PosedFrame]]:
    scene = load_cameras(folder)
    groups: dict[Any, list[PosedFrame]] = {}
    for name, entry in sorted(scene.meta.get("cameras", {}).items()):
        pose = scene.world_from_camera(name)
        if pose is None:
            continue
        view = scene.view(name)
        assert view.camera is not None
        frame = PosedFrame(view.rgb, view.camera, pose, view.depth)
        groups.setdefault(entry.get("segment", 0), []).append(resized(frame, size))
    return groups
