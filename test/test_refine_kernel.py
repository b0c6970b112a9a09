"""The compiled kernel against its readable twin in NumPy, and life without numba."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest

from l2m_ros import compiled
from l2m_ros.geometry import residuals as twins
from l2m_ros.geometry import se3
from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.rays import Noise, RayPairs, homogeneous
from l2m_ros.geometry.refine import Terms, depth_terms, epipolar_terms, refine, rotation_terms
from l2m_ros.geometry.scale import TranslationPrior
from l2m_ros.geometry.synthetic import SMALL, World, trial
from l2m_ros.node.loading import warm_up_pose
from l2m_ros.types import Lost, RelativePose

POSE = se3.exp(np.array([0.3, -0.1, 0.2, 0.1, -0.2, 0.05]))
NEAR = se3.exp(np.array([0.33, -0.08, 0.16, 0.11, -0.19, 0.06]))
NOISE = Noise(match=1.3, depth=1.7, texture=0.6)
KINDS = ("keyframe_depth", "query_depth", "epipolar", "infinity")

pytest.importorskip("numba")


@pytest.fixture
def by_numpy():
    """Calls a function without the kernel."""

    def call(function, *args):
        with compiled.left_out():
            return function(*args)

    return call


def noisy_pairs(n=120, seed=0, only="") -> RayPairs:
    """Matches near POSE of every sort: with either depth, both, none; texture, slopes, outliers."""
    rng = np.random.default_rng(seed)
    k, z = rng.uniform(-0.5, 0.5, (2, n)), rng.uniform(2, 5, n)
    Y = POSE[:3, :3].T @ (z * homogeneous(k) - POSE[:3, 3:4])
    noise = np.array([[1.2], [0.3], [0.8]]) * 4e-6 * rng.uniform(0.5, 2, n)
    sort = rng.integers(0, 4, n)
    keyframe_m = np.where((sort < 2) | (only == "keyframe"), z + rng.normal(0, 0.01, n), np.nan)
    query_m = np.where((sort > 0) & (sort < 3), Y[2] + rng.normal(0, 0.01, n), np.nan)
    query = Y[:2] / Y[2]
    outlier = rng.random(n) < 0.2
    query[:, outlier] = rng.uniform(-0.5, 0.5, (2, int(outlier.sum())))
    return RayPairs(
        query + rng.normal(0, 1e-3, (2, n)),
        k,
        noise,
        noise[[0, 1, 0]] * rng.choice([0.0, 3.0], n),
        np.ones((2, n)),
        keyframe_m,
        rng.uniform(0.3, 1, n),
        query_m,
        rng.uniform(0.3, 1, n),
        rng.normal(0, 0.2, (2, n)),
        np.full(n, 0.01),
        DepthNoise(0.002, 0.002, 0.001),
        rng.random(n) < 0.5,
        0.5,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_twin(kind):
    rows_at = getattr(twins, f"{kind}_rows")
    pairs = noisy_pairs()
    if kind == "query_depth":
        pairs = pairs.select(np.flatnonzero(np.isfinite(pairs.query_m)))
    if kind == "keyframe_depth":
        pairs = pairs.select(np.flatnonzero(np.isfinite(pairs.keyframe_m)))
    behind = replace(pairs, keyframe_m=-pairs.keyframe_m, query_m=-pairs.query_m)
    for some in (pairs, behind, pairs.select(np.arange(0)), pairs.select(np.arange(1))):
        with np.errstate(all="ignore"):
            fast = rows_at(some, NEAR, None, NOISE, 0.01)
            slow = rows_at.__wrapped__(some, NEAR, None, NOISE, 0.01)
        for name in vars(slow):
            a, b = getattr(fast, name), getattr(slow, name)
            assert (a is None) == (b is None), name
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=name)


PRIOR = TranslationPrior(POSE[:3, 3] + 0.01, np.diag([1e-4, 2e-4, 3e-4]))
WAYS = {
    "depths": lambda p: depth_terms(p, epipolar=True),
    "depths that share a shift": lambda p: depth_terms(p, shift_sigma_m=0.1),
    "no depth": lambda p: epipolar_terms(p),
    "a prior": lambda p: epipolar_terms(p, PRIOR),
    "rotation": lambda p: rotation_terms(p),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_refinement_is_that_of_the_twin(by_numpy, way):
    pairs = noisy_pairs(300)
    terms = WAYS[way](pairs)
    fast, slow = refine(pairs, NEAR, terms, NOISE), by_numpy(refine, pairs, NEAR, terms, NOISE)
    assert fast is not None and slow is not None
    assert fast.converged == slow.converged
    for name in ("pose", "information", "weights", "noise_rows", "weight_factor", "shift_m"):
        a, b = getattr(fast, name), getattr(slow, name)
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9, err_msg=name)
    for name in ("match", "depth", "texture"):
        assert getattr(fast.noise, name) == pytest.approx(getattr(slow.noise, name), rel=1e-8)


@pytest.mark.parametrize("matches", [0, 1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_too_few_matches_give_none_or_a_finite_pose(by_numpy, way, matches):
    """One or three may be singular to one and nearly so to the other: neither pose counts."""
    pairs = noisy_pairs(300, only="keyframe").select(np.arange(matches))
    with np.errstate(all="ignore"):
        slow = by_numpy(refine, pairs, NEAR, WAYS[way](pairs), NOISE)
        fast = refine(pairs, NEAR, WAYS[way](pairs), NOISE)
    for fit in (fast, slow):
        assert fit is None or (matches and np.isfinite(fit.pose).all())


def test_three_matches_with_depth_are_enough(by_numpy):
    pairs = noisy_pairs(300, only="keyframe")
    good = np.flatnonzero(twins.keyframe_depth_rows(pairs, POSE, None, NOISE, 0.0).squared < 9)
    pairs = pairs.select(good[[0, len(good) // 2, -1]])
    fast, slow = (
        call(refine, pairs, NEAR, depth_terms(pairs), NOISE)
        for call in (lambda function, *given: function(*given), by_numpy)
    )
    assert np.abs(fast.pose - slow.pose).max() < 1e-9
    assert np.abs(fast.pose - POSE).max() < 0.1


def test_nan_gives_none_and_not_a_pose(by_numpy):
    pairs = noisy_pairs(50, only="keyframe")
    query = pairs.query.copy()
    query[0, 7] = np.nan
    broken = replace(pairs, query=query)
    terms = Terms(keyframe_depth=np.arange(50))
    assert refine(broken, NEAR, terms, NOISE) is None
    assert by_numpy(refine, broken, NEAR, terms, NOISE) is None


def test_matches_behind_the_camera_are_outliers(by_numpy):
    pairs = noisy_pairs(50, only="keyframe")
    turned = NEAR @ se3.exp(np.array([0, 0, 0, 0, np.pi, 0]))
    terms = Terms(keyframe_depth=np.arange(50))
    outcomes = [f(refine, pairs, turned, terms, NOISE) for f in (by_numpy, lambda g, *a: g(*a))]
    for outcome in outcomes:
        assert outcome is None or outcome.weights.max() < 1e-6


@pytest.mark.parametrize("sources", [("depth",), ()])
def test_pose_and_covariance_are_those_of_numpy(by_numpy, sources):
    world = World("x", camera=SMALL, matches=400, outliers=0.2, query_depth=True)
    options = PoseOptions(sources=sources)
    t = trial(world, 0)
    given = (t.matches, t.query, t.keyframe, options)
    fast, slow = estimate_pose(*given), by_numpy(estimate_pose, *given)
    assert type(fast) is type(slow) and not isinstance(fast, Lost)
    assert isinstance(fast, RelativePose) == (sources == ())
    scale = np.abs(slow.covariance).max()
    assert np.abs(fast.keyframe_from_camera - slow.keyframe_from_camera).max() < 1e-6
    assert np.abs(fast.covariance - slow.covariance).max() < 1e-6 * scale
    assert (fast.inliers == slow.inliers).all()


def test_arrays_of_any_layout_take_the_code_that_is_compiled_already():
    kernel = compiled.kernel("refine")
    pairs = noisy_pairs(60, only="keyframe")
    refine(pairs, NEAR, depth_terms(pairs), NOISE)
    known = len(kernel.iterate.signatures), len(kernel.write_rows.signatures)
    strided = replace(pairs, query=np.asfortranarray(pairs.query), noise=pairs.noise[:, ::1])
    fixed, pose = pairs.keyframe_m.copy(), NEAR.copy()
    fixed.flags.writeable = pose.flags.writeable = False
    for some in (strided, replace(pairs, keyframe_m=fixed), replace(pairs, textured=None)):
        refine(some, pose, depth_terms(some), Noise(1, 1, 1))
    assert (len(kernel.iterate.signatures), len(kernel.write_rows.signatures)) == known == (1, 1)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ModuleNotFoundError("No module named 'numba'", name="numba"), "l2m_ros[fast]"),
        (RuntimeError("cannot cache function 'iterate': no locator"), "NUMBA_CACHE_DIR"),
    ],
)
def test_where_numba_cannot_be_used_numpy_goes_on(monkeypatch, caplog, error, remedy):
    def refuse(name):
        raise error

    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(importlib, "import_module", refuse)
    with caplog.at_level("INFO"):
        assert compiled.kernel("refine") is None
    assert remedy in caplog.text
    t = trial(World("x", matches=200), 0)
    assert not isinstance(estimate_pose(t.matches, t.query, t.keyframe), Lost)


def test_the_environment_leaves_the_kernel_out(monkeypatch):
    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setenv("L2M_COMPILED", "0")
    assert compiled.kernel("refine") is None


def test_a_kernel_that_will_not_compile_is_switched_off(monkeypatch, caplog):
    class Uncompilable:
        def __getattr__(self, name):
            raise OSError("no compiler for this processor")

    kernels = dict.fromkeys(compiled.MODULES, Uncompilable())
    monkeypatch.setattr(compiled, "_kernels", kernels)
    assert warm_up_pose() < 30.0
    assert compiled.kernel("refine") is compiled.kernel("subpixel") is None
    assert "no compiler for this processor" in caplog.text


@pytest.mark.parametrize("damaged", ["*.nbi", "*.nbc"])
def test_what_was_compiled_and_cut_short_is_compiled_anew(damaged, tmp_path, monkeypatch):
    """A robot loses power: numba raised from then on, in every run."""
    pytest.importorskip("numba")
    name = f"tiny_{damaged[-3:]}"
    lines = ["import numba", "@numba.njit(cache=True)", "def double(x):", "    return 2 * x"]
    (tmp_path / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(compiled.MODULES, name, name)
    monkeypatch.setattr(compiled, "_kernels", {})
    assert importlib.import_module(name).double(3) == 6
    (kept,) = tmp_path.rglob(damaged)
    kept.write_bytes(kept.read_bytes()[:20])
    del sys.modules[name]
    assert compiled.kernel(name).double(3) == 6
    del sys.modules[name]
    again = importlib.import_module(name)
    assert again.double(3) == 6 and sum(again.double.stats.cache_hits.values()) == 1
