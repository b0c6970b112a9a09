"""A run as an evaluation scene: images, depth, meta.json and pairs.json with the truth.

images/000012.png     depth/000012.png (uint16, metres = value * depth_scale, 0 = unknown)
meta.json             K, and world_from_camera of every image
pairs.json            {"a", "b", "T_b_a", "metric", "overlap", "rot_deg", "baseline_m"}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import whole_folder
from l2m_ros.geometry import se3
from l2m_ros.images import write_pixels
from l2m_ros.types import Camera, FloatArray
from l2m_ros.workshop.simulation.sequence import SimulatedFrame, Viewpoint
from l2m_ros.workshop.simulation.truth import true_match

DEPTH_SCALE = 0.0005  # half a millimetre; farther than 32.7 m is unknown
OVERLAP_STRIDE = 16
LEAST_OVERLAP, MOST_OVERLAP = 0.3, 0.97  # less is hopeless, more is trivial
PAIRS_TRIED = 8  # candidates for each pair wanted


@dataclass(frozen=True, eq=False)
class Kept:
    """Of an image: what it shows, and where it was taken in truth. Where the world repeats itself
    the two differ (`lookalike`)."""

    seen: Viewpoint
    world_from_camera: FloatArray  # 4x4

    @property
    def camera(self) -> Camera:
        return self.seen.camera

    def is_beside(self, other: Kept) -> bool:
        """Whether both show the same stretch of the world."""
        own, others = (
            kept.world_from_camera @ se3.inverse(kept.seen.world_from_camera)
            for kept in (self, other)
        )
        return bool(np.allclose(own, others, atol=1e-6))


def write_folder(
    path: str | Path,
    shots: Iterable[SimulatedFrame],
    *,
    pairs: int = 60,
    least_overlap: float = LEAST_OVERLAP,
    seed: int = 0,
    force: bool = False,
    source: str = "l2m simulate",
    scene: str = "",
) -> None:
    """Writes the folder whole or not at all; `pairs` are chosen by their true overlap. `scene`
    names the world that the truth is given in, for `l2m localize` in a map of another run."""
    kept: dict[str, Kept] = {}
    with whole_folder(Path(path), force=force) as made:
        (made / "images").mkdir(parents=True)
        (made / "depth").mkdir()
        for shot in shots:
            name = f"{shot.index:06d}.png"
            _write_images(made, name, shot)
            kept[name] = Kept(shot.viewpoint, shot.world_from_camera)
        _write_json(made / "meta.json", _meta(kept, source, scene))
        _write_json(
            made / "pairs.json",
            _pairs(kept, pairs, least_overlap, np.random.default_rng([seed, 40])),
        )


def _write_images(made: Path, name: str, shot: SimulatedFrame) -> None:
    if shot.frame.camera.distortion != "none":
        raise InvalidInput(
            "the evaluation layout holds undistorted images: leave out the fault 'lens', "
            "or write a bag"
        )
    write_pixels(made / "images" / name, shot.frame.rgb[..., ::-1])
    if shot.frame.depth is not None:
        value = np.nan_to_num(shot.frame.depth / DEPTH_SCALE, nan=0.0).round()
        value = np.where(value < 65536, value, 0).astype(np.uint16)
        write_pixels(made / "depth" / name, value)


def _meta(kept: dict[str, Kept], source: str, scene: str) -> dict[str, Any]:
    first = next(iter(kept.values()))
    cameras = {
        name: {
            "width": view.camera.width,
            "height": view.camera.height,
            "K": view.camera.K.tolist(),
            "world_from_camera": view.world_from_camera.tolist(),
        }
        for name, view in kept.items()
    }
    return {
        "source": source,
        **({"scene": scene} if scene else {}),
        "licence": "Apache-2.0 (made by l2m simulate)",
        "synthetic": True,
        "metric": True,
        "depth_scale": DEPTH_SCALE,
        "max_depth": 65535 * DEPTH_SCALE,
        "pose_source": "exact",
        "K": first.camera.K.tolist(),
        "cameras": cameras,
    }


def _pairs(
    kept: dict[str, Kept],
    count: int,
    least_overlap: float,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Random pairs of images that see enough of the same, each at most once."""
    names = list(kept)
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(PAIRS_TRIED * count if len(names) > 1 else 0):
        a, b = (names[i] for i in sorted(rng.choice(len(names), 2, replace=False)))
        if len(chosen) == count:
            break
        if (a, b) not in chosen:
            found = _pair(a, b, kept[a], kept[b])
            if least_overlap <= found["overlap"] <= MOST_OVERLAP:
                chosen[a, b] = found
    return [chosen[key] for key in sorted(chosen)]


def _pair(a: str, b: str, view_a: Kept, view_b: Kept) -> dict[str, Any]:
    b_from_a: FloatArray = se3.inverse(view_b.world_from_camera) @ view_a.world_from_camera
    cosine = np.clip((np.trace(b_from_a[:3, :3]) - 1) / 2, -1, 1)
    seen = [0.0]
    if view_a.is_beside(view_b):
        both = (view_a.seen, view_b.seen), (view_b.seen, view_a.seen)
        seen = [true_match(*pair, stride=OVERLAP_STRIDE).certainty.mean() for pair in both]
    return {
        "a": a,
        "b": b,
        "T_b_a": b_from_a.tolist(),
        "metric": True,
        "overlap": round(float(min(seen)), 3),
        "rot_deg": round(float(np.degrees(np.arccos(cosine))), 2),
        "baseline_m": round(float(np.linalg.norm(b_from_a[:3, 3])), 3),
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
