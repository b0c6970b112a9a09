"""Writes the evaluation layout that `l2m evaluate` reads, from frames or from pairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import whole_folder
from l2m_ros.geometry import se3
from l2m_ros.images import read_rgb, write_pixels, write_rgb
from l2m_ros.types import Camera, FloatArray
from l2m_ros.workshop.importers.dataset import Dataset, Shot, TruePair


def write_sequence(
    out: Path,
    dataset: Dataset,
    shots: Iterable[Shot],
    gaps: tuple[int, ...],
    *,
    force: bool = False,
) -> int:
    """Pictures, depth and the pairs (i, i + gap) of frames whose pose is known; how many pairs."""
    with whole_folder(out, force=force) as made:
        meta, posed = _meta(dataset), []
        for shot in shots:
            write_rgb(made / "images" / shot.name, shot.frame.rgb)
            if shot.frame.depth is not None and dataset.depth_scale_m is not None:
                _write_depth(made / "depth" / shot.name, shot.frame.depth, dataset.depth_scale_m)
            meta["cameras"][shot.name] = _camera(shot.frame.camera, shot.world_from_camera)
            if shot.world_from_camera is not None:
                posed.append((shot.name, shot.world_from_camera))
        pairs = list(_pairs(posed, gaps, dataset.metric))
        _close(made, meta, pairs)
    return len(pairs)


def write_pairs(
    out: Path, dataset: Dataset, pairs: Iterable[TruePair], *, force: bool = False
) -> int:
    """The pictures of all pairs, copied as they are; how many pairs."""
    with whole_folder(out, force=force) as made:
        meta, entries = _meta(dataset), []
        for pair in pairs:
            a = _copied(made, meta, pair.a, pair.K_a)
            b = _copied(made, meta, pair.b, pair.K_b)
            entries.append(_entry(a, b, pair.b_from_a, dataset.metric))
        _close(made, meta, entries)
    return len(entries)


def _meta(dataset: Dataset) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "source": dataset.published_at,
        "licence": dataset.licence,
        "metric": dataset.metric,
        "cameras": {},
    }
    if dataset.depth_scale_m is not None:
        meta["depth_scale"] = dataset.depth_scale_m
    return meta | ({"note": dataset.notes} if dataset.notes else {})


def _camera(camera: Camera, world_from_camera: FloatArray | None) -> dict[str, Any]:
    entry = {"K": camera.K.tolist(), "width": camera.width, "height": camera.height}
    if world_from_camera is not None:
        entry["world_from_camera"] = world_from_camera.tolist()
    return entry


def _pairs(
    posed: list[tuple[str, FloatArray]], gaps: tuple[int, ...], metric: bool
) -> Iterator[dict[str, Any]]:
    """a is the query, the later frame; b its keyframe."""
    for gap in gaps:
        for (b, world_from_b), (a, world_from_a) in zip(posed, posed[gap:], strict=False):
            yield _entry(a, b, se3.inverse(world_from_b) @ world_from_a, metric)


def _entry(a: str, b: str, b_from_a: FloatArray, metric: bool) -> dict[str, Any]:
    angle_deg = float(np.rad2deg(se3.angle_rad(b_from_a[:3, :3])))
    extra = {"baseline_m": float(np.linalg.norm(b_from_a[:3, 3]))} if metric else {}
    return {
        "a": a, "b": b, "T_b_a": b_from_a.tolist(), "metric": metric,
        "rot_deg": round(angle_deg, 3), **extra,
    }  # fmt: skip


def _copied(made: Path, meta: dict[str, Any], picture: Path, K: FloatArray) -> str:
    """The picture's name in the layout; pictures of one name in several folders stay apart."""
    name = "_".join(picture.parts[-3:]) if picture.parent.name == "color" else picture.name
    if name not in meta["cameras"]:
        rgb = read_rgb(picture)
        (made / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, made / "images" / name)
        meta["cameras"][name] = _camera(Camera(rgb.shape[1], rgb.shape[0], K), None)
        meta["cameras"][name]["from"] = str(picture)
    elif meta["cameras"][name]["from"] != str(picture):
        raise InvalidInput(f"two pictures are named {name}: {picture} is one of them")
    return name


def _write_depth(path: Path, depth_m: FloatArray, scale_m: float) -> None:
    values = np.nan_to_num(depth_m / scale_m, nan=0.0).round()
    write_pixels(path, np.where(values <= 65535, values, 0).astype(np.uint16))


def _close(made: Path, meta: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    if not pairs:
        raise InvalidInput("no pair has a known pose: is the ground truth there, and long enough?")
    for camera in meta["cameras"].values():
        camera.pop("from", None)
    (made / "meta.json").write_text(json.dumps(meta, indent=1))
    (made / "pairs.json").write_text(json.dumps(pairs, indent=1))
