"""Public layouts, made up at thumbnail size with known truth, through `l2m scene import`."""

import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("rosbags")

from l2m_ros import cli
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project
from l2m_ros.types import Camera
from l2m_ros.workshop.evaluation.scenes import load_scene
from l2m_ros.workshop.importers import tum
from l2m_ros.workshop.importers.undistort import undistorted

RNG = np.random.default_rng(5)
FRAMES, SIZE = 12, (64, 48)
DEPTH_M = 2.5


def truth(number):
    """world_from_camera of a frame."""
    return se3.exp(np.array([0.1 * number, 0.02, 0.3, 0.01, 0.03 * number, 0.2]))


def picture(path, size=SIZE, grey=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] if grey else (*size[::-1], 3)
    values = RNG.integers(0, 256, shape, np.uint8)
    assert cv2.imwrite(str(path), values)
    return values if grey else values[..., ::-1]


def depth_picture(path, units, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(size[::-1], units, np.uint16))


def tum_row(stamp, T):
    return f"{stamp:.6f} {' '.join(f'{v:.9f}' for v in [*T[:3, 3], *se3.quaternion(T[:3, :3])])}"


def make_tum(root):
    """Poses at twice the rate of the pictures, half a period off: they are interpolated."""
    folder = root / "rgbd_dataset_freiburg3_made_up"
    stamps = [1000.0 + n / 30 for n in range(FRAMES)]
    pictures = [picture(folder / f"rgb/{stamp:.6f}.png") for stamp in stamps]
    for stamp in stamps:
        depth_picture(folder / f"depth/{stamp + 0.01:.6f}.png", round(DEPTH_M * 5000))
    for name, offset in (("rgb", 0.0), ("depth", 0.01)):
        rows = [f"{s + offset:.6f} {name}/{s + offset:.6f}.png" for s in stamps]
        (folder / f"{name}.txt").write_text("\n".join(["# a comment", *rows]))
    halves = [(1000.0 + k / 60, truth(k / 2)) for k in range(2 * FRAMES)]
    (folder / "groundtruth.txt").write_text("\n".join(tum_row(s, T) for s, T in halves))
    return folder, pictures


def make_euroc(root):
    folder = root / "mav0"
    body_from_camera = se3.exp(np.array([0.1, 0.2, -0.1, 0.3, -0.2, 1.5]))
    stamps = [10**18 + n * 50_000_000 for n in range(FRAMES)]
    pictures = [picture(folder / f"cam0/data/{stamp}.png", grey=True) for stamp in stamps]
    rows = ["#timestamp [ns],filename", *(f"{s},{s}.png" for s in stamps)]
    (folder / "cam0/data.csv").write_text("\r\n".join(rows))
    (folder / "cam0/sensor.yaml").write_text(
        "T_BS:\n  cols: 4\n  rows: 4\n  data: "
        f"{body_from_camera.ravel().tolist()}\n"
        "intrinsics: [60.0, 61.0, 31.5, 23.5]\n"
        "distortion_model: radial-tangential\n"
        "distortion_coefficients: [0.0, 0.0, 0.0, 0.0]\n"
        "resolution: [64, 48]\n"
    )
    (folder / "state_groundtruth_estimate0").mkdir()
    lines = ["#timestamp, p_RS_R_x [m], ..."]
    for number, stamp in enumerate(stamps):
        T = truth(number) @ se3.inverse(body_from_camera)
        x, y, z, w = se3.quaternion(T[:3, :3])
        values = [*T[:3, 3], w, x, y, z, *np.zeros(9)]
        lines.append(",".join([str(stamp), *(f"{v:.12f}" for v in values)]))
    (folder / "state_groundtruth_estimate0/data.csv").write_text("\n".join(lines))
    return root, [np.repeat(p[..., None], 3, axis=2) for p in pictures]


def make_kitti(root):
    folder = root / "sequences" / "03"
    pictures = [picture(folder / f"image_0/{n:06d}.png", grey=True) for n in range(FRAMES)]
    for n in range(FRAMES):
        picture(folder / f"image_1/{n:06d}.png", grey=True)
    P = np.array([[60.0, 0, 31.5, 0], [0, 60.0, 23.5, 0], [0, 0, 1, 0]])
    right = P.copy()
    right[0, 3] = -60.0 * 0.54
    rows = [f"P{i}: {' '.join(map(str, M.ravel()))}" for i, M in enumerate((P, right))]
    (folder / "calib.txt").write_text("\n".join(rows))
    (folder / "times.txt").write_text("\n".join(f"{n / 10:e}" for n in range(FRAMES)))
    (root / "poses").mkdir()
    np.savetxt(root / "poses/03.txt", [truth(n)[:3].ravel() for n in range(FRAMES)])
    return folder, [np.repeat(p[..., None], 3, axis=2) for p in pictures]


