"""What makes a pose trusted: texture, agreement, support, content. Each case was published once."""

from dataclasses import replace

import numpy as np
import pytest
from fakes.texture import texture

from l2m_ros.geometry import refine as refinement
from l2m_ros.geometry import se3
from l2m_ros.geometry.agreement import disagreement
from l2m_ros.geometry.covariance import admit
from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.synthetic import SMALL, World, trial
from l2m_ros.geometry.texture import TextureNoise, is_textured, texture_covariance
from l2m_ros.tracking import two_depths
from l2m_ros.tracking.depth_trust import DepthTrust, DepthVerdict, judge
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.tracking.trust import (
    TrustOptions,
    changed_elsewhere,
    contradicted_rest,
    contradicted_scale,
    likeness,
)
from l2m_ros.types import (
    Camera,
    Correspondences,
    DenseMatch,
    DepthCheck,
    Features,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    Reference,
)
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

CAMERA = Camera(320, 240, np.array([[250.0, 0, 160], [0, 250.0, 120], [0, 0, 1]]))
FIVE_SIGMA = 42.0  # chi-square of six degrees of freedom, as unlikely as 5 sigma of one
SENSOR = DepthNoise(0.002, 0.002)


def frame(grey):
    return Frame(np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=2), CAMERA)


def noise_image(seed=0):
    import cv2

    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.uniform(0, 255, (240, 320)), (0, 0), 1.5) * 3 - 255


def test_corners_are_exact_edges_half_and_walls_not_at_all():
    grey = np.full((240, 320), 100.0)
    grey[:, 160:] = 180.0  # an upright edge
    grey[20:80, 20:80] = np.clip(noise_image()[20:80, 20:80], 0, 255)
    at = np.array([[50.0, 50.0], [160.0, 150.0], [250.0, 200.0]])
    xx, xy, yy = texture_covariance(frame(grey), at, TextureNoise())
    corner, edge, wall = range(3)
    assert max(xx[corner], yy[corner]) < 1.0
    assert xx[edge] < 1.0 and yy[edge] > 400.0 and abs(xy[edge]) < 1.0
    assert min(xx[wall], yy[wall]) > 400.0
    assert is_textured(np.stack([xx, xy, yy])).tolist() == [True, True, False]


def test_the_covariance_turns_with_the_image():
    """An edge at 30 degrees: exact across it, open along it."""
    v, u = np.mgrid[:240, :320]
    normal = np.array([np.cos(np.radians(30)), np.sin(np.radians(30))])
    grey = 100 + 80 / (1 + np.exp(-((u - 160) * normal[0] + (v - 120) * normal[1])))
    xx, xy, yy = texture_covariance(frame(grey), np.array([[160.0, 120.0]]), TextureNoise())[:, 0]
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    assert values[0] < 1.0 and values[1] > 400.0
    assert abs(vectors[:, 0] @ normal) == pytest.approx(1.0, abs=0.01)


def test_an_image_of_one_colour_is_not_asked():
    at = np.array([[50.0, 50.0]])
    assert not texture_covariance(frame(np.full((240, 320), 90.0)), at, TextureNoise()).any()


