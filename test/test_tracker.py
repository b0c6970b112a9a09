"""The tracker on a rendered run with a matcher that knows the truth, spoilt on purpose."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.mapping.keyframe_picker import KeyframePicker
from l2m_ros.mapping.options import PickerOptions
from l2m_ros.tracking.gates import GateOptions, StampedPose, implausible_motion
from l2m_ros.tracking.keyframes import (
    KeyframeOptions,
    KeyframePolicy,
    OdometrySample,
    Quality,
    coverage,
    sharpness,
)
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.result import TrackState
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Correspondences, Lost, LostReason, MetricPose, RelativePose
from l2m_ros.workshop.evaluation.tracking import PosedFrame, pose_errors, summarize
from l2m_ros.workshop.evaluation.trajectory import Trajectory
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

FRAMES = 22


@pytest.fixture(scope="module")
def shots():
    options = SimulationOptions(frames=FRAMES, width=240, height=180, rate_hz=8.0)
    return list(simulate(options))


def oracle(shots, **spoilt):
    matcher = OracleMatcher(stride=4, **spoilt)
    list(matcher.watch(shots))
    return matcher


def monocular(frame):
    return replace(frame, depth=None, right_rgb=None, right_camera=None, right_from_camera=None)


def run(tracker, shots, change=lambda frame: frame, odometry=False):
    results = []
    for shot in shots:
        sample = OdometrySample(shot.frame.stamp_ns, shot.odom_from_base, shot.odom_covariance)
        results.append(tracker.process(change(shot.frame), sample if odometry else None))
    return results


def truth_of(shots):
    return Trajectory(
        np.array([shot.frame.stamp_ns for shot in shots]),
        np.array([shot.world_from_camera for shot in shots]),
    )


def summary_of(results, shots):
    posed = [
        PosedFrame(
            r.frame.stamp_ns,
            r.keyframe.frame.stamp_ns,
            r.pose.keyframe_from_camera,
            r.pose.covariance,
        )
        for r in results
        if r.pose is not None
    ]
    return summarize(pose_errors(posed, truth_of(shots)), len(shots))


class Blind:
    """A matcher that finds nothing for as long as `closed`."""

    def __init__(self, matcher):
        self._matcher, self.name, self.closed = matcher, matcher.name, False
        self.encode, self.reference = matcher.encode, matcher.reference
        self.tried = Counter()

    def match(self, query, reference):
        self.tried[reference.data] += 1
        if self.closed:
            return Correspondences.empty()
        return self._matcher.match(query, reference)


def test_every_frame_is_posed_and_the_covariance_is_honest(shots):
    tracker = Tracker(oracle(shots, noise_px=0.5, outlier_share=0.3))
    results = run(tracker, shots)
    summary = summary_of(results, shots)
    assert summary.posed == FRAMES - 1  # the first one became the keyframe
    assert summary.translation_median_mm < 5
    assert summary.rotation_median_deg < 0.1
    assert summary.nees_mean < 1.5 * summary.nees_high
    assert summary.wrong_poses == 0
    assert {r.pose.scale_source for r in results if r.pose} == {"depth"}


def test_keyframes_are_chained_into_odometry(shots):
    results = run(Tracker(oracle(shots)), shots)
    assert sum(r.new_keyframe for r in results) >= 2
    start = np.linalg.inv(shots[0].world_from_camera)
    sigmas = []
    for shot, result in zip(shots[1:], results[1:], strict=True):
        expected = start @ shot.world_from_camera
        assert np.linalg.norm(result.odom_from_camera[:3, 3] - expected[:3, 3]) < 0.02
        sigmas.append((result.keyframe.id, np.trace(result.keyframe.odom_covariance)))
    by_keyframe = dict(sigmas)
    ids = sorted(by_keyframe)
    assert all(by_keyframe[a] < by_keyframe[b] for a, b in itertools.pairwise(ids))


@pytest.mark.parametrize(
    ("change", "odometry", "source"),
    [
        (lambda frame: replace(frame, depth=None), False, "stereo"),
        (monocular, True, "odometry"),
    ],
)
def test_metres_from_elsewhere(shots, change, odometry, source):
    options = TrackerOptions(base_from_camera=shots[0].base_from_camera)
    results = run(Tracker(oracle(shots, noise_px=0.2), options), shots, change, odometry)
    assert source in {r.pose.scale_source for r in results if r.pose}
    assert summary_of(results, shots).translation_median_mm < 40


def test_while_depth_pauses_poses_go_on_by_the_keyframe_that_has_it(shots):
    """A new keyframe without depth would end the metres."""
    policy = KeyframeOptions(inliers_min=0.99, certain_min=0.99, hysteresis=0.0)
    tracker = Tracker(oracle(shots), TrackerOptions(keyframes=policy))

    def blank(frame):
        return replace(monocular(frame), depth=np.full(frame.rgb.shape[:2], np.nan))

    run(tracker, shots[:4], lambda frame: replace(monocular(frame), depth=frame.depth))
    taken = tracker.keyframe.id
    paused = run(tracker, shots[4:8], blank)
    assert all(r.pose is not None and r.keyframe.id == taken for r in paused)
    again = run(tracker, shots[8:10], lambda frame: replace(monocular(frame), depth=frame.depth))
    assert again[0].new_keyframe and again[-1].pose is not None


def test_without_metres_nothing_is_metric(shots):
    results = run(Tracker(oracle(shots)), shots, monocular)
    assert all(r.pose is None and r.odom_from_camera is None for r in results)
    assert any(isinstance(r.outcome, RelativePose) for r in results)
    assert results[-1].state is TrackState.TRACKING
    assert results[-1].why_not_posed == "no_scale"


def test_a_loss_is_said_and_recovered_from(shots):
    matcher = Blind(oracle(shots))
    tracker = Tracker(matcher)
    run(tracker, shots[:10])
    matcher.closed = True
    lost = run(tracker, shots[10:14])
    assert all(r.state is TrackState.LOST and r.pose is None for r in lost)
    assert all(r.outcome.reason is LostReason.TOO_FEW_MATCHES for r in lost)
    matcher.closed = False
    found = tracker.process(shots[14].frame)
    assert found.state is TrackState.TRACKING
    assert isinstance(found.outcome, MetricPose)
    assert found.keyframe.chain == 1


def test_earlier_keyframes_are_tried_before_a_new_chain(shots):
    """The camera jumps back to where it began: the newest keyframe fails, the first one serves."""
    matcher = oracle(shots)
    tracker = Tracker(matcher)
    results = run(tracker, shots)
    newest, first = results[-1].keyframe, results[0].keyframe
    assert newest.id > first.id
    whole = matcher.match

    def only_the_first(query, reference):
        same = reference.data == first.reference.data
        return whole(query, reference) if same else Correspondences.empty()

    matcher.match = only_the_first
    again = [tracker.process(shots[1].frame) for _ in range(6)]
    found = [r for r in again if r.pose is not None]
    assert found
    assert found[0].keyframe.id == first.id
    assert "found again" in found[0].reason
    assert found[0].keyframe.chain == 1


@pytest.mark.parametrize("lucky", [1, 3])
def test_a_place_that_motion_cannot_check_is_believed_by_two_frames(shots, lucky):
    """Three seconds later an earlier keyframe is found: by one frame alone it is not believed."""
    matcher = oracle(shots)
    tracker = Tracker(matcher)
    first = run(tracker, shots)[0]
    whole, asked = matcher.match, []

    def only_the_first(query, reference):
        if reference.data != first.keyframe.reference.data:
            return Correspondences.empty()
        asked.append(query)
        return whole(query, reference) if len(asked) <= lucky else Correspondences.empty()

    matcher.match = only_the_first
    results, start_ns = [], shots[-1].frame.stamp_ns + 3_000_000_000
    for k in range(9):
        frame = replace(shots[k].frame, stamp_ns=start_ns + k * 100_000_000)
        results.append(tracker.process(frame))
    again = [r for r in results if r.keyframe is not None and r.keyframe.id == first.keyframe.id]
    doubted = next(r for r in again if "a second frame" in r.reason)
    assert doubted.pose is None
    assert doubted.outcome.reason is LostReason.UNCERTAIN
    assert any(r.pose is not None for r in again) is (lucky > 1)


def test_after_many_losses_a_new_chain_begins_with_what_is_unknown(shots):
    matcher = Blind(oracle(shots))
    tracker = Tracker(matcher, TrackerOptions(restart_after=5))
    run(tracker, shots[:5])
    matcher.closed = True
    lost = run(tracker, shots[5:10])
    assert [r.new_keyframe for r in lost] == [False] * 4 + [True]
    assert lost[-1].keyframe.chain == 2
    assert "new chain 2" in lost[-1].reason
    unseen_s = (shots[9].frame.stamp_ns - shots[4].frame.stamp_ns) * 1e-9
    sigma_m = np.sqrt(lost[-1].keyframe.odom_covariance[0, 0])
    assert sigma_m == pytest.approx(GateOptions().max_speed_m_s * unseen_s, rel=0.05)


class TurnedAway(Blind):
    """All but the last `seen` frames of before are out of sight for as long as `closed`."""

    def __init__(self, matcher, seen=0):
        super().__init__(matcher)
        self.encode, self._before, self._seen = self._encode, [], seen

    def _encode(self, rgb):
        features = self._matcher.encode(rgb)
        if not self.closed:
            self._before.append(features.data)
        return features

    def match(self, query, reference):
        gone = self._before[: len(self._before) - self._seen]
        if self.closed and reference.data in gone:
            return Correspondences.empty()
        return self._matcher.match(query, reference)


def turned_away(shots, frames, seen=0, **options):
    """A tracker whose frames are out of sight from frame 6 on, and what it said since."""
    matcher = TurnedAway(oracle(shots), seen)
    tracker = Tracker(matcher, TrackerOptions(**options))
    run(tracker, shots[:6])
    matcher.closed = True
    return tracker, matcher, run(tracker, shots[6 : 6 + frames])


def test_a_view_that_leaves_its_keyframe_in_a_moment_is_posed_by_the_frame_before(shots):
    _, _, results = turned_away(shots, 3, seen=1)
    assert {r.keyframe.frame.stamp_ns for r in results} == {shots[5].frame.stamp_ns}
    assert all(r.pose is not None and r.keyframe.chain == 1 for r in results)
    assert summary_of(results, shots).translation_p95_mm < 5
    assert all(r.odom_from_camera is not None and r.chain_event is None for r in results)


def test_a_frame_before_whose_depth_paused_becomes_no_keyframe(shots):
    """It would end the metres; the camera is lost for now, and the keyframe stays."""
    paused = [replace(shot, frame=monocular(shot.frame)) for shot in shots[5:7]]
    tracker, _, results = turned_away([*shots[:5], *paused], 1, seen=1)
    assert results[0].state is TrackState.LOST
    assert tracker.keyframe.frame.depth is not None


def test_a_camera_that_turned_away_is_posed_from_its_next_frame_on(shots):
    _, _, results = turned_away(shots, 6)
    assert results[0].state is TrackState.LOST
    assert all(r.pose is not None for r in results[1:])
    assert {r.keyframe.frame.stamp_ns for r in results[1:]} == {shots[6].frame.stamp_ns}
    assert summary_of(results, shots).translation_p95_mm < 5
    assert all(r.odom_from_camera is None for r in results)  # nobody saw how it came there
    assert all("beside the chain" in r.reason for r in results[1:])


class NearSighted(Blind):
    """Of each frame only the frame before is in sight; of one, nothing."""

    def __init__(self, matcher, blind):
        super().__init__(matcher)
        self.encode, self._order, self._blind = self._encode, [], blind

    def _encode(self, rgb):
        features = self._matcher.encode(rgb)
        self._order.append(features.data)
        return features

    def match(self, query, reference):
        number, kept = self._order.index(query.data), self._order.index(reference.data)
        if number == self._blind or number - kept > 1:
            return Correspondences.empty()
        return self._matcher.match(query, reference)


def test_views_that_leave_each_other_are_posed_one_by_the_other(shots):
    """In the chain, and beside it after a frame that matched nothing."""
    results = run(Tracker(NearSighted(oracle(shots), blind=6)), shots[:11])
    assert [r.pose is not None for r in results] == [False, *[True] * 5, False, *[True] * 4]
    assert summary_of(results, shots).translation_p95_mm < 5


@pytest.mark.parametrize("reason", [LostReason.UNCERTAIN, LostReason.CONTRADICTED])
def test_only_a_view_that_left_its_keyframe_is_matched_with_the_frame_before(shots, reason):
    tracker = Tracker(oracle(shots))
    run(tracker, shots[:6])
    checked = tracker._checks.pose

    def pose(seen, before):
        if seen.keyframe.frame.stamp_ns < shots[5].frame.stamp_ns:
            return Lost(reason, "of all but the frame before"), {}
        return checked(seen, before)

    tracker._checks.pose, tracker._policy.leaves = pose, lambda certain: True
    posed = tracker.process(shots[6].frame).pose is not None
    assert posed is (reason is LostReason.UNCERTAIN)


def test_beside_the_chain_for_long_a_new_one_begins(shots):
    _, _, results = turned_away(shots, 6, restart_after=4)
    assert [r.odom_from_camera is None for r in results] == [True] * 3 + [False] * 3
    event = results[3].chain_event
    assert event.chain == 2
    assert event.is_break
    assert results[4].keyframe.chain == 2
    assert len({r.keyframe.id for r in results[1:]}) == 1


def test_a_map_gets_the_keyframe_beside_the_chain_before_what_is_posed_in_it(shots):
    picker = KeyframePicker(PickerOptions(0.02))
    first = run(Tracker(oracle(shots)), shots[:1])
    picked = [picker.pick(r) for r in first + turned_away(shots, 6)[2]]
    picked = [one for one in picked if one is not None]
    posed = [one for one in picked if one.parent_ns is not None]
    stamps = [one.frame.stamp_ns for one in picked]
    assert posed
    assert all(one.parent_ns in stamps[: stamps.index(one.frame.stamp_ns)] for one in posed)


def test_a_picked_frame_keeps_the_odometry_of_its_own_moment(shots):
    """The keyframe beside the chain is picked later, when the wheels are elsewhere."""
    picker = KeyframePicker(PickerOptions(0.02))
    picked = [
        picker.pick(r, OdometrySample(r.frame.stamp_ns, np.eye(4), np.eye(6)), np.eye(4))
        for r in run(Tracker(oracle(shots)), shots[:1]) + turned_away(shots, 6)[2]
    ]
    picked = [one for one in picked if one is not None]
    beside = [one for one in picked if one.odometry is None]  # this tracker was given none
    assert len(beside) == 1 and beside[0].frame.stamp_ns == shots[6].frame.stamp_ns
    others = [one for one in picked if one.odometry is not None]
    assert others and all(one.odometry.stamp_ns == one.frame.stamp_ns for one in others)


def test_what_was_out_of_sight_is_found_again_in_its_chain(shots):
    tracker, matcher, _ = turned_away(shots, 3)
    matcher.closed = False
    found = tracker.process(shots[9].frame)
    assert found.keyframe.chain == 1
    assert found.odom_from_camera is not None
    assert found.chain_event is None


def test_a_place_that_looks_alike_is_out_of_reach(shots):
    """The camera is matched where its velocity cannot have led it in an eighth of a second."""
    here = shots[5].world_from_camera[:3, 3]
    far = next(s for s in shots[6:] if np.linalg.norm(s.world_from_camera[:3, 3] - here) > 0.5)
    leap = replace(far.frame, stamp_ns=shots[5].frame.stamp_ns)

    def after(**bounds):
        gates = GateOptions(**bounds)
        tracker = Tracker(oracle(shots), TrackerOptions(gates=gates))
        run(tracker, shots[:5])
        return tracker.process(leap)

    refused = after()
    assert refused.why_not_posed == "implausible"
    assert "max_acceleration_m_s2" in refused.reason
    assert after(max_acceleration_m_s2=1000.0, max_turn_acceleration_rad_s2=1000.0).pose is not None


def test_the_velocity_holds_over_a_break(shots):
    """A car's camera hangs: its images agree that the car stands, which no car does so soon."""

    def of_a_car(frame, **changes):
        return replace(frame, depth=30.0 * frame.depth, **changes)

    def hang(**bounds):
        options = TrackerOptions(gates=GateOptions(**bounds), accept_repeated=True, restart_after=4)
        tracker = Tracker(oracle(shots), options)
        moving = run(tracker, shots[:6], of_a_car)
        last = shots[5].frame
        hung = [
            tracker.process(of_a_car(last, stamp_ns=last.stamp_ns + k * 125_000_000))
            for k in range(1, 11)
        ]
        return moving, hung

    moving, hung = hang()
    assert all(r.pose is not None for r in moving[1:])
    assert float(np.linalg.norm(moving[-1].twist.velocity[:3])) > 6.0
    assert all(r.pose is None for r in hung)
    assert sum(r.new_keyframe for r in hung) > 0  # chains begin, and what was known still holds
    assert {r.why_not_posed for r in hung} <= {"implausible", "keyframe"}
    _, stood = hang(max_acceleration_m_s2=100.0)
    assert sum(r.pose is not None for r in stood) > 5


