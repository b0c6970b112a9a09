"""Published checkpoints: wrappers, prefixes, several files, and every way not to fit."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.networks import checkpoint
from l2m_ros.networks.l2m.network import TINY
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.named_weights import fill


@pytest.fixture(scope="module")
def state():
    return fill(build("l2m", **TINY), "checkpoint: ").state_dict()


def empty():
    return build("l2m", **TINY)


def parts_of(state):
    """Matcher and ViT under the names of their releases."""
    vit = {k.removeprefix("dinov2."): v for k, v in state.items() if k.startswith("dinov2.")}
    return {k: v for k, v in state.items() if not k.startswith("dinov2.")}, vit


def assert_loaded(network, state):
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


def prefixed(prefix, part):
    return {f"{prefix}{name}": value for name, value in part.items()}


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda s: s, ""),
        (lambda s: {"model": s, "epoch": 3}, "module."),
        (lambda s: {"state_dict": {"model": s}}, "model."),
        (lambda s: {"model": s}, "module.model."),
    ],
)
def test_released_files_load(tmp_path, state, wrap, prefix):
    matcher, vit = parts_of(state)
    torch.save(wrap(prefixed(prefix, matcher)), tmp_path / "matcher.pth")
    torch.save(wrap(prefixed(prefix, vit)), tmp_path / "vit.pth")
    network = empty()
    checkpoint.load_files(network, [tmp_path / "matcher.pth", tmp_path / "vit.pth"])
    assert_loaded(network, state)


def test_half_precision_files_become_float32(tmp_path, state):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save(halves, tmp_path / "half.pth")
    network = empty()
    checkpoint.load_files(network, [tmp_path / "half.pth"])
    assert all(p.dtype == torch.float32 for p in network.parameters())
    name = "decoder.proj.8.0.weight"
    assert torch.equal(network.state_dict()[name], state[name].half().float())


def test_convert_writes_one_checked_file(tmp_path, state):
    matcher, vit = parts_of(state)
    torch.save(matcher, tmp_path / "matcher.pth")
    torch.save({"model": prefixed("module.", vit)}, tmp_path / "vit.pth")
    out = tmp_path / "made" / "l2m.safetensors"
    files = [tmp_path / "matcher.pth", tmp_path / "vit.pth"]
    assert checkpoint.convert(files, out, "l2m", TINY) == sum(v.numel() for v in state.values())
    assert list(out.parent.iterdir()) == [out]
    (tmp_path / "any").touch()
    assert out.stat().st_mode == (tmp_path / "any").stat().st_mode  # others may read it, too
    network = empty()
    checkpoint.load_files(network, [out])
    assert_loaded(network, state)
    assert load_file(out).keys() == state.keys()


def test_xfeats_own_file_completes_a_tinyroma_without_it(tmp_path):
    state = fill(build("tinyroma"), "xfeat: ").state_dict()
    xfeat = {k.removeprefix("xfeat.0."): v for k, v in state.items() if k.startswith("xfeat.")}
    heads = {
        "heatmap_head.0.layer.0.weight": torch.zeros(1),
        "fine_matcher.0.weight": torch.ones(2),
    }
    torch.save(prefixed("net.", {**xfeat, **heads}), tmp_path / "xfeat.pt")
    rest = {k: v for k, v in state.items() if not k.startswith("xfeat.")}
    torch.save(rest, tmp_path / "tiny.pth")
    network = build("tinyroma")
    checkpoint.load_files(network, [tmp_path / "tiny.pth", tmp_path / "xfeat.pt"])
    assert_loaded(network, state)


# --- what is refused --------------------------------------------------------------------------


def refused(tmp_path, content, match):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match=match) as caught:
        checkpoint.load_files(empty(), [tmp_path / "bad.pth"])
    assert "bad.pth" in str(caught.value)
    return str(caught.value)


def test_missing_and_unexpected_names_are_listed_with_their_nearest(tmp_path, state):
    wrong = dict(state)
    wrong["decoder.proj.8.0.wieght"] = wrong.pop("decoder.proj.8.0.weight")
    message = refused(tmp_path, wrong, "1 missing")
    assert "decoder.proj.8.0.weight (nearest: decoder.proj.8.0.wieght)" in message
    assert "decoder.proj.8.0.wieght (nearest: decoder.proj.8.0.weight)" in message


def test_a_vit_forgotten_is_said_so(tmp_path, state):
    message = refused(tmp_path, parts_of(state)[0], "missing: dinov2.cls_token")
    assert "Its ViT (DINOv2) is a file of its own: name that file, too" in message
    assert "more" in message


def test_other_shapes_are_listed(tmp_path, state):
    wrong = {**state, "dinov2.cls_token": torch.zeros(1, 1, 7)}
    refused(tmp_path, wrong, r"dinov2.cls_token is \(1, 1, 7\), wanted \(1, 1, 48\)")


def test_a_part_given_twice_is_refused(tmp_path, state):
    torch.save(dict(state), tmp_path / "a.pth")
    with pytest.raises(ModelError, match="more than one of the files"):
        checkpoint.load_files(empty(), [tmp_path / "a.pth"] * 2)


def test_no_tensors_by_name(tmp_path):
    refused(tmp_path, {"epoch": 3}, "holds no tensors by name")
    refused(tmp_path, torch.zeros(3), "holds no tensors by name")


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Payload()}, protocol=2))
    torch.save({"a": Payload()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(ModelError, match="is not opened"):
            checkpoint.read_state(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_empty_and_absent_files(tmp_path, state, suffix):
    path = tmp_path / f"cut{suffix}"
    save = torch.save if suffix == ".pth" else save_file
    save(dict(state), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="fetch it again"):
        checkpoint.read_state(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is empty"):
        checkpoint.read_state(path)
    with pytest.raises(ModelError, match="is not there"):
        checkpoint.read_state(tmp_path / f"none{suffix}")


def test_a_failed_convert_leaves_nothing(tmp_path, state):
    torch.save(parts_of(state)[0], tmp_path / "matcher.pth")
    out = tmp_path / "out" / "x.safetensors"
    with pytest.raises(ModelError, match="missing"):
        checkpoint.convert([tmp_path / "matcher.pth"], out, "l2m", TINY)
    assert not out.parent.exists()


def test_convert_to_a_full_disk_leaves_nothing(tmp_path, state, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    torch.save(dict(state), tmp_path / "all.pth")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InvalidInput, match="the disk is full"):
        checkpoint.convert([tmp_path / "all.pth"], tmp_path / "o" / "x.safetensors", "l2m", TINY)
    assert list((tmp_path / "o").iterdir()) == []
