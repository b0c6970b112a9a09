"""The evaluation bench against truth in closed form: figures, scenes, whole runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fakes import scenes as fake
from fakes.texture import mapped
from scipy.spatial.transform import Rotation

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.types import Correspondences, Features, Reference
from l2m_ros.workshop.evaluation import metrics, summary
from l2m_ros.workshop.evaluation.benchmark import Bench, BenchmarkOptions
from l2m_ros.workshop.evaluation.scenes import find_scenes, load_scene, shrunk_pair


@pytest.fixture(scope="module")
def relief(tmp_path_factory):
    return fake.write_relief(tmp_path_factory.mktemp("scenes") / "relief")


@pytest.fixture(scope="module")
def nearly_still(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "nearly_still"
    return fake.write_relief(folder, path=[fake.pose(), fake.pose(0.03, 0.01, 0.02)])


@pytest.fixture(scope="module")
def planar(tmp_path_factory):
    return fake.write_planar(tmp_path_factory.mktemp("scenes") / "planar")


def figures(folder, matcher="sift", **options):
    scene = load_scene(folder)
    matcher = load_matcher(matcher) if isinstance(matcher, str) else matcher
    results = list(Bench(scene, matcher, BenchmarkOptions(**options)).results())
    return summary.scene_summary(scene, matcher.name, results), results


# ------------------------------------------------------------------------------------- metrics


def test_auc_closed_forms():
    assert metrics.auc_percent([0.0, 0.0], [5, 10]) == [100.0, 100.0]
    assert metrics.auc_percent([np.inf, 50.0], [5, 20]) == [0.0, 0.0]
    # one error e: recall rises from (0, 0) to (e, 1) and stays
    assert metrics.auc_percent([2.0], [5, 10]) == pytest.approx([80.0, 90.0])
    # a failure halves it
    assert metrics.auc_percent([2.0, np.inf], [5, 10]) == pytest.approx([40.0, 45.0])
    assert metrics.auc_percent([], [5]) == [0.0]


def test_auc_is_the_area_under_the_recall_curve():
    """Against an integral over a fine grid, failures among the errors."""
    rng = np.random.default_rng(0)
    errors = np.concatenate([rng.gamma(2, 4, 57), np.full(9, np.inf)])
    finite = np.sort(errors[np.isfinite(errors)])
    x = np.linspace(0, 20, 200_001)
    heights = np.arange(1, len(finite) + 1) / len(errors)
    for threshold, value in zip((5, 10, 20), metrics.auc_percent(errors, (5, 10, 20)), strict=True):
        known = finite[finite < threshold]  # the last piece is flat up to the threshold
        curve = np.interp(x, [0, *known], [0, *heights[: len(known)]])
        assert value == pytest.approx(100 * curve[x <= threshold].mean(), abs=0.01)


def test_angles():
    truth, estimate = np.eye(4), np.eye(4)
    truth[:3, 3] = 0, 0, 2
    estimate[:3, :3] = Rotation.from_rotvec([0, np.radians(7), 0]).as_matrix()
    estimate[:3, 3] = np.sin(np.radians(30)), 0, np.cos(np.radians(30))
    assert metrics.rotation_error_deg(estimate, truth) == pytest.approx(7)
    assert metrics.direction_error_deg(estimate, truth) == pytest.approx(30)
    backwards = truth.copy()
    backwards[:3, 3] *= -1
    assert metrics.direction_error_deg(backwards, truth) == pytest.approx(180)
    still = np.eye(4)
    assert metrics.direction_error_deg(estimate, still) == 0
    assert metrics.direction_error_deg(still, truth) == np.inf


def test_nees_is_six_on_average_for_an_honest_covariance():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 6)) * [0.01, 0.02, 0.03, 0.001, 0.002, 0.003]
    P, truth = A @ A.T, fake.pose(1, 2, 3, 40)
    values = []
    for e in rng.multivariate_normal(np.zeros(6), P, 2000):
        T = truth.copy()
        T[:3, :3] = Rotation.from_rotvec(e[3:]).as_matrix() @ truth[:3, :3]
        T[:3, 3] += e[:3]
        values.append(metrics.nees(T, P, truth))
    low, high = metrics.nees_interval()
    assert np.mean(values) == pytest.approx(6, abs=0.3)
    assert np.mean([(low <= v <= high) for v in values]) == pytest.approx(0.95, abs=0.02)


def test_corner_error_of_a_shift():
    shift = np.array([[1, 0, 3.0], [0, 1, 4.0], [0, 0, 1]])
    assert metrics.corner_error_px(shift, np.eye(3), (100, 80)) == pytest.approx(5)


def test_truth_follows_the_surfaces(relief):
    """Pixels of a through the stored depth, against the rays of the world."""
    scene = load_scene(relief)
    pair = scene.pairs[0]
    a, b = scene.view(pair.a), scene.view(pair.b)
    rng = np.random.default_rng(0)
    px = rng.integers((0, 0), (fake.WIDTH, fake.HEIGHT), (500, 2)).astype(float)
    truth = metrics.true_keyframe_px(px, pair, a, b)
    points = fake.world_point(fake.PATH[0], px)
    expected, _ = fake.seen(fake.PATH[1], points)
    inside = metrics.visible_on(expected, b.size)
    nearest = fake.world_point(fake.PATH[1], expected)
    visible = inside & (np.linalg.norm(nearest - points, axis=1) < 1e-6)
    assert visible.sum() > 300 and (~visible).sum() > 20
    np.testing.assert_allclose(truth[visible], expected[visible], atol=0.01)
    impossible = np.isinf(truth).any(axis=1)
    assert impossible[~inside].all()
    hidden = inside & ~visible & (np.abs(points[:, 0] - nearest[:, 0]) > 0.05)
    assert impossible[hidden].all()


def test_errors_of_matches_know_what_cannot_be_right():
    truth = np.array([[10.0, 10], [np.inf, np.inf], [np.nan, np.nan], [20, 20]])
    errors = metrics.match_errors_px(np.array([[13.0, 14], [1, 1], [1, 1], [20, 20]]), truth)
    np.testing.assert_array_equal(errors, [5, np.inf, np.nan, 0])
    assert metrics.precision_percent(errors, (1, 5)) == pytest.approx([100 / 3, 200 / 3])
    assert metrics.precision_percent(np.array([np.nan]), (1,)) is None


# -------------------------------------------------------------------------------------- scenes


def test_image_camera_and_depth_shrink_together(relief):
    scene = load_scene(relief)
    full = scene.view("001.png")
    small = full.shrunk(160)
    assert small.size == small.camera.size == (160, 120) and small.depth.shape == (120, 160)
    assert full.shrunk(1000) is full and full.shrunk(None) is full
    point = fake.world_point(fake.PATH[1], np.array([[100.0, 60]]))
    local = (point - fake.PATH[1][:3, 3]) @ fake.PATH[1][:3, :3]
    px = (local @ small.camera.K.T)[0]
    # the same direction: centres at integers, so u' + 1/2 = (u + 1/2) / 2
    np.testing.assert_allclose(px[:2] / px[2], [100.5 / 2 - 0.5, 60.5 / 2 - 0.5])


def test_a_homography_shrinks_with_its_images(planar):
    scene = load_scene(planar)
    pair = scene.pairs[1]
    full_a, full_b = scene.view(pair.a), scene.view(pair.b)
    a, b = full_a.shrunk(200), full_b.shrunk(150)
    small = shrunk_pair(pair, full_a.size, a.size, full_b.size, b.size)
    px = np.array([[30.0, 40], [150, 20]])
    full_px = (px + 0.5) * 2 - 0.5
    expected = (mapped(pair.homography, full_px) + 0.5) * (150 / 400) - 0.5
    # 300 rows become 112, not 112.5
    np.testing.assert_allclose(mapped(small.homography, px)[:, 0], expected[:, 0])
    assert np.abs(mapped(small.homography, px) - expected).max() < 0.6


def test_folders_of_scenes(relief, planar):
    assert [s.name for s in find_scenes([relief, planar])] == ["relief", "planar"]
    assert [s.name for s in find_scenes([relief.parent])] == ["relief"]
    with pytest.raises(InvalidInput, match="is no scene"):
        find_scenes([relief / "images"])
    with pytest.raises(InvalidInput, match="no such folder"):
        find_scenes([relief / "absent"])


def edited(relief, tmp_path, *, meta=None, pair=None, files=None):
    """A copy of the scene with something wrong in it."""
    folder = tmp_path / "wrong"
    folder.mkdir()
    for name in ("images", "depth"):
        (folder / name).symlink_to(relief / name)
    whole = json.loads((relief / "meta.json").read_text())
    pairs = json.loads((relief / "pairs.json").read_text())
    whole.update(meta or {})
    pairs[1].update(pair or {})
    (folder / "meta.json").write_text(json.dumps(whole))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    for name, text in (files or {}).items():
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    return folder


FLAT = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 1]]
WRONG = {
    r"meta\.json is missing": {"files": {"meta.json": None}},
    r"pairs\.json is missing": {"files": {"pairs.json": None}},
    r"meta\.json is not JSON": {"files": {"meta.json": "{"}},
    r"at least one pair": {"files": {"pairs.json": "[]"}},
    r"pair 1: there is no images/nowhere\.png": {"pair": {"a": "nowhere.png"}},
    r"pair 1 names no image b": {"pair": {"b": 7}},
    r"pair 1: T_b_a must be 4x4": {"pair": {"T_b_a": [[1, 2], [3, 4]]}},
    r"pair 1: T_b_a is no matrix": {"pair": {"T_b_a": [[1, 2], [3]]}},
    r"pair 1: T_b_a does not hold a rotation": {"pair": {"T_b_a": FLAT}},
    r"exactly one of T_b_a": {"pair": {"H_b_a": np.eye(3).tolist()}},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_scenes_are_refused_in_words(relief, tmp_path, message):
    with pytest.raises(InvalidInput, match=message):
        load_scene(edited(relief, tmp_path, **WRONG[message]))


SIZE = {"000.png": {"width": 300, "height": 240}}
WRONG_VIEWS = {
    "000.png is 320x240 but its camera says 300x240": {"cameras": SIZE},
    "has no K": {"K": None},
    r"K must be 3x3": {"K": [1, 2]},
    "no positive focal length": {"K": [[0, 0, 1], [0, 1, 1], [0, 0, 1]]},
    "positive depth_scale": {"depth_scale": 0},
}


@pytest.mark.parametrize("message", WRONG_VIEWS)
def test_wrong_cameras_are_refused_when_they_are_read(relief, tmp_path, message):
    scene = load_scene(edited(relief, tmp_path, meta=WRONG_VIEWS[message]))
    with pytest.raises(InvalidInput, match=message):
        scene.view("000.png")


def test_depth_beyond_the_sensor_is_unknown(relief, tmp_path):
    scene = load_scene(edited(relief, tmp_path, meta={"max_depth": 3.0}))
    depth = scene.view("000.png").depth
    assert np.isnan(depth).any() and np.nanmax(depth) <= 3.0


# ---------------------------------------------------------------------------------- whole runs


class Oracle:
    """Right matches by construction: the world's own geometry, with noise of `sigma_px`."""

    name = "oracle"

    def __init__(self, folder, sigma_px=0.3, wrong=0.0):
        scene = load_scene(folder)
        self._poses = {scene.view(f"{i:03d}.png").rgb.tobytes(): T for i, T in enumerate(fake.PATH)}
        self._sigma_px, self._wrong = sigma_px, wrong

    def encode(self, rgb):
        return Features(self.name, (rgb.shape[1], rgb.shape[0]), self._poses[rgb.tobytes()])

    def reference(self, features):
        return Reference(self.name, features.image_size, features.data)

    def match(self, query, reference):
        rng = np.random.default_rng(0)
        px = rng.uniform((0, 0), (fake.WIDTH - 1, fake.HEIGHT - 1), (1500, 2))
        points = fake.world_point(query.data, px)
        there, _ = fake.seen(reference.data, points)
        again = fake.world_point(reference.data, there)
        good = metrics.visible_on(there, (fake.WIDTH, fake.HEIGHT))
        good &= np.linalg.norm(again - points, axis=1) < 1e-6
        there = there + rng.normal(size=there.shape) * self._sigma_px
        random = rng.random(len(there)) < self._wrong
        there[random] = rng.uniform((0, 0), (fake.WIDTH, fake.HEIGHT), (random.sum(), 2))
        return Correspondences(px[good], there[good], np.ones(good.sum()))


