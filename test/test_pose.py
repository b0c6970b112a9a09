"""The one function that consumers call: every kind of evidence, every kind of failure."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.depth_image import NO_NOISE, DepthNoise
from l2m_ros.geometry.length import length_from_depths
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.rays import ray_pairs
from l2m_ros.geometry.scale import SCALE_SOURCES, ScaleEvidence
from l2m_ros.geometry.synthetic import FISHEYE, SMALL, World, keyframe_depth, trial
from l2m_ros.geometry.triangulation import triangulated_depth
from l2m_ros.types import Camera, Correspondences, Frame, Lost, LostReason, MetricPose, RelativePose

SENSOR = DepthNoise(0.002, 0.002)
BLIND = World("blind", outliers=0.3, keyframe_depth=False)
EXACT = PoseOptions.exactly_calibrated(depth_noise=NO_NOISE)
TURN = (0.0, 0.0, 0.0, 0.05, -0.15, 0.03)


def sigmas(outcome, truth):
    """Mahalanobis distance of the error, per root of six."""
    e = se3.difference(outcome.keyframe_from_camera, truth)
    return np.sqrt(e @ np.linalg.solve(outcome.covariance, e) / 6)


def solve(world, seed=0, options=EXACT, **evidence):
    t = trial(world, seed)
    return t, estimate_pose(t.matches, t.query, t.keyframe, options, ScaleEvidence(**evidence))


# ---- where the metres come from ------------------------------------------------------------------


@pytest.mark.parametrize(
    "world",
    [
        World("keyframe", outliers=0.3),
        World("query", camera=SMALL, sigma_px=0.2, keyframe_depth=False, query_depth=True),
        World("both", camera=SMALL, sigma_px=0.2, query_depth=True, depth_noise=SENSOR),
        World("plane", surface="plane"),
        World("fisheye", camera=FISHEYE),
        World("turn", TURN),
        World("forward", (0.0, 0.0, 0.4, 0.0, 0.02, 0.0)),
        World("outliers", outliers=0.8),
        World("few", matches=12, sigma_px=0.3),
    ],
    ids=lambda world: world.name,
)
def test_depth_gives_a_metric_pose_as_good_as_it_says(world):
    t, pose = solve(world, options=PoseOptions.exactly_calibrated(depth_noise=world.depth_noise))
    assert isinstance(pose, MetricPose) and pose.scale_source == "depth"
    assert sigmas(pose, t.keyframe_from_camera) < 2.2
    assert np.linalg.norm((pose.keyframe_from_camera - t.keyframe_from_camera)[:3, 3]) < 0.02
    assert (pose.inliers == t.inlier).mean() > 0.95


def test_depth_in_both_frames_pins_the_way_forward():
    """Matches to 2.4 mrad and ranges to 2 mm: z is known better, and says so."""
    one = World("one", camera=SMALL, sigma_px=0.3, depth_noise=DepthNoise(0.002, 0.0))
    options = PoseOptions.exactly_calibrated(depth_noise=one.depth_noise)
    sigma_m, errors = [], []
    for world in (one, replace(one, query_depth=True)):
        found = [solve(world, seed, options) for seed in range(8)]
        sigma_m.append(np.sqrt(np.mean([pose.covariance[2, 2] for _, pose in found])))
        off = [(p.keyframe_from_camera - t.keyframe_from_camera)[2, 3] for t, p in found]
        errors.append(np.sqrt(np.mean(np.square(off))))
    assert sigma_m[1] < 0.7 * sigma_m[0]
    assert errors[1] < 0.8 * errors[0]
    assert errors[1] < 2 * sigma_m[1]


def test_stereo_depth():
    t = trial(BLIND, 0)
    evidence = ScaleEvidence(
        stereo_depth=keyframe_depth(BLIND), stereo_noise=DepthNoise(0.0, 0.003)
    )
    pose = estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence)
    assert isinstance(pose, MetricPose) and pose.scale_source == "stereo"
    assert np.linalg.norm((pose.keyframe_from_camera - t.keyframe_from_camera)[:3, 3]) < 0.01


def test_odometry_gives_the_length_and_keeps_its_uncertainty():
    t = trial(BLIND, 0)
    measured = t.keyframe_from_camera.copy()
    measured[:3, 3] *= 1.03
    evidence = ScaleEvidence(odometry=measured, odometry_covariance=np.eye(6) * 0.02**2)
    pose = estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence)
    assert isinstance(pose, MetricPose) and pose.scale_source == "odometry"
    assert sigmas(pose, t.keyframe_from_camera) < 2.0
    direction = measured[:3, 3] / np.linalg.norm(measured[:3, 3])
    along = np.sqrt(direction @ pose.covariance[:3, :3] @ direction)
    assert along == pytest.approx(0.02, rel=0.1)
    across = np.linalg.eigvalsh(pose.covariance[:3, :3])[:2]
    assert np.sqrt(across).max() < 0.003  # the matches know the direction better than the wheels


def test_odometry_that_knows_more_than_the_matches_is_not_refused():
    """Wheels that know an axis to 0.1 mm: the direction that the matches give is a vague one."""
    for seed in range(3):
        t = trial(BLIND, seed)
        tight = np.eye(6) * 1e-4**2
        evidence = ScaleEvidence(odometry=t.keyframe_from_camera, odometry_covariance=tight)
        assert isinstance(
            estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence), MetricPose
        )


def test_odometry_against_the_matches_gives_no_metres():
    t = trial(BLIND, 0)
    backwards = se3.inverse(t.keyframe_from_camera)
    evidence = ScaleEvidence(odometry=backwards, odometry_covariance=np.eye(6) * 0.01**2)
    outcome = estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence)
    assert isinstance(outcome, RelativePose)


def test_odometry_without_parallax_is_not_published_as_a_pose():
    """A turn on the spot: the translation would be the wheels' alone."""
    world = replace(BLIND, motion=TURN)
    t = trial(world, 0)
    evidence = ScaleEvidence(
        odometry=t.keyframe_from_camera, odometry_covariance=np.eye(6) * 0.002**2
    )
    pose = estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence)
    assert isinstance(pose, RelativePose) and pose.kind == "rotation"
    assert "no parallax" in pose.why_not_metric


