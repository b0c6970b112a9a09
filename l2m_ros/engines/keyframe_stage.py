"""The `reference` stage of the engines that run ONNX graphs.

The reference graph computes projections only. Features that are kept unchanged are not copied
through it (`card.keep`), and the Gaussian process is solved on the host (`card.solve`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from l2m_ros.engines.backend import Array, Tensors, solve_spd
from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import ModelError


def keyframe_tensors(
    card: ModelCard,
    features: Mapping[str, Any],
    run_graph: Callable[[Mapping[str, Any]], Tensors] | None,
    to_host: Callable[[Mapping[str, Any]], dict[str, Array]],
    to_device: Callable[[str, Array], Any],
) -> Tensors:
    """Runs the graph, then the solve, then adds the features that are kept unchanged."""
    reference = run_graph(features) if run_graph else {}
    if card.solve:
        matrix, right = card.solve.matrix, card.solve.right
        system = to_host({name: reference.pop(name) for name in (matrix, right)})
        solution = solve_spd(system[matrix], system[right])
        reference[card.solve.solution] = to_device(card.solve.solution, solution)
    for name, source in card.keep.items():
        if source not in features:
            raise ModelError(
                f"the card of {card.name} keeps feature {source!r}, which its encoder does not "
                "give: export the graphs and the card together"
            )
        reference[name] = features[source]
    return reference
