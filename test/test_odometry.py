"""What odometry's messages are worth, wheels that slip, and odom that never jumps."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from l2m_ros.geometry import se3
from l2m_ros.tracking import scene_scale
from l2m_ros.tracking.chain import UnseenMotion
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.odometry import OdometryNoise, OdometrySample, step
from l2m_ros.tracking.odometry_metres import PROBATION_NS, WARY, WARY_NS
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.remedies import tracking_problem
from l2m_ros.tracking.result import TrackResult, TrackState
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Correspondences, Lost, LostReason, MetricPose, RelativePose
from l2m_ros.workshop.simulation.odometry import Odometer
from l2m_ros.workshop.simulation.odometry import OdometryNoise as WheelNoise
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.path import make_path
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

FRAMES = 40
EXACT = np.zeros((6, 6))


@pytest.fixture(scope="module")
def shots():
    options = SimulationOptions(frames=FRAMES, width=240, height=180, rate_hz=8.0, stereo=False)
    return list(simulate(options))


def oracle(shots):
    matcher = OracleMatcher(stride=4, noise_px=0.2)
    list(matcher.watch(shots))
    return matcher


def sample(shot, **changes):
    given = OdometrySample(shot.frame.stamp_ns, shot.odom_from_base, shot.odom_covariance)
    return replace(given, **changes)


def without_depth(frame):
    return replace(frame, depth=None)


def true_odom(shots, result):
    """The camera's true place where the first frame's is the origin."""
    stamps = [shot.frame.stamp_ns for shot in shots]
    shot = shots[stamps.index(result.frame.stamp_ns)]
    return np.linalg.inv(shots[0].world_from_camera) @ shot.world_from_camera


def nees(T, P, truth):
    error = se3.difference(T, truth)
    return float(error @ np.linalg.solve(P + 1e-12 * np.eye(6), error))


# ---- covariances of messages ---------------------------------------------------------------------


def run_of_wheels(rng, steps=12, length_m=0.05):
    """(true poses, samples) of a planar base that drives an arc."""
    odometer = Odometer(rng, WheelNoise(), planar=True)
    motion = se3.transform(Rotation.from_rotvec([0, 0, 0.05]).as_matrix(), [length_m, 0, 0])
    pose, poses, samples = np.eye(4), [], []
    for k in range(steps):
        odometer.update(pose)
        poses.append(pose)
        samples.append(OdometrySample(k, odometer.odom_from_base, odometer.covariance))
        pose = pose @ motion
    return poses, samples


def test_a_turn_that_was_unknown_at_the_start_moves_the_end_of_the_way():
    """Interpolated over a gap the start's heading is open, and all that follows swings by it."""
    rng, timing = np.random.default_rng(5), np.diag([1e-4] * 3 + [2.5e-3] * 3)
    true = [se3.exp(np.array(xi)) for xi in ([1.0, 2, 0, 0, 0.1, 0.8], [3.0, 3, 0.2, 0, 0, 1.5])]
    off = []
    for _ in range(400):
        T = se3.perturb(true[0], np.linalg.cholesky(timing) @ rng.standard_normal(6))
        samples = OdometrySample(0, T, np.zeros((6, 6)), timing), OdometrySample(1, true[1], EXACT)
        way = step(*samples, OdometryNoise(1e-6, 1e-6))
        error = se3.difference(way.a_from_b, se3.inverse(true[0]) @ true[1])
        off.append(error @ np.linalg.solve(way.covariance, error))
    assert np.mean(off) == pytest.approx(6.0, rel=0.15)


COVARIANCES = {
    "grows": lambda P: P,
    "is constant": lambda P: np.diag([1e-3] * 6),
    "is all zeros": lambda P: np.zeros((6, 6)),
    "holds variances": lambda P: np.diag([1e-3, 1e-3, 1e6, 1e6, 1e6, 1e-2]),
}


