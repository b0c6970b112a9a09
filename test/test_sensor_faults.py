"""Each fault of a sensor does what it says, to what it says, and leaves the truth true."""

import json
from dataclasses import replace

import numpy as np
import pytest

from l2m_ros import cli
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.workshop.simulation import in_the_way, odometry_faults
from l2m_ros.workshop.simulation.folder import write_folder
from l2m_ros.workshop.simulation.sensor_faults import (
    DEPTH_SCALE,
    HOLES,
    LOOKALIKE_M,
    SENSOR_FAULTS,
    spoil,
)
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

RATE_HZ = 10.0


@pytest.fixture(scope="module")
def shots():
    options = SimulationOptions(frames=24, width=120, height=90, rate_hz=RATE_HZ, stereo=False)
    return list(simulate(options))


def later(shots, seconds):
    """The same frames at later times: for faults that come after a while."""
    return [replace(shot, time_s=shot.time_s + seconds) for shot in shots]


def spoilt(shots, name):
    return list(spoil(shots, [name]))


@pytest.mark.parametrize("name", SENSOR_FAULTS)
def test_a_fault_changes_its_own_sensor_alone(shots, name):
    seconds = {"frozen_frames": 2.0, "odom_gaps": 1.5, "odom_jumps": 3.0}.get(name, 0.5)
    given = later(shots, seconds)
    changed = spoilt(given, name)
    by_index = {shot.index: shot for shot in given}
    images = depth = odometry = False
    for shot in changed:
        clean = by_index[shot.index]
        images |= not np.array_equal(shot.frame.rgb, clean.frame.rgb)
        depth |= not np.array_equal(shot.frame.depth, clean.frame.depth, equal_nan=True)
        odometry |= (
            not np.array_equal(shot.odom_from_base, clean.odom_from_base)
            or not np.array_equal(shot.odom_covariance, clean.odom_covariance)
            or not shot.odom_published
            or shot.odom_late_ns != clean.odom_late_ns
        )
        if name != "lookalike":
            assert np.array_equal(shot.world_from_camera, clean.world_from_camera)
            assert shot.frame.stamp_ns == clean.frame.stamp_ns
    if name == "lookalike":
        return
    assert len(changed) == len(given)
    kind = name.split("_")[0]
    assert depth == (kind in ("depth", "robot", "passers"))
    assert odometry == (kind == "odom")
    assert images == (kind not in ("depth", "odom"))


def test_depth_is_scaled(shots):
    for before, after in zip(shots, spoilt(shots, "depth_scaled"), strict=True):
        ratio = after.frame.depth / before.frame.depth
        assert np.nanmax(np.abs(ratio - DEPTH_SCALE)) < 1e-5


def test_late_depth_is_that_of_the_frame_before(shots):
    """At 10 Hz 100 ms are one frame."""
    late = spoilt(shots, "depth_late")
    for k in range(2, len(shots)):
        off = np.abs(late[k].frame.depth - shots[k - 1].frame.depth)
        assert np.nanmedian(off) < 1e-4


def test_holes_are_as_large_as_they_say(shots):
    known = [np.isfinite(shot.frame.depth).mean() for shot in spoilt(shots, "depth_holes")]
    assert np.mean(known) == pytest.approx(1 - HOLES, abs=0.02)


def test_flying_pixels_lie_between_the_surfaces(shots):
    for before, after in zip(shots, spoilt(shots, "depth_flying"), strict=True):
        z, clean = after.frame.depth, before.frame.depth
        moved = np.abs(z - clean) > 1e-3
        assert 0.01 < moved.mean() < 0.7
        assert np.nanmin(z) >= np.nanmin(clean) - 1e-4 and np.nanmax(z) <= np.nanmax(clean) + 1e-4


def test_slip_goes_forward_and_leaves_the_covariance(shots):
    given = later(shots, 1.5)
    slipped = spoilt(given, "odom_slip")
    steps = [
        (se3.inverse(a.odom_from_base) @ b.odom_from_base)[:3, 3]
        - (se3.inverse(c.odom_from_base) @ d.odom_from_base)[:3, 3]
        for a, b, c, d in zip(slipped, slipped[1:], given, given[1:], strict=False)
    ]
    extra = np.array(steps)
    assert np.isclose(extra[:, 0], 0.5 / RATE_HZ, atol=1e-3).sum() >= 8
    assert np.abs(extra[:4]).max() < 1e-12


def test_a_rolling_shutter_bends_what_moves(shots):
    """The middle row keeps its place; rows far from it move the more."""
    still = replace(shots[5], frame=replace(shots[5].frame))
    unmoved = list(spoil([still, replace(still, time_s=still.time_s + 0.1)], ["rolling_shutter"]))
    assert np.abs(unmoved[0].frame.rgb.astype(int) - still.frame.rgb).max() <= 1
    bent = spoilt(shots, "rolling_shutter")
    change = np.mean(
        [
            np.abs(b.frame.rgb.astype(float) - a.frame.rgb).mean(axis=(1, 2))
            for a, b in zip(shots[1:-1], bent[1:-1], strict=True)
        ],
        axis=0,
    )
    middle = change[40:50].mean()
    assert change[:15].mean() > 2 * middle and change[-15:].mean() > 2 * middle


