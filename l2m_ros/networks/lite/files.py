"""Parts of `lite` as files: its eyes, and the head of `l2m train align` that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from l2m_ros.errors import ModelError
from l2m_ros.networks.checkpoint import load_state, read_state, save_tensors, weights_id
from l2m_ros.networks.lite.aligned import HEAD

PREFIXES = ("net.", "encoder.xfeat.", "")  # of its names in XFeat's file, in a `lite`, alone
EYES_ID = "eyes_id"  # in the file's metadata: the weights_id of the eyes


def load_eyes(eyes: nn.Module, path: Path) -> None:
    """XFeat's published weights (xfeat.pt, Apache-2.0), or the eyes within a file of `lite`."""
    weights = read_state(path)
    own = eyes.state_dict()
    for prefix in PREFIXES:
        if all(prefix + name in weights for name in own):
            load_state(eyes, {name: weights[prefix + name] for name in own}, str(path))
            return
    raise ModelError(f"{path}: holds neither XFeat's weights nor a lite: give xfeat.pt")


def save_head(path: Path, head: nn.Module, eyes: nn.Module, about: Mapping[str, str]) -> None:
    """A .safetensors that says which eyes it reads."""
    save_tensors(path, head.state_dict(), {**about, EYES_ID: weights_id(eyes.state_dict())})


def load_head(path: Path, head: nn.Module, eyes: nn.Module) -> None:
    """Fill the head; refuse one that was trained on other eyes."""
    from safetensors import SafetensorError, safe_open

    load_state(head, read_state(path), str(path))
    try:
        with safe_open(path, "pt") as file:
            stated = (file.metadata() or {}).get(EYES_ID)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: is no head of `l2m train align`: {error}") from error
    own = weights_id(eyes.state_dict())
    if stated != own:
        raise ModelError(
            f"{path}: reads eyes {stated or 'unknown'}, this network has {own}: begin with "
            "the matcher that it was trained for (--start), or train one by `l2m train align`"
        )


def joined(whole: nn.Module, without: nn.Module, head: nn.Module) -> nn.Module:
    """`whole`, a matcher with the head, filled from one without it and from the head."""
    state = whole.state_dict()
    state |= {name: value for name, value in without.state_dict().items() if name in state}
    state |= {f"{HEAD}.{name}": value for name, value in head.state_dict().items()}
    load_state(whole, state, "the matcher and the head")
    return whole