@pytest.mark.parametrize("kind", COVARIANCES)
def test_the_way_between_is_honest_whatever_the_messages_say(kind):
    """Mean squared error of the translation over what is claimed: 3 where it is honest."""
    rng = np.random.default_rng(4)
    squared = []
    for _ in range(60):
        poses, samples = run_of_wheels(rng)
        a, b = (replace(samples[k], covariance=COVARIANCES[kind](samples[k].covariance))
                for k in (3, 11))  # fmt: skip
        found = step(a, b, OdometryNoise(sigma_m_per_m=0.02, sigma_rad_per_rad=0.02))
        assert (found.modelled is None) == (kind == "grows")
        assert kind == "grows" or kind in found.modelled
        error = se3.difference(found.a_from_b, np.linalg.inv(poses[3]) @ poses[11])[:3]
        squared.append(error @ np.linalg.solve(found.covariance[:3, :3], error))
    assert 0.2 < np.mean(squared) < 4.5
    assert max(squared) < 25


def test_the_modelled_noise_grows_with_the_way_and_the_turn():
    noise = OdometryNoise(sigma_m_per_m=0.1, sigma_rad_per_rad=0.2)
    far = noise.covariance(se3.transform(np.eye(3), [2.0, 0, 0]))
    assert np.sqrt(far[0, 0]) == pytest.approx(0.2, abs=0.003)
    turned = noise.covariance(se3.transform(Rotation.from_rotvec([0, 0, 1.0]).as_matrix(), [0] * 3))
    assert np.sqrt(turned[5, 5]) == pytest.approx(0.2, abs=0.002)


def test_a_camera_on_a_lever_moves_by_the_base_s_turn():
    base_from_camera = se3.transform(np.eye(3), [0.0, 0.0, 1.0])
    tilt = se3.transform(Rotation.from_rotvec([0, 0.1, 0]).as_matrix(), [0, 0, 0])
    a = OdometrySample(0, np.eye(4), np.zeros((6, 6)))
    found = step(a, replace(a, stamp_ns=1, odom_from_base=tilt), OdometryNoise(), base_from_camera)
    assert found.a_from_b[0, 3] == pytest.approx(np.sin(0.1))
    sigma_rad = 0.05 * 0.1 + 1e-3
    assert np.sqrt(found.covariance[0, 0]) > sigma_rad  # a metre away from the axis


@pytest.mark.parametrize("kind", list(COVARIANCES)[1:])
def test_poses_are_metric_with_the_covariances_that_drivers_publish(shots, kind):
    options = TrackerOptions(base_from_camera=shots[0].base_from_camera)
    tracker, posed, wrong = Tracker(oracle(shots), options), 0, 0
    for shot in shots[:20]:
        P = COVARIANCES[kind](shot.odom_covariance)
        result = tracker.process(without_depth(shot.frame), sample(shot, covariance=P))
        if result.pose is not None:
            posed += 1
            kept = shots[[s.frame.stamp_ns for s in shots].index(result.keyframe.frame.stamp_ns)]
            truth = np.linalg.inv(kept.world_from_camera) @ shot.world_from_camera
            off_m = np.linalg.norm((result.pose.keyframe_from_camera - truth)[:3, 3])
            wrong += nees(*_pose(result), truth) > 40 and off_m > 0.01
            assert kind in result.remarks["odometry covariance"]
    assert posed >= 14
    assert wrong == 0


def _pose(result):
    return result.pose.keyframe_from_camera, result.pose.covariance


# ---- slip ----------------------------------------------------------------------------------------


def moved(shot, x_m):
    slipped = se3.transform(np.eye(3), [x_m, 0, 0]) @ shot.odom_from_base
    return sample(shot, odom_from_base=slipped)


def test_wheels_that_spin_do_not_move_the_camera(shots):
    """The camera stands; odometry claims half a metre: never published as a visual pose."""
    tracker = Tracker(oracle(shots), TrackerOptions(accept_repeated=True))
    tracker.process(without_depth(shots[0].frame), sample(shots[0]))
    for k in range(1, 6):
        frame = replace(without_depth(shots[0].frame), stamp_ns=shots[k].frame.stamp_ns)
        odometry = replace(moved(shots[0], 0.1 * k), stamp_ns=frame.stamp_ns)
        result = tracker.process(frame, odometry)
        assert result.pose is None
        assert "no parallax" in result.outcome.why_not_metric


