"""Random orders, losses and wrong stamps: never more sets lost than messages were bad."""

import types

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.budget import share
from l2m_ros.frames.messages import stamp_ns
from l2m_ros.frames.stamps import StampGuard, Verdict
from l2m_ros.frames.synchroniser import Synchroniser

PERIOD_NS = 33_000_000
START_NS = 50_000_000_000
FRAMES = 40


def message(stamp: int):
    stamp_ = types.SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9)
    return types.SimpleNamespace(header=types.SimpleNamespace(stamp=stamp_))


@st.composite
def streams(draw):
    """(events in order of arrival, number of bad messages) of an image with two partners."""
    topics = ["image", "depth", "right"]
    delays = {topic: draw(st.integers(0, 4)) for topic in topics}
    bad = draw(
        st.dictionaries(
            st.tuples(st.integers(0, FRAMES - 1), st.sampled_from(topics[1:])),
            st.one_of(st.none(), st.integers(0, 2**61)),
            max_size=8,
        )
    )
    events = []
    for number in range(FRAMES):
        for topic in topics:
            stamp = bad.get((number, topic), START_NS + number * PERIOD_NS)
            if stamp is not None:
                late = draw(st.floats(0, 0.9)) + number + delays[topic]
                events.append((late, topic, stamp))
    return [(topic, stamp) for _, topic, stamp in sorted(events)], len(bad)


@settings(max_examples=share(0.05))
@given(streams(), st.booleans())
def test_no_more_sets_are_lost_than_messages_were_bad(stream, patient):
    events, bad = stream
    joint = Synchroniser(["image", "depth", "right"], slop_ns=5_000_000, patient=patient)
    sets = [one for topic, stamp in events for one in joint.add(topic, message(stamp))]
    leaders = [stamp_ns(one["image"]) for one in sets]
    assert leaders == sorted(set(leaders))
    assert len(leaders) >= FRAMES - bad
    for one in sets:
        assert all(abs(stamp_ns(m) - stamp_ns(one["image"])) <= 5_000_000 for m in one.values())


@settings(max_examples=share(0.05))
@given(st.lists(st.integers(0, 2**62), max_size=60))
def test_the_guard_takes_any_stamps_and_lets_time_run_forward_only(stamps):
    guard, newest = StampGuard(), 0
    for stamp in stamps:
        check = guard.check(stamp, "camera")
        assert check.words or check.verdict is Verdict.ACCEPTED
        if check.verdict is Verdict.ACCEPTED:
            assert stamp > newest
        if check.verdict is not Verdict.REFUSED:
            newest = stamp


@settings(max_examples=share(0.05))
@given(st.dictionaries(st.integers(5, 39), st.integers(1, 2**61), max_size=6))
def test_wrong_stamps_cost_their_own_images_and_no_keyframe(wrong):
    """At most one more each: a good stamp beside two wrong ones may be doubted too."""
    alone = {n: s for n, s in wrong.items() if not {n - 1, n + 1, n - 2, n + 2} & set(wrong)}
    guard = StampGuard()
    verdicts = [guard.check(alone.get(n, START_NS + n * PERIOD_NS), "c").verdict for n in range(40)]
    refused = [n for n, verdict in enumerate(verdicts) if verdict is Verdict.REFUSED]
    near = [n for n, s in alone.items() if 0 < s - (START_NS + n * PERIOD_NS) <= 2_000_000_000]
    assert len(refused) <= len(alone) + 4 * len(near)
    assert near or Verdict.RESET not in verdicts
