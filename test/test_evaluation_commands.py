"""`l2m evaluate` and `l2m view-pair` as a person calls them."""

import json

import cv2
import pytest
from fakes import scenes as fake

from l2m_ros import cli

NEAR = fake.PATH[1] @ fake.pose(0.03, 0.01, 0.02)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    fake.write_relief(folder / "relief", path=[*fake.PATH[:2], NEAR])
    fake.write_planar(folder / "planar")
    return folder


def test_json_on_stdout_is_all_there_is_on_stdout(scenes, capsys):
    assert cli.main(["evaluate", str(scenes), "--matcher", "orb", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [s["name"] for s in found["scenes"]] == ["planar", "relief"]
    assert set(found["scenes"][1]["auc"]) == {"5", "10", "20"} == set(found["mean"]["auc"])
    assert "pairs" in err


def test_files_tables_and_plots(scenes, tmp_path, capsys):
    figures, table, plots = tmp_path / "x/f.json", tmp_path / "t.md", tmp_path / "plots"
    command = ["evaluate", str(scenes / "relief"), "--matcher", "orb", "--matcher", "akaze"]
    command += ["--json", str(figures), "--markdown", str(table), "--plots", str(plots)]
    assert cli.main(command) == 0
    found = json.loads(figures.read_text())
    assert list(found["mean"]) == ["orb", "akaze"] and len(found["scenes"]) == 2
    out = capsys.readouterr().out
    assert out == table.read_text() and "| relief | akaze |" in out
    for name in ("relief_recall.png", "relief_trajectory.png", "relief_matches.jpg"):
        picture = cv2.imread(str(plots / name))
        assert picture is not None and picture.std() > 5


def test_json_before_the_scene_is_understood(scenes, capsys):
    command = ["evaluate", "--matcher", "orb", "--limit", "1", "--json", str(scenes / "planar")]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["scenes"][0]["pairs"] == 1


def test_a_second_look_is_taken_as_it_is_asked_for(scenes, capsys):
    scene, said = str(scenes / "planar"), []
    for words in ([scene], ["--second-look", scene], ["--second-look", "never", scene]):
        assert cli.main(["evaluate", "--matcher", "dis", "--limit", "1", *words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        said.append((found["settings"]["second_look"], "second_look" in found["scenes"][0]["ms"]))
    assert said == [("auto", True), ("always", True), ("never", False)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a scene"),
        (["/nowhere"], "no such folder"),
        (["SCENES", "--matcher", "sfit"], "sift"),
        (["SCENES", "--matcher", "orb", "--size", "9"], "too small"),
        (["SCENES", "--matcher", "orb", "--solver", "magic"], "invalid choice"),
        (["SCENES", "--matcher", "orb", "--input", "640"], "WIDTHxHEIGHT"),
        (["SCENES", "--matcher", "orb", "--limit", "0"], "at least 1"),
    ],
)
def test_mistakes_get_one_line(scenes, capsys, arguments, words):
    command = ["evaluate", *(str(scenes) if a == "SCENES" else a for a in arguments)]
    try:
        code = cli.main(command)
    except SystemExit as exit_:
        code = exit_.code
    err = capsys.readouterr().err
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1


def test_plots_without_matplotlib_say_so_before_the_work(scenes, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "l2m_ros.workshop.evaluation.plots", raising=False)
    assert cli.main(["evaluate", str(scenes), "--matcher", "orb", "--plots", "p"]) == 2
    err = capsys.readouterr().err
    assert "matplotlib" in err and "l2m_ros[view]" in err and "pairs" not in err


def test_view_pair_of_a_scene_and_of_files(scenes, tmp_path, capsys):
    out = tmp_path / "deep/pair.png"
    command = ["view-pair", str(scenes / "relief"), "--pair", "1", "--matcher", "dis"]
    assert cli.main([*command, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["matches"] > 100 and found["certain_percent"] > 10
    assert found["right_within_3_px_percent"] > 50
    dense = cv2.imread(str(out))
    files = [str(scenes / "planar/images" / name) for name in ("8.png", "whole.png")]
    assert cli.main(["view-pair", *files, "--matcher", "orb", "--out", str(out)]) == 0
    assert "matcher orb" in capsys.readouterr().out
    assert cv2.imread(str(out)).shape[0] < dense.shape[0]  # no warp, no certainty


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SCENES/relief", "--pair", "9"], "pairs 0 to"),
        (["SCENES/planar/images/8.png", "/nowhere.png"], "No such file"),
        (["SCENES/planar/meta.json", "SCENES/planar/meta.json"], "is not a PNG, JPEG"),
        (["SCENES/relief", "--out", "x.txt"], "ends in .jpg or .png"),
    ],
)
def test_view_pair_refuses_in_words(scenes, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    command = ["view-pair", *(a.replace("SCENES", str(scenes)) for a in arguments)]
    assert cli.main([*command, "--matcher", "orb"]) == 2
    assert words in capsys.readouterr().err