def test_a_scene_of_known_depth_shows_slip(shots):
    """Once a motion has shown how far the scene is, a camera that stands is posed as standing."""
    options = TrackerOptions(base_from_camera=shots[0].base_from_camera, accept_repeated=True)
    tracker = Tracker(oracle(shots), options)
    posed = [tracker.process(without_depth(s.frame), sample(s)).pose for s in shots[:9]]
    assert any(posed)
    tracker.set_keyframe()
    kept = shots[9]
    assert tracker.process(without_depth(kept.frame), sample(kept)).new_keyframe
    frame = replace(without_depth(kept.frame), stamp_ns=shots[10].frame.stamp_ns)
    result = tracker.process(frame, replace(moved(kept, 0.5), stamp_ns=frame.stamp_ns))
    T, P = _pose(result)
    assert np.linalg.norm(T[:3, 3]) < 3 * np.sqrt(np.trace(P[:3, :3]))
    assert np.sqrt(np.trace(P[:3, :3])) < 0.2  # a step to the side may hide in a turn
    assert "0.50 m" in result.remarks["odometry"] and "slip" in result.remarks["odometry"]


def slipping(kept, shot, factor):
    """What wheels say that turn so many times as far since a kept shot."""
    way = np.linalg.inv(kept.odom_from_base) @ shot.odom_from_base
    way[:3, 3] *= factor
    return sample(shot, odom_from_base=kept.odom_from_base @ way)


def test_poses_go_on_by_the_scene_while_wheels_slip(shots):
    """Also against keyframes taken meanwhile: the scene's depth is carried from one to the next."""
    options = TrackerOptions(base_from_camera=shots[0].base_from_camera)
    tracker = Tracker(oracle(shots), options)
    for shot in shots[:13]:
        tracker.process(without_depth(shot.frame), sample(shot))
    tracker.set_keyframe()
    kept = shots[13]
    tracker.process(without_depth(kept.frame), sample(kept))
    truth = {shot.frame.stamp_ns: shot.world_from_camera for shot in shots}
    for shot in shots[14:18]:
        if shot is shots[16]:
            tracker.set_keyframe()
        result = tracker.process(without_depth(shot.frame), slipping(kept, shot, 4.0))
        T, P = _pose(result)
        way = np.linalg.inv(truth[result.keyframe.frame.stamp_ns]) @ shot.world_from_camera
        assert nees(T, P, way) < 25
        assert np.sqrt(np.trace(P[:3, :3])) < 0.2 * np.linalg.norm(way[:3, 3]) + 0.01
        assert result.pose.scale_source == "scene" and "slip" in result.remarks["odometry"]
    assert result.keyframe.id > 1


def test_the_turn_of_wheels_that_slip_is_used_where_the_scene_s_shape_is_not_known(
    shots, monkeypatch
):
    """Neither finds the motion alone: the scene gives its length, odometry's turn the rest."""
    monkeypatch.setattr(scene_scale, "MAX_SHAPE_SIGMA", 0.0)
    monkeypatch.setattr(scene_scale, "MIN_RELIEF_ALONE", 2.0)  # two views are not asked
    options = TrackerOptions(base_from_camera=shots[0].base_from_camera)
    tracker = Tracker(oracle(shots), options)
    for number, shot in enumerate(shots[:14]):
        if number == 13:
            tracker.set_keyframe()
        tracker.process(without_depth(shot.frame), sample(shot))
    kept, posed = shots[13], 0
    for shot in shots[14:18]:
        result = tracker.process(without_depth(shot.frame), slipping(kept, shot, 4.0))
        if result.pose is None:
            continue
        posed += 1
        T, P = _pose(result)
        way = np.linalg.inv(kept.world_from_camera) @ shot.world_from_camera
        assert result.pose.scale_source == "scene" and nees(T, P, way) < 25
        alone = result.seen_turn.keyframe_from_camera  # without odometry's turn
        assert not np.allclose(alone, T[:3, :3], rtol=0, atol=1e-9)
    assert posed >= 3


