"""The training loop: exact resume, processes that add up, words for bad input, and learning."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from fakes.texture import texture
from test_verbs_disk import small_disk

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.matching.catalogue import find_card
from l2m_ros.networks.registry import build
from l2m_ros.workshop.training import checkpoint, curves
from l2m_ros.workshop.training.carry import begin_from, write_carry
from l2m_ros.workshop.training.data import (
    PhotographPairs,
    usable_photographs,
)
from l2m_ros.workshop.training.decoder import (
    DecoderOptions,
    match_of,
    mean_weights,
    options_from,
    split_photographs,
    train_decoder,
)
from l2m_ros.workshop.training.device_data import LiftedViews
from l2m_ros.workshop.training.processes import Processes
from l2m_ros.workshop.training.validation import LiftedValidation

ROOT = Path(__file__).parents[1]
ALONE = Processes()
TINY = {"coarse": 16, "context": 16, "descriptor": 16, "hidden": 16, "hidden_middle": 16}
TINY |= {"descriptor_middle": 8, "descriptor_fine": 8, "hidden_fine": 8, "heads": 2}
TINY |= {"self_blocks": 1, "cross_blocks": 1}


def settings(steps: int, **loop: object) -> dict[str, object]:
    return {
        "network": TINY,
        "sizes": [{"width": 64, "height": 64, "batch": 2, "share": 1.0}],
        "validation": [[64, 64, 1]],
        "loop": {"steps": steps, "bf16": False, "checkpoint_s": 0.0, **loop},
    }


def pairs(seed: int = 0) -> PhotographPairs:
    return PhotographPairs([texture(160, 120, seed + i) for i in range(6)], seed)


def train_tiny(folder: Path, options: DecoderOptions) -> dict[str, torch.Tensor]:
    torch.manual_seed(options.loop.seed)
    network = build(options.model, **options.network)
    train_decoder(options, network, pairs(), pairs(50), folder)
    return mean_weights(folder)


def write_photographs(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:03d}.png"), texture(160, 120, index))
    return folder


# --- one run ----------------------------------------------------------------------------------


def test_a_run_resumed_from_its_checkpoint_is_the_run_that_was_not_interrupted(
    tmp_path: Path,
) -> None:
    """Steps, pairs, rates, optimiser and mean weights: everything continues."""
    whole = train_tiny(tmp_path / "whole", options_from(settings(4)))
    halfway = options_from(settings(4))
    torch.manual_seed(halfway.loop.seed)
    stopping = _StopAfter(pairs(), first_pairs=2 * 2)
    with pytest.raises(KeyboardInterrupt):
        train_decoder(halfway, build("lite", **TINY), stopping, pairs(50), tmp_path / "cut")
    assert checkpoint.load(tmp_path / "cut")["step"] == 2
    torch.manual_seed(99)  # whatever the second process draws, the checkpoint decides
    train_decoder(halfway, build("lite", **TINY), pairs(), pairs(50), tmp_path / "cut")
    resumed = mean_weights(tmp_path / "cut")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=0, rtol=0)


def test_a_run_that_has_had_its_steps_says_so(tmp_path: Path, capsys) -> None:
    train_tiny(tmp_path, options_from(settings(1)))
    assert "has had its" not in capsys.readouterr().err
    train_tiny(tmp_path, options_from(settings(1)))
    said = capsys.readouterr().err
    assert "has had its 1 steps" in said and "training: 0/" not in said


class _StopAfter:
    """Pairs that are interrupted, as by Ctrl-C, after the first few."""

    def __init__(self, source: PhotographPairs, first_pairs: int) -> None:
        self.source, self.left = source, first_pairs

    def pair(self, *args, **kwargs):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.source.pair(*args, **kwargs)


def test_a_run_goes_on_from_the_file_that_another_left(tmp_path: Path) -> None:
    """Means exactly, weights and AdamW's moments to bfloat16; what is frozen is kept once."""
    options = options_from(
        {**settings(4), "loop": {**settings(4)["loop"], "rates": {"encoder": 0}}}
    )
    network = build("lite", **TINY)
    train_decoder(options, network, pairs(), pairs(50), tmp_path / "first")
    before = checkpoint.load(tmp_path / "first")
    write_carry(tmp_path / "first", tmp_path / "carry.safetensors")
    whole = (tmp_path / "carry.safetensors").read_bytes()
    with small_disk(20_000), pytest.raises(InvalidInput, match=r"disk is full.*same command"):
        write_carry(tmp_path / "first", tmp_path / "carry.safetensors")
    assert (tmp_path / "carry.safetensors").read_bytes() == whole
    further = replace(options, loop=replace(options.loop, steps=5))
    other = build("lite", **TINY)
    train_decoder(
        further,
        other,
        pairs(),
        pairs(50),
        tmp_path / "second",
        carry=tmp_path / "carry.safetensors",
    )
    after = checkpoint.load(tmp_path / "second")
    assert (before["step"], after["step"]) == (4, 5)
    for name, value in before["model"].items():
        if name.startswith("encoder"):
            torch.testing.assert_close(after["model"][name], value, atol=0, rtol=0)
    straight = tmp_path / "straight"
    shutil.copytree(tmp_path / "first", straight)
    train_decoder(further, build("lite", **TINY), pairs(), pairs(50), straight)
    for name, value in checkpoint.load(straight)["model"].items():
        torch.testing.assert_close(after["model"][name], value, atol=2e-5, rtol=2e-2)
    with pytest.raises(ModelError, match="no state to go on with"):
        begin_from(straight / "checkpoint.pt", tmp_path / "third", [])


