"""Published checkpoints into networks: read without unpickling code, renamed, loaded strictly.

    load_files(network, [matcher.pth, vit.pth])
    convert([matcher.pth, vit.pth], Path("l2m.safetensors"), "l2m")

Files may wrap their tensors ({"model": ...}, {"state_dict": ...}) and prefix their names
("module.", "model."). Several files make one network: L2M's, RoMa's and MicKey's ViT is a file of
its own, and so may be TinyRoMa's XFeat.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2m_ros.errors import ModelError
from l2m_ros.files import whole_file
from l2m_ros.spelling import nearest_name

WRAPPERS = ("state_dict", "model", "network", "ema")
DROPPED_PARTS = ("module", "model")  # of dotted names, wherever they stand
XFEAT_HEADS = ("heatmap_head.", "keypoint_head.", "fine_matcher.")  # TinyRoMa has none of them
MICKEY = "compute_matches."
MICKEY_VIT = "compute_matches.extractor.dinov2_vitl14."
IF_FULL = "nothing was written. Free some space and give the same command again"
VIT_APART = ". Its ViT (DINOv2) is a file of its own: name that file, too"
LISTED = 5  # wrong names that a message lists

# What torch.load and the zip under it raise over damaged bytes.
DAMAGED = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError,
    OverflowError, MemoryError, struct.error, zipfile.BadZipFile,
)  # fmt: skip

State = dict[str, Tensor]


def load_files(network: nn.Module, paths: Sequence[Path]) -> None:
    """Fill the network; a missing, unexpected or mis-shaped name is an error."""
    where = ", ".join(str(path) for path in paths)
    load_state(network, merged([read_state(path) for path in paths]), where)


def load_state(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Values are converted to the network's types (released files are float32 or float16)."""
    check(state, {k: tuple(v.shape) for k, v in network.state_dict().items()}, where)
    network.load_state_dict(state, strict=True)


def weights_id(state: Mapping[str, Tensor]) -> str:
    """16 hex digits that name the numbers of a network, in whatever file they come."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if value.is_floating_point():
            digest.update(f"{name} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def convert(
    paths: Sequence[Path], out: Path, architecture: str, config: Mapping[str, Any] | None = None
) -> int:
    """One safetensors file of all parts, checked against the architecture; its parameters."""
    from l2m_ros.networks.registry import build

    with torch.device("meta"):  # names and shapes alone: no memory
        expected = build(architecture, **(config or {})).state_dict()
    state = merged([read_state(path) for path in paths])
    where = ", ".join(str(path) for path in paths)
    check(state, {name: tuple(value.shape) for name, value in expected.items()}, where)
    ordered = {name: state[name].to(expected[name].dtype) for name in expected}
    save_tensors(out, ordered, {"architecture": architecture})
    return sum(value.numel() for value in ordered.values())


def save_tensors(path: Path, tensors: State, about: Mapping[str, str] | None = None) -> None:
    """A .safetensors file, whole or not at all: what was there before stays until then."""
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path, IF_FULL) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(plain, partial, metadata=dict(about) if about else None)
        partial.chmod(mode)  # safetensors lets nobody but the owner read


def read_state(path: Path) -> State:
    """Names and tensors of a .safetensors or a torch file, unwrapped and without prefixes."""
    if not path.is_file():
        raise ModelError(f"{path} is not there")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: fetch it again")
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else torch_tensors(path)
    return _without_prefixes(_unwrapped(raw, path), path)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, *DAMAGED) as error:
        raise ModelError(
            f"{path} is not a safetensors file or is truncated ({error}): fetch it again"
        ) from error


def torch_tensors(path: Path) -> Any:
    """What a torch file holds. weights_only: a file that wants to run code is refused."""
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: fetch it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own words advise to set weights_only=False, that is to run the file.
        raise ModelError(
            f"{path} holds more than tensors, or is no checkpoint, and is not opened: such a file "
            "can run code. Save its state_dict alone, or as safetensors"
        ) from None
    except DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error):
            reason = type(error).__name__
        raise ModelError(
            f"{path} is not a whole torch checkpoint ({reason}): fetch it again"
        ) from error


def _unwrapped(raw: Any, path: Path) -> State:
    while isinstance(raw, Mapping) and not _is_state(raw):
        wrapper = next((key for key in WRAPPERS if isinstance(raw.get(key), Mapping)), None)
        if wrapper is None:
            break
        raw = raw[wrapper]
    if not _is_state(raw):
        raise ModelError(
            f"{path} holds no tensors by name: a state_dict is wanted, alone or under "
            f"{', '.join(WRAPPERS)}"
        )
    return dict(raw)


def _is_state(raw: Any) -> bool:
    if not isinstance(raw, Mapping) or not raw:
        return False
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in raw.items())


def _without_prefixes(state: State, path: Path) -> State:
    out: State = {}
    for name, value in state.items():
        bare = ".".join(part for part in name.split(".") if part not in DROPPED_PARTS)
        if bare in out:
            raise ModelError(f"{path} holds {bare} twice, once as {name}")
        out[bare] = value
    return out


def merged(parts: Iterable[State]) -> State:
    """All parts under the names that this package's networks have."""
    out: State = {}
    parts = list(parts)
    mickey = any(name.startswith(MICKEY) for part in parts for name in part)
    for part in parts:
        for name, value in _placed(part, MICKEY_VIT if mickey else "dinov2.").items():
            if name in out:
                raise ModelError(f"{name} is in more than one of the files given")
            out[name] = value
    return out


def _placed(part: State, vit: str) -> State:
    if "cls_token" in part:  # a ViT's own file
        return {f"{vit}{name}": value for name, value in part.items()}
    bare = {name.removeprefix("net."): value for name, value in part.items()}
    if "block_fusion.2.weight" in bare:  # XFeat's own file
        return {
            f"xfeat.0.{name}": value
            for name, value in bare.items()
            if not name.startswith(XFEAT_HEADS)
        }
    return part


def check(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise unless names and shapes agree; the message names the nearest ones."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, wanted {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems = [
        *_listed("missing", [_with_nearest(name, unexpected) for name in missing]),
        *_listed("unexpected", [_with_nearest(name, missing or expected) for name in unexpected]),
        *_listed("of another shape", shapes),
    ]
    if problems:
        words = f"{where} does not fit this network: {'; '.join(problems)}"
        raise ModelError(words + (VIT_APART if _lacks_vit(state, expected) else ""))


def _lacks_vit(state: Mapping[str, Tensor], expected: Iterable[str]) -> bool:
    """As the released matchers do: none of what the network has of it is there."""
    vit = [name for name in expected if "dinov2" in name]
    return bool(vit) and not any(name in state for name in vit)


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [f"{len(names)} {what}: {', '.join(names[:LISTED])}{more}"]


def _with_nearest(name: str, others: Iterable[str]) -> str:
    near = nearest_name(name, list(others)[:2000])
    return f"{name} (nearest: {near})" if near else name