def test_depth_that_was_contradicted_does_not_end_a_frame_that_odometry_poses(shots, monkeypatch):
    """Matches and such depth agree on no pose: that says nothing of the matches."""
    tracker = Tracker(oracle(shots), TrackerOptions(base_from_camera=shots[0].base_from_camera))
    wrong = [replace(s.frame, depth=np.flip(s.frame.depth, axis=0).copy()) for s in shots[:14]]
    checks = tracker._checks
    estimated, doubt = checks._estimated, Lost(LostReason.DEGENERATE, "did not settle")

    def spoilt(seen, step, options, scene=None):
        by_depth = "depth" in options.sources
        return doubt if by_depth and late else estimated(seen, step, options, scene)

    monkeypatch.setattr(checks, "_estimated", spoilt)
    late, sources = False, []
    for number, (shot, frame) in enumerate(zip(shots[:14], wrong, strict=True)):
        late = number > 10
        result = tracker.process(frame, sample(shot))
        sources.append(result.pose and result.pose.scale_source)
    assert checks._depth_trust["depth"].doubted(tracker.options.trust)
    assert sources[-3:] == ["odometry"] * 3


def test_poses_go_on_before_a_shallow_scene_while_odometry_pauses(shots):
    """Its known depth tells a turn from a step to the side, which the matches alone do not."""
    tracker = Tracker(oracle(shots), TrackerOptions(base_from_camera=shots[0].base_from_camera))
    for number, shot in enumerate(shots[:14]):
        if number == 13:
            tracker.set_keyframe()
        tracker.process(without_depth(shot.frame), sample(shot))
    truth = {shot.frame.stamp_ns: shot.world_from_camera for shot in shots}
    for shot in shots[14:19]:
        result = tracker.process(without_depth(shot.frame), None)
        T, P = _pose(result)
        way = np.linalg.inv(truth[result.keyframe.frame.stamp_ns]) @ shot.world_from_camera
        assert result.pose.scale_source == "scene" and nees(T, P, way) < 25


def test_a_slip_over_many_keyframes_is_seen_to_its_end(shots):
    """The known scene thinned out from one to the next, and what could not be checked passed."""
    options = TrackerOptions(base_from_camera=shots[0].base_from_camera)
    tracker = Tracker(oracle(shots), options)
    for shot in shots[:13]:
        tracker.process(without_depth(shot.frame), sample(shot))
    truth, kept = {shot.frame.stamp_ns: shot.world_from_camera for shot in shots}, shots[13]
    tracker.set_keyframe()
    tracker.process(without_depth(kept.frame), sample(kept))
    ratios = []
    for number, shot in enumerate(shots[14:28]):
        if number % 2 == 1:
            tracker.set_keyframe()
        result = tracker.process(without_depth(shot.frame), slipping(kept, shot, 4.0))
        if result.pose is None:
            continue
        stamp_ns = result.keyframe.frame.stamp_ns
        way = np.linalg.norm((np.linalg.inv(truth[stamp_ns]) @ shot.world_from_camera)[:3, 3])
        length = np.linalg.norm(result.pose.keyframe_from_camera[:3, 3])
        stands = length == 0  # too little parallax for a length
        assert stands or result.pose.scale_source == "scene"
        if not stands:
            ratios.append(length / way)
    assert len(ratios) >= 8
    assert min(ratios) > 0.9 and max(ratios) < 1.1


@pytest.mark.slow
def test_metres_that_slipped_from_the_start_are_not_carried_on(shots):
    """The scene was seen for a moment only: what contradicts it may be right."""
    tracker = Tracker(oracle(shots), TrackerOptions(base_from_camera=shots[0].base_from_camera))
    sources = set()
    for shot in shots[:12]:
        factor = 4.0 if shot.frame.stamp_ns < shots[4].frame.stamp_ns else 1.0
        result = tracker.process(without_depth(shot.frame), slipping(shots[0], shot, factor))
        sources.add(result.pose and result.pose.scale_source)
    assert "scene" not in sources


