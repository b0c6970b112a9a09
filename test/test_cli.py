"""The command line: every verb is listed, every refusal is one line with exit code 2."""

import importlib
import os
import subprocess
import sys

import pytest

from l2m_ros import cli
from l2m_ros.errors import InvalidInput


def run(capsys, *argv):
    try:
        code = cli.main(list(argv))
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_help_lists_every_verb_in_one_line_each(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb, line in cli.VERBS.items():
        assert [text.split() for text in out.splitlines()].count([verb, *line.split()]) == 1


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_exists_and_has_help(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert importlib.import_module(f"l2m_ros.commands.{verb.replace('-', '_')}").__doc__
    assert "usage" in out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_unknown_option_is_one_line_and_two(capsys, verb):
    code, _, err = run(capsys, verb, "--no-such-option-anywhere")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_unknown_verb_names_the_nearest(capsys):
    code, _, err = run(capsys, "simulat")
    assert code == 2
    assert "simulate" in err
    assert len(err.strip().splitlines()) == 1


def test_ros_arguments_before_their_word_are_told_where_they_stand(capsys):
    code, _, err = run(capsys, "run", "-p", "model:=orb", "--ros-args", "-r", "image:=/x")
    assert code == 2
    assert "-p and -r stand behind --ros-args" in err
    assert len(err.strip().splitlines()) == 1


def test_no_arguments_shows_help(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    assert "simulate" in out


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InvalidInput("the file is empty:\n record again"), "the file is empty: record again"),
        (FileNotFoundError(2, "No such file or directory", "x.mcap"), "x.mcap: No such file"),
        (ModuleNotFoundError("No module named 'rclpy'", name="rclpy"), "l2m_ros[ros]"),
    ],
)
def test_refusals_are_one_line(capsys, monkeypatch, error, words):
    def fail(args):
        raise error

    module = importlib.import_module("l2m_ros.commands.demo")
    monkeypatch.setattr(module, "run", fail)
    code, _, err = run(capsys, "demo")
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_a_reader_that_has_enough_is_no_error():
    """`l2m weights list | head -1` said: Broken pipe, and 2."""
    reads, writes = os.pipe()
    os.close(reads)
    code = "import sys; from l2m_ros.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "weights", "list"]
    with os.fdopen(writes, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