def test_an_archive_of_photographs_is_unpacked_once(tmp_path: Path) -> None:
    from l2m_ros.commands.train_input import unpacked

    write_photographs(tmp_path / "photographs", 3)
    archive = shutil.make_archive(str(tmp_path / "some"), "gztar", tmp_path / "photographs")
    (tmp_path / "run").mkdir()
    folder = unpacked(Path(archive), tmp_path / "run")
    assert len(list(folder.rglob("*.png"))) == 3
    assert unpacked(Path(archive), tmp_path / "run") == folder
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../outside.png"))
    with pytest.raises(InvalidInput, match="outside"):
        unpacked(tmp_path / "bad.tar", tmp_path / "other")
    assert not (tmp_path / "outside.png").exists()
    assert unpacked(tmp_path / "photographs", tmp_path) == tmp_path / "photographs"


def test_log_and_curves_hold_what_was_measured(
    tmp_path: Path, monkeypatch, drawn_curves: None
) -> None:
    monkeypatch.setattr(curves, "MEAN_OVER", 2)
    train_tiny(tmp_path, options_from(settings(4)))
    rows = curves.read(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [2, 4]
    assert np.isfinite(rows[1]["loss"]) and rows[0]["pairs_per_s"] > 0
    (checked,) = curves.read(tmp_path / "validation.csv")
    assert 0 < checked["epe_64x64"] < 100 and 0 <= checked["within5_64x64"] <= 100
    assert cv2.imread(str(tmp_path / "curves.png")) is not None
    assert list((tmp_path / "tensorboard").iterdir())


def test_more_photographs_than_a_gpu_holds_are_refused_before_they_are_decoded(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80_000_000_000, 80_000_000_000))
    with pytest.raises(InvalidInput, match=r"100000 photographs take 177 GB.*80 GB are free"):
        LiftedViews([Path(f"{i}.jpg") for i in range(100_000)], "cuda")


def test_rows_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    """A killed run had logged further than it had saved."""
    log = curves.Log(tmp_path, 0)
    for step in (20, 40, 60):
        log.step(step, step, {"loss": 1.0, "rate": 0.1, "pairs_per_s": 2.0})
    log.close()
    curves.Log(tmp_path, 40).close()
    assert [row["step"] for row in curves.read(tmp_path / "log.csv")] == [20, 40]