def driven_by_wheels(some, shots):
    """A tracker that knows the scene of some shots, begins anew when lost, and its matcher."""
    options = TrackerOptions(base_from_camera=shots[0].base_from_camera, restart_after=1)
    matcher = Blind(oracle(shots))
    tracker = Tracker(matcher, options)
    for shot in some:
        tracker.process(without_depth(shot.frame), sample(shot))
    return tracker, matcher


@pytest.mark.slow
def test_after_a_slip_wheels_are_believed_later_where_no_scene_checks_them(shots):
    tracker, matcher = driven_by_wheels(shots[:9], shots)
    slipped = slipping(shots[0], shots[9], 4.0)
    assert "slip" in tracker.process(without_depth(shots[9].frame), slipped).remarks["odometry"]
    matcher.sees = lambda reference: False
    for shot in shots[10:13]:
        tracker.process(without_depth(shot.frame), sample(shot))
    matcher.sees = lambda reference: True
    kept = tracker.keyframe
    unsure = {}
    for shot, later_ns in ((shots[14], 0), (shots[15], WARY_NS), (shots[16], PROBATION_NS)):
        stamp_ns = shot.frame.stamp_ns + later_ns
        told = replace(sample(shot), stamp_ns=stamp_ns)
        result = tracker.process(replace(without_depth(shot.frame), stamp_ns=stamp_ns), told)
        assert result.keyframe is kept
        assert (result.pose is not None) == (later_ns > 0), result.reason
        assert later_ns > 0 or "slip" in result.remarks["odometry"]
        if result.pose is not None:
            t, P = result.pose.keyframe_from_camera[:3, 3], result.pose.covariance[:3, :3]
            unsure[later_ns] = np.sqrt(t @ P @ t) / (t @ t)  # its length, relative
    assert unsure[WARY_NS] > 0.3 and unsure[PROBATION_NS] < 0.15


def test_wheels_that_leap_are_not_believed_where_no_scene_checks_them(shots):
    """The slip begins while nothing that is known is in view."""
    tracker, matcher = driven_by_wheels(shots[:9], shots)
    matcher.sees = lambda reference: False
    for shot in shots[9:12]:
        tracker.process(without_depth(shot.frame), slipping(shots[8], shot, 6.0))
    matcher.sees = lambda reference: True
    kept, apart = tracker.keyframe, []
    begun = next(s for s in shots if s.frame.stamp_ns == kept.frame.stamp_ns)
    for shot in shots[12:16]:
        result = tracker.process(without_depth(shot.frame), slipping(shots[8], shot, 6.0))
        assert result.keyframe is kept
        if result.pose is not None:
            t, P = result.pose.keyframe_from_camera[:3, 3], result.pose.covariance[:3, :3]
            way = (np.linalg.inv(begun.world_from_camera) @ shot.world_from_camera)[:3, 3]
            length = np.linalg.norm(t)
            apart.append((length - np.linalg.norm(way)) / (np.sqrt(t @ P @ t) / length))
    assert len(apart) >= 3 and max(apart) < 3.0


# ---- chains --------------------------------------------------------------------------------------


class Blind:
    """A matcher that finds nothing, or only in what `sees` allows."""

    def __init__(self, matcher):
        self._matcher, self.name, self.sees = matcher, matcher.name, lambda reference: True
        self.encode, self.reference = matcher.encode, matcher.reference

    def match(self, query, reference):
        if not self.sees(reference):
            return Correspondences.empty()
        return self._matcher.match(query, reference)