def test_a_covered_lens_waits(shots):
    tracker = Tracker(oracle(shots))
    black = replace(shots[0].frame, rgb=np.zeros_like(shots[0].frame.rgb))
    tracker._matcher.encode = lambda rgb: None
    result = tracker.process(black)
    assert result.state is TrackState.WAITING
    assert "texture" in result.reason
    assert result.keyframe is None


def test_requests(shots):
    tracker = Tracker(oracle(shots))
    run(tracker, shots[:3])
    tracker.set_keyframe()
    result = tracker.process(shots[3].frame)
    assert result.new_keyframe
    assert result.pose is not None
    assert tracker.process(shots[4].frame).keyframe.frame.stamp_ns == shots[3].frame.stamp_ns
    tracker.reset()
    after = tracker.process(shots[5].frame)
    assert after.new_keyframe
    assert (after.keyframe.odom_from_keyframe == np.eye(4)).all()


def test_two_runs_are_bitwise_equal(shots):
    a, b = (run(Tracker(oracle(shots, noise_px=0.5)), shots[:15]) for _ in range(2))
    for x, y in zip(a[1:], b[1:], strict=True):
        assert (x.pose.keyframe_from_camera == y.pose.keyframe_from_camera).all()
        assert (x.pose.covariance == y.pose.covariance).all()


