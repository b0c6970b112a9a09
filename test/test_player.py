"""A bag is played at its own pace; it stands still while the caller waits."""

import contextlib
import time

import pytest

pytest.importorskip("rclpy")

from l2m_ros.node import player, session
from l2m_ros.node.output_recorder import RecordedOutputs

GAP_S = 0.03


class Bag:
    def raw_messages(self, topics):
        for number in range(4):
            yield topics[0], round(number * GAP_S * 1e9), b"%d" % number


class Publisher:
    def __init__(self):
        self.sent_s = []

    def publish(self, raw):
        self.sent_s.append(time.monotonic())


def test_what_follows_a_wait_is_as_much_later(monkeypatch):
    monkeypatch.setattr(player, "open_bag", lambda path: contextlib.nullcontext(Bag()))
    out = Publisher()
    played = object.__new__(player.Player)
    played._path, played._publishers = None, {"/image": out}
    began_s = time.monotonic()
    played.play(1.0, lambda stamp_ns: time.sleep(0.2) if stamp_ns == 0 else None)
    for number, sent_s in enumerate(out.sent_s[1:], start=1):  # not all at once to catch up
        assert sent_s - began_s >= 0.2 + number * GAP_S


def test_robot_stands_until_it_is_found_and_no_longer_than_its_patience():
    recorded = RecordedOutputs(diagnostics={"map_localized": "1"})
    pause = session.Pause(lambda r: int(r.diagnostics.get("map_localized", "0")) > 0, 0.3)
    started = time.monotonic()
    session._stand(pause, recorded)
    assert time.monotonic() - started < 0.1
    session._stand(pause, RecordedOutputs())
    assert time.monotonic() - started >= 0.3
    assert recorded.first_in_map_s is None
    recorded.began_s, recorded.in_map_s = 1.0, 2.5
    assert recorded.first_in_map_s == 1.5