def make_kitti_drive(root):
    """A drive as recorded: GPS and IMU poses, calibration in the folder of its date."""
    day = root / "2011_09_26"
    folder = day / "2011_09_26_drive_0001_sync"
    names = [f"{n:010d}" for n in range(FRAMES)]
    pictures = [picture(folder / f"image_00/data/{name}.png", grey=True) for name in names]
    for name in names:
        picture(folder / f"image_01/data/{name}.png", grey=True)
    rect, velo = se3.exp(np.array([0, 0, 0, 0.01, 0.02, 0.0])), se3.exp(np.full(6, 0.3))
    imu = se3.exp(np.array([0.8, -0.3, 0.8, 0.0, 0.01, -0.01]))
    P = np.array([[60.0, 0, 31.5, 0], [0, 60.0, 23.5, 0], [0, 0, 1, 0]])
    right = P.copy()
    right[0, 3] = -60.0 * 0.54
    rows = {"R_rect_00": rect[:3, :3], "P_rect_00": P, "P_rect_01": right}
    text = "".join(f"{name}: {' '.join(map(str, M.ravel()))}\n" for name, M in rows.items())
    (day / "calib_cam_to_cam.txt").write_text(f"calib_time: 09-Jan-2012 13:57:47\n{text}")
    for name, T in (("velo_to_cam", velo), ("imu_to_velo", imu)):
        R, t = (" ".join(map(str, part.ravel())) for part in (T[:3, :3], T[:3, 3]))
        (day / f"calib_{name}.txt").write_text(f"calib_time: 15-Mar-2012\nR: {R}\nT: {t}\n")
    (folder / "oxts/data").mkdir(parents=True)
    for n, name in enumerate(names):
        T = truth(n) @ rect @ velo @ imu
        yaw, pitch, roll = Rotation.from_matrix(T[:3, :3]).as_euler("ZYX")
        east, north, up = T[:3, 3]
        lat = 49.0 + np.degrees(north / 6378137.0)
        lon = 8.4 + np.degrees(east / 6378137.0 / np.cos(np.radians(49.0)))
        values = [lat, lon, 115 + up, roll, pitch, yaw, *np.zeros(24)]
        (folder / f"oxts/data/{name}.txt").write_text(" ".join(f"{v:.14f}" for v in values))
    stamps = [f"2011-09-26 14:05:{35 + n / 10:012.9f}" for n in range(FRAMES)]
    (folder / "image_00/timestamps.txt").write_text("\n".join(stamps) + "\n")
    return folder, [np.repeat(p[..., None], 3, axis=2) for p in pictures]


def make_seven_scenes(root):
    folder, size = root / "chess" / "seq-01", (640, 480)
    pictures = [picture(folder / f"frame-{n:06d}.color.png", size) for n in range(FRAMES)]
    for n in range(FRAMES):
        depth_picture(folder / f"frame-{n:06d}.depth.png", round(DEPTH_M * 1000), size)
        np.savetxt(folder / f"frame-{n:06d}.pose.txt", truth(n))
    return folder, pictures


SEQUENCES = {
    "tum": make_tum, "euroc": make_euroc, "kitti": make_kitti, "7scenes": make_seven_scenes,
}  # fmt: skip


@pytest.mark.parametrize("layout", [*SEQUENCES, "a drive of kitti"])
def test_sequences_become_scenes(layout, tmp_path):
    make = SEQUENCES.get(layout, make_kitti_drive)
    layout = layout.split()[-1]
    source, pictures = make(tmp_path)
    out = tmp_path / "scene"
    assert cli.main(["scene", "import", layout, str(source), "--out", str(out), "--gaps", "3"]) == 0
    scene = load_scene(out)
    assert len(scene.pairs) == FRAMES - 3
    for number, pair in enumerate(scene.pairs):
        expected = se3.inverse(truth(number)) @ truth(number + 3)
        np.testing.assert_allclose(pair.b_from_a, expected, atol=2e-4)
    view = scene.view(scene.pairs[4].b)
    np.testing.assert_array_equal(view.rgb, pictures[4])
    if layout in ("tum", "7scenes"):
        known = view.depth[np.isfinite(view.depth)]
        assert known.size > 0.75 * view.depth.size
        np.testing.assert_allclose(known, DEPTH_M, atol=1e-3)