def test_a_direction_that_hardly_shows_leaves_no_length_to_odometry(monkeypatch):
    """A plane's second motion, 60 degrees off, was once scaled to a fifth of the way."""
    t = trial(BLIND, 0)
    evidence = ScaleEvidence(
        odometry=t.keyframe_from_camera, odometry_covariance=np.eye(6) * 0.002**2
    )
    assert isinstance(estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence), MetricPose)
    place = "l2m_ros.geometry.pose_by_length.direction_covariance"
    monkeypatch.setattr(place, lambda *_: np.eye(6) * 0.5**2)
    pose = estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence)
    assert isinstance(pose, RelativePose)
    assert "too little parallax" in pose.why_not_metric


@pytest.mark.parametrize("motion", [BLIND.motion, TURN], ids=["parallax", "turn"])
def test_mono_depth_with_its_bias(motion):
    """10 % too far and shifted by 10 cm: the shift is estimated, the scale is admitted."""
    world = replace(BLIND, motion=motion)
    t = trial(world, 0)
    claimed = keyframe_depth(world) * 1.1 + 0.1
    evidence = ScaleEvidence(mono_depth=claimed, mono_sigma=0.02)
    pose = estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence)
    assert isinstance(pose, MetricPose) and pose.scale_source == "mono_depth"
    assert sigmas(pose, t.keyframe_from_camera) < 2.0
    length = np.linalg.norm(t.keyframe_from_camera[:3, 3])
    off = np.linalg.norm((pose.keyframe_from_camera - t.keyframe_from_camera)[:3, 3])
    assert off < 0.15 * length + 0.005


def test_mono_depth_shift_is_found():
    """Truth = claimed + shift: without estimating it the translation would be 8 % short."""
    world = replace(BLIND, outliers=0.0)
    t = trial(world, 0)
    length = []
    for shift_sigma_m in (0.0, 0.5):
        evidence = ScaleEvidence(
            mono_depth=keyframe_depth(world) - 0.3,
            mono_sigma=0.02,
            mono_scale_sigma=1e-3,
            mono_shift_sigma_m=shift_sigma_m,
        )
        pose = estimate_pose(t.matches, t.query, t.keyframe, EXACT, evidence)
        length.append(np.linalg.norm(pose.keyframe_from_camera[:3, 3]))
    truth = np.linalg.norm(t.keyframe_from_camera[:3, 3])
    assert abs(length[1] / truth - 1) < 0.02 < abs(length[0] / truth - 1)


def test_depths_that_err_by_factors_leave_the_length_unbiased():
    """Each match 30 % off in the log, a real network's cells: in 1 / m lengths came 8 % short."""
    rng, errors = np.random.default_rng(5), []
    world = replace(BLIND, outliers=0.0)
    for seed in range(6):
        t = trial(world, seed)
        pairs = ray_pairs(t.matches, t.query.camera, t.keyframe.camera)
        T = t.keyframe_from_camera.copy()
        truth_m = float(np.linalg.norm(T[:3, 3]))
        T[:3, 3] /= truth_m
        seen_m = truth_m * triangulated_depth(pairs, T)
        read_m = seen_m * np.exp(rng.normal(0, 0.3, len(seen_m)))
        found = length_from_depths(
            replace(pairs, keyframe_m=read_m), T, np.ones(len(pairs), bool),
            match_sigma=1e-3, depth_sigma=np.full(len(pairs), 0.3), shift_sigma_m=0.05,
        )  # fmt: skip
        errors.append((np.log(found.length_m / truth_m), found.sigma_m / found.length_m))
    off, sigma = np.array(errors).T
    assert abs(off.mean()) < 0.03 and (np.abs(off) < 3 * sigma).all()


