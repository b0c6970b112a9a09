"""What pairs of Gaussian scenes are worth: `lite2` trained alike from four kinds of pairs.

python benchmarks/splat_worth.py --photographs PHOTOS --pairs DIR [--pairs DIR ...] \
    --align runs/align/head.safetensors --scenes EVAL --out OUT [--steps 300] [--seed 0]

    photographs   lifted photographs
    pairs         shards of `l2m splat pairs`
    both          half of each
    aligned       half of each, with the frozen head of `l2m train align`

Every run begins with XFeat's weights and the same numbers beside them. What was measured stays in
OUT: the same command goes on where it was interrupted. Leave scenes that were reconstructed out
of --scenes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from l2m_ros.commands.train_decoder import with_head
from l2m_ros.commands.train_input import split
from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.engines.torch import TorchBackend
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.networks.lite2.aligned import HEAD
from l2m_ros.networks.lite2.backbone import load_xfeat
from l2m_ros.networks.lite2.head_file import load_head
from l2m_ros.networks.registry import build
from l2m_ros.workshop.evaluation.benchmark import Bench, BenchmarkOptions
from l2m_ros.workshop.evaluation.metrics import auc_percent
from l2m_ros.workshop.evaluation.scenes import find_scenes
from l2m_ros.workshop.lifting.photographs import find_photographs
from l2m_ros.workshop.training.checkpoint import load_weights
from l2m_ros.workshop.training.data import PairMaker, PhotographPairs, SizeShare
from l2m_ros.workshop.training.decoder import DecoderOptions, mean_weights, train_decoder
from l2m_ros.workshop.training.loop import LoopOptions
from l2m_ros.workshop.training.stored_pairs import MixedPairs, StoredPairs

ARMS = ("photographs", "pairs", "both", "aligned")
DEGREES = [5.0, 10.0, 20.0]
INPUT = InputSpec(width=480, height=352, multiple=32, turn=True)  # measured at


def options_of(args: argparse.Namespace, arm: str) -> DecoderOptions:
    loop = LoopOptions(
        steps=args.steps, learning_rate=1.5e-3, warmup_steps=30, ema=0.99, seed=args.seed,
        difficulty=(0.5, 0.9), ramp=0.3, validate_s=1e9, rates={"encoder.xfeat": 0.0},
    )  # fmt: skip
    width, height = args.size
    size = SizeShare(width, height, args.batch, 1.0)
    options = DecoderOptions(model="lite2", sizes=(size,), validation=(), loop=loop)
    return with_head(options) if arm == "aligned" else options


def network_of(options: DecoderOptions, align: Path | None) -> nn.Module:
    torch.manual_seed(options.loop.seed)
    network = build(options.model, **options.network)
    load_xfeat(network.encoder.xfeat, None)
    if options.network:
        assert align is not None
        load_head(align, network.get_submodule(HEAD), network.eyes)
    return network


def trained(args: argparse.Namespace, arm: str, folder: Path) -> nn.Module:
    options = options_of(args, arm)
    kept, held_out = split(find_photographs(args.photographs))
    photographs = PhotographPairs(kept, args.seed)
    stored = StoredPairs(args.pairs, args.seed)
    makers: dict[str, PairMaker] = {"photographs": photographs, "pairs": stored}
    both = MixedPairs([photographs, stored], [0.5, 0.5], args.seed)
    network = network_of(options, args.align)
    train_decoder(
        options, network, makers.get(arm, both), PhotographPairs(held_out, args.seed + 999), folder
    )
    load_weights(network, mean_weights(folder), str(folder))
    return network.eval()


def measured(args: argparse.Namespace, network: nn.Module) -> dict[str, list[float]]:
    """AUC of every scene and their mean; pixels of the warp off the truth where that is known."""
    card = ModelCard(name="trained", architecture="lite2", input=INPUT)
    matcher = NetworkMatcher(card, TorchBackend(network, "cpu"))
    figures, off = {}, []
    for scene in find_scenes(args.scenes):
        if scene.kind != "pose":
            continue
        scene = replace(scene, pairs=scene.pairs[:: args.every])
        results = list(Bench(scene, matcher, BenchmarkOptions()).results())
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
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, action="append", required=True)
    parser.add_argument("--align", type=Path)
    parser.add_argument("--scenes", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", action="append", choices=ARMS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 128))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--every", type=int, default=3, help="pair of each scene (3)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    for arm in args.arm or ARMS:
        folder = args.out / f"{arm}-{args.seed}"
        path = folder / "figures.json"
        if not path.is_file():
            network = trained(args, arm, folder)
            path.write_text(json.dumps(measured(args, network), indent=1))
        for name, values in json.loads(path.read_text()).items():
            print(f"{arm:<12} {name:<24} {' / '.join(f'{value:.1f}' for value in values)}")


if __name__ == "__main__":
    main()