@pytest.mark.parametrize("layout", [*SEQUENCES, "a drive of kitti"])
def test_a_published_sequence_that_is_given_as_a_bag(layout, tmp_path, capsys):
    make = SEQUENCES.get(layout, make_kitti_drive)
    layout = layout.split()[-1]
    source, _ = make(tmp_path)
    assert cli.main(["replay", str(source)]) == 2
    assert f"l2m scene import {layout} {source}" in " ".join(capsys.readouterr().err.split())


def test_a_sequence_becomes_a_bag_that_replay_reads(tmp_path):
    from l2m_ros.bags.reader import open_bag
    from l2m_ros.bags.replay import GROUND_TRUTH, find_topics, read_truth
    from l2m_ros.frames.messages import read_camera, read_image, read_right_from_camera

    source, pictures = make_kitti(tmp_path)
    out = tmp_path / "run.mcap"
    arguments = ["scene", "import", "kitti", str(source), "--out", str(out), "--every", "2"]
    assert cli.main(arguments) == 0
    with open_bag(out) as bag:
        topics = find_topics(bag, {})
        assert topics.image == "/camera/image_raw" and topics.right_image is not None
        messages = dict(bag.messages([topics.image, topics.right_camera_info]))
        np.testing.assert_array_equal(read_image(messages[topics.image]), pictures[10])
        info = messages[topics.right_camera_info]
        assert read_right_from_camera(info)[0, 3] == pytest.approx(-0.54)
        assert read_camera(info).K[0, 0] == 60.0
        stamps, poses = read_truth(bag, GROUND_TRUTH)
    assert len(stamps) == FRAMES // 2
    np.testing.assert_allclose(poses[3], truth(6), atol=1e-6)


@pytest.mark.parametrize("lens", ["", " 0.1 -0.2 0.001 0.0"])
def test_a_camera_of_ones_own_in_the_layout_of_tum(lens, tmp_path):
    source, pictures = make_tum(tmp_path)
    source = source.rename(source.with_name("my_kitchen"))
    (source / "calibration.txt").write_text(f"# fx fy cx cy\n60 61 31.5 23.5{lens}\n")
    shot = next(tum.shots(source))
    assert shot.frame.camera.K[[0, 1, 0, 1], [0, 1, 2, 2]].tolist() == [60, 61, 31.5, 23.5]
    expected = undistorted(pictures[0], shot.frame.camera.K, np.array(lens.split(), float))
    np.testing.assert_array_equal(shot.frame.rgb, expected)
    (source / "calibration.txt").write_text("60 61 31.5")
    with pytest.raises(InvalidInput, match="got 3 numbers"):
        next(tum.shots(source))


def test_a_recording_without_truth_becomes_a_bag(tmp_path):
    from l2m_ros.bags.reader import open_bag
    from l2m_ros.bags.replay import find_topics
    from l2m_ros.frames.messages import stamp_ns

    source, _ = make_tum(tmp_path)
    (source / "groundtruth.txt").unlink()
    out = tmp_path / "run.mcap"
    assert cli.main(["scene", "import", "tum", str(source), "--out", str(out)]) == 0
    with open_bag(out) as bag:
        topics = find_topics(bag, {})
        assert (topics.image, topics.depth) == ("/camera/image_raw", "/camera/depth")
        depths = [message for _, message in bag.messages([topics.depth])]
        images = [message for _, message in bag.messages([topics.image])]
        assert len(depths) == len(images) == FRAMES
        late_ns = [stamp_ns(d) - stamp_ns(i) for d, i in zip(depths, images, strict=True)]
        np.testing.assert_allclose(late_ns, 10_000_000, atol=1000)  # each under its own stamp
        assert not list(bag.messages(["/ground_truth/pose"]))


DOTS_M = np.array([[-0.4, 0.3, 2.0], [0.5, -0.2, 2.5], [0.1, 0.1, 4.0]])  # in the body