@pytest.mark.parametrize("solver", ["essential", "magsac", "pose"])
def test_every_solver_recovers_the_truth(relief, solver):
    found, _ = figures(relief, Oracle(relief, wrong=0.3), solver=solver)
    # OpenCV does not refine on the inliers: its directions are coarser
    assert found["posed_percent"] == 100
    assert found["auc"]["5"] > (50 if solver == "magsac" else 85)
    assert found["precision"]["3"] == pytest.approx(70, abs=4)


def test_metres_and_their_covariance(relief):
    """Sub-centimetre poses from exact depth, and a NEES that an honest covariance would have."""
    found, _ = figures(relief, Oracle(relief))
    metric = found["metric"]
    assert metric["posed_percent"] == metric["good_percent"] == 100
    assert metric["translation_m"] < 0.01 and metric["rotation_deg"] < 0.2
    assert metric["translation_percent"] < 5
    assert 0 < metric["nees"]["median"] < metrics.nees_interval()[1]


def test_sift_on_a_rendered_relief(relief):
    found, results = figures(relief, "sift")
    assert found["auc"]["10"] > 80 and found["precision"]["3"] > 90
    assert found["metric"]["translation_m"] < 0.02
    assert set(found["ms"]) == {"encode", "match", "reference", "pose", "metric_pose"}
    assert {r.pair.a for r in results} == {"000.png", "001.png", "002.png"}


