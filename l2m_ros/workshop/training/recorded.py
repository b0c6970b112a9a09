"""A training step's forward and backward pass as CUDA graphs, one for each size of batch.

A compact network's step is some thousands of small kernels, and a GPU waits for Python to launch
them. The first steps of each size run as they are; then one is recorded and from there on replayed
with the next batches copied into its inputs. The parameters and their gradients stay where they
are in memory, so a step of one size goes on from a step of another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2m_ros.workshop.training.data import Batch

WARM = 2  # steps of a size before it is recorded: libraries choose their kernels in them
Gradients = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Recording:
    graph: torch.cuda.CUDAGraph
    batch: Batch  # copied into before a replay
    loss: Tensor
    names: tuple[str, ...]
    terms: Tensor  # (len(names),)

    def replay(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        for name in Batch.__dataclass_fields__:
            getattr(self.batch, name).copy_(getattr(batch, name))
        self.graph.replay()
        terms = self.terms.clone()  # the next replay overwrites them before they are logged
        return self.loss.clone(), dict(zip(self.names, terms, strict=True))


class Recorded:
    """`gradients` of a batch, recorded where that is possible.

    gradients: writes into gradients that already exist and reads nothing back from the device.
    """

    def __init__(self, gradients: Gradients) -> None:
        self._gradients = gradients
        self._seen: dict[torch.Size, int] = {}
        self._recordings: dict[torch.Size, Recording] = {}
        self._memory = torch.cuda.graph_pool_handle()
        self._possible = True

    def __call__(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        shape = batch.query.shape
        if shape in self._recordings:
            return self._recordings[shape].replay(batch)
        seen = self._seen[shape] = self._seen.get(shape, 0) + 1
        if seen > WARM and self._possible:
            try:
                self._recordings[shape] = self._record(batch)
            except RuntimeError as error:
                self._possible = False
                torch.cuda.synchronize()
                why = str(error).splitlines()[0][:160]
                print(f"l2m train: steps are not recorded: {why}", file=sys.stderr)
            else:
                return self._recordings[shape].replay(batch)
        return self._gradients(batch)

    def _record(self, batch: Batch) -> Recording:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # a graph's memory is apart: what warm steps left is in its way
        kept = Batch(*(getattr(batch, name).clone() for name in Batch.__dataclass_fields__))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            loss, terms = self._gradients(kept)
            together = torch.stack([value.detach().float() for value in terms.values()])
        return Recording(graph, kept, loss, tuple(terms), together)
