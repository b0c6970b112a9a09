"""What a GPU does: the same numbers as the CPU, time by stage, pairs and training steps a second.

    python benchmarks/gpu.py [--out gpu.json] [--photographs DIR] [--worlds DIR]   minutes, one GPU

    ceilings    a large product and a large copy: what this card can do at all
    parity      `lite` and L2M in float32 and float16 on the GPU, beside float32 on the CPU
    stages      encode, reference, match: eager, and as a CUDA graph where one can be captured
    keyframe    a frame against a kept keyframe, beside the published schedule of a whole pair
    workshop    training pairs made a second, training steps a second

L2M's weights are drawn (their values do not matter for time); `lite` has those that ship.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import refusals  # noqa: F401
import torch
from keyframe import FRAME, images, schedules
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from l2m_ros.matching.catalogue import find_card
from l2m_ros.networks.checkpoint import load_files
from l2m_ros.networks.registry import build
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training.device_data import DeviceBatches, DevicePairs, LiftedViews
from l2m_ros.workshop.training.device_posed import PosedViews

SIZES = {"lite": (480, 640), "l2m": (560, 560)}
RUNS, WARM = 30, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--worlds", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device: nothing to measure", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name in args.parts:
        try:
            found[name] = PARTS[name](args)
        except Exception as error:  # one part that fails must not cost the others
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        args.out.write_text(json.dumps(found, indent=1))
        print(name, json.dumps(found[name]), flush=True)
    return 0


def median_ms(run: Callable[[], object], runs: int = RUNS) -> float:
    """By the device's own clock."""
    for _ in range(WARM):
        run()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return round(statistics.median(times), 4)


def ceilings(args: argparse.Namespace) -> dict[str, float]:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    source = torch.randn(1 << 30, device="cuda", dtype=torch.float16)
    target = torch.empty_like(source)
    copied_gb = 2 * source.numel() * 2 / 1e9
    return {
        "float16_tflops": round(2 * 8192**3 / 1e9 / median_ms(lambda: a @ b), 1),
        "copy_gb_s": round(copied_gb / median_ms(lambda: target.copy_(source)) * 1e3, 1),
    }


def network_of(name: str) -> nn.Module:
    card = find_card(name)
    torch.manual_seed(0)
    network = build(card.architecture, **dict(card.config)).eval().requires_grad_(False)
    if name == "lite":
        load_files(network, [card.file("weights")])
    return network


def matched(network: nn.Module, pair: list[Tensor], half: bool = False) -> dict[str, Tensor]:
    device = pair[0].device.type
    with torch.inference_mode(), torch.autocast(device, torch.float16) if half else nullcontext():
        reference = network.reference(network.encode(pair[1]))
        match: dict[str, Tensor] = network.match(network.encode(pair[0]), reference)
    return {name: value.float().cpu() for name, value in match.items()}


def parity(args: argparse.Namespace) -> dict[str, Any]:
    """Warp against the CPU's, px of the input, where the CPU is certain (L2M: everywhere)."""
    found = {}
    for name, size in {"lite": (480, 640), "l2m": (224, 224)}.items():
        network = network_of(name)
        smooth = torch.nn.functional.interpolate(images((60, 80), "cpu")[0], size, mode="bicubic")
        pair = [smooth.clamp(0, 1), smooth.clamp(0, 1).roll((12, 20), (2, 3))]
        truth = matched(network, pair)
        warp = "warp" if "warp" in truth else "flow"
        sure = truth["certainty"] > 0 if name == "lite" else truth["certainty"] > -torch.inf
        network = network.cuda()
        for precision in ("float32", "float16"):
            match = matched(network, [i.cuda() for i in pair], half=precision == "float16")
            off = (match[warp] - truth[warp]) * torch.tensor(size[::-1]).view(1, 2, 1, 1) / 2
            errors = off.norm(dim=1, keepdim=True)[sure]
            quantiles = torch.quantile(errors, torch.tensor([0.5, 0.99])).tolist()
            found[f"{name} {precision}"] = {
                "median_px": quantiles[0], "p99_px": quantiles[1], "cells": int(sure.sum())
            }  # fmt: skip
    return found