def test_a_smooth_lie_on_a_blank_wall_does_not_move_the_pose():
    """Two thirds of the image are blank and matched there by 2 px of smooth error."""
    t = trial(World("wall", depth_noise=SENSOR, matches=1500), 0)
    width, height = t.keyframe.camera.size
    grey = np.full((height, width), 120, np.uint8)
    rng = np.random.default_rng(0)
    grey[:, : width // 3] = rng.integers(0, 255, (height, width // 3))
    keyframe = replace(t.keyframe, rgb=np.repeat(grey[..., None], 3, axis=2))
    u, v = t.matches.keyframe_px.T
    lie = np.stack([2 * np.sin(v / 90.0), 2 * np.cos(u / 110.0)], axis=1)
    lied = np.where((u > width / 3 + 12)[:, None], lie, 0.0)
    matches = replace(t.matches, keyframe_px=t.matches.keyframe_px + lied)
    asked = PoseOptions(depth_noise=SENSOR)
    deaf = replace(asked, texture=TextureNoise(grey=0.0))
    squared, off_m = [], []
    for options in (asked, deaf):
        pose = estimate_pose(matches, t.query, keyframe, options)
        error = se3.difference(pose.keyframe_from_camera, t.keyframe_from_camera)
        squared.append(error @ np.linalg.solve(pose.covariance, error))
        off_m.append(np.linalg.norm(error[:3]))
    assert off_m[0] < 0.3 * off_m[1]
    assert squared[0] < 20.0


def test_a_pose_agrees_with_itself_and_not_with_another():
    T = se3.transform(np.eye(3), np.array([0.3, 0.0, 0.1]))
    view = T.copy()
    view[:3, 3] /= np.linalg.norm(T[:3, 3])
    P, Q = np.diag([1e-6] * 3 + [1e-7] * 3), np.diag([1e-5] * 3 + [1e-7] * 3)
    assert disagreement(T, P, view, Q).squared == pytest.approx(0.0, abs=1e-12)
    turn = np.array([0.0, 0.004, 0.0])
    other = se3.perturb(view, np.concatenate([np.zeros(3), turn]))
    other[:3, 3] = view[:3, 3]
    found = disagreement(T, P, other, Q)
    assert found.squared == pytest.approx(0.004**2 / 2e-7, rel=1e-6)
    assert found.apart[3:] == pytest.approx(turn, abs=1e-9)
    wide = admit(P, found.apart, found.squared, 20.0)
    assert found.apart @ np.linalg.solve(wide, found.apart) < 2.0
    assert np.array_equal(admit(P, found.apart, 19.0, 20.0), P)


def test_the_opposite_direction_disagrees():
    T = se3.transform(np.eye(3), np.array([0.3, 0.0, 0.1]))
    view = T.copy()
    view[:3, 3] /= -np.linalg.norm(T[:3, 3])
    P = np.diag([1e-6] * 3 + [1e-7] * 3)
    assert disagreement(T, P, view, P).squared > 1e4


def test_a_refinement_that_does_not_settle_is_lost(monkeypatch):
    t = trial(World("restless", matches=300), 0)
    exact = PoseOptions(common_px=0.0)
    assert isinstance(estimate_pose(t.matches, t.query, t.keyframe, exact), MetricPose)
    monkeypatch.setattr(refinement, "CONVERGED_SIGMAS", 0.0)
    lost = estimate_pose(t.matches, t.query, t.keyframe, replace(exact, sources=("depth",)))
    assert isinstance(lost, Lost) and "did not settle" in lost.detail


def test_a_covariance_that_cannot_be_is_lost(monkeypatch):
    def fails(*_):
        raise np.linalg.LinAlgError("Singular matrix")

    t = trial(World("singular", matches=300), 0)
    monkeypatch.setattr("l2m_ros.geometry.pose_problem.pose_covariance", fails)
    lost = estimate_pose(t.matches, t.query, t.keyframe)
    assert isinstance(lost, Lost) and lost.reason is LostReason.DEGENERATE
    monkeypatch.setattr("l2m_ros.geometry.pose_problem.pose_covariance", lambda *_: -np.eye(6))
    assert isinstance(estimate_pose(t.matches, t.query, t.keyframe), Lost)


@pytest.fixture(scope="module")
def shots():
    return list(simulate(SimulationOptions(frames=12, width=240, height=180, rate_hz=8.0)))


def planar_depth(shot_frame, seed):
    """Depth of a plane that is not there."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.uniform(-0.6, 0.6, 2).tolist() + [rng.uniform(1.2, 3.0)]
    height, width = shot_frame.depth.shape
    K = shot_frame.camera.K
    x, y = (np.arange(width) - K[0, 2]) / K[0, 0], (np.arange(height) - K[1, 2]) / K[1, 1]
    z = c / (1 - a * x[None] - b * y[:, None])
    return replace(
        shot_frame,
        depth=np.where((z > 0.3) & (z < 8), z, np.nan).astype(np.float32),
        right_rgb=None,
        right_camera=None,
        right_from_camera=None,
    )


def turned_depth(shot_frame, _):
    """Depth of a camera that was mounted upside down."""
    return replace(shot_frame, depth=shot_frame.depth[::-1, ::-1].copy())


def right_depth(shot_frame, _):
    return shot_frame


def tracked(shots, depth_of, seed=0):
    """(wrong poses, posed frames, the tracker's words): `wrong` is 5 sigma and 2 cm off."""
    world = {shot.frame.stamp_ns: shot.world_from_camera for shot in shots}
    matcher = OracleMatcher(stride=4, noise_px=0.3)
    list(matcher.watch(shots))
    tracker, wrong, posed, words = Tracker(matcher), 0, 0, []
    for shot in shots:
        alone = replace(shot.frame, right_rgb=None, right_camera=None, right_from_camera=None)
        result = tracker.process(depth_of(alone, seed))
        words.append(result.reason)
        if result.pose is None:
            continue
        kept_from_world = np.linalg.inv(world[result.keyframe.frame.stamp_ns])
        truth = kept_from_world @ shot.world_from_camera
        error = se3.difference(result.pose.keyframe_from_camera, truth)
        squared = error @ np.linalg.solve(result.pose.covariance, error)
        wrong += squared > FIVE_SIGMA and np.linalg.norm(error[:3]) > 0.02
        posed += 1
    return wrong, posed, words


@pytest.mark.parametrize(
    ("depth_of", "seed"),
    [(planar_depth, 0), (planar_depth, 1), (planar_depth, 2), (turned_depth, 0)],
)
def test_depth_that_is_not_the_scenes_is_never_believed(shots, depth_of, seed):
    """None of its poses may be wrong: 5 sigma of six degrees of freedom is one in two million.

    The first frames show no parallax, where nothing contradicts and the covariance is wide. Where
    matches are exact, a pose may lean on them alone, and is right.
    """
    wrong, posed, words = tracked(shots[:9], depth_of, seed)
    assert wrong == 0
    assert posed <= 4
    assert any("depth fit" in said or "depth record" in said for said in words)


def test_the_scenes_own_depth_is_believed_in_each_frame(shots):
    wrong, posed, _ = tracked(shots, right_depth)
    assert (wrong, posed) == (0, len(shots) - 1)


@pytest.mark.parametrize(("rows", "posed"), [(slice(0, 6), 0), (slice(0, 24), 11)])
def test_matches_on_a_strip_of_the_image_pose_nothing(shots, rows, posed, monkeypatch):
    """Exact matches on a seventh of the image's height; on half of it they do."""
    spoilt = OracleMatcher._spoilt

    def only(self, truth, rng):
        certainty = np.zeros_like(truth.certainty)
        certainty[rows] = truth.certainty[rows]
        return spoilt(self, replace(truth, certainty=certainty), rng)

    monkeypatch.setattr(OracleMatcher, "_spoilt", only)
    wrong, count, words = tracked(shots, right_depth)
    assert (wrong, count) == (0, posed)
    assert any("degenerate: strip: the matches that agree" in said for said in words) == (not posed)


GOOD = DepthCheck(checked=400, left_over=0.4, rotation_only=20.0, misfit=0.8)
STILL = DepthCheck(checked=400, left_over=0.3, rotation_only=0.3, misfit=0.8)


def posed_with(check):
    none = np.ones(0, bool)
    return MetricPose(np.eye(4), np.eye(6) * 1e-6, none, "depth", depth_check=check)


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (GOOD, DepthVerdict.CONFIRMED),
        (STILL, DepthVerdict.SILENT),
        (None, DepthVerdict.SILENT),
        (DepthCheck(checked=5), DepthVerdict.SILENT),
        (replace(GOOD, left_over=8.0), DepthVerdict.CONTRADICTED),  # explains too little
        (replace(GOOD, misfit=9.0), DepthVerdict.CONTRADICTED),  # ranges do not fit
        (replace(STILL, misfit=1.2), DepthVerdict.CONTRADICTED),  # ranges, without parallax
        (replace(STILL, left_over=0.9), DepthVerdict.CONTRADICTED),  # worse than no translation
    ],
)
def test_the_verdict_on_depth(check, verdict):
    assert judge(check, TrustOptions()) is verdict


