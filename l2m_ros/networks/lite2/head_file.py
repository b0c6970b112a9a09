"""The head of `l2m train align` as a file, which knows the eyes that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from l2m_ros.errors import ModelError
from l2m_ros.networks.checkpoint import load_state, read_state, weights_id
from l2m_ros.networks.lite2.aligned import HEAD

EYES_ID = "eyes_id"  # in the file's metadata: the weights_id of the eyes


def save_head(path: Path, head: nn.Module, eyes: nn.Module, about: Mapping[str, str]) -> None:
    """A .safetensors that says which eyes it reads."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    save_file(state, path, metadata={**about, EYES_ID: weights_id(eyes.state_dict())})


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
