"""What pairs of Gaussian scenes are worth: `lite` trained alike from four kinds of pairs.

python benchmarks/splat_worth.py bank A.ply B.ply ... --out bank.npz [--views 200] [--processes 4]
python benchmarks/splat_worth.py train --arm both --photographs PHOTOS --bank bank.npz --out RUNS \
    [--align runs/align/head.safetensors] [--steps 2000] [--seed 0] [--device cuda]
python benchmarks/splat_worth.py measure RUNS --scenes EVAL [--every 3]

    photographs   lifted photographs
    pairs         any two overlapping views of a bank of views of scenes
    both          half of each
    aligned       half of each, with the frozen head of `l2m train align`

Every run begins with the eyes of `lite` (--eyes names others), which stay frozen, and the same
numbers beside them. A run leaves RUNS/ARM-SEED.safetensors: what it learnt, in half precision.
The head that it was given lies beside it. Leave scenes that were reconstructed out of --scenes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import refusals  # noqa: F401
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from l2m_ros.commands.train_decoder import with_head
from l2m_ros.errors import InvalidInput
from l2m_ros.networks.checkpoint import weights_id
from l2m_ros.networks.lite.aligned import HEAD
from l2m_ros.networks.lite.files import load_head
from l2m_ros.networks.registry import build
from l2m_ros.workshop.gaussians.bank import BankOptions, load_bank, view_bank
from l2m_ros.workshop.jobs.runners import runner_of
from l2m_ros.workshop.lifting.photographs import find_photographs
from l2m_ros.workshop.training.checkpoint import load_weights
from l2m_ros.workshop.training.data import PhotographPairs, Schedule, SizeShare
from l2m_ros.workshop.training.decoder import DecoderOptions, mean_weights, train_decoder
from l2m_ros.workshop.training.device_bank import BankViews
from l2m_ros.workshop.training.device_data import (
    DeviceBatches,
    DevicePairs,
    InBlocks,
    LiftedViews,
)
from l2m_ros.workshop.training.loop import LoopOptions

ARMS = ("photographs", "pairs", "both", "aligned")
DEGREES = [5.0, 10.0, 20.0]
SIZE = (480, 352)  # measured at
EYES = "encoder.xfeat."
LITE = Path(__file__).resolve().parents[1] / "models" / "lite.safetensors"


def options_of(args: argparse.Namespace) -> DecoderOptions:
    loop = LoopOptions(
        steps=args.steps, learning_rate=1.5e-3, warmup_steps=args.steps // 20, ema=0.99,
        seed=args.seed, difficulty=(0.5, 0.9), ramp=0.3, validate_s=1e9, checkpoint_s=1e9,
        rates={EYES: 0.0}, device=args.device, bf16=False,
    )  # fmt: skip
    width, height = args.size
    size = SizeShare(width, height, args.batch, 1.0)
    options = DecoderOptions(model="lite", sizes=(size,), validation=(), loop=loop)
    return with_head(options) if args.align is not None else options


def network_of(config: dict[str, int], seed: int, eyes: Path, align: Path | None) -> nn.Module:
    """The beginning of every run: the eyes' weights, and numbers drawn from the seed."""
    torch.manual_seed(seed)
    network = build("lite", **config)
    stored = load_file(eyes)
    own = {name.removeprefix(EYES): v for name, v in stored.items() if name.startswith(EYES)}
    network.eyes.load_state_dict(own or stored)
    if align is not None:
        load_head(align, network.get_submodule(HEAD), network.eyes)
    return network


def schedule_of(args: argparse.Namespace, options: DecoderOptions) -> Schedule:
    """Pairs of the arm, made on the device; several steps share a draw."""
    (size,) = options.sizes
    device = options.loop.device
    sources: dict[DevicePairs, float] = {}
    if args.arm != "pairs":
        sources[LiftedViews(find_photographs(args.photographs), device)] = 1.0
    if args.arm != "photographs":
        sources[BankViews(load_bank(args.bank).to(device))] = 1.0
    whole = (replace(size, batch=size.batch * args.block),)
    made = DeviceBatches(sources, whole, options.loop.seed, True, device)
    return InBlocks(made, args.block)


def run_bank(args: argparse.Namespace) -> None:
    options = BankOptions(args.views, *args.size, relight=0.3, seed=args.seed)
    runner = runner_of(None, args.processes)
    view_bank(args.scenes, options, runner, seconds=args.seconds).save(args.out)


def run_train(args: argparse.Namespace) -> None:
    if args.device == "cuda":
        torch.backends.cudnn.benchmark = True
    needed = ["--photographs"] * (args.arm != "pairs") + ["--bank"] * (args.arm != "photographs")
    for option in [*needed, *["--align"] * (args.arm == "aligned")]:
        if getattr(args, option[2:]) is None:
            raise InvalidInput(f"--arm {args.arm} needs {option}")
    options = options_of(args)
    name = f"{args.name or args.arm}-{args.seed}"
    network = network_of(dict(options.network), args.seed, args.eyes, args.align)
    schedule = schedule_of(args, options)
    folder = (args.work or args.out) / f"{name}.run"
    began = time.monotonic()
    nothing = PhotographPairs([], args.seed)  # held-out pairs: none are measured here
    train_decoder(options, network, schedule, nothing, folder)
    took_s = time.monotonic() - began
    came = (EYES, f"{HEAD}.")  # as it came: not stored again
    learnt = {k: v for k, v in mean_weights(folder).items() if not k.startswith(came)}
    halves = {
        k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in learnt.items()
    }
    args.out.mkdir(parents=True, exist_ok=True)
    about = {
        "network": json.dumps(dict(options.network)), "seed": str(args.seed),
        "eyes": weights_id(network.eyes.state_dict()), "steps": str(args.steps),
        "batch": str(args.batch), "seconds": f"{took_s:.1f}",
    }  # fmt: skip
    save_file(halves, args.out / f"{name}.safetensors", metadata=about)
    if args.align is not None:
        (args.out / "head.safetensors").write_bytes(args.align.read_bytes())
    print(f"{name}: {args.steps} steps in {took_s:.1f} s, {args.steps / took_s:.1f} a second")