def test_a_little_parallax_does_not_restore_depth_of_bad_repute():
    """Noise explains what it leaves over, but the depth explains little of the parallax."""
    little = replace(GOOD, left_over=0.9, rotation_only=2.3)
    assert judge(little, TrustOptions()) is DepthVerdict.CONFIRMED
    assert judge(little, TrustOptions(), distrusted=True) is DepthVerdict.SILENT


def test_depth_of_bad_repute_is_believed_again_once_it_fits():
    trust, bad = DepthTrust(), replace(GOOD, misfit=9.0)
    assert against(trust, STILL) is None
    assert all(against(trust, bad, keyframe) is not None for keyframe in (1, 1, 2))
    lost = against(trust, STILL)
    assert lost is not None and "3 of the last 3" in lost.detail
    assert against(trust, replace(GOOD, misfit=2.0)) is not None
    assert against(trust, GOOD) is None  # fits closely, whatever was before
    assert against(trust, STILL) is not None
    assert all(against(trust, GOOD) is None for _ in range(2))
    assert against(trust, STILL) is None


@pytest.mark.parametrize(
    ("support", "agreed", "believed"),
    [
        pytest.param(0.94, 0.6, True, id="two views know less than depth"),
        pytest.param(0.94, 0.9, False, id="they know as much"),
        pytest.param(0.7, 0.5, False, id="neither knows much"),
    ],
)
def test_two_views_that_agree_on_less_than_depth_are_no_witness(support, agreed, believed):
    """Before flat screens, without parallax: right poses were refused by them."""
    check = replace(STILL, misfit=1.6, agreed=agreed)
    pose = replace(posed_with(check), support=support)
    assert (DepthTrust().against(pose, TrustOptions()) is None) == believed
    far_off = replace(posed_with(replace(check, misfit=4.1)), support=support)
    assert DepthTrust().against(far_off, TrustOptions()) is not None
    distrusted = DepthTrust()
    for keyframe in (1, 1, 2):
        against(distrusted, replace(GOOD, misfit=9.0), keyframe)
    assert distrusted.against(pose, TrustOptions()) is not None


