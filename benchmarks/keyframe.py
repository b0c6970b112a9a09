"""What a kept keyframe saves: one frame against it, beside the published schedule of a whole pair.

    python benchmarks/keyframe.py                    L2M at 112x112 on the CPU, a minute
    python benchmarks/keyframe.py --size 560         the published resolution, half an hour
    python benchmarks/keyframe.py --size 560 --quick --runs 1      ten minutes: frame and pair only
    python benchmarks/keyframe.py --size 560 --quick --runs 1 --precision bf16       and in bfloat16
    python benchmarks/keyframe.py --model lite --size 480x640

    frame       encode one image, match it against the kept reference, one direction
    undivided   both images encoded, both solves, both directions, as the published match() does
    second pass the same and then refiners at 864/560 of the resolution: match()'s default
    prepared    as torch's back-end runs L2M on a CPU: normalisations folded, channels_last
    bf16        the same with `precision bf16`: the transformers' linear layers in bfloat16

All in one run, by the same code with the same weights (drawn at random: their values do not
matter for time), so that the ratios mean something. A second table tells where a frame's time
goes, with parameters and FLOPs (a multiply-add counts 2; products and convolutions).
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import refusals  # noqa: F401
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from l2m_ros.engines.backend import PRECISIONS
from l2m_ros.engines.torch import LARGE_PAGES
from l2m_ros.matching.catalogue import find_card
from l2m_ros.networks.l2m.cpu import prepare
from l2m_ros.networks.registry import build
from l2m_ros.workshop.parity.published_schedule import ImageInputs, MatchOptions, match_pair

FRAME = "frame against a kept keyframe"
PUBLISHED = "undivided, symmetric, second pass"
FRAME_TURNS = 3  # at least: a frame is cheap beside a pair, and feels its first time more
SECOND_PASS = 864 / 560
FINE_MULTIPLE = 8
L2M_PARTS = {
    "ViT": "dinov2",
    "VGG": "encoder.cnn",
    "projections": "decoder.proj.{16,8,4,2,1}",
    "Gaussian process": "decoder.gps.16",
    "transformer decoder": "decoder.embedding_decoder",
    "anchors to flow": "decoder.anchors",
    **{f"refiner {s}": f"decoder.conv_refiner.{s}" for s in (16, 8, 4, 2, 1)},
}


@dataclass
class Part:
    """One row of the second table."""

    name: str
    modules: list[nn.Module]
    seconds: float = 0.0
    flops: float = 0.0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for module in self.modules for p in module.parameters())


def parts_of(network: nn.Module, model: str) -> list[Part]:
    modules = dict(network.named_modules())
    if model != "l2m":
        return [Part(name, [module]) for name, module in network.named_children()]
    found = []
    for name, path in L2M_PARTS.items():
        stem, _, strides = path.partition(".{")
        paths = [f"{stem}.{s}" for s in strides.rstrip("}").split(",")] if strides else [path]
        found.append(Part(name, [modules[p] for p in paths]))
    return found


@contextmanager
def observed(parts: list[Part], read: Callable[[], float], field: str):
    """Add what `read` grows by while a part's modules run to that field of the part."""
    handles, started = [], {}

    def enter(module, inputs):
        started[id(module)] = read()

    for part in parts:

        def leave(module, inputs, output, part=part):
            setattr(part, field, getattr(part, field) + read() - started[id(module)])

        for module in part.modules:
            handles += [
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def clock_s() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Cost:
    """Least wall time and least CPU time of several turns: other work only ever adds to them."""

    wall_s: float = float("inf")
    cpu_s: float = float("inf")
    gflop: float = 0.0


def take_turns(work: dict[str, Callable[[], object]], runs: int, count: bool) -> dict[str, Cost]:
    """Each in turn, over and over, so that a busy moment of the machine hits all alike."""
    costs = {name: Cost() for name in work}
    for name, run in work.items() if count else ():
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:  # fused attention would go uncounted
            run()  # warms up as well
        costs[name].gflop = counter.get_total_flops() / 1e9
    for turn in range(max(runs, FRAME_TURNS)):
        for name, run in work.items():
            if turn >= runs and not name.startswith(FRAME):
                continue
            cpu, wall = time.process_time(), clock_s()
            run()
            costs[name].wall_s = min(costs[name].wall_s, clock_s() - wall)
            costs[name].cpu_s = min(costs[name].cpu_s, time.process_time() - cpu)
    return costs


def fine_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (round(s * SECOND_PASS / FINE_MULTIPLE) * FINE_MULTIPLE for s in size)
    return height, width


def images(size: tuple[int, int], device: str) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, *size, generator=draw).to(device) for _ in range(2)]


def symmetric(network: nn.Module, a: Tensor, b: Tensor) -> None:
    """Both directions by the three steps, nothing kept."""
    features = [network.encode(image) for image in (a, b)]
    for query, keyframe in ((0, 1), (1, 0)):
        network.match(features[query], network.reference(features[keyframe]))