def test_a_part_of_the_robot_stays_where_it_is(shots):
    seen = spoilt(shots, "robot_part")
    used = in_the_way.robot_mask(shots[0].frame)
    assert 0.7 < used.mean() < 0.9 and used[: len(used) // 2].all()
    for before, after in zip(shots, seen, strict=True):
        same = (after.frame.rgb == before.frame.rgb).all(axis=2)
        assert same[used].all() and same[~used].mean() < 0.1
        off = after.frame.depth[~used] / in_the_way.PART_M - 1
        assert np.abs(off).max() < 6 * in_the_way.DEPTH_NOISE
    still = np.abs(seen[3].frame.rgb.astype(float) - seen[9].frame.rgb)[~used]
    assert still.mean() < 2 * in_the_way.GREY_NOISE


def test_passers_by_cross_the_image_at_their_own_depth(shots):
    columns = []
    for before, after in zip(shots, spoilt(shots, "passers_by"), strict=True):
        hidden = np.abs(after.frame.depth / in_the_way.PASSER_M - 1) < 0.05
        hidden &= (after.frame.rgb != before.frame.rgb).any(axis=2)
        columns.append(np.flatnonzero(hidden.any(axis=0)).mean() if hidden.any() else np.nan)
    speed = np.diff(np.array(columns)[8:18])  # where all of it is in view
    assert np.allclose(speed, 120 * in_the_way.PASSER_WIDTHS_S / RATE_HZ, atol=1.5)


def test_odometry_that_is_scaled_late_or_jumps(shots):
    def way(a, b):
        return (se3.inverse(a.odom_from_base) @ b.odom_from_base)[:3, 3]

    scaled = spoilt(shots, "odom_scaled")
    ratio = np.linalg.norm(way(scaled[0], scaled[20])) / np.linalg.norm(way(shots[0], shots[20]))
    assert ratio == pytest.approx(odometry_faults.SCALE)
    assert all(
        shot.odom_late_ns == 1e9 * odometry_faults.LATE_S for shot in spoilt(shots, "odom_late")
    )
    jumped = spoilt(later(shots, 3.0), "odom_jumps")
    off = [(b.odom_from_base - a.odom_from_base)[:3, 3] for a, b in zip(shots, jumped, strict=True)]
    assert np.allclose(off[0], 0) and np.allclose(off[-1], [odometry_faults.JUMP_M, 0, 0])


def test_a_look_alike_place_shows_the_same_but_lies_further(tmp_path):
    options = SimulationOptions(frames=20, width=64, height=48, rate_hz=2.0, stereo=False)
    clean = {shot.index: shot for shot in simulate(options)}
    moved = list(spoil(clean.values(), ["lookalike"]))
    assert len(moved) < len(clean)
    for shot in moved:
        same = clean[shot.index]
        assert np.array_equal(shot.frame.rgb, same.frame.rgb)
        further = (shot.world_from_camera - same.world_from_camera)[:3, 3]
        assert further == pytest.approx([LOOKALIKE_M * (shot.time_s >= 5.0), 0, 0])
        assert np.array_equal(shot.viewpoint.world_from_camera, same.world_from_camera)
        # Odometry follows the truth.
        way = np.linalg.norm((se3.inverse(moved[0].odom_from_base) @ shot.odom_from_base)[:3, 3])
        true = se3.inverse(moved[0].world_from_base) @ shot.world_from_base
        assert way == pytest.approx(np.linalg.norm(true[:3, 3]), abs=0.1)
    # A folder's truth is where the images were taken, and no pair joins two stretches.
    write_folder(tmp_path / "scene", moved, pairs=30, least_overlap=0.01)
    cameras = json.loads((tmp_path / "scene/meta.json").read_text())["cameras"]
    for shot in moved:
        assert np.allclose(
            cameras[f"{shot.index:06d}.png"]["world_from_camera"], shot.world_from_camera
        )
    pairs = json.loads((tmp_path / "scene/pairs.json").read_text())
    assert pairs and all((int(p["a"][:6]) < 10) == (int(p["b"][:6]) < 10) for p in pairs)


def test_an_unknown_fault_is_refused_with_the_nearest_name(shots):
    with pytest.raises(InvalidInput, match="did you mean depth_late"):
        list(spoil(shots, ["depth_lat"]))


def test_faults_are_listed_and_written(capsys, tmp_path):
    from l2m_ros.bags.reader import open_bag

    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}:" in said for name in SENSOR_FAULTS)
    out = tmp_path / "run.mcap"
    argv = ["simulate", "--out", str(out), "--frames", "10", "--size", "64x48", "--rate", "2"]
    assert cli.main([*argv, "--no-right", "--fault", "odom_gaps", "--fault", "odom_zero"]) == 0
    with open_bag(out) as bag:
        assert bag.count("/camera/image_raw") == 10
        messages = [message for _, message in bag.messages(["/odom"])]
    assert len(messages) == 6  # silent from 3.0 s on
    assert not any(np.any(message.pose.covariance) for message in messages)