def test_gates(shots):
    strict = GateOptions(max_sigma_m=1e-6)
    results = run(Tracker(oracle(shots, noise_px=0.5), TrackerOptions(gates=strict)), shots[:4])
    assert [r.outcome.reason for r in results[1:]] == [LostReason.UNCERTAIN] * 3
    assert "tracking.max_sigma_m" in results[1].outcome.detail
    there = np.eye(4)
    there[0, 3] = 1.0
    judged = implausible_motion(StampedPose(0, np.eye(4)), StampedPose(10**7, there), GateOptions())
    assert isinstance(judged, Lost)
    assert judged.reason is LostReason.IMPLAUSIBLE
    assert (
        implausible_motion(StampedPose(0, np.eye(4)), StampedPose(10**9, there), GateOptions())
        is None
    )
    assert (
        implausible_motion(StampedPose(10**9, np.eye(4)), StampedPose(0, there), GateOptions())
        is None
    )


def test_keyframe_policy_has_hysteresis():
    policy = KeyframePolicy(KeyframeOptions(coverage_min=0.5, hysteresis=0.1))

    def wants(share):
        return policy.wants_keyframe(Quality(share, inliers=100, certain=None, parallax_rad=0.0))

    assert not wants(1.0)
    assert not wants(0.55)
    assert wants(0.45)
    assert wants(0.55)  # still: it has not come back far enough
    assert not wants(0.65)
    assert not wants(0.55)