def test_a_row_that_a_killed_run_wrote_half_of_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = curves.Log(tmp_path, 0)
    terms = {"loss": 1.0, "rate": 0.1, "pairs_per_s": 2.0}
    for step in (20, 40, 60):
        log.step(step, step, terms)
    log.close()
    path = tmp_path / "log.csv"
    path.write_bytes(path.read_bytes()[:-9])
    log = curves.Log(tmp_path, 60)
    for step in (60, 80):
        log.step(step, step, terms)
    log.close()
    assert [row["step"] for row in curves.read(path)] == [20, 40, 60, 80]
    whole = path.read_bytes()
    curves.Log(tmp_path, 80).close()
    assert path.read_bytes() == whole


def test_a_long_log_is_not_read_for_every_row(tmp_path: Path, monkeypatch) -> None:
    log = curves.Log(tmp_path, 0)
    terms = {"loss": 1.0, "rate": 0.1, "pairs_per_s": 2.0}
    log.step(20, 20, terms)
    monkeypatch.setattr(curves, "read", None)
    log.step(40, 40, terms)


@pytest.mark.slow  # a signal that is heard and a resumed run are tested quickly
def test_killed_at_any_moment_the_next_run_goes_on(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs", 3)
    config = tmp_path / "tiny.yaml"
    config.write_text(str(settings(100000)))  # YAML reads what Python prints of a dict
    command = [sys.executable, "-m", "l2m_ros.cli", "train", "decoder", "--config", str(config)]
    command += ["--photographs", str(photographs), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=_one_thread())
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / checkpoint.NAME).exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    reached = checkpoint.load(tmp_path / "run")["step"]
    assert reached >= 1
    more = options_from(settings(reached + 2))
    train_decoder(more, build("lite", **TINY), pairs(), pairs(50), tmp_path / "run")
    assert checkpoint.load(tmp_path / "run")["step"] == reached + 2


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    """gloo, two processes of one pair each against one process of two; running statistics of
    normalisations are the mean over both."""
    options = options_from(settings(3))
    alone = train_tiny(tmp_path / "alone", options)
    script = tmp_path / "part.py"
    script.write_text(
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'test')]}\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from l2m_ros.workshop.training.processes import Processes\n"
        "processes, norm = Processes.join('cpu'), torch.nn.BatchNorm1d(1, momentum=1.0)\n"
        "norm(torch.tensor([[0.0], [2.0]]) + 4 * processes.rank)\n"
        "processes.average_statistics(norm)\n"
        "assert norm.running_mean.item() == 3.0, norm.running_mean\n"
        "from test_training import options_from, settings, train_tiny\n"
        f"folder = Path({str(tmp_path / 'together')!r})\n"
        "import test_training\n"
        "test_training.mean_weights = lambda folder: {}  # the second may be here before the file\n"
        "train_tiny(folder, options_from(settings(3)))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(29600 + os.getpid() % 1000), str(script)]
    done = subprocess.run(command, env=_one_thread(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    together = mean_weights(tmp_path / "together")
    for name, value in alone.items():
        # Adam's first steps divide gradients by themselves: rounding of tiny ones shows.
        torch.testing.assert_close(together[name], value, atol=5e-5, rtol=1e-3)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loop": {"learnin_rate": 1}}, "did you mean learning_rate"),
        ({"losss": {}}, "did you mean loss"),
        ({"loop": {"steps": 5, "minutes": 2}}, "either --minutes or --steps"),
        ({"loop": {"steps": 0}}, "positive number"),
        ({"loop": [1, 2]}, "loop: expected names and values"),
        ({"loop": {"steps": 5}, "model": "lit"}, "cannot be trained here"),
        ({"loop": {"steps": 5}, "sizes": [{"width": 64}]}, "sizes"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_in_words(change: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        options_from(change)


def test_command_refuses_in_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    command = ["train", "decoder", "--steps", "1", "--photographs"]
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "no photo")):
        assert main([*command, str(folder)]) == 2
        assert words in capsys.readouterr().err
    assert main(["train", "decoder", "--photographs", str(tmp_path)]) == 2
    assert "either --minutes or --steps" in capsys.readouterr().err
    assert main([*command, str(tmp_path), "--model", "lit"]) == 2
    assert "l2m, lite" in capsys.readouterr().err


def test_the_decoder_that_is_trained_by_default_is_the_one_that_ships(monkeypatch) -> None:
    from l2m_ros.commands import train

    named = []
    for stage in ("decoder", "encoder", "align"):
        monkeypatch.setattr(train, f"run_{stage}", lambda args: named.append(args.model) or 0)
        assert main(["train", stage, "--steps", "1"]) == 0
    assert named == [find_card("lite").architecture, "lite", "lite"]


def test_damaged_and_huge_photographs_are_reported_and_left_out(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    bomb = bytearray((folder / "000.png").read_bytes())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # its header says 3.6 gigapixels
    (folder / "bomb.png").write_bytes(bomb)
    said: list[str] = []
    kept = usable_photographs(sorted(folder.iterdir()), said.append)
    assert [path.name for path in kept] == ["000.png", "001.png"]
    assert len(said) == 3 and any("60000x60000" in words for words in said)
    with pytest.raises(InvalidInput, match="none of the 1 photographs"):
        usable_photographs([folder / "empty.jpg"], said.append)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(tmp_path: Path, monkeypatch) -> None:
    checkpoint.save(tmp_path, {"step": 7})

    def full(state: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InvalidInput, match=r"disk is full.*Free some space"):
        checkpoint.save(tmp_path, {"step": 8})
    assert checkpoint.load(tmp_path) == {"step": 7}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]


def test_a_damaged_checkpoint_and_one_of_another_network_are_refused(tmp_path: Path) -> None:
    train_tiny(tmp_path / "run", options_from(settings(1)))
    other = options_from({**settings(2), "network": {**TINY, "coarse": 32}})
    with pytest.raises(ModelError, match="do not fit this architecture"):
        train_tiny(tmp_path / "run", other)
    path = tmp_path / "run" / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"is not a whole torch checkpoint.*remove it"):
        train_tiny(tmp_path / "run", options_from(settings(2)))
    with pytest.raises(InvalidInput, match="train first"):
        mean_weights(tmp_path)


def test_photographs_are_held_out() -> None:
    paths = [Path(f"{i}.jpg") for i in range(100)]
    kept, held_out = split_photographs(paths)
    assert len(held_out) == 5 and not set(kept) & set(held_out)
    assert sorted(kept + held_out) == sorted(paths)
    for few in (2, 3, 19):
        kept, held_out = split_photographs(paths[:few])
        assert len(held_out) == 1 and sorted(kept + held_out) == sorted(paths[:few])
    with pytest.raises(InvalidInput, match="two photographs"):
        split_photographs(paths[:1])


def test_a_single_photograph_is_cut_in_two(tmp_path: Path) -> None:
    """Before, it was trained on and measured on."""
    from l2m_ros.commands.train_input import split

    (kept,), (held_out,) = split(sorted(write_photographs(tmp_path / "one", 1).iterdir()))
    assert kept.shape[1] + held_out.shape[1] == 160
    assert not np.array_equal(kept, held_out)


def test_rendered_images_that_are_measured_on_show_other_worlds(monkeypatch) -> None:
    """Before, the held-out frames lay between frames of the same walls."""
    from l2m_ros.commands.train_pairs import training_pairs
    from l2m_ros.workshop.simulation import sequence

    worlds: list[int] = []

    def simulated(options):
        worlds.append(options.scene_seed)
        rgb = np.zeros((48, 64, 3), np.uint8)
        return [SimpleNamespace(frame=SimpleNamespace(rgb=rgb))]

    monkeypatch.setattr(sequence, "simulate", simulated)
    args = argparse.Namespace(pairs=[], pairs_share=0.5, taught_share=0.2)
    training_pairs(None, args, options_from(settings(1)))
    assert len(worlds) == 6 and not set(worlds[:3]) & set(worlds[3:])


@pytest.mark.slow
def test_l2m_is_measured_on_real_scenes_at_a_size_that_it_takes(
    tmp_path: Path, monkeypatch
) -> None:
    """Before: 640x480, refused by a ViT with cells of 14 pixels."""
    from fakes.scenes import PATH, write_relief

    from l2m_ros.commands import train_decoder as train
    from l2m_ros.networks.l2m.network import TINY as THIN

    monkeypatch.setattr(train, "SCENE_PAIRS", 1)
    write_relief(tmp_path / "scene", PATH[:2])
    with torch.no_grad():
        figures = train._scenes(tmp_path, "l2m")(build("l2m", **THIN).eval())
    assert set(figures) == {"auc10_scene", "auc10_mean"}


# --- learning ---------------------------------------------------------------------------------


def _l2m_run(folder: Path, steps: int) -> tuple[list[float], float, float]:
    """Losses of the log, and the end-point errors on held-out pairs before and after."""
    from l2m_ros.networks.l2m.network import TINY as L2M_TINY

    options = options_from(
        {
            "model": "l2m",
            "network": L2M_TINY,
            "sizes": [{"width": 56, "height": 56, "batch": 8, "share": 1.0}],
            "validation": [[56, 56, 2]],
            "loop": {
                "steps": steps,
                "bf16": False,
                "learning_rate": 2e-3,
                "warmup_steps": 10,
                "ema": 0.95,
                "difficulty": [0.0, 0.0],
            },
        }
    )
    torch.manual_seed(0)
    network = build("l2m", **options.network)
    source = PhotographPairs([texture(160, 120, i) for i in range(24)], 0)
    held_out = PhotographPairs([texture(160, 120, 100 + i) for i in range(6)], 1)
    measure = LiftedValidation(held_out, match_of, ((56, 56, 24),), difficulty=0.0)
    with torch.no_grad():
        before = measure(network.eval())["epe_56x56"]
    train_decoder(options, network.train(), source, held_out, folder)
    network.load_state_dict({**network.state_dict(), **mean_weights(folder)})
    with torch.no_grad():
        after = measure(network.eval())["epe_56x56"]
    return [row["loss"] for row in curves.read(folder / "log.csv")], before, after


@pytest.mark.slow
def test_l2m_of_a_tiny_width_learns(tmp_path: Path) -> None:
    losses, before, after = _l2m_run(tmp_path, steps=40)
    assert losses[1] < 0.9 * losses[0]
    assert after < 0.7 * before


@pytest.mark.slow
def test_l2m_of_a_tiny_width_matches_held_out_pairs_five_times_better(tmp_path: Path) -> None:
    losses, before, after = _l2m_run(tmp_path, steps=500)
    assert losses[-1] < 0.6 * losses[0]
    assert after < before / 5


@pytest.mark.slow
def test_command_trains_and_writes_a_model_that_matches(tmp_path: Path) -> None:
    """From photographs to a model that every command takes by its folder."""
    from l2m_ros.matching.catalogue import load_matcher

    photographs = write_photographs(tmp_path / "photographs", 3)
    out = tmp_path / "run"
    command = ["train", "decoder", "--photographs", str(photographs), "--out", str(out)]
    assert main([*command, "--steps", "2"]) == 0
    matcher = load_matcher(str(out / "model"), backend="onnxruntime")
    image = texture(320, 240)
    match = matcher.match(matcher.encode(image), matcher.reference(matcher.encode(image)))
    assert match.warp_px.shape == (120, 160, 2)