@pytest.mark.parametrize(
    ("ranges", "believed"),
    [
        pytest.param((1.5, 40.0), True, id="changed as the matches turn"),
        pytest.param((1.5, 4.0), False, id="hardly changed"),
        pytest.param((5.0, 40.0), False, id="changed otherwise"),
        pytest.param(None, False, id="unknown"),
    ],
)
def test_depth_of_bad_repute_is_believed_where_it_follows_a_turn(ranges, believed):
    """Of a camera that turns without parallax, which nothing else can clear."""
    trust, bad = DepthTrust(), replace(GOOD, misfit=9.0)
    assert all(against(trust, bad, keyframe) is not None for keyframe in (1, 1, 2))
    turned = replace(STILL, ranges=ranges)
    assert (against(trust, turned) is None) == believed
    assert against(trust, STILL) is not None  # its reputation stays


@pytest.mark.parametrize(
    "votes",
    [
        pytest.param([[(1, 0.95)]] * 9, id="one keyframe alone"),
        pytest.param([[(1, 0.95), (2, 0.95)]] * 2, id="two frames, however often tried"),
        pytest.param([[(1, 0.6), (2, 0.7)]] * 9, id="matches that do not agree"),
    ],
)
def test_a_camera_that_is_lost_does_not_ruin_the_reputation_of_its_depth(votes):
    trust = DepthTrust()
    for frame in votes:
        trust.next_frame()
        for keyframe, agreed in frame:
            check = replace(GOOD, misfit=9.0, agreed=agreed)
            assert trust.against(posed_with(check), TrustOptions(), keyframe) is not None
    assert against(trust, STILL) is None


def test_the_longer_depth_was_contradicted_the_more_clears_it():
    trust, bad = DepthTrust(), replace(GOOD, misfit=9.0)
    for _ in range(8):
        against(trust, bad)
    assert trust.doubted(TrustOptions())
    for _ in range(4):
        against(trust, GOOD)
    assert trust.doubted(TrustOptions())
    against(trust, GOOD)
    assert not trust.doubted(TrustOptions())


def test_depth_that_fits_now_and_then_by_accident_has_a_record():
    """An unrelated plane: one frame in two passes what each frame is held against."""
    trust = DepthTrust()
    left = [12.0, 1.5, 4.0, 0.9, 2.3, 1.5]
    said = [against(trust, replace(GOOD, left_over=value)) for value in left]
    assert all(lost is not None for lost in said)
    assert "depth record" in said[3].detail and "pose.depth_noise_m" in said[3].detail
    for _ in range(12):
        lost = against(trust, replace(GOOD, left_over=0.3))
    assert lost is None


