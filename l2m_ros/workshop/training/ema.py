"""The exponential mean of the weights: less noisy than the last ones, and what is shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Mean over about 1 / (1 - decay) steps; over the steps there were, in the beginning."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {name: value.detach().clone() for name, value in _floats(module)}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10.0))
        values = [value.detach() for _, value in _floats(module)]
        torch._foreach_lerp_(list(self.weights.values()), values, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, value in _floats(module):
            value.copy_(self.weights[name])

    def state(self) -> dict[str, Tensor | int]:
        return {"steps": self.steps, **self.weights}

    def restore(self, state: dict[str, Tensor | int]) -> None:
        self.steps = int(state["steps"])
        for name, value in self.weights.items():
            value.copy_(state[name])


def _floats(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        (name, value) for name, value in module.state_dict().items() if value.is_floating_point()
    ]