def test_the_time_of_refinement_is_in_the_figures(planar):
    """It was left out: refined matches looked as cheap as plain ones."""
    one = {"second_look": "never", "limit": 1}
    plain, _ = figures(planar, "dis", subpixel=False, **one)
    assert "subpixel" not in plain["ms"]
    found, results = figures(planar, "dis", **one)  # as tracking does
    assert found["ms"]["subpixel"] == pytest.approx(results[0].ms["subpixel"])
    table = summary.markdown({"scenes": [found], "matchers": ["dis"]})
    assert len(table.splitlines()[2].rsplit("|", 2)[1].split("/")) == 5


def test_a_second_look_is_no_worse_and_its_time_is_in_the_figures(planar):
    plain, _ = figures(planar, "dis", second_look="never", limit=2)
    found, results = figures(planar, "dis", second_look="always", limit=2)
    assert found["ms"]["second_look"] > 0 and "subpixel" not in found["ms"]
    assert len(results[0].matches) <= 4096
    assert found["corner_auc"]["5"] > plain["corner_auc"]["5"] - 3


def test_homographies(planar):
    found, _ = figures(planar, "sift")
    assert found["kind"] == "homography" and "auc" not in found
    assert found["corner_auc"]["3"] > 75 and found["precision"]["3"] > 90
    smaller, _ = figures(planar, "sift", size_px=300)
    assert smaller["corner_auc"]["3"] > 70  # the truth shrank with the images