@pytest.mark.parametrize(
    ("left_over", "parallax", "agreed", "believed"),
    [
        pytest.param(0.8, 50.0, 0.9, True, id="all of a large parallax but noise"),
        pytest.param(0.3, 20.0, 0.9, False, id="of a smaller one"),
        pytest.param(0.8, 30.0, 0.9, False, id="more than a fiftieth is left"),
        pytest.param(1.5, 300.0, 0.9, False, id="more than noise is left"),
        pytest.param(0.8, 300.0, 0.6, False, id="of matches that do not agree"),
    ],
)
def test_a_large_parallax_that_depth_explains_outweighs_a_record(
    left_over, parallax, agreed, believed
):
    """A telephone's LiDAR: noisier than claimed, one image a second, each a decimetre on."""
    trust = DepthTrust()
    for _ in range(4):
        against(trust, replace(GOOD, left_over=4.0))
    check = replace(GOOD, left_over=left_over, rotation_only=parallax, agreed=agreed)
    assert (against(trust, check) is None) == believed


def test_depth_that_misfits_now_and_then_keeps_its_record():
    trust = DepthTrust()
    for value in [0.3, 0.2, 1.6, 0.4, 0.9, 1.2, 0.3]:
        assert against(trust, replace(GOOD, left_over=value)) is None


def against(trust, check, keyframe=1):
    trust.next_frame()
    return trust.against(posed_with(check), TrustOptions(), keyframe)


@pytest.mark.parametrize(
    ("support", "alone", "misfit", "refused"),
    [
        (0.61, (0.91, 0.83), 2.3, True),  # depth of three frames ago beside right depth
        (0.61, (0.91, 0.83), 0.9, False),  # ranges fit: not asked
        (0.80, (0.79, 0.90), 2.3, False),
        (0.61, (None, 0.83), 2.3, False),  # one of them alone gives no pose
    ],
)
def test_two_depth_images_of_different_moments(monkeypatch, support, alone, misfit, refused):
    """Each image gives a pose by itself; a pose by both has fewer matches on its side."""
    t = trial(World("moments", matches=60, query_depth=True, camera=SMALL), 0)
    pose = replace(posed_with(replace(GOOD, misfit=misfit)), support=support)
    answers = iter(alone)

    def estimated(matches, query, keyframe, options, evidence):
        assert (query.depth is None) != (keyframe.depth is None)
        assert options.sources == ("depth",)
        value = next(answers)
        lost = Lost(LostReason.DEGENERATE, "")
        return lost if value is None else replace(posed_with(GOOD), support=value)

    monkeypatch.setattr(two_depths, "estimate_pose", estimated)
    lost = two_depths.contradict(
        pose, t.matches, t.query, t.keyframe, PoseOptions(), ScaleEvidence()
    )
    assert (lost is not None) == refused
    assert lost is None or "61 % of the matches agree with both" in lost.detail


class Identity:
    """A matcher that finds every pixel where it was, whatever the images show."""

    name = "identity"

    def encode(self, rgb):
        return Features(self.name, (rgb.shape[1], rgb.shape[0]), None)

    def reference(self, features):
        return Reference(self.name, features.image_size, None)

    def match(self, query, reference):
        size = query.image_size
        grid = DenseMatch(np.zeros((45, 60, 2)), np.ones((45, 60)), size, size).grid_px()
        return DenseMatch(grid, np.ones((45, 60), np.float32), size, size)


def test_an_identity_warp_over_other_content_is_no_pose(shots):
    tracker = Tracker(Identity())
    tracker.process(shots[0].frame)
    seen = np.clip(shots[0].frame.rgb.astype(int) + 2, 0, 255).astype(np.uint8)
    still = tracker.process(replace(shots[0].frame, rgb=seen, stamp_ns=shots[1].frame.stamp_ns))
    assert still.pose is not None  # the same view: nothing moved, and that is true
    other = replace(shots[0].frame, rgb=shots[8].frame.rgb[::-1].copy(), stamp_ns=10**9)
    result = tracker.process(other)
    assert result.pose is None and result.outcome.reason is LostReason.CONTRADICTED
    assert "same content" in result.reason


def test_likeness_is_asked_of_small_motion_only():
    a = frame(np.clip(noise_image(), 0, 255)).rgb
    pixels = np.stack(np.meshgrid(np.arange(20, 300, 10), np.arange(20, 220, 10)), -1)
    pixels = pixels.reshape(-1, 2).astype(float)
    same = Correspondences(pixels, pixels, np.ones(len(pixels)))
    assert likeness(same, a, a) == pytest.approx(1.0, abs=0.05)
    brighter = np.clip(a * 0.6 + 40, 0, 255).astype(np.uint8)
    assert likeness(same, a, brighter) > 0.9
    other = frame(np.clip(noise_image(1), 0, 255)).rgb
    assert abs(likeness(same, a, other)) < 0.2
    assert likeness(replace(same, keyframe_px=pixels + 20), a, other) is None


