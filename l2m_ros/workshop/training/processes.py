"""Several processes as one: `torchrun` starts them, gloo or NCCL adds their gradients.

Without torchrun's variables everything here does nothing, so the loop reads the same.
"""

from __future__ import annotations

import os
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
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), count)

    def leave(self) -> None:
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

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
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.grad = flat[start:end].view_as(parameter)
            start = end

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