def autocast(precision: str) -> Any:
    """The cache of cast weights lives no longer than a graph's capture may."""
    half = precision == "float16"
    return torch.autocast("cuda", torch.float16, enabled=half, cache_enabled=False)


def stages(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, size in SIZES.items():
        network = network_of(name).cuda()
        for precision in ("float32", "float16"):
            with torch.inference_mode(), autocast(precision):
                rows = stages_of(network, size)
            found |= {f"{name} {precision} {stage}": row for stage, row in rows.items()}
    return found


def stages_of(network: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    a, b = images(size, "cuda")
    query, features = network.encode(a), network.encode(b)
    kept = network.reference(features)
    rows = {}
    for stage, run in {
        "encode": lambda: network.encode(a),
        "reference": lambda: network.reference(features),
        "match": lambda: network.match(query, kept),
    }.items():
        with FlopCounterMode(display=False) as counter:
            run()
        gflop = round(counter.get_total_flops() / 1e9, 2)
        rows[stage] = {"ms": median_ms(run), "graph_ms": graphed_ms(run), "gflop": gflop}
    return rows


def graphed_ms(run: Callable[[], object]) -> float | str:
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    except Exception as error:  # a wait or a copy from the host: this stage stays eager
        torch.cuda.synchronize()
        return f"not captured: {str(error).splitlines()[0][:120]}"
    return median_ms(graph.replay)


def keyframe(args: argparse.Namespace) -> dict[str, Any]:
    found = {}
    network = network_of("l2m").cuda()
    for precision in ("float32", "float16"):
        with torch.inference_mode(), autocast(precision):
            costs = schedules(network, "l2m", SIZES["l2m"], "cuda", 5)
        frame = costs[FRAME].wall_s  # each: ms, and as a multiple of a frame
        found[precision] = {
            name.strip(): {
                "ms": round(1e3 * cost.wall_s, 2),
                "ratio": round(cost.wall_s / frame, 2),
            }
            for name, cost in costs.items()
        }
    return found


def workshop(args: argparse.Namespace) -> dict[str, Any]:
    from l2m_ros.commands.train_input import config_folder, settings_of
    from l2m_ros.workshop.lifting.photographs import find_photographs
    from l2m_ros.workshop.training.decoder import lite_levels, options_from
    from l2m_ros.workshop.training.losses import LossOptions, matcher_loss

    sources: dict[DevicePairs, float] = {}
    found: dict[str, Any] = {}
    if args.photographs:
        sources[LiftedViews(find_photographs(args.photographs), "cuda")] = 1.0
    if args.worlds:
        sources[PosedViews.read([args.worlds], "cuda")] = 1.0
    draws = Draws(torch.device("cuda"), 0)
    for source in sources:
        ms = median_ms(lambda source=source: source.sample(96, (320, 256), 1.0, draws), 10)
        found[f"{type(source).__name__} pairs/s at 320x256"] = round(96e3 / ms)
    if not sources:
        return found
    settings = settings_of(config_folder() / "lite_gpu.yaml")
    options = options_from({**settings, "loop": {**settings["loop"], "steps": 1}})
    network = build("lite").cuda().train().to(memory_format=torch.channels_last)
    for size in options.sizes:
        batches = DeviceBatches(sources, (size,), 0, True, "cuda")
        batch = batches.batch(0, rank=0, count=1, difficulty=1.0).channels_last()

        def step(batch=batch) -> None:
            network.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                truth = (batch.warp_px, batch.visible, batch.ignored)
                loss, _ = matcher_loss(lite_levels(network, batch), *truth, LossOptions())
            loss.backward()

        torch.cuda.reset_peak_memory_stats()
        ms = median_ms(step, 5)
        found[f"step of {size.batch} pairs {size.width}x{size.height}"] = {
            "ms": ms, "pairs_per_s": round(1e3 * size.batch / ms),
            "gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        }  # fmt: skip
    return found


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ceilings": ceilings,
    "parity": parity,
    "stages": stages,
    "keyframe": keyframe,
    "workshop": workshop,
}

if __name__ == "__main__":
    sys.exit(main())