def test_a_minority_is_not_believed():
    pose = MetricPose(np.eye(4), np.eye(6) * 1e-6, np.ones(0, bool), "depth", support=0.3)
    lost = contradicted_scale(pose, TrustOptions())
    assert lost.reason is LostReason.CONTRADICTED
    assert "30 %" in lost.detail and "tracking.min_support" in lost.detail


@pytest.mark.parametrize("left_over, believed", [(0.1, True), (1.5, False)])
def test_two_views_speak_against_depth_only_where_it_leaves_something_unexplained(
    left_over, believed
):
    """Two views of a corridor's wall had found a turn in place of a step to the side."""
    check = DepthCheck(500, left_over, rotation_only=3.3, misfit=0.2)
    pose = MetricPose(np.eye(4), np.eye(6) * 1e-6, np.ones(9, bool), "depth", disagreement=485.0)
    lost = contradicted_scale(replace(pose, depth_check=check), TrustOptions())
    assert (lost is None) is believed
    assert believed or "two views" in lost.detail


# --- a part of the robot, in a view that turned away ---------------------------------------------

GRIPPER = (slice(160, 240), slice(60, 260))  # rows, columns


def view(scene, gain=1.0, noise=0):
    """A scene behind the robot's own gripper."""
    rgb = texture(320, 240, seed=scene)
    rgb[GRIPPER] = texture(200, 80, seed=99)
    grain = np.random.default_rng(scene + noise).normal(0.0, 3.0, rgb.shape)
    return np.clip(gain * rgb + grain, 0, 255).astype(np.uint8)


def stands(px, query, keyframe):
    """What is said of a pose that does not move, by matches at those pixels."""
    pairs = Correspondences(px, px + 0.3, np.ones(len(px)))
    pose = MetricPose(np.eye(4), 1e-6 * np.eye(6), np.ones(len(px), bool), "mono_depth")
    return contradicted_rest(pose, pairs, Frame(query, CAMERA), Frame(keyframe, CAMERA))


def test_matches_on_the_robot_alone_do_not_say_that_it_stands():
    rng = np.random.default_rng(4)
    own = rng.uniform((62, 162), (258, 238), (300, 2))
    lost = stands(own, view(1), view(2))
    assert lost.reason == LostReason.CONTRADICTED
    assert "the rest" in lost.detail and "tracking.mask" in lost.detail
    # The camera stands, in another light.
    assert stands(own, view(1), view(1, gain=0.8, noise=7)) is None
    # Somebody came into a quarter of the view; matches lie on the rest.
    crossed = view(1)
    crossed[:160, :120] = texture(120, 160, seed=5)
    everywhere = rng.uniform((0, 0), (319, 239), (800, 2))
    still = everywhere[(everywhere[:, 0] > 124) | (everywhere[:, 1] > 164)]
    assert stands(still, crossed, view(1)) is None
    # Matches that moved are not of what stands.
    pairs = Correspondences(own, own + 6.0, np.ones(len(own)))
    assert changed_elsewhere(pairs, view(1), view(2)) is None


class OnTheGripper(Identity):
    """Finds only the robot's own part, where it was."""

    def match(self, query, reference):
        found = super().match(query, reference)
        certainty = np.zeros((45, 60), np.float32)
        rows, columns = (slice(s.start * 3 // 16, s.stop * 3 // 16) for s in GRIPPER)
        certainty[rows, columns] = 1.0
        return replace(found, certainty=certainty)


def test_a_view_that_turned_away_behind_a_gripper_has_no_pose():
    tracker = Tracker(OnTheGripper())
    tracker.process(Frame(view(1), CAMERA, stamp_ns=0))
    stood = tracker.process(Frame(view(1, noise=7), CAMERA, stamp_ns=10**8))
    assert not isinstance(stood.outcome, Lost)  # a direction or none: no depth
    turned = tracker.process(Frame(view(2), CAMERA, stamp_ns=2 * 10**8))
    assert turned.outcome.reason is LostReason.CONTRADICTED
    assert "the rest" in turned.reason