def seen_by(body_from_camera):
    """The dots in that camera, metres."""
    T = se3.inverse(body_from_camera)
    return DOTS_M @ T[:3, :3].T + T[:3, 3]


def euroc_camera(folder, body_from_camera, K, D, header):
    """A camera of EuRoC's and one picture of dots, distorted as the lens has it."""
    camera = Camera(
        160, 120, np.array([[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]]), "plumb_bob", D
    )
    dots = project(camera, seen_by(body_from_camera))
    v, u = np.mgrid[:120, :160]
    grey = sum(255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 8) for x, y in dots)
    (folder / "data").mkdir(parents=True)
    cv2.imwrite(str(folder / "data" / f"{10**18}.png"), np.clip(grey, 0, 255).astype(np.uint8))
    (folder / "data.csv").write_text(f"#timestamp [ns],filename\n{10**18},{10**18}.png")
    (folder / "sensor.yaml").write_text(
        f"{header}T_BS:\n  data: {body_from_camera.ravel().tolist()}\n"
        f"intrinsics: {K}\ndistortion_model: radial-tangential\n"
        f"distortion_coefficients: {D}\nresolution: [160, 120]\n"
    )


def dots_in(rgb):
    """Their places, from left to right."""
    _, _, _, places = cv2.connectedComponentsWithStats((rgb[..., 0] > 100).astype(np.uint8))
    return np.array(sorted(places[1:], key=lambda place: place[0]))


@pytest.mark.parametrize("header", ["", "%YAML:1.0\n"])
def test_euroc_gives_a_rectified_pair(header, tmp_path):
    from l2m_ros.workshop.importers import euroc

    left = se3.exp(np.array([0.0, 0.0, 0.0, 0.02, -0.03, 0.1]))
    right = se3.exp(np.array([0.11, 0.01, 0.004, 0.01, 0.02, 0.12]))
    folder = tmp_path / "mav0"
    euroc_camera(folder / "cam0", left, [150.0, 149, 80, 61], [-0.28, 0.07, 2e-4, 0.0], header)
    euroc_camera(folder / "cam1", right, [152.0, 151, 78, 58], [-0.27, 0.06, 0.0, 1e-4], header)
    (folder / "state_groundtruth_estimate0").mkdir()
    world_from_body = truth(3)
    x, y, z, w = se3.quaternion(world_from_body[:3, :3])
    row = ",".join(str(v) for v in [10**18, *world_from_body[:3, 3], w, x, y, z])
    (folder / "state_groundtruth_estimate0/data.csv").write_text(row)
    (shot,) = euroc.shots(tmp_path)
    frame, baseline_m = shot.frame, -shot.frame.right_from_camera[0, 3]
    assert baseline_m == pytest.approx(np.linalg.norm((left - right)[:3, 3]), rel=1e-6)
    seen = seen_by(se3.inverse(world_from_body) @ shot.world_from_camera)
    expected = np.array(sorted(project(frame.camera, seen), key=lambda place: place[0]))
    found = dots_in(frame.rgb)
    np.testing.assert_allclose(found, expected, atol=0.5)
    disparity = frame.camera.K[0, 0] * baseline_m / np.sort(seen[:, 2])
    others = dots_in(frame.right_rgb)
    np.testing.assert_allclose(found[:, 1], others[:, 1], atol=0.5)
    np.testing.assert_allclose(np.sort((found - others)[:, 0])[::-1], disparity, atol=0.7)


def test_euroc_calibration_that_is_no_yaml_is_refused(tmp_path, capsys):
    source, _ = make_euroc(tmp_path)
    (source / "mav0/cam0/sensor.yaml").write_text("T_BS: [1, 2")
    out = str(tmp_path / "scene")
    assert cli.main(["scene", "import", "euroc", str(source), "--out", out]) == 2
    assert "is no YAML" in capsys.readouterr().err


def pair_line(names, b_from_a, full):
    K = np.array([[60.0, 0, 31.5], [0, 61.0, 23.5], [0, 0, 1]])
    pose = b_from_a if full else np.concatenate([b_from_a[:3, :3].ravel(), b_from_a[:3, 3]])
    return " ".join([*names, *map(str, [*K.ravel(), *K.ravel(), *pose.ravel()])])


