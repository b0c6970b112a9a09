"""PyTorch: any input size, any checkpoint; the other engines are tested against it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2m_ros.engines.backend import Array, BackendOptions, Tensors, split_match_inputs
from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import BackendUnavailable, InvalidInput

UNTRAINED_SEED = 0
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's own; Linux gives such pages where asked to
# Of x86, nothing else was measured: by torch's names, and what asks a torch that lists none.
BF16_CAPABILITIES = {
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_bf16": "_is_amx_tile_supported",
}
# Architectures whose random weights keep activations near 1 through all layers.
NAMED = ("l2m", "tinyroma", "mickey")

log = logging.getLogger(__name__)


def has_cuda() -> bool:
    return torch.cuda.is_available()


def load(card: ModelCard, options: BackendOptions) -> TorchBackend:
    if options.device == "cuda" and not has_cuda():
        raise BackendUnavailable(
            f"torch {torch.__version__} finds no CUDA device: install a CUDA build or use cpu"
        )
    device = "cuda" if options.device != "cpu" and has_cuda() else "cpu"
    if options.threads:
        torch.set_num_threads(options.threads)
    if device == "cpu":
        # Maps of tens of MB in pages of 2 MiB, not 4 KiB, whose making took a sixth of L2M's time.
        # torch looks once, when it first allocates.
        os.environ.setdefault(LARGE_PAGES, "1")
    network: Any = load_network(card, options)[0]
    prepares = hasattr(network, "prepare_for_cpu")
    if options.precision == "bf16" and not prepares:
        raise InvalidInput(f"precision bf16 is for L2M, and {card.name} is none: leave it at fp32")
    bf16 = options.precision == "bf16" and _can_run_in_bf16(card.name, device)
    if device == "cpu" and prepares:
        network.prepare_for_cpu(bf16=bf16)
    return TorchBackend(network.to(device), device, "bf16" if bf16 else "fp32")


def _can_run_in_bf16(name: str, device: str) -> bool:
    """Whether the device is a CPU that multiplies in bfloat16; where it is none, the log says so.

    Without such instructions torch makes do with others, slower than in single precision.
    """
    if device != "cpu":
        log.warning("precision bf16 is for a CPU: %s runs in fp32 on CUDA", name)
        return False
    if any(cpu_capabilities().get(capability) for capability in BF16_CAPABILITIES):
        return True
    log.warning(
        "precision bf16: torch %s finds none of %s on this CPU; %s runs in fp32",
        torch.__version__,
        ", ".join(BF16_CAPABILITIES),
        name,
    )
    return False


def cpu_capabilities() -> dict[str, Any]:
    """By torch's names; of an older torch those that matter here, False where it cannot tell."""
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    return {n: getattr(torch.cpu, ask, bool)() for n, ask in BF16_CAPABILITIES.items()}


def load_network(card: ModelCard, options: BackendOptions) -> tuple[torch.nn.Module, ModelCard]:
    """The card's network with its weights, ready for inference, on the CPU.

    The card says what the weights are: `trained` False where none were there and
    options.untrained allows to go on without.
    """
    from l2m_ros.networks.checkpoint import load_files
    from l2m_ros.networks.registry import build
    from l2m_ros.networks.shared.named_weights import fill

    untrained = options.untrained and options.weights is None and not card.has("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        network: torch.nn.Module = build(card.architecture, **dict(card.config))
    if untrained:
        log.warning(
            "%s has no weights here: drawn at random, good for measuring speed only "
            "(l2m weights get %s)",
            card.name,
            card.name,
        )
        if card.architecture in NAMED:
            fill(network)
    else:
        given = options.weights.split(",") if options.weights else [card.file("weights")]
        load_files(network, [Path(path) for path in given])
    network.eval().requires_grad_(False)
    return network, replace(card, trained=card.trained and not untrained)


class TorchBackend:
    """Tensors are torch tensors on the device."""

    name = "torch"

    def __init__(
        self, network: torch.nn.Module, device: str = "cpu", precision: str = "fp32"
    ) -> None:
        self.network: Any = network
        self.precision = precision  # what it runs in, whatever was asked for
        self._device = device
        self.device = f"cuda: {torch.cuda.get_device_name()}" if device == "cuda" else "cpu"

    def run(self, stage: str, inputs: Mapping[str, Any]) -> Tensors:
        tensors = {name: self._tensor(value) for name, value in inputs.items()}
        with torch.inference_mode():
            if stage == "encode":
                return dict(self.network.encode(tensors["image"]))
            if stage in ("reference", "depth"):
                return dict(getattr(self.network, stage)(tensors))
            return dict(self.network.match(*split_match_inputs(tensors)))

    def to_host(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    def device_memory_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self._device == "cuda" else None

    def _tensor(self, value: Any) -> torch.Tensor:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value).to(self._device)
        tensor: torch.Tensor = value
        return tensor