def test_after_scale_was_lost_odom_admits_the_motion_that_nobody_measured(shots):
    tracker = Tracker(oracle(shots))
    results = []
    for k, shot in enumerate(shots):
        if k in (12, 18):
            tracker.set_keyframe()
        frame = shot.frame if k < 8 or k >= 28 else without_depth(shot.frame)
        results.append(tracker.process(frame))
    back = [r for r in results[28:] if r.odom_from_camera is not None]
    assert len(back) > 8
    for result in back:
        T, P = result.odom_from_camera, result.odom_covariance
        assert nees(T, P, true_odom(shots, result)) < 12
    breaks = [r.chain_event for r in results if r.chain_event and r.chain_event.is_break]
    assert breaks[-1].before is not None and breaks[-1].bridged_by == "nothing"
    # From the last pose in metres to the keyframe that the pose of 28 is relative to.
    last = max(k for k, r in enumerate(results[:28]) if r.odom_from_camera is not None)
    kept = back[0].keyframe.frame
    assert 7 <= last <= 12 and kept.stamp_ns >= shots[18].frame.stamp_ns
    unseen_s = (kept.stamp_ns - shots[last].frame.stamp_ns) * 1e-9
    assert breaks[-1].sigma_m == pytest.approx(GateOptions().max_speed_m_s * unseen_s)
    assert np.sqrt(back[0].odom_covariance[0, 0]) >= breaks[-1].sigma_m


def test_a_turn_that_was_seen_without_metres_is_kept(shots):
    tracker = Tracker(oracle(shots))
    for k, shot in enumerate(shots[:16]):
        if k in (9, 12):
            tracker.set_keyframe()
        result = tracker.process(shot.frame if k < 6 else without_depth(shot.frame))
    kept = tracker._keyframe
    truth = np.linalg.inv(shots[0].world_from_camera) @ shots[12].world_from_camera
    turn = se3.rotation_log(kept.odom_from_keyframe[:3, :3] @ truth[:3, :3].T)
    assert result.keyframe is kept
    assert np.linalg.norm(turn) < 0.02


def steps_m(results):
    places = [r.odom_from_camera[:3, 3] for r in results if r.odom_from_camera is not None]
    return np.linalg.norm(np.diff(places, axis=0), axis=1)


def test_odom_does_not_jump_when_an_older_chain_is_found_again(shots):
    """Chain 2 runs for a while; then only a keyframe of chain 1 is recognised."""
    matcher = Blind(oracle(shots))
    tracker = Tracker(matcher, TrackerOptions(restart_after=3))
    results = [tracker.process(shot.frame) for shot in shots[:10]]
    first = results[0].keyframe.reference.data
    matcher.sees = lambda reference: False
    results += [tracker.process(shot.frame) for shot in shots[10:13]]
    assert results[-1].keyframe.chain == 2
    matcher.sees = lambda reference: reference.data != first
    results += [tracker.process(shot.frame) for shot in shots[13:16]]
    assert all(r.pose is not None and r.keyframe.chain == 2 for r in results[-3:])
    matcher.sees = lambda reference: reference.data == first
    # The robot is back where it began, 0.3 to 1 m away from the last place of chain 2.
    again = [tracker.process(replace(s.frame, stamp_ns=shots[16 + k].frame.stamp_ns))
             for k, s in enumerate(shots[1:7])]  # fmt: skip
    found = [r for r in again if r.pose is not None]
    assert found and found[0].keyframe.chain == 1
    event = next(r.chain_event for r in again if r.chain_event)
    assert (event.before_chain, event.chain) == (2, 1) and event.is_break
    assert steps_m(results[13:] + again).max() < 0.1  # a frame's motion, not the way back
    assert np.sqrt(found[0].odom_covariance[0, 0]) > 1.0
    # What follows is chained to it: its keyframes moved together.
    tracker.set_keyframe()
    later = tracker.process(replace(shots[7].frame, stamp_ns=shots[23].frame.stamp_ns))
    assert later.keyframe.chain == 1 and tracker._keyframe.chain == 1


def test_a_chain_that_was_never_published_leaves_the_older_one_as_it_was(shots):
    matcher = Blind(oracle(shots))
    tracker = Tracker(matcher, TrackerOptions(restart_after=3))
    results = [tracker.process(shot.frame) for shot in shots[:10]]
    matcher.sees = lambda reference: False
    lost = [tracker.process(shot.frame) for shot in shots[10:13]]
    assert lost[-1].chain_event.is_break
    new = lost[-1].keyframe.reference.data
    matcher.sees = lambda reference: reference.data != new
    result = next(r for shot in shots[13:] if (r := tracker.process(shot.frame)).pose)
    assert result.keyframe.chain == 1 and not result.chain_event.is_break
    truth = true_odom(shots, result)
    assert nees(result.odom_from_camera, result.odom_covariance, truth) < 30
    assert np.sqrt(result.odom_covariance[0, 0]) < 0.1
    assert results[0].chain_event.chain == 1 and not results[0].chain_event.is_break


