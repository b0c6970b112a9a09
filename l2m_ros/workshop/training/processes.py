"""Several processes as one: `torchrun` starts them, gloo or NCCL adds their gradients.

Without torchrun's variables everything here does nothing, so the loop reads the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: str) -> Processes:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        take_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), count)

    def leave(self) -> None:
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @classmethod
    @contextmanager
    def joined(cls, device: str) -> Iterator[Processes]:
        """For as long as the block lasts."""
        processes = cls.join(device)
        try:
            yield processes
        finally:
            processes.leave()

    @property
    def leads(self) -> bool:
        """The one that writes files and speaks."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """One message for all gradients; equal shares of the batch make the mean exact."""
        if self.count == 1:
            return
        parameters = [p for p in module.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.count
        # In place: a recorded step writes its gradients where they were when it was recorded.
        parts = flat.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad.copy_(part.view_as(parameter))  # type: ignore[union-attr]

    @torch.no_grad()
    def average_statistics(self, module: nn.Module) -> None:
        """Running means and variances of all normalisations that are learning, the same in every
        process. On GPUs SyncBatchNorm has seen to the batches' own statistics as well."""
        if self.count == 1:
            return
        statistics = [
            buffer
            for norm in module.modules()
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training
            for buffer in (norm.running_mean, norm.running_var)
            if buffer is not None
        ]
        if not statistics:
            return
        flat = torch.cat([buffer.flatten() for buffer in statistics])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([buffer.numel() for buffer in statistics])
        for buffer, part in zip(statistics, parts, strict=True):
            buffer.copy_(part.view_as(buffer))

    def same_everywhere(self, module: nn.Module) -> None:
        """Everyone starts from the weights of the first."""
        if self.count > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, src=0)

    def wait(self) -> None:
        """Until everyone is here."""
        if self.count > 1:
            dist.barrier()

    def agreed(self, value: float) -> float:
        """The first one's number (clocks differ; decisions must not)."""
        if self.count == 1:
            return value
        message: Tensor = torch.tensor([value], dtype=torch.float64)
        if dist.get_backend() == "nccl":
            message = message.cuda()
        dist.broadcast(message, src=0)
        return float(message)


def local_device(device: str) -> str:
    """The GPU of this process: under torchrun that of LOCAL_RANK, whichever was named."""
    rank = os.environ.get("LOCAL_RANK")
    if not device.startswith("cuda") or rank is None:
        return device
    return f"cuda:{int(rank)}"


def take_device(device: str) -> None:
    """Make the process' own GPU the current one, where there is a choice: "cuda" then means it."""
    own = local_device(device)
    if own.startswith("cuda:"):
        torch.cuda.set_device(own)