def test_dense_matches_are_judged_everywhere(nearly_still):
    found, _ = figures(nearly_still, "dis")
    assert 0 < found["warp"]["median_px"] < 0.5
    assert found["warp"]["within_percent"]["5"] > 85
    assert found["matches"] <= BenchmarkOptions().max_matches


class Blind(Oracle):
    name = "blind"

    def match(self, query, reference):
        return Correspondences.empty()


def test_a_blind_matcher_gets_nothing(relief):
    found, _ = figures(relief, Blind(relief))
    assert found["auc"] == {"5": 0.0, "10": 0.0, "20": 0.0} and found["posed_percent"] == 0
    assert found["lost"] == {"too_few_matches": 4} and found["metric"]["posed_percent"] == 0
    assert "median_error" not in found and "precision" not in found
    json.dumps(summary.report([found], BenchmarkOptions()), allow_nan=False)


def test_two_runs_give_the_same_figures(relief):
    def without_times(seed):
        found, _ = figures(relief, Oracle(relief, wrong=0.5), seed=seed)
        return {key: value for key, value in found.items() if key != "ms"}

    assert without_times(3) == without_times(3)


def test_scenes_without_depth_have_no_metres(tmp_path):
    folder = fake.write_relief(tmp_path / "flat", path=fake.PATH[:2], with_depth=False)
    found, _ = figures(folder, "orb")
    assert "metric" not in found and "precision" not in found and "auc" in found


