"""Progress: plain lines where nobody looks, a bar on a terminal, nothing before a refusal."""

import io
import sys

import pytest

from l2m_ros import progress as module
from l2m_ros.progress import progress, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_end_with_the_count(capsys):
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    assert capsys.readouterr().err.startswith("counting: 3/3 0.0 s")


def test_a_terminal_gets_a_bar_that_fills(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module, "TERMINAL_PERIOD_S", 0.0)
    with progress(4, "working") as bar:
        bar.update(2)
        bar.update(2, note="loss 0.5")
    half, full = screen.getvalue().split("\r\033[K")[1:3]
    assert half.count("#") * 2 == full.count("#") == module.BAR_WIDTH
    assert "loss 0.5" in full


def test_unknown_totals_count_up(capsys):
    with progress(None, "reading") as bar:
        bar.update(7)
    assert "reading: 7 in" in capsys.readouterr().err


def test_a_refusal_stands_alone(capsys):
    with pytest.raises(ValueError, match="no"), progress(5, "working"):
        raise ValueError("no")
    assert capsys.readouterr().err == ""


def test_a_log_says_the_end_once_and_shares_in_percent(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINES_PERIOD_S", 0.0)
    list(track([1, 2], "counting"))
    with progress(1.0, "fitting") as bar:
        bar.update(0.25)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["1/2", "2/2", "25"]
    assert lines[2].startswith("fitting: 25 % ")
