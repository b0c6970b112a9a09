"""A tape of what chosen parts of a network were given and what they gave."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

from torch import nn


class Tape:
    """`with Tape(network, pattern) as tape:` then tape.given(name), tape.gave(name)."""

    def __init__(self, network: nn.Module, pattern: str) -> None:
        self._network, self._pattern = network, re.compile(pattern)
        self._calls: dict[str, list[tuple[tuple[Any, ...], Any]]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Tape:
        for name, module in self._network.named_modules():
            if self._pattern.fullmatch(name):
                self._calls[name] = []
                self._hooks.append(module.register_forward_hook(self._recorder(name)))
        return self

    def _recorder(self, name: str) -> Any:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._calls[name].append((inputs, output))

        return record

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def names(self) -> list[str]:
        """Parts that ran, in the order of the network."""
        return [name for name, calls in self._calls.items() if calls]

    def given(self, name: str, call: int = 0) -> tuple[Any, ...]:
        return self._calls[name][call][0]

    def gave(self, name: str, call: int = 0) -> Any:
        return self._calls[name][call][1]