def test_a_limit_spreads_over_the_pairs(relief):
    scene = load_scene(relief).limited(2)
    assert [(p.a, p.b) for p in scene.pairs] == [("000.png", "001.png"), ("000.png", "003.png")]
    assert len(load_scene(relief).limited(99).pairs) == 4


def test_options_are_checked():
    mistakes = {"solver": "x", "sampling": "x", "second_look": "x", "size_px": 3, "limit": 0}
    for wrong in ({name: value} for name, value in mistakes.items()):
        with pytest.raises(InvalidInput):
            BenchmarkOptions(**wrong)


# ------------------------------------------------------------------------------------- summary


def rows():
    one = {"name": "a", "matcher": "m", "auc": {"5": 10.0, "10": 20.0, "20": 30.0}, "matches": 3.0}
    two = {**one, "name": "b", "auc": {"5": 30.0, "10": 40.0, "20": 50.0}, "ms": {"encode": 2.0}}
    plane = {"name": "c", "matcher": "m", "corner_auc": {"3": 1.0, "5": 2.0, "10": 3.0}}
    return [one, two, plane]


def test_the_mean_of_one_matcher_and_of_several():
    one = summary.report(rows(), BenchmarkOptions())
    assert one["mean"]["auc"] == {"5": 20.0, "10": 30.0, "20": 40.0}
    assert one["mean"]["corner_auc"]["10"] == 3.0 and one["mean"]["ms"] == {"encode": 2.0}
    other = [replace_matcher(row, "n") for row in rows()[:1]]
    several = summary.report(rows() + other, BenchmarkOptions())
    assert several["mean"]["m"] == one["mean"] and several["mean"]["n"]["auc"]["5"] == 10.0
    assert several["matchers"] == ["m", "n"] and several["settings"]["seed"] == 0


def replace_matcher(row, name):
    return {**row, "matcher": name}


def test_the_tables_hold_the_figures():
    text = summary.markdown(summary.report(rows(), BenchmarkOptions()))
    lines = text.splitlines()
    assert "| a | m | 10.0 / 20.0 / 30.0 | 3 |" in lines[2]
    assert any(line.startswith("| **mean** | m | 20.0 / 30.0 / 40.0") for line in lines)
    assert "1.0 / 2.0 / 3.0" in text and "NEES" not in text  # nobody measured it
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_errors_sort_pairs_by_kind(planar):
    _, results = figures(planar, "orb")
    assert results[0].error == results[0].corner_px
    turned = replace(results[0], pair=replace(results[0].pair, homography=None), rotation_deg=3.0)
    assert turned.error == np.inf
