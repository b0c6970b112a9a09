"""What the engines that run ONNX graphs have in common.

The reference graph computes projections only. Features that are kept unchanged are not copied
through it (`card.keep`), and the Gaussian process is solved on the host (`card.solve`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from l2m_ros.engines.backend import GRAPHS, Array, Tensors, solve_spd, stages_of
from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import ModelError


class GraphEngine(ABC):
    """`Backend.run`, of an engine that runs one graph at a time."""

    card: ModelCard

    def run(self, stage: str, inputs: Mapping[str, Any]) -> Tensors:
        return self._reference(inputs) if stage == "reference" else self._run_graph(stage, inputs)

    @abstractmethod
    def to_host(self, tensors: Mapping[str, Any]) -> dict[str, Array]: ...

    @abstractmethod
    def _run_graph(self, stage: str, inputs: Mapping[str, Any]) -> Tensors: ...

    @abstractmethod
    def _to_device(self, name: str, array: Array) -> Any:
        """The tensor of that name of the reference."""

    def _reference(self, features: Mapping[str, Any]) -> Tensors:
        """Runs the graph, then the solve, then adds the features that are kept unchanged."""
        card, graph = self.card, "reference" in stages_of(self.card)
        reference = self._run_graph("reference", features) if graph else {}
        if card.solve:
            matrix, right = card.solve.matrix, card.solve.right
            system = self.to_host({name: reference.pop(name) for name in (matrix, right)})
            solution = solve_spd(system[matrix], system[right])
            reference[card.solve.solution] = self._to_device(card.solve.solution, solution)
        for name, source in card.keep.items():
            if source not in features:
                raise ModelError(
                    f"the card of {card.name} keeps feature {source!r}, which its encoder does "
                    "not give: export the graphs and the card together"
                )
            reference[name] = features[source]
        return reference

    def _of_another(self, stage: str, name: str, given: Any, wanted: Any) -> ModelError:
        return ModelError(
            f"{name} is {given}, the {GRAPHS[stage]} graph of {self.card.name} takes {wanted}: "
            "give features of the same model and size"
        )