def test_depth_is_preferred_and_the_order_can_be_changed():
    world = World("both", outliers=0.3)
    t = trial(world, 0)
    evidence = ScaleEvidence(odometry=t.keyframe_from_camera, odometry_covariance=np.eye(6) * 1e-4)
    sources = {
        estimate_pose(t.matches, t.query, t.keyframe, options, evidence).scale_source
        for options in (EXACT, replace(EXACT, sources=("odometry", "depth")))
    }
    assert sources == {"depth", "odometry"}


def test_depth_that_is_unknown_everywhere_leaves_it_to_the_next_source():
    t = trial(BLIND, 0)
    hollow = Frame(t.keyframe.rgb, t.keyframe.camera, np.full((480, 640), np.nan))
    outcome = estimate_pose(t.matches, t.query, hollow, EXACT)
    assert isinstance(outcome, RelativePose)
    evidence = ScaleEvidence(odometry=t.keyframe_from_camera, odometry_covariance=np.eye(6) * 1e-4)
    outcome = estimate_pose(t.matches, t.query, hollow, EXACT, evidence)
    assert isinstance(outcome, MetricPose) and outcome.scale_source == "odometry"


def test_matches_without_depth_help_by_their_lines():
    """Depth on the left half only: the right half still sharpens the rotation."""
    t = trial(World("half"), 0)
    depth = t.keyframe.depth.copy()
    depth[:, 200:] = np.nan
    half = Frame(t.keyframe.rgb, t.keyframe.camera, depth)
    pose = estimate_pose(t.matches, t.query, half, EXACT)
    left = t.matches.select(t.matches.keyframe_px[:, 0] < 199)
    alone = estimate_pose(left, t.query, half, EXACT)
    assert sigmas(pose, t.keyframe_from_camera) < 2
    assert np.trace(pose.covariance[3:, 3:]) < 0.6 * np.trace(alone.covariance[3:, 3:])
    assert pose.inliers.mean() > 0.95


# ---- without metres ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "kind"),
    [
        (BLIND, "general"),
        (replace(BLIND, surface="plane"), "planar"),
        (replace(BLIND, motion=TURN), "rotation"),
        (replace(BLIND, motion=(1e-4, 0, 0, 0.05, -0.15, 0.03)), "rotation"),
    ],
)
def test_cases_are_named(world, kind):
    for seed in range(3):
        t, outcome = solve(world, seed)
        assert isinstance(outcome, RelativePose) and outcome.kind == kind
        off = se3.difference(outcome.keyframe_from_camera, t.keyframe_from_camera)
        assert np.linalg.norm(off[3:]) < 0.005
        length = np.linalg.norm(outcome.keyframe_from_camera[:3, 3])
        assert length == pytest.approx(0.0 if kind == "rotation" else 1.0)


# ---- no pose, and why ----------------------------------------------------------------------------


def line(n):
    s = np.linspace(0.1, 0.9, n)
    return np.stack([640 * s, 100 + 200 * s], axis=1)


def grid(n):
    return np.random.default_rng(0).uniform((40, 40), (600, 440), (n, 2))


def matches(query_px, keyframe_px=None, confidence=None):
    keyframe_px = query_px + 3.0 if keyframe_px is None else keyframe_px
    return Correspondences(
        query_px, keyframe_px, np.ones(len(query_px)) if confidence is None else confidence
    )


def spoiled(n, value):
    px = grid(n)
    px[3, 1] = value
    return px


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (Correspondences.empty(), LostReason.TOO_FEW_MATCHES),
        (matches(grid(5)), LostReason.TOO_FEW_MATCHES),
        (matches(line(200)), LostReason.DEGENERATE),
        (matches(grid(200), line(200)), LostReason.DEGENERATE),
        (matches(np.full((200, 2), 77.0)), LostReason.DEGENERATE),
        (matches(spoiled(200, np.nan)), LostReason.INVALID_INPUT),
        (matches(spoiled(200, np.inf)), LostReason.INVALID_INPUT),
        (matches(grid(200), confidence=np.zeros(200)), LostReason.NOT_CONFIDENT),
        (matches(grid(200), confidence=np.eye(200)[:5].sum(axis=0)), LostReason.TOO_FEW_MATCHES),
        (matches(grid(500), grid(1000)[500:]), LostReason.TOO_FEW_INLIERS),
    ],
)
@pytest.mark.parametrize("depth", [True, False])
def test_degenerate_input_is_lost_with_the_right_reason(given, reason, depth):
    t = trial(World("frames", matches=10, keyframe_depth=depth), 0)
    outcome = estimate_pose(given, t.query, t.keyframe, EXACT)
    assert isinstance(outcome, Lost) and outcome.reason is reason, outcome
    assert outcome.detail