@pytest.mark.parametrize("layout", ["scannet1500", "megadepth1500"])
@pytest.mark.parametrize("full", [True, False])
def test_lists_of_pairs(layout, full, tmp_path):
    names = [f"Undistorted_SfM/0015/images/{n}.jpg" for n in range(3)]
    pictures = [picture((tmp_path / "images" / n).with_suffix(".png")) for n in names]
    names = [n.replace(".jpg", ".png") for n in names]
    moves = [se3.inverse(truth(b)) @ truth(a) for a, b in ((0, 1), (1, 2))]
    lines = [pair_line((names[i], names[i + 1]), moves[i], full) for i in range(2)]
    (tmp_path / "pairs_calibrated.txt").write_text("\n".join(lines))
    out = tmp_path / "scene"
    assert cli.main(["scene", "import", layout, str(tmp_path), "--out", str(out)]) == 0
    scene = load_scene(out)
    assert [pair.metric for pair in scene.pairs] == [layout == "scannet1500"] * 2
    np.testing.assert_allclose([pair.b_from_a for pair in scene.pairs], moves, atol=1e-9)
    np.testing.assert_array_equal(scene.view(scene.pairs[0].b).rgb, pictures[1])
    assert scene.view(scene.pairs[0].b).camera.K[1, 1] == 61.0


def test_scannet_as_first_published(tmp_path):
    folder = tmp_path / "scannet_test_1500" / "scene0707_00"
    for number in (15, 585):
        picture(folder / f"color/{number}.jpg")
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / f"pose/{number}.txt", truth(number / 100))
    np.savez(tmp_path / "test.npz", name=np.array([[707, 0, 15, 585]]))
    np.savez(tmp_path / "intrinsics.npz", scene0707_00=np.diag([60.0, 60.0, 1.0]))
    out = tmp_path / "scene"
    assert cli.main(["scene", "import", "scannet1500", str(tmp_path), "--out", str(out)]) == 0
    (pair,) = load_scene(out).pairs
    assert pair.a == "scene0707_00_color_15.jpg"
    expected = se3.inverse(truth(5.85)) @ truth(0.15)
    np.testing.assert_allclose(pair.b_from_a, expected, atol=1e-6)


def test_undistortion_is_this_packages_lens():
    """A dot where the lens shows a ray ends up where a pinhole with the same K shows it."""
    (fx, fy, cx, cy), D = tum.CAMERAS["freiburg1"]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    ray = np.array([[0.31, -0.22, 1.0]])
    (seen,) = project(Camera(640, 480, K, "plumb_bob", np.array(D)), ray)
    u, v = np.rint(seen).astype(int)
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[v - 1 : v + 2, u - 1 : u + 2] = 255
    found = undistorted(rgb, K, np.array(D)).astype(float)[..., 0]
    rows, columns = np.indices(found.shape)
    centre = [(found * columns).sum() / found.sum(), (found * rows).sum() / found.sum()]
    np.testing.assert_allclose(centre, [fx * 0.31 + cx, fy * -0.22 + cy], atol=1.0)
    assert np.abs(np.array([u, v]) - centre).max() > 3  # there was something to undo


@pytest.mark.parametrize(
    ("layout", "spoil", "words"),
    [
        ("tum", lambda f: f.rename(f.with_name("desk")), "which camera"),
        ("tum", lambda f: (f / "groundtruth.txt").unlink(), "is the ground truth there"),
        ("kitti", lambda f: (f / "calib.txt").write_text("P0: 1 2"), "not as kitti is published"),
        (
            "kitti",
            lambda f: (f.parent.parent / "poses/03.txt").unlink(),
            "no pair has a known pose",
        ),
        ("7scenes", lambda f: [p.unlink() for p in f.glob("*.color.png")], "name one sequence"),
    ],
)
def test_what_is_missing_is_told(layout, spoil, words, tmp_path, capsys):
    source, _ = SEQUENCES[layout](tmp_path)
    spoil(source)
    source = source if source.exists() else source.with_name("desk")
    out = tmp_path / "out" / "scene"
    assert cli.main(["scene", "import", layout, str(source), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not list(out.parent.glob("*"))


def test_meta_names_source_and_licence(tmp_path):
    source, _ = make_kitti(tmp_path)
    out = tmp_path / "scene"
    assert cli.main(["scene", "import", "kitti", str(source), "--out", str(out)]) == 0
    meta = json.loads((out / "meta.json").read_text())
    assert "cvlibs" in meta["source"] and "CC BY" in meta["licence"]