def test_keyframe_policy_refuses_blur():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    blurred = np.repeat(np.repeat(sharp[::8, ::8], 8, 0), 8, 1)
    blurred = ((blurred.astype(int) + np.roll(blurred, 3, 1) + np.roll(blurred, 6, 1)) // 3).astype(
        np.uint8
    )
    assert sharpness(blurred) < 0.5 * sharpness(sharp)
    policy = KeyframePolicy(KeyframeOptions())
    assert [policy.rejection(sharp) for _ in range(5)] == [None] * 5
    assert "blurred" in policy.rejection(blurred)


def test_coverage_counts_cells():
    assert coverage(np.zeros((0, 2)), (80, 60)) == 0
    centres = np.stack(np.meshgrid(np.arange(8) * 10 + 4.5, np.arange(6) * 10 + 4.5), -1)
    assert coverage(centres.reshape(-1, 2), (80, 60)) == 1
    assert coverage(centres[0], (80, 60)) == pytest.approx(1 / 6)
    assert coverage(np.array([[-0.5, -0.5], [79.4, 59.4]]), (80, 60)) == pytest.approx(2 / 48)


def test_options_outside_their_range_are_refused():
    with pytest.raises(InvalidInput, match="coverage_min"):
        KeyframeOptions(coverage_min=1.5)


@pytest.mark.parametrize(("cores", "may"), [(1, False), (2, True)])
def test_images_are_encoded_ahead_where_cores_are_free(shots, monkeypatch, cores, may):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    assert Tracker(oracle(shots)).may_encode_ahead is may


def test_a_right_image_that_gives_no_depth_does_not_ask_for_a_keyframe_each_frame(shots):
    """Left and right exchanged: every frame became a keyframe, and without odometry a chain."""

    def exchanged(frame):
        return replace(frame, depth=None, rgb=frame.right_rgb, right_rgb=frame.rgb)

    results = run(Tracker(oracle(shots, noise_px=0.2)), shots, exchanged)
    assert "swapped" in results[-1].remarks["stereo"]
    assert sum(result.new_keyframe for result in results) < len(results) / 2
