"""Joining topics by their stamps, judging stamps, odometry between samples; no DDS needed."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import CameraInfo, Image

from l2m_ros.errors import InvalidInput
from l2m_ros.frames import builder
from l2m_ros.frames import messages as m
from l2m_ros.frames.inputs import MISSING_AFTER_IMAGES, Bundle, InputOptions, Inputs
from l2m_ros.frames.messages import header, stamp_ns
from l2m_ros.frames.odometry_buffer import OdometryBuffer
from l2m_ros.frames.rectified import is_rectified
from l2m_ros.frames.stamps import CAMERA_CHANGE, STRAGGLERS, StampGuard, Verdict
from l2m_ros.frames.synchroniser import Synchroniser
from l2m_ros.tracking.keyframes import OdometrySample

MS = 1_000_000
S = 1000 * MS


def stamped(ns, kind=Image, frame_id="cam"):
    return kind(header=header(ns, frame_id))


def stamps(sets):
    return [{topic: stamp_ns(message) // MS for topic, message in one.items()} for one in sets]


@pytest.fixture(params=[False, True], ids=["eager", "patient"])
def joined(request):
    """A maker of synchronisers."""
    return lambda topics, slop: Synchroniser(topics, slop_ns=slop, patient=request.param)


def feed(joint, events):
    """(topic, ms) in order of arrival -> the sets that come out."""
    sets = []
    for topic, ms in events:
        sets += joint.add(topic, stamped(ms * MS))
    return stamps(sets)


def test_equal_stamps_join(joined):
    joint = joined(["a", "b"], 0)
    events = [("a", 10), ("b", 10), ("b", 20), ("a", 20), ("a", 30), ("b", 40)]
    assert feed(joint, events) == [{"a": 10, "b": 10}, {"a": 20, "b": 20}]


def test_near_stamps_join_and_far_ones_do_not(joined):
    joint = joined(["a", "b", "c"], 10 * MS)
    events = [("a", 100), ("b", 104), ("c", 97), ("b", 150), ("c", 150)]
    events += [("a", 200), ("b", 230), ("c", 200), ("c", 240)]
    events += [("a", 300), ("b", 301), ("c", 302), ("c", 400), ("b", 400)]
    found = feed(joint, events)
    assert found == [{"a": 100, "b": 104, "c": 97}, {"a": 300, "b": 301, "c": 302}]


def test_a_message_serves_once(joined):
    joint = joined(["a", "b"], 30 * MS)
    events = [("a", 100), ("b", 110), ("a", 120), ("b", 125), ("a", 200), ("b", 200)]
    found = feed(joint, events)
    used = [one["b"] for one in found]
    assert len(set(used)) == len(used)
    assert {"a": 200, "b": 200} in found


def test_many_waiting_messages_are_bounded(joined):
    joint = joined(["a", "b"], 0)
    assert feed(joint, [("a", ms) for ms in range(1, 500)]) == []
    assert feed(joint, [("b", 499)]) == [{"a": 499, "b": 499}]


def test_patient_ones_do_not_depend_on_the_order_of_arrival():
    """Depth at 35 Hz beside images at 30 Hz; topics delayed against each other at random."""
    rng = np.random.default_rng(3)
    images = [("image", int(t)) for t in np.arange(100, 1500, 33.3)]
    depths = [("depth", int(t)) for t in np.arange(95, 1600, 28.6)]
    results = []
    for _ in range(6):
        delay = {"image": rng.integers(0, 80), "depth": rng.integers(0, 80)}
        order = sorted(images + depths, key=lambda event: event[1] + delay[event[0]])
        joint = Synchroniser(["image", "depth"], slop_ns=20 * MS, patient=True, limit=1000)
        results.append(feed(joint, order))
    assert all(result == results[0] for result in results)
    assert len(results[0]) > 35
    for one in results[0]:
        nearest = min((t for _, t in depths), key=lambda t: abs(t - one["image"]))
        assert abs(one["depth"] - one["image"]) <= abs(nearest - one["image"]) + 14


def test_one_stamp_in_the_future_costs_one_set():
    """The entry waits until others push it out; the rate is not halved while it does."""
    for patient in (False, True):
        joint = Synchroniser(["a", "b"], slop_ns=5 * MS, patient=patient)
        events = [(topic, 33 * k) for k in range(1, 300) for topic in "ab"]
        events[101] = ("b", 10**7)
        assert len(feed(joint, events)) == 298
        assert joint.unpaired == 1


# ---- stamps --------------------------------------------------------------------------------------


def verdicts(guard, stamps_s, frame_id="cam"):
    return [guard.check(round(s * S), frame_id).verdict.value for s in stamps_s]


def test_good_stamps_are_good():
    assert verdicts(StampGuard(), [1, 1.1, 1.2, 9]) == ["accepted"] * 4


def test_zero_and_repeated_stamps_are_refused_with_a_remedy():
    guard = StampGuard()
    assert "header.stamp" in guard.check(0, "cam").words
    guard.check(S, "cam")
    again = guard.check(S, "cam")
    assert again.verdict is Verdict.REFUSED and "published twice" in again.words
    assert guard.check(2 * S, "cam").verdict is Verdict.ACCEPTED


def test_a_looping_bag_resets_once_and_on_its_second_image():
    found = verdicts(StampGuard(), [10, 11, 12, 3, 4, 5])
    assert found == ["accepted"] * 3 + ["refused", "reset", "accepted"]


def test_one_wrong_stamp_costs_one_image_and_no_reset():
    for wrong in (1e6, 15.0, 2.0):
        stamps_s = [10 + 0.1 * k for k in range(20)]
        stamps_s[8] = wrong
        found = verdicts(StampGuard(), stamps_s)
        assert found.count("refused") == 1 and "reset" not in found, (wrong, found)


def test_a_gap_costs_one_image_and_a_slow_camera_none():
    gap = [10, 10.1, 10.2, 10.3, 60, 60.1, 60.2]
    assert verdicts(StampGuard(), gap) == ["accepted"] * 4 + ["refused", "accepted", "accepted"]
    assert verdicts(StampGuard(), [5.0 * k for k in range(1, 20)]) == ["accepted"] * 19


def test_stragglers_are_dropped_but_a_small_step_back_is_followed():
    assert verdicts(StampGuard(), [1.0, 1.2, 1.1, 1.3]) == [
        "accepted",
        "accepted",
        "refused",
        "accepted",
    ]
    back = verdicts(StampGuard(), [5.0, *(4.5 + 0.01 * k for k in range(STRAGGLERS + 1))])
    assert back == ["accepted"] + ["refused"] * (STRAGGLERS - 1) + ["reset", "accepted"]


def test_the_first_camera_is_kept_until_it_is_gone():
    guard = StampGuard()
    guard.check(S, "left")
    for k in range(1, 30):  # both come: the second one never takes over
        other = guard.check(S + k * 10 * MS, "right")
        assert other.verdict is Verdict.REFUSED and "two cameras" in other.words
        assert guard.check(S + k * 10 * MS + 1, "left").verdict is Verdict.ACCEPTED
    alone = verdicts(guard, [3 + 0.1 * k for k in range(CAMERA_CHANGE + 1)], "right")
    assert alone == ["refused"] * (CAMERA_CHANGE - 1) + ["reset", "accepted"]


# ---- bundles -------------------------------------------------------------------------------------


def test_a_bundle_needs_camera_info_and_says_so():
    inputs = Inputs(InputOptions())
    assert inputs.add("image", stamped(S), 0.0) == []
    assert inputs.missing() == {}  # it may be on its way
    for second in range(2, 2 + MISSING_AFTER_IMAGES):
        inputs.add("image", stamped(second * S), 0.0)
    assert "camera_info" in inputs.missing()["camera_info"]
    (bundle,) = inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    assert bundle.stamp_ns == (1 + MISSING_AFTER_IMAGES) * S and set(bundle.messages) == {
        "image",
        "camera_info",
    }
    assert inputs.missing() == {}


def test_without_camera_info_only_the_newest_image_waits_unless_lossless():
    for lossless, expected in ((False, [5]), (True, [1, 2, 3, 4, 5])):
        inputs = Inputs(InputOptions(lossless=lossless))
        for second in range(1, 6):
            inputs.add("image", stamped(second * S), 0.0)
        bundles = inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
        assert [bundle.stamp_ns // S for bundle in bundles] == expected


@pytest.mark.parametrize("depth", [False, True])
def test_lossless_images_that_wait_take_no_more_memory_than_they_may(depth):
    """Without camera_info, or depth, all of them were kept until the memory was full."""
    inputs = Inputs(InputOptions(lossless=True, depth=depth, waiting_bytes=1000))
    for second in range(1, 21):
        image = stamped(second * S)
        image.data = bytes(100)
        inputs.add("image", image, 0.0)
    assert inputs.unpaired == 10
    bundles = inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    for second in range(1, 21) if depth else ():
        bundles += inputs.add("depth", stamped(second * S), 0.0)
    assert [bundle.stamp_ns // S for bundle in bundles] == list(range(11, 21))


def test_odometry_that_begins_drops_no_image_that_waits_for_depth():
    inputs = Inputs(InputOptions(lossless=True, depth=True))
    inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    inputs.add("image", stamped(2 * S), 0.0)
    inputs.reconfigure(InputOptions(lossless=True, depth=True, odom=True))
    inputs.add("depth", stamped(2 * S), 0.0)
    assert [bundle.stamp_ns for bundle in inputs.flush()] == [2 * S]


def test_images_that_wait_in_vain_are_counted():
    inputs = Inputs(InputOptions(depth=True))
    for second in range(1, 20):
        inputs.add("image", stamped(second * S), 0.0)
    assert inputs.unpaired == 9  # the synchroniser keeps ten
    inputs = Inputs(InputOptions())
    for second in range(1, 20):
        inputs.add("image", stamped(second * S), 0.0)
    assert inputs.unpaired == 18  # without camera_info the newest waits


def test_late_and_missing_depth_is_named():
    inputs = Inputs(InputOptions(depth=True, slop_ns=20 * MS))
    inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    for half in range(6, 10):
        inputs.add("image", stamped(half * S // 2), 0.0)
    assert "no depth received" in inputs.missing()["depth"]
    inputs.add("depth", stamped(9 * S // 2 - 325 * MS), 0.0)
    assert "+0.325 s" in inputs.missing()["depth"] and "slop_s" in inputs.missing()["depth"]
    (bundle,) = inputs.add("depth", stamped(9 * S // 2 + 5 * MS), 0.0)
    assert "depth" in bundle.messages and inputs.missing() == {}


def test_a_set_that_is_merely_slow_is_not_called_missing():
    """Four images within half a second whose depth is still on its way."""
    inputs = Inputs(InputOptions(depth=True))
    inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    for k in range(4):
        inputs.add("image", stamped(S + k * 150 * MS), 0.0)
    assert inputs.missing() == {}


def test_a_loop_resets_the_bundle_and_forgets_later_messages():
    inputs = Inputs(InputOptions(depth=True))
    inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    for second in (10, 11, 12):
        inputs.add("image", stamped(second * S), 0.0)
        inputs.add("depth", stamped(second * S), 0.0)
    inputs.add("depth", stamped(13 * S), 0.0)
    inputs.add("image", stamped(1 * S), 0.0)
    inputs.add("image", stamped(2 * S), 0.0)
    (bundle,) = inputs.add("depth", stamped(2 * S), 0.0)
    assert bundle.reset and bundle.stamp_ns == 2 * S
    inputs.add("image", stamped(3 * S), 0.0)
    (bundle,) = inputs.add("depth", stamped(3 * S), 0.0)
    assert not bundle.reset


def odometry(seconds, x_m):
    T = np.eye(4)
    T[0, 3] = x_m
    return OdometrySample(round(seconds * S), T, np.eye(6) * x_m)


def test_odometry_is_interpolated_and_admits_what_the_base_did_meanwhile():
    buffer = OdometryBuffer()
    for tenth in range(0, 50, 2):
        buffer.add(odometry(0.1 * tenth, 0.2 * tenth))
    assert buffer.at(2 * S).odom_from_base[0, 3] == pytest.approx(4.0)
    assert not buffer.at(2 * S).timing.any()
    sample = buffer.at(round(2.1 * S))
    assert sample.stamp_ns == round(2.1 * S)
    assert sample.odom_from_base[0, 3] == pytest.approx(4.2)
    assert sample.covariance[0, 0] == pytest.approx(4.2)
    assert np.sqrt(sample.timing[0, 0]) == pytest.approx(0.1 * 0.1 / 2)  # 1 m/s^2 over 0.2 s
    assert OdometryBuffer().at(S) is None


def test_odometry_that_is_late_is_extrapolated_with_what_that_costs():
    buffer = OdometryBuffer()
    for tenth in range(10):
        buffer.add(odometry(0.1 * tenth, 0.2 * tenth))
    late = buffer.at(round(0.94 * S))
    assert late.odom_from_base[0, 3] == pytest.approx(1.88)  # at the speed of the last messages
    assert np.sqrt(late.timing[0, 0]) == pytest.approx(0.04 * 0.14 / 2, rel=1e-4)
    assert buffer.at(S) is None
    assert "0.100 s away from the image" in buffer.problem


def test_odometry_is_not_interpolated_over_a_long_gap():
    """60 s apart, the straight line once gave a way of 6 m with a sigma of 1 cm."""
    buffer = OdometryBuffer()
    for second in (0, 60):
        buffer.add(odometry(second, 0.1 * second))
    assert buffer.at(30 * S) is None
    assert "pauses for 60.00 s" in buffer.problem and "sync.odom_gap_s" in buffer.problem
    buffer.max_gap_ns = 100 * S
    assert np.sqrt(buffer.at(30 * S).timing[0, 0]) == pytest.approx(450)


def test_odometry_that_jumps_back_starts_anew():
    buffer = OdometryBuffer()
    for second in (10, 11, 12, 3, 4):
        buffer.add(odometry(second, second))
    assert buffer.newest_ns == 4 * S
    assert buffer.at(11 * S) is None


def test_lossless_waits_for_odometry_around_the_image():
    inputs = Inputs(InputOptions(odom=True, lossless=True))
    inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    for second in range(1, 1 + MISSING_AFTER_IMAGES):
        inputs.add("image", stamped(second * S), 0.0)
    pose = [np.eye(4), np.eye(6)]
    assert inputs.add("odom", m.odometry_message(*pose, header(S - MS, "o"), "b"), 0.0) == []
    assert "queue: all" in inputs.missing()["odom"]
    assert (
        len(inputs.add("odom", m.odometry_message(*pose, header(9 * S, "o"), "b"), 0.0))
        == MISSING_AFTER_IMAGES
    )


def test_lossless_gives_up_odometry_that_has_ended_and_flushes_at_the_end():
    inputs = Inputs(InputOptions(odom=True, lossless=True))
    inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    inputs.add("odom", m.odometry_message(np.eye(4), np.eye(6), header(S, "o"), "b"), 0.0)
    given = [inputs.add("image", stamped(second * S), 0.0) for second in range(1, 10)]
    assert [bundle.stamp_ns // S for some in given for bundle in some] == [1, 2, 3]
    assert [bundle.stamp_ns // S for bundle in inputs.flush()] == [4, 5, 6, 7, 8, 9]


def test_live_only_odometry_that_is_known_to_be_late_is_waited_for():
    def told(inputs, seconds):
        message = m.odometry_message(np.eye(4), np.eye(6), header(round(seconds * S), "o"), "b")
        return [bundle.stamp_ns / S for bundle in inputs.add("odom", message, 0.0)]

    def shown(inputs, seconds):
        image = stamped(round(seconds * S))
        return [bundle.stamp_ns / S for bundle in inputs.add("image", image, 0.0)]

    inputs = Inputs(InputOptions(odom=True))
    inputs.add("camera_info", stamped(S, CameraInfo), 0.0)
    assert told(inputs, 0.9) == [] and shown(inputs, 1.0) == [1.0]
    inputs.reconfigure(InputOptions(odom=True, odom_delay_ns=200 * MS))
    assert shown(inputs, 1.1) == shown(inputs, 1.2) == told(inputs, 1.2) == []
    assert told(inputs, 1.25) == [1.1]  # as near as it may be extrapolated
    assert told(inputs, 1.4) == [1.2] and shown(inputs, 1.2 + 0.05) == [1.25]
    waits = [shown(inputs, 1.3 + 0.1 * k) for k in range(8)]  # it ended
    assert [stamp for some in waits for stamp in some] == pytest.approx(
        [1.3 + 0.1 * k for k in range(8)]
    )


def test_a_gap_of_odometry_is_reported_and_ends():
    said = {}
    inputs = Inputs(InputOptions(odom=True), lambda key, words: said.update({key: words}))
    for second in (1, 9):
        message = m.odometry_message(np.eye(4), np.eye(6), header(second * S, "o"), "b")
        inputs.add("odom", message, 0.0)
    assert inputs.odometry_at(5 * S) is None and "pauses" in said["odom gap"]
    assert inputs.odometry_at(9 * S) is not None and said["odom gap"] is None


# ---- camera_info ---------------------------------------------------------------------------------


def info(second, width=640, focal=500.0, **changes):
    K = [focal, 0.0, 320.0, 0.0, focal, 240.0, 0.0, 0.0, 1.0]
    P = [*K[:3], 0.0, *K[3:6], 0.0, *K[6:], 0.0]
    fields = {"k": K, "p": P, "r": np.eye(3).ravel(), "d": [0.0] * 5} | changes
    message = CameraInfo(header=header(round(second * S), "cam"), width=width, height=480)
    message.distortion_model = "plumb_bob"
    for name, value in fields.items():
        setattr(message, name, np.asarray(value, float))
    return message


@pytest.mark.parametrize("lossless", [False, True])
def test_the_camera_info_of_the_image_s_stamp_counts(lossless):
    """A zoom: each image has the camera of its own moment, though depth comes late."""
    inputs = Inputs(InputOptions(depth=True, lossless=lossless))
    for second in (1, 2, 3):
        inputs.add("camera_info", info(second, focal=100.0 * second), 0.0)
        inputs.add("image", stamped(second * S), 0.0)
    bundles = [b for second in (1, 2, 3) for b in inputs.add("depth", stamped(second * S), 0.0)]
    assert [b.messages["camera_info"].k[0] for b in bundles] == [100.0, 200.0, 300.0]


def test_lossless_waits_for_the_camera_info_of_the_image_s_stamp():
    inputs = Inputs(InputOptions(lossless=True))
    inputs.add("camera_info", info(1, focal=100.0), 0.0)
    inputs.add("camera_info", info(2, focal=200.0), 0.0)
    assert len(inputs.add("image", stamped(2 * S), 0.0)) == 1
    assert inputs.add("image", stamped(3 * S), 0.0) == []
    (bundle,) = inputs.add("camera_info", info(3, focal=300.0), 0.0)
    assert bundle.messages["camera_info"].k[0] == 300.0


def test_a_latched_camera_info_serves_for_ever():
    for lossless in (False, True):
        inputs = Inputs(InputOptions(lossless=lossless))
        inputs.add("camera_info", info(0.5), 0.0)
        given = [len(inputs.add("image", stamped(second * S), 0.0)) for second in range(1, 30)]
        assert given == [1] * 29


BENT = {"d": [0.1, -0.2, 0.0, 0.0, 0.0]}
OTHER_P = {"p": [400.0, 0, 320, 0, 0, 400, 240, 0, 0, 0, 1, 0]}
TURNED = {"r": [0, -1, 0, 1, 0, 0, 0, 0, 1]}


@pytest.mark.parametrize(
    ("changes", "topic", "expected"),
    [
        ({}, "/camera/direct", True),  # nothing to rectify
        (BENT, "/camera/direct", False),
        (BENT, "/camera/image_rect_color", True),  # image_proc
        (BENT, "/camera/color/rect/image", True),
        (BENT, "/camera/image_correct", False),
        (OTHER_P, "/camera/image_raw", False),
        (TURNED, "/camera/image_raw", False),
        ({"p": [0.0] * 12}, "/camera/image_raw", False),  # not told
    ],
)
def test_rectified_is_decided_by_the_camera(changes, topic, expected):
    message = info(1, **changes)
    assert is_rectified("auto", message, topic) is expected
    assert is_rectified("use", message, topic) is True
    assert is_rectified("ignore", message, topic) is False


def test_the_camera_is_made_once_though_each_message_is_another_object(monkeypatch):
    made = []
    read = builder.read_camera
    monkeypatch.setattr(builder, "read_camera", lambda *a, **k: made.append(1) or read(*a, **k))
    frames = builder.FrameBuilder()
    image = m.image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", header(S, "cam"))
    for second, focal in ((1, 500.0), (2, 500.0), (3, 500.0), (4, 510.0)):
        messages = {"image": image, "camera_info": info(second, focal=focal)}
        frame = frames.build(Bundle(S, messages, 0.0))
    assert len(made) == 2
    assert frame.camera.K[0, 0] == 510.0


@pytest.mark.parametrize("believed, late_s", [(True, 0.015), (False, 0.0)])
def test_a_frame_knows_how_late_its_depth_is_by_the_stamps(believed, late_s):
    frames = builder.FrameBuilder(depth_stamps=believed)
    image = m.image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", header(S, "cam"))
    metres = np.full((480, 640), 900, np.uint16)
    depth = m.image_message(metres, "16UC1", header(S + 15_000_000, "cam"))
    messages = {"image": image, "camera_info": info(S), "depth": depth}
    assert frames.build(Bundle(S, messages, 0.0)).depth_late_s == pytest.approx(late_s)


@pytest.mark.parametrize("value, used", [(900.0, False), (0.9, True), (60.0, True)])
def test_depth_in_millimetres_that_are_called_metres_is_left_out_in_words(value, used):
    said = {}
    frames = builder.FrameBuilder(report=lambda key, words: said.update({key: words}))
    image = m.image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", header(S, "cam"))
    depth = m.image_message(np.full((480, 640), value, np.float32), "32FC1", header(S, "cam"))
    frame = frames.build(Bundle(S, {"image": image, "camera_info": info(S), "depth": depth}, 0.0))
    assert (frame.depth is not None) is used
    assert used or "millimetres? Publish them as 16UC1" in said["depth"]


def test_a_greatest_range_that_means_nothing_is_left_out_in_words():
    said = {}
    frames = builder.FrameBuilder(report=lambda key, words: said.update({key: words}))
    image = m.image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", header(S, "cam"))
    for unknown, left in ((10.0, True), (np.nan, False)):
        metres = np.linspace(1, 3, 480 * 640, dtype=np.float32).reshape(480, 640)
        metres[::3] = unknown
        depth = m.image_message(metres, "32FC1", header(S, "cam"))
        messages = {"image": image, "camera_info": info(S), "depth": depth}
        frame = frames.build(Bundle(S, messages, 0.0))
        assert np.isnan(frame.depth[::3]).all() and np.isfinite(frame.depth[1::3]).all()
        assert ("exactly 10 m far" in (said["far depth"] or "")) is left


def test_a_drone_s_simulated_depth_is_in_metres():
    builder._check_unit(np.linspace(118.0, 131.0, 480 * 640, dtype=np.float32).reshape(480, 640))


def test_far_depth_in_metres_has_something_near():
    depth = np.full((480, 640), 1000.0, np.float32)  # a simulator's sky
    depth[400:] = 12.0
    builder._check_unit(depth)


@pytest.mark.parametrize("scale", [(0.5, 0.5), (2.0, 2.0), (2.0, 1.5)])
def test_a_camera_info_whose_K_is_of_another_resolution_is_refused(scale):
    image = m.image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", header(S, "cam"))
    told = info(S)
    told.k = (np.diag([*scale, 1.0]) @ np.reshape(told.k, (3, 3))).ravel().tolist()
    with pytest.raises(InvalidInput, match=r"principal point .* another resolution"):
        builder.FrameBuilder().build(Bundle(S, {"image": image, "camera_info": told}, 0.0))
    told.roi.width, told.roi.height = 640, 480  # a part of the sensor may lie anywhere
    builder.FrameBuilder().build(Bundle(S, {"image": image, "camera_info": told}, 0.0))


@pytest.mark.parametrize(
    ("centre", "refused"),
    [((240, 320), True), ((248, 311), True), ((320, 240), False), ((290, 262), False)],
)
def test_a_camera_info_whose_cx_and_cy_are_exchanged_is_refused(centre, refused):
    image = m.image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", header(S, "cam"))
    told = info(S)
    K = np.reshape(told.k, (3, 3)).copy()
    K[:2, 2] = centre
    told.k = K.ravel().tolist()
    bundle = Bundle(S, {"image": image, "camera_info": told}, 0.0)
    if not refused:
        builder.FrameBuilder().build(bundle)
        return
    with pytest.raises(InvalidInput, match="cx and cy are exchanged"):
        builder.FrameBuilder().build(bundle)
