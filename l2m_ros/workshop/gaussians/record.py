"""What is written beside a scene: NAME.ply, NAME.plain.ply and NAME.json.

NAME.json says where the images came from, how they were shrunk, every camera, and how well the
held-out views are drawn, so that a scene can be checked and rendered later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values, read_json, write_whole
from l2m_ros.types import Camera
from l2m_ros.workshop.evaluation.scenes import rigid
from l2m_ros.workshop.gaussians.captures import Capture, Captures, HoldOut
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.gaussians.sources import load_captures


@dataclass(frozen=True)
class Record:
    """NAME.json as read."""

    source: Path
    longest_px: int
    cameras: dict[str, PosedCamera]
    metric: bool
    held_out: list[str] | None  # None: written before views were a choice
    figures: dict[str, Any]

    def captures(self, source: Path | None = None) -> Captures:
        """The same images again, from where they were or from `source`.

        A folder or map that has grown since would hold out others, which the scene was fitted to.
        """
        at = source or self.source
        if not at.exists():
            raise InvalidInput(f"{at}: the images are not there any more: name them by --source")
        found = load_captures(at, longest_px=self.longest_px, only=self.cameras)
        lacking = sorted(set(self.cameras) - {capture.name for capture in found.items})
        if lacking:
            raise InvalidInput(
                f"{at}: {len(lacking)} images that the scene was built from are not there "
                f"({lacking[0]}): name those images by --source, or build the scene anew"
            )
        return found.holding_out(HoldOut() if self.held_out is None else self.held_out)


def plain_path(scene: Path) -> Path:
    """Where the scene fitted without regularisers lies."""
    return scene.with_suffix(".plain.ply")


def resume_path(scene: Path) -> Path:
    """Where the state of an unfinished build lies."""
    return scene.with_suffix(".resume.pt")


def write_record(
    scene: Path, captures: Captures, *, longest_px: int, figures: dict[str, Any]
) -> None:
    record = {
        "source": str(captures.source.resolve()),
        "longest_px": longest_px,
        "metric": captures.metric,
        "cameras": {capture.name: _written(capture) for capture in captures.items},
        "held_out_names": [capture.name for capture in captures.held_out],
        **figures,
    }
    write_whole(scene.with_suffix(".json"), json.dumps(record, indent=1).encode())


def _written(capture: Capture) -> dict[str, Any]:
    camera = capture.view.camera
    return {
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "world_from_camera": capture.view.world_from_camera.tolist(),
    }


def read_record(scene: Path) -> Record:
    path = scene.with_suffix(".json")
    if not path.is_file():
        raise InvalidInput(
            f"{path} is missing: it says where the cameras are. Build the scene with "
            "`l2m splat build`, or name its posed images by --source"
        )
    raw = read_json(path)
    with foreign_values(f"{path}, which `l2m splat build` writes,"):
        cameras = {
            name: PosedCamera(
                Camera(entry["width"], entry["height"], np.array(entry["K"])),
                np.linalg.inv(rigid(entry["world_from_camera"], f"{name}: world_from_camera")),
            )
            for name, entry in raw["cameras"].items()
        }
        return Record(
            Path(raw["source"]), _count(raw["longest_px"]), cameras, bool(raw["metric"]),
            _among(raw.get("held_out_names"), cameras), raw,
        )  # fmt: skip


def _among(names: Any, cameras: dict[str, PosedCamera]) -> list[str] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not all(name in cameras for name in names):
        raise InvalidInput(f"held_out_names {names!r} are not names of its cameras")
    return names


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{value!r} is no count")
    return value