def run_measure(args: argparse.Namespace) -> None:
    runs = sorted(args.runs.glob("*-[0-9].safetensors"))
    if not runs:
        raise InvalidInput(f"{args.runs} holds no ARM-SEED.safetensors: train writes them")
    for path in runs:
        figures = path.with_suffix(".json")
        if not figures.is_file():
            figures.write_text(json.dumps(measured(args, learnt_network(path, args)), indent=1))
        for name, values in json.loads(figures.read_text()).items():
            print(f"{path.stem:<16} {name:<24} {' / '.join(f'{value:.1f}' for value in values)}")


def learnt_network(path: Path, args: argparse.Namespace) -> nn.Module:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = file.metadata()
    config = json.loads(about["network"])
    own_eyes = path.with_name(f"{path.stem.rpartition('-')[0]}.eyes.safetensors")
    eyes = own_eyes if own_eyes.is_file() else args.eyes
    align = path.with_name("head.safetensors") if config else None
    network = network_of(config, 0, eyes, align)
    if about.get("eyes", found := weights_id(network.eyes.state_dict())) != found:
        raise InvalidInput(f"{path}: was trained with other eyes than {eyes}: name them by --eyes")
    state = {**network.state_dict(), **load_file(path)}
    load_weights(network, state, str(path))
    return network.eval()


def measured(args: argparse.Namespace, network: nn.Module) -> dict[str, list[float]]:
    """AUC of every scene and their mean; pixels of the warp off the truth where that is known."""
    # Here: a machine that only trains has no poselib.
    from l2m_ros.engines.model_card import InputSpec, ModelCard
    from l2m_ros.engines.torch import TorchBackend
    from l2m_ros.matching.network_matcher import NetworkMatcher
    from l2m_ros.workshop.evaluation.benchmark import Bench, BenchmarkOptions
    from l2m_ros.workshop.evaluation.metrics import auc_percent
    from l2m_ros.workshop.evaluation.scenes import find_scenes

    size = InputSpec(width=SIZE[0], height=SIZE[1], multiple=32, turn=True)
    card = ModelCard(name="trained", architecture="lite", input=size)
    matcher = NetworkMatcher(card, TorchBackend(network, "cpu"))
    figures, off = {}, []
    for scene in find_scenes(args.scenes):
        if scene.kind != "pose":
            continue
        scene = replace(scene, pairs=scene.pairs[:: args.every])
        results = list(
            Bench(scene, matcher, BenchmarkOptions(subpixel=False, second_look="never")).results()
        )
        figures[scene.name] = auc_percent([result.error for result in results], DEGREES)
        off += [r.warp_errors_px for r in results if r.warp_errors_px is not None]
    figures["mean"] = [float(np.mean(column)) for column in zip(*figures.values(), strict=True)]
    if off:
        px = np.concatenate(off)
        px = px[np.isfinite(px)]
        figures["warp"] = [float(np.median(px)), *(100.0 * float((px < t).mean()) for t in (5, 20))]
    return figures


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    bank = verbs.add_parser("bank")
    bank.add_argument("scenes", type=Path, nargs="+")
    bank.add_argument("--views", type=int, default=200, help="of each scene (200)")
    bank.add_argument("--processes", type=int, default=1)
    bank.add_argument("--seconds", type=float, help="stop then, with the views that are there")
    bank.set_defaults(run=run_bank)
    train = verbs.add_parser("train")
    train.add_argument("--arm", choices=ARMS, required=True)
    train.add_argument("--name", help="of the run, instead of the arm's")
    train.add_argument("--photographs", type=Path)
    train.add_argument("--bank", type=Path)
    train.add_argument("--align", type=Path)
    train.add_argument("--steps", type=int, default=2000)
    train.add_argument("--batch", type=int, default=16)
    train.add_argument("--block", type=int, default=8, help="steps that share a draw (8)")
    train.add_argument("--device", default="cpu")
    train.add_argument("--work", type=Path, help="for checkpoints (default: --out)")
    train.set_defaults(run=run_train)
    measure = verbs.add_parser("measure")
    measure.add_argument("runs", type=Path)
    measure.add_argument("--scenes", type=Path, action="append", required=True)
    measure.add_argument("--every", type=int, default=3, help="pair of each scene (3)")
    measure.set_defaults(run=run_measure)
    for verb in (bank, train):
        verb.add_argument("--out", type=Path, required=True)
        verb.add_argument("--size", type=int, nargs=2, default=(256, 192))
        verb.add_argument("--seed", type=int, default=0)
    for verb in (train, measure):
        verb.add_argument("--eyes", type=Path, default=LITE, help="a lite's weights, or its eyes'")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.run(args)


if __name__ == "__main__":
    main()