def test_all_at_one_depth_is_a_stuck_sensor():
    _, outcome = solve(World("wall", surface="wall"))
    assert isinstance(outcome, Lost) and outcome.reason is LostReason.DEGENERATE
    assert "3 m" in outcome.detail
    noisy = World("wall", surface="wall", depth_noise=SENSOR)
    assert isinstance(solve(noisy, options=PoseOptions())[1], MetricPose)


def test_depth_that_is_nowhere_known_and_matches_that_fit_nothing():
    t = trial(BLIND, 0)
    hollow = Frame(t.keyframe.rgb, t.keyframe.camera, np.full((480, 640), np.nan))
    outcome = estimate_pose(matches(grid(500), grid(1000)[500:]), t.query, hollow, EXACT)
    assert isinstance(outcome, Lost) and outcome.reason is LostReason.NO_DEPTH


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("depth", [True, False])
def test_random_matches_never_give_a_pose(seed, depth):
    rng = np.random.default_rng(seed)
    t = trial(World("frames", matches=10, keyframe_depth=depth), 0)
    n = [7, 12, 50, 300, 2000][seed]
    given = matches(rng.uniform(0, 1, (n, 2)) * (639, 479), rng.uniform(0, 1, (n, 2)) * (639, 479))
    assert isinstance(estimate_pose(given, t.query, t.keyframe, EXACT), Lost)


# ---- the rest of the contract --------------------------------------------------------------------


def test_same_seed_same_pose():
    t = trial(World("same", outliers=0.6), 0)
    first, second = (estimate_pose(t.matches, t.query, t.keyframe, EXACT) for _ in range(2))
    assert np.array_equal(first.keyframe_from_camera, second.keyframe_from_camera)
    assert np.array_equal(first.covariance, second.covariance)


def test_inliers_are_over_the_matches_given():
    t = trial(World("gaps", outliers=0.3), 0)
    confidence = np.ones(len(t.matches))
    confidence[::3] = 0
    given = Correspondences(t.matches.query_px, t.matches.keyframe_px, confidence)
    pose = estimate_pose(given, t.query, t.keyframe, EXACT)
    assert pose.inliers.shape == (len(given),) and not pose.inliers[::3].any()
    kept = confidence > 0
    assert (pose.inliers == t.inlier)[kept].mean() > 0.98


def test_precision_weighs_the_matches():
    """Half of the matches are three times noisier and say so."""
    errors = {True: [], False: []}
    for seed in range(8):
        t = trial(World("mixed", sigma_px=0.2), seed)
        rng = np.random.default_rng(seed)
        sigma = np.where(np.arange(len(t.matches)) % 2, 0.5, 1.5)
        px = t.keyframe_px + rng.normal(size=(len(sigma), 2)) * sigma[:, None]
        precision = np.eye(2) / (sigma**2)[:, None, None]
        for said in errors:
            given = Correspondences(
                t.matches.query_px, px, t.matches.confidence, precision if said else None
            )
            pose = estimate_pose(given, t.query, t.keyframe, EXACT)
            off = pose.keyframe_from_camera - t.keyframe_from_camera
            errors[said].append(np.linalg.norm(off[:3, 3]))
            if said:
                assert sigmas(pose, t.keyframe_from_camera) < 2.2
    assert np.mean(errors[True]) < 0.9 * np.mean(errors[False])


def test_two_cameras():
    """The frames' cameras may differ in size, focal length and lens."""
    t = trial(World("two"), 0)
    other = Camera(800, 600, np.array([[700.0, 0, 400], [0, 690, 300], [0, 0, 1]]), "plumb_bob",
                   np.array([-0.2, 0.05, 0.001, 0.0]))  # fmt: skip
    from l2m_ros.geometry.camera import project, unproject

    px = project(other, unproject(t.query.camera, t.matches.query_px))
    query = Frame(np.zeros((600, 800, 3), np.uint8), other)
    given = Correspondences(px, t.matches.keyframe_px, t.matches.confidence)
    pose = estimate_pose(given, query, t.keyframe, EXACT)
    assert isinstance(pose, MetricPose) and sigmas(pose, t.keyframe_from_camera) < 2


def test_options_are_checked():
    assert PoseOptions().sources == tuple(SCALE_SOURCES)
    with pytest.raises(InvalidInput, match="unknown scale source 'gps'"):
        PoseOptions(sources=("gps",))
    with pytest.raises(InvalidInput, match="threshold_px"):
        PoseOptions(threshold_px=0)
    with pytest.raises(InvalidInput, match="common_px"):
        PoseOptions(common_px=-1.0)
