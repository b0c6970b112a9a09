"""Posed images for Gaussians: the same from a folder, a map and a bag."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput
from l2m_ros.mapping import codec
from l2m_ros.mapping.records import MapKeyframe
from l2m_ros.mapping.store import open_map
from l2m_ros.workshop.gaussians.sources import load_captures
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.folder import write_folder
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

FRAMES = 6


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("posed")
    options = SimulationOptions(frames=FRAMES, rate_hz=2.0, width=160, height=120, stereo=False)
    shots = list(simulate(options))
    write_folder(root / "folder", shots)
    write_bag(root / "drive.mcap", shots)
    store = open_map(str(root / "room.l2m"), create=True)
    for shot in shots:
        frame = shot.frame
        keyframe = MapKeyframe(
            0, frame.stamp_ns, frame.camera, codec.encode_image(frame.rgb, 100),
            codec.encode_depth(frame.depth, 0.001),
        )  # fmt: skip
        store.add(keyframe.placed(shot.viewpoint.world_from_camera, np.eye(6) * 1e-4))
    store.add(MapKeyframe(0, 1, frame.camera, codec.encode_image(frame.rgb)))  # without a place
    store.close()
    return {"folder": root / "folder", "bag": root / "drive.mcap", "map": root / "room.l2m"}


@pytest.mark.parametrize("kind", ["map", "bag"])
def test_a_map_and_a_bag_hold_what_the_folder_holds(sources: dict[str, Path], kind: str) -> None:
    wanted, got = load_captures(sources["folder"]), load_captures(sources[kind])
    assert got.metric and len(got.items) == len(wanted.items) == FRAMES
    for a, b in zip(wanted.items, got.items, strict=True):
        np.testing.assert_allclose(b.view.world_from_camera, a.view.world_from_camera, atol=1e-6)
        np.testing.assert_allclose(b.view.camera.K, a.view.camera.K)
        assert np.abs(a.rgb.astype(int) - b.rgb).mean() < (3.0 if kind == "map" else 0.01)
        known = np.isfinite(a.depth) & np.isfinite(b.depth)
        assert known.mean() > 0.9 and np.abs(a.depth - b.depth)[known].max() < 2e-3
    some = load_captures(sources[kind], limit=3)
    assert len(some.items) == 3
    again = load_captures(sources[kind], only=[some.items[1].name])
    np.testing.assert_array_equal(again.items[0].rgb, some.items[1].rgb)


def test_a_lens_is_taken_out_of_a_bag(tmp_path: Path) -> None:
    options = SimulationOptions(
        frames=3, rate_hz=1.0, width=160, height=120, stereo=False, faults=Faults.named(["lens"])
    )
    write_bag(tmp_path / "lens.mcap", simulate(options))
    straight = replace_lens(options)
    for a, b in zip(load_captures(tmp_path / "lens.mcap").items, straight, strict=True):
        assert a.view.camera.distortion == "none"
        inside = (slice(15, -15), slice(15, -15))
        off = np.abs(a.rgb[inside].astype(float) - b.frame.rgb[inside]).mean()
        shifted = np.abs(np.roll(a.rgb, 4, axis=1)[inside].astype(float) - b.frame.rgb[inside])
        assert off < 0.5 * shifted.mean()


def replace_lens(options: SimulationOptions) -> list:
    from dataclasses import replace

    return list(simulate(replace(options, faults=Faults())))


@pytest.mark.slow
def test_the_verb_builds_from_a_map(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "room.ply"
    build = ["splat", "build", str(sources["map"]), "--out", str(out), "--size", "80"]
    assert main([*build, "--steps", "3", "--gaussians", "300", "--no-plain"]) == 0
    assert out.is_file()


def test_what_has_no_places_is_refused_with_the_remedy(tmp_path: Path) -> None:
    options = SimulationOptions(frames=3, rate_hz=1.0, width=64, height=48, stereo=False)
    write_folder(tmp_path / "few", list(simulate(options))[:2])
    with pytest.raises(InvalidInput, match="at least 3"):
        load_captures(tmp_path / "few")
    store = open_map(str(tmp_path / "empty.l2m"), create=True)
    store.close()
    with pytest.raises(InvalidInput, match="at least 3"):
        load_captures(tmp_path / "empty.l2m")
