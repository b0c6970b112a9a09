"""The pages: one order, links that lead somewhere, commands that run, claims with real tests."""

import argparse
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from l2m_ros import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "QUALITY_DECLARATION.md"]


def nav_pages(entries) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in nav_pages(value)]


def test_every_page_is_in_the_order():
    nav = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == [page.name for page in PAGES]
    positions = [nav.index(name) for name in ("start.md", "use.md", "geometry.md", "api.md")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_no_page_needs_what_a_user_lacks():
    for page in TEXTS:
        assert "../shared" not in page.read_text(), page


@pytest.mark.parametrize(("page", "least"), [("quality.md", 25), ("security.md", 20)])
def test_every_claim_names_a_test_or_a_file_that_exists(page, least):
    text, named = (ROOT / "docs" / page).read_text(), 0
    for line in text.splitlines():
        paths = re.findall(r"`(test/[\w/]+\.py)", line)
        sources = "".join((ROOT / path).read_text() for path in paths)
        for function in re.findall(r"[`:](test_\w+)`", line) if paths else ():
            assert f"def {function}(" in sources, (paths, function)
        named += len(paths)
    assert named > least
    for path in re.findall(r"`(?:python )?((?:benchmarks|models)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def commands(page: str) -> list[list[str]]:
    """The lines of the page's ```sh blocks, as arguments; `make` and `pip` are left to a person."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), flags=re.S)
    lines = [line.split("#")[0].split() for line in "".join(blocks).splitlines()]
    return [line for line in lines if line and line[0] not in ("make", "pip")]


def test_the_card_states_the_accuracy_of_the_page():
    rows = [line.split("|") for line in (ROOT / "docs/benchmarks.md").read_text().splitlines()]
    own = [row for row in rows if len(row) == 7 and row[2].count("/") == 2]
    table: dict[str, str] = {}
    for row in own:  # the first table with a scene's name
        table.setdefault(row[1].strip(" *").split(" (")[0], row[2].strip(" *"))
    card = yaml.safe_load((ROOT / "models/lite.yaml").read_text())["accuracy"]
    stated = {name: text.split(" (")[0] for name, text in card.items() if name != "command"}
    assert len(stated) == 9
    assert stated == {name: table.get(name) for name in stated}


def test_pages_have_commands():
    for page in ("docs/start.md", "docs/use.md"):
        assert len(commands(page)) >= 6


def shown() -> list[tuple[str, list[str]]]:
    """(page, words) of every `l2m VERB ...` on a page, in a block or in a line."""
    found = []
    for page in TEXTS:
        text = re.sub(r"\\\n\s*", " ", page.read_text())
        lines = re.findall(r"^(?: {4})?l2m ([a-z].*)", text, flags=re.M)
        inline = re.findall(r"`l2m ([a-z][^`]*)`", text.replace("\n", " "))
        for line in lines + inline:
            words = re.split(r"   | #", line)[0]  # a remark stands behind
            found.append((page.name, re.sub(r"[\[\]|]", " ", words).split()))
    return found


def test_the_options_on_the_pages_exist():
    lines, options = shown(), {}
    assert len(lines) > 150
    for page, (verb, *words) in lines:
        if verb == "run" or verb not in cli.VERBS:  # "l2m command", in a sentence
            continue
        if verb not in options:
            options[verb] = _options(verb)
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in options[verb] | {"--help"}, (page, verb, word)
        needs_a_length = verb == "train" and words[:1] in (["decoder"], ["depth"], ["metric"])
        if needs_a_length and {"--photographs", "--sequences"} & {*words}:
            assert {"--minutes", "--steps"} & {*words}, (page, words)


def _options(verb: str) -> set[str]:
    """Of a verb and its sub-verbs."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"l2m_ros.commands.{verb.replace('-', '_')}").add_arguments(parser)
    parsers = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    return {name for one in parsers for name in one._option_string_actions}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/start.md", "docs/use.md"])
def test_the_commands_of_a_page_run(page, tmp_path):
    """In order, in a folder that holds the repository's own files and nothing else."""
    for name in ("examples", "models", "benchmarks", "test"):
        (tmp_path / name).symlink_to(ROOT / name)
    for line in commands(page):
        if line == ["l2m", "demo"]:
            continue  # test_examples and the node's own tests play that part
        program = {"l2m": [sys.executable, "-m", "l2m_ros.cli"], "python": [sys.executable]}
        done = subprocess.run(
            [*program[line[0]], *line[1:]], cwd=tmp_path, capture_output=True, text=True,
            timeout=600, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stderr[-2000:])


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """What `make docs` does: warnings (a broken link, a name that is not there) are errors. With
    --quiet they would not be: mkdocs counts only the warnings that it prints."""
    pytest.importorskip("mkdocstrings")
    mkdocs = shutil.which("mkdocs", path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in ("estimate_pose", "load_matcher", "Tracker", "DenseMatch", "keyframe_from_camera"):
        assert name in page
