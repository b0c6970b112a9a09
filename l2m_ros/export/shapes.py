"""Graphs of another input shape, beside a card's own: one set of weights for all.

A graph of another shape differs in grids and sizes. What it shares with the card's own graph of
that role stays there, as ONNX's external data: a place in that file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from l2m_ros.engines.model_card import (
    GRAPH_ROLES,
    ModelCard,
    ModelFile,
    Shape,
    load_card,
    sha256_of,
    write_card,
)
from l2m_ros.errors import InvalidInput
from l2m_ros.export.onnx_graph import load
from l2m_ros.files import write_whole

LEAST_BYTES = 1024  # of a tensor; smaller ones may be sizes and axes, which stay in the graph


def add_shape(written: ModelCard, path: Path) -> ModelCard:
    """The graphs of an export become a shape of the card in `path`, whose words stay."""
    card, size = load_card(path), written.input.size
    if size == card.input.size:
        raise InvalidInput(f"{size[0]}x{size[1]} is the card's own input: nothing to add")
    if (written.weights_id, written.precision) != (card.weights_id, card.precision):
        raise InvalidInput(
            f"{path} describes graphs of other weights or precision than these: export its own "
            f"again with --card {path}"
        )
    files = {}
    for role, file in written.files.items():
        if role in GRAPH_ROLES:
            own = card.file(role)
            to = own.with_name(f"{own.stem}_{size[0]}x{size[1]}.onnx")
            write_whole(to, without_weights_of(own, load(written.folder / file.path)))
            beside = str(to.relative_to(path.parent))
            files[role] = ModelFile(beside, sha256_of(to))
    others = tuple(shape for shape in card.shapes if shape.size != size)
    card = replace(card, shapes=(*others, Shape(*size, files)))
    write_card(card, path)
    return replace(card.resized(*size), folder=path.parent)


def without_weights_of(own: Path, model: onnx.ModelProto) -> bytes:
    """The model, its tensors read from the file `own` beside it where that holds the same."""
    held = own.read_bytes()
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < LEAST_BYTES:
            continue
        at = held.find(tensor.raw_data)
        if at >= 0:
            set_external_data(tensor, own.name, offset=at, length=len(tensor.raw_data))
            tensor.ClearField("raw_data")
    return bytes(model.SerializeToString(deterministic=True))
