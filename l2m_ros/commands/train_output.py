"""What a stage of `l2m train` leaves: the mean weights of its run, as a model for every verb."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from l2m_ros.engines.model_card import ModelCard

MOSTLY_LOST = 49.0  # percent: medians say nothing then


def fill(network: nn.Module, run_folder: Path) -> None:
    """With the run's mean weights."""
    from l2m_ros.workshop.training.checkpoint import load_weights
    from l2m_ros.workshop.training.decoder import mean_weights

    load_weights(network, mean_weights(run_folder), str(run_folder))


def write_trained(network: nn.Module, card: ModelCard, graphs: bool = True) -> ModelCard:
    """Into the card's folder: weights, card and, where asked for, ONNX graphs."""
    from l2m_ros.engines.model_card import ModelFile, sha256_of, write_card
    from l2m_ros.export.stages import CARD, ExportOptions, export_model
    from l2m_ros.networks.checkpoint import save_tensors

    out = card.folder
    out.mkdir(parents=True, exist_ok=True)
    if graphs:
        card = export_model(network, card, ExportOptions(out, card.input.height, card.input.width))
    path = out / f"{card.name}.safetensors"
    save_tensors(path, network.state_dict())
    card = replace(card, files={**card.files, "weights": ModelFile(path.name, sha256_of(path))})
    write_card(card, out / CARD)
    return card


def learnt_words(after: dict[str, float], depth_error_before: float, *, fresh: bool) -> str:
    """What a run taught, on pairs of worlds that were never trained on. fresh: from no weights."""
    before = "untrained: one depth for all" if fresh else "by the weights that it began with"
    words = (
        f"on unseen worlds depth now errs by {after['depth_error_percent']:.0f} % "
        f"({depth_error_before:.0f} % {before})"
    )
    if after["lost_percent"] > MOSTLY_LOST:
        return f"{words}; {after['lost_percent']:.0f} % of the pairs have no metric pose: go on"
    return (
        f"{words}; poses of pairs {after['turn_deg']:.0f} degrees apart: "
        f"scale {after['scale_error_percent']:.0f} %, "
        f"rotation {after['rotation_error_deg']:.1f} degrees, "
        f"{after['within10_percent_of_way']:.0f} % within a tenth of the way"
    )
