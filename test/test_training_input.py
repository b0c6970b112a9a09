"""What a training is given: weights to begin with, options, signals; each refused or taken."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_training import TINY, pairs, settings, train_tiny

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput, L2MError
from l2m_ros.networks.checkpoint import read_state
from l2m_ros.networks.registry import build
from l2m_ros.workshop.training import checkpoint
from l2m_ros.workshop.training.decoder import begin_with, mean_weights, options_from, train_decoder
from l2m_ros.workshop.training.loop import LoopOptions


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return build("lite", **TINY).state_dict()


def begun_with(path: Path) -> dict[str, torch.Tensor]:
    network = build("lite", **TINY)
    begin_with(network, path)
    return network.state_dict()


def test_start_takes_safetensors_a_bare_state_dict_and_a_checkpoint(weights, tmp_path):
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "b.pt")
    torch.save({"state_dict": weights}, tmp_path / "c.pth")
    rest = {"optimizer": {}, "step": 3, "elapsed_s": 1.0}
    mean = {**weights, "steps": torch.tensor(3)}
    torch.save({"model": weights, "ema": mean, **rest}, tmp_path / checkpoint.NAME)
    for name in ("a.safetensors", "b.pt", "c.pth", checkpoint.NAME):
        for key, value in begun_with(tmp_path / name).items():
            torch.testing.assert_close(value, weights[key], atol=0, rtol=0)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x80\x02cos\nsystem\n."])
def test_start_refuses_what_is_none(content, tmp_path):
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(L2MError) as refused:
            begun_with(tmp_path / name)
        assert "weights_only" not in str(refused.value)
    with pytest.raises(InvalidInput, match="no such checkpoint"):
        begun_with(tmp_path / "nowhere.pt")


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_file_that_wants_to_run_code_is_refused_without_advice_to_run_it(tmp_path):
    torch.save({"model": Malicious()}, tmp_path / "m.pth")
    with pytest.raises(L2MError, match="can run code") as refused:
        read_state(tmp_path / "m.pth")
    assert "weights_only" not in str(refused.value) and "trust" not in str(refused.value)
    torch.save({"model": Malicious()}, tmp_path / checkpoint.NAME)
    with pytest.raises(L2MError, match="can run code"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"model": {}, "ema": {}},
        {"model": 3, "ema": {}, "optimizer": {}, "step": 1, "elapsed_s": 0.0},
        {"epoch": 3, "state_dict": {"w": torch.zeros(2)}},
        [1, 2],
    ],
)
def test_a_foreign_checkpoint_in_the_run_folder(state, tmp_path):
    torch.save(state, tmp_path / checkpoint.NAME)
    with pytest.raises(L2MError):
        train_tiny(tmp_path, options_from(settings(1)))
    if not isinstance(state, dict) or "ema" not in state:
        with pytest.raises(L2MError):
            mean_weights(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        {"minutes": float("nan")},
        {"minutes": float("inf")},
        {"minutes": -1.0},
        {"steps": -3},
        {"steps": 1, "seed": -1},
        {"steps": 1, "seed": 2**40},
    ],
)
def test_options_that_cannot_be(given):
    with pytest.raises(InvalidInput, match=r"positive number|seed"):
        LoopOptions(**given)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_at_hand(number, tmp_path):
    """Nothing of up to 45 s is lost, and the run goes on as if it had not been stopped."""

    class Signalling:
        def __init__(self) -> None:
            self.source, self.left = pairs(), 3 * 2

        def pair(self, *args, **kwargs):
            self.left -= 1
            if self.left == 1:
                os.kill(os.getpid(), number)
            return self.source.pair(*args, **kwargs)

    before = signal.getsignal(number)
    options = options_from(settings(6))
    torch.manual_seed(options.loop.seed)
    with pytest.raises(KeyboardInterrupt):
        train_decoder(options, build("lite", **TINY), Signalling(), pairs(50), tmp_path)
    assert checkpoint.load(tmp_path)["step"] == 3
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        ("metric", "--photographs"),
        ("metric", "--scenes"),
        ("depth", "--carry"),
        ("depth", "--model"),
        ("encoder", "--pairs"),
        ("encoder", "--start"),
        ("align", "--sequences"),
        ("decoder", "--measure"),
        ("decoder", "--depth"),
        ("depth", "--camera-height"),
    ],
)
def test_an_option_that_a_stage_does_not_read_is_refused(stage, option, tmp_path, capsys):
    """It was passed over without a word, as if it had been learnt from."""
    value = "0.4" if option == "--camera-height" else str(tmp_path)
    assert main(["train", stage, option, value, "--steps", "1"]) == 2
    said = capsys.readouterr().err
    assert f"{option} is for l2m train " in said and f"{stage} does not read it" in said