def test_odometry_guesses_the_motion_over_a_break(shots):
    matcher = Blind(oracle(shots))
    options = TrackerOptions(restart_after=3, base_from_camera=shots[0].base_from_camera)
    tracker = Tracker(matcher, options)
    for k, shot in enumerate(shots[:14]):
        matcher.sees = lambda reference, k=k: k < 10 or k > 12
        result = tracker.process(shot.frame, sample(shot))
    assert result.keyframe.chain == 2
    off_m = np.linalg.norm((result.odom_from_camera - true_odom(shots, result))[:3, 3])
    assert off_m < 0.1
    assert np.sqrt(result.odom_covariance[0, 0]) > 1.0  # the wheels are not counted as ours


def test_a_reset_is_announced(shots):
    tracker = Tracker(oracle(shots))
    for shot in shots[:3]:
        tracker.process(shot.frame)
    tracker.reset()
    event = tracker.process(shots[3].frame).chain_event
    assert event.anew and event.is_break and "anew" in event.why and event.chain == 2


def test_plausible_motion_while_nobody_looks_is_bounded():
    unseen = UnseenMotion(2.0, 12.0)
    assert unseen.sigmas(3.0) == (6.0, np.pi)
    assert unseen.sigmas(-1.0) == (0.0, 0.0)


# ---- velocity ------------------------------------------------------------------------------------


def test_the_twist_is_the_velocity_within_its_covariance(shots):
    """Against the derivative of the path."""
    path = make_path("handheld", world=shots[0].world, frames=FRAMES, rate_hz=8.0)
    tracker, squared = Tracker(oracle(shots)), []
    for shot in shots:
        result = tracker.process(shot.frame)
        if result.twist is None:
            continue
        here, soon = path.camera_at([shot.time_s, shot.time_s + 1e-4])
        error = result.twist.velocity - se3.log(np.linalg.inv(here) @ soon) / 1e-4
        squared.append(error @ np.linalg.solve(result.twist.covariance, error))
    assert len(squared) > 30
    assert 0.3 < np.mean(squared) / 6 < 2.0


def test_the_twist_of_a_lever():
    from l2m_ros.tracking.place import Twist

    base_from_camera = se3.transform(np.eye(3), [1.0, 0, 0])
    turning = Twist(np.array([0, 0, 0, 0, 0, 0.5]), np.diag([0.0] * 5 + [0.01]))
    base = turning.seen_from(base_from_camera)
    assert base.velocity == pytest.approx([0, -0.5, 0, 0, 0, 0.5])
    assert base.covariance[1, 1] == pytest.approx(0.01)


def test_without_a_pose_there_is_no_place(shots):
    tracker = Tracker(Blind(oracle(shots)))
    tracker.process(shots[0].frame)
    tracker._matcher.sees = lambda reference: False
    result = tracker.process(shots[1].frame)
    assert result.outcome.reason is LostReason.TOO_FEW_MATCHES
    assert result.twist is None and result.odom_from_camera is None
    assert not isinstance(result.outcome, MetricPose)


# ---- doubts --------------------------------------------------------------------------------------


def test_a_frozen_driver_is_not_a_camera_that_stands(shots):
    """The same bytes under a new stamp: withheld, unless odometry stands as well."""
    for odometry, posed in ((None, False), (shots[2], False), (shots[1], True)):
        tracker = Tracker(oracle(shots))
        for shot in shots[:2]:
            tracker.process(shot.frame, sample(shot))
        frozen = replace(shots[1].frame, stamp_ns=shots[2].frame.stamp_ns)
        result = tracker.process(frozen, odometry and sample(odometry))
        assert (result.pose is not None) == posed
        if not posed:
            assert result.outcome.reason is LostReason.REPEATED_IMAGE
            assert "frozen" in result.reason
        assert tracker.process(shots[3].frame, sample(shots[3])).pose is not None