def schedules(
    network: nn.Module,
    architecture: str,
    size: tuple[int, int],
    device: str,
    runs: int,
    quick: bool = False,
    precision: str = "fp32",
) -> dict[str, Cost]:
    """What each way to match costs."""
    a, b = images(size, device)
    features = network.encode(b)
    kept = network.reference(features)
    work: dict[str, Callable[[], object]] = {
        FRAME: lambda: network.match(network.encode(a), kept),
        "  of it encode": lambda: network.encode(a),
        "once per keyframe: reference": lambda: network.reference(features),
        "undivided, symmetric": lambda: symmetric(network, a, b),
    }
    if architecture == "l2m":
        fine = images(fine_size(size), device)
        options = MatchOptions(coarse=size, fine=fine_size(size))
        inputs = [ImageInputs(c, f) for c, f in zip((a, b), fine, strict=True)]
        work[PUBLISHED] = lambda: match_pair(network, *inputs, options)
        if device == "cpu":
            ready = prepare(copy.deepcopy(network))
            work[f"{FRAME}, prepared"] = lambda: ready.match(ready.encode(a), kept)
            work[f"{PUBLISHED}, prepared"] = lambda: match_pair(ready, *inputs, options)
        if precision == "bf16":
            half = prepare(copy.deepcopy(network), bf16=True)
            work[f"{FRAME}, bf16"] = lambda: half.match(half.encode(a), kept)
            work["  of it encode, bf16"] = lambda: half.encode(a)
    if quick:
        works = work.items()
        work = {name: run for name, run in works if name.startswith(FRAME) or name == PUBLISHED}
    return take_turns(work, runs, count=not quick)


def break_down(
    network: nn.Module, architecture: str, size: tuple[int, int], device: str, runs: int
) -> tuple[list[Part], float]:
    """CPU time (on a GPU: wall time) and FLOPs of each part, and the time of the whole frame.

    Of several frames the quickest, with its own parts: parts of different frames do not add up.
    """
    a, b = images(size, device)
    kept = network.reference(network.encode(b))
    total_s, best = float("inf"), parts_of(network, architecture)
    for _ in range(runs):
        parts = parts_of(network, architecture)
        with observed(parts, busy_s, "seconds"):
            started = busy_s()
            network.match(network.encode(a), kept)
            seconds = busy_s() - started
        if seconds < total_s:
            total_s, best = seconds, parts
    counter = FlopCounterMode(display=False)
    count = sdpa_kernel(SDPBackend.MATH)
    with count, counter, observed(best, lambda: float(counter.get_total_flops()), "flops"):
        network.match(network.encode(a), kept)
    return best, total_s


def busy_s() -> float:
    return clock_s() if torch.cuda.is_available() else time.process_time()


def size_of(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split("x")]
    return (sides[0], sides[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="l2m")
    parser.add_argument("--size", type=size_of, default=(112, 112), metavar="HxW")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="times of a frame and of a pair only")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of one more frame")
    parser.add_argument("--small-pages", action="store_true", help="memory as torch has it alone")
    args = parser.parse_args()
    if not args.small_pages:
        os.environ.setdefault(LARGE_PAGES, "1")  # as torch's back-end does
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = find_card(args.model)
    if args.precision == "bf16" and (device != "cpu" or card.architecture != "l2m"):
        parser.error("--precision bf16 is for L2M on a CPU")
    torch.manual_seed(0)
    network = build(card.architecture, **dict(card.config)).eval().requires_grad_(False).to(device)
    where = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(
        f"{args.model}, {args.size[0]}x{args.size[1]} (height x width), torch on {device}, {where}"
    )
    with torch.inference_mode():
        how = (args.size, device, args.runs, args.quick)
        costs = schedules(network, card.architecture, *how, args.precision)
        show_costs(costs)
        if args.quick:
            return
        parts, total_s = break_down(network, card.architecture, args.size, device, args.runs)
    show_parts(parts, total_s, costs[FRAME].gflop, network)


def show_costs(costs: dict[str, Cost]) -> None:
    frame = costs[FRAME]
    print(
        f"\n{'':44}{'wall ms':>10}{'CPU ms':>10}{'GFLOP':>10}{'wall x':>9}{'CPU x':>9}{'FLOP x':>9}"
    )
    for name, cost in costs.items():
        work = cost.gflop / frame.gflop if frame.gflop else 0.0
        ratios = [cost.wall_s / frame.wall_s, cost.cpu_s / frame.cpu_s, work]
        print(
            f"{name:44}{1000 * cost.wall_s:10.1f}{1000 * cost.cpu_s:10.1f}{cost.gflop:10.1f}"
            + "".join(f"{ratio:9.2f}" for ratio in ratios)
        )


def show_parts(parts: list[Part], total_s: float, gflop: float, network: nn.Module) -> None:
    print(f"\nwhere a frame's time goes\n{'':24}{'ms':>10}{'share':>8}{'GFLOP':>10}{'M param':>10}")
    rows = [(p.name, p.seconds, p.flops / 1e9, p.parameters / 1e6) for p in parts]
    rest_s = total_s - sum(part.seconds for part in parts)
    everything = sum(p.numel() for p in network.parameters()) / 1e6
    rows += [("resizing and the rest", rest_s, 0.0, 0.0), ("all", total_s, gflop, everything)]
    for name, seconds, work, size in rows:
        share = 100 * seconds / total_s
        print(f"{name:24}{1000 * seconds:10.1f}{share:7.1f}%{work:10.2f}{size:10.3f}")


if __name__ == "__main__":
    main()
