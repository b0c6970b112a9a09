"""What a stage of `l2m train` leaves: the mean weights of its run, as a model for every verb."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from l2m_ros.engines.model_card import ModelCard


def fill(network: nn.Module, run_folder: Path) -> None:
    """With the run's mean weights."""
    from l2m_ros.workshop.training.checkpoint import load_weights
    from l2m_ros.workshop.training.decoder import mean_weights

    load_weights(network, mean_weights(run_folder), str(run_folder))


def write_trained(network: nn.Module, card: ModelCard, graphs: bool = True) -> ModelCard:
    """Into the card's folder: weights, card and, where asked for, ONNX graphs."""
    from safetensors.torch import save_file

    from l2m_ros.engines.model_card import ModelFile, sha256_of, write_card
    from l2m_ros.export.stages import CARD, ExportOptions, export_model

    out = card.folder
    out.mkdir(parents=True, exist_ok=True)
    if graphs:
        card = export_model(network, card, ExportOptions(out, card.input.height, card.input.width))
    path = out / f"{card.name}.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    card = replace(card, files={**card.files, "weights": ModelFile(path.name, sha256_of(path))})
    write_card(card, out / CARD)
    return card