@pytest.mark.parametrize("frozen", ["image", "depth"])
def test_a_frozen_driver_of_a_slow_base_is_found(shots, frozen):
    """1.5 mm from frame to frame passed for standing, however long the driver stood still."""
    tracker, stood = Tracker(oracle(shots)), []
    for shot in shots[:2]:
        tracker.process(shot.frame, sample(shot))
    for k in range(1, 6):
        same = shots[1].frame if frozen == "image" else shots[1 + k].frame
        frame = replace(same, depth=shots[1].frame.depth, stamp_ns=shots[1 + k].frame.stamp_ns)
        result = tracker.process(frame, moved(shots[1], 1.5e-3 * k))
        lost = result.outcome is not None and result.pose is None
        stood.append(not lost if frozen == "image" else result.remarks.get("frozen") is None)
    assert stood == [True, False, False, False, False]


def test_a_place_that_looks_alike_begins_a_new_chain(shots):
    """Two seconds without images; then the same view, while odometry went on by 2.8 m."""
    for with_odometry, chain in ((True, 2), (False, 1)):
        tracker = Tracker(oracle(shots))
        for shot in shots[:3]:
            tracker.process(shot.frame, sample(shot) if with_odometry else None)
        results = []
        for k in range(3, 6):
            frame = replace(shots[k].frame, stamp_ns=shots[k].frame.stamp_ns + 2 * 10**9)
            odometry = replace(moved(shots[k], 2.8), stamp_ns=frame.stamp_ns)
            results.append(tracker.process(frame, odometry if with_odometry else None))
        assert results[-1].pose is not None
        assert results[-1].keyframe.chain == chain  # without odometry nobody could tell
        assert ("looks_alike" in results[0].reason) == with_odometry


def test_slip_is_no_other_place(shots):
    """While poses come, odometry that disagrees is the one that is wrong."""
    tracker = Tracker(oracle(shots))
    for k, shot in enumerate(shots[:8]):
        result = tracker.process(shot.frame, moved(shot, 0.5 * k))
    assert result.pose is not None and result.keyframe.chain == 1


# ---- two witnesses of the same metres ------------------------------------------------------------


def test_metres_that_depth_and_odometry_do_not_agree_on_are_given_by_neither(shots):
    """Depth goes in the end: its metres are known no better for that."""
    tracker = Tracker(oracle(shots), TrackerOptions(base_from_camera=shots[0].base_from_camera))
    some, posed = shots[:24], []
    truth = {shot.frame.stamp_ns: shot.world_from_camera for shot in some}
    for number, shot in enumerate(some):
        twice = shot.odom_from_base.copy()
        twice[:3, 3] *= 2.0
        frame = shot.frame if number < 18 else without_depth(shot.frame)
        result = tracker.process(frame, sample(shot, odom_from_base=twice))
        if isinstance(result.outcome, MetricPose):
            before = truth[result.keyframe.frame.stamp_ns]
            off = (
                result.outcome.keyframe_from_camera - np.linalg.inv(before) @ truth[frame.stamp_ns]
            )
            posed.append((number, np.linalg.norm(off[:3, 3])))
    assert all(off_m < 0.02 for _, off_m in posed), posed
    assert max(number for number, _ in posed) < 15
    assert "neither is believed" in result.remarks["depth scale"]


@pytest.mark.parametrize(
    ("remarks", "words"),
    [
        ({}, "connect depth, right/image or odom"),
        ({"odometry": WARY}, WARY),
        ({"stereo": "left and right swapped?"}, "left and right swapped?"),
    ],
)
def test_a_source_of_metres_that_is_there_and_refused_is_named(shots, remarks, words):
    turn = RelativePose(np.eye(4), np.ones(1, bool), "rotation")
    result = TrackResult(TrackState.TRACKING, "", shots[0].frame, None, turn, remarks=remarks)
    assert tracking_problem(result).endswith(words)
