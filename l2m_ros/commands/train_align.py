"""`l2m train align`: patches of a matcher's eyes meet the Gaussians that they see (MatchGS).

    l2m train align --pairs A.ply --pairs B.ply --measure C.ply --minutes 10

Scenes are those of `l2m splat build`. The run's folder (--out) gets head.safetensors, which
`l2m train decoder --align` takes, and model/: the matcher with the head joined to its coarse
descriptors. --measure names a scene that is only measured on; without it new views of the same
scenes are measured on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from l2m_ros.engines.model_card import ModelCard
    from l2m_ros.workshop.training.alignment_data import AlignOptions, SeenScenes

FILE = "head.safetensors"
UNSEEN_SEED = 999  # added: of pairs that are measured on


def run_align(args: argparse.Namespace) -> int:
    import torch

    from l2m_ros.commands.train_input import check_device, say
    from l2m_ros.networks.lite.aligned import EYES
    from l2m_ros.workshop.training.alignment import Alignment, train_alignment

    options = align_options(args, args.config)
    paths = scenes_of(args.pairs, "--pairs")
    measured = scenes_of([args.measure], "--measure") if args.measure else paths
    if not args.measure:
        say("no --measure SCENE.ply: new views of the scenes that are trained on are measured")
    check_device(options.loop.device)
    card, network = matcher_of(args.model)
    folder, seed = args.out or Path("runs/align"), options.loop.seed
    torch.manual_seed(seed)
    model = Alignment(EYES, options.points)
    scenes = seen_scenes(paths, network, options, seed)
    held_out = seen_scenes(measured, network, options, seed + UNSEEN_SEED)
    if train_alignment(options, model, scenes, held_out, folder):
        network.cpu()
        write_aligned(folder, model.cpu(), network, card, [path.name for path in paths])
        print(folder / "model")
    return 0


def seen_scenes(
    paths: list[Path],
    network: Any,
    options: AlignOptions,
    seed: int,
) -> SeenScenes:
    """Views of the scenes, rendered now, on the loop's device."""
    from l2m_ros.workshop.gaussians.bank import SceneTable, view_bank
    from l2m_ros.workshop.gaussians.ply import read_ply
    from l2m_ros.workshop.training.alignment_data import SeenScenes
    from l2m_ros.workshop.training.processes import local_device

    device = local_device(options.loop.device)
    bank = view_bank(paths, options.bank(seed))
    table = SceneTable.of([read_ply(path) for path in paths])
    eyes = eyes_of(network.to(device))
    return SeenScenes(bank.to(device), table.to(device), eyes, options.voxel_patches)


def scenes_of(paths: list[Path], argument: str) -> list[Path]:
    """Scenes of Gaussians; alignment learns from nothing else."""
    wrong = [path for path in paths if path.suffix != ".ply" or not path.is_file()]
    if wrong or not paths:
        raise InvalidInput(
            f"{argument} {wrong[0] if wrong else 'is missing'}: alignment takes scenes of "
            "Gaussians: build one with `l2m splat build SOURCE --out SCENE.ply`"
        )
    return paths


def align_options(args: argparse.Namespace, config: Path | None) -> AlignOptions:
    """The config file's, with what the command line says instead."""
    from l2m_ros.commands.train_input import config_folder, loop_settings, settings_of
    from l2m_ros.workshop.gaussians.point_encoder import PointConfig
    from l2m_ros.workshop.training.alignment_data import AlignOptions
    from l2m_ros.workshop.training.decoder import filled
    from l2m_ros.workshop.training.loop import LoopOptions

    settings = dict(settings_of(config or config_folder() / "align.yaml"))
    loop = loop_settings(args, settings)
    settings.pop("loop", None)
    points = filled(PointConfig, settings.pop("points", {}), "points")
    made: AlignOptions = filled(AlignOptions, settings, "the config")
    return replace(made, points=points, loop=filled(LoopOptions, loop, "loop"))


def matcher_of(name: str) -> tuple[ModelCard, Any]:
    """A matcher with frozen eyes: its card and network."""
    from l2m_ros.matching.catalogue import find_card
    from l2m_ros.networks.checkpoint import load_files
    from l2m_ros.networks.registry import build

    card = find_card(name)
    if card.architecture != "lite":
        raise InvalidInput(
            f"model {name} is a {card.architecture}: alignment reads the frozen eyes of lite"
        )
    network = build(card.architecture, **card.config)
    load_files(network, [card.file("weights")])
    return card, network.eval().requires_grad_(False)


def eyes_of(network: Any) -> Any:
    """Images (B, 3, H, W) in [0, 1] -> what the network's frozen eyes see at 1/16."""
    from l2m_ros.networks.lite.network import below_of
    from l2m_ros.networks.shared.xfeat import standardised_grey

    return lambda images: below_of(network.encoder.xfeat.seen(standardised_grey(images)))


def write_aligned(
    folder: Path, model: nn.Module, network: Any, card: ModelCard, scenes: list[str]
) -> ModelCard:
    """The mean weights: the head alone, and the matcher that it joins, as a model."""
    from l2m_ros.networks.lite.files import save_head
    from l2m_ros.workshop.training.checkpoint import load_weights
    from l2m_ros.workshop.training.decoder import mean_weights

    load_weights(model, mean_weights(folder), str(folder))
    head: nn.Module = model.head
    save_head(folder / FILE, head, network.eyes, {"scenes": ", ".join(scenes)})
    return write_joined(folder / "model", head, network, card, scenes)


def write_joined(
    out: Path, head: nn.Module, network: Any, card: ModelCard, scenes: list[str]
) -> ModelCard:
    """The matcher with the head in its coarse descriptors: weights, card and graphs."""
    from l2m_ros.engines.model_card import ModelCard, ModelFile, sha256_of, write_card
    from l2m_ros.export.stages import CARD, ExportOptions, export_model
    from l2m_ros.networks.checkpoint import save_tensors
    from l2m_ros.networks.lite.files import joined
    from l2m_ros.networks.registry import build

    config: Mapping[str, Any] = {**card.config, "aligned": head.learnt.out_channels}
    whole = joined(build(card.architecture, **config), network, head)
    made = ModelCard(
        name=f"{card.name}_aligned", architecture=card.architecture, input=card.input,
        config=config, folder=out, licence=card.licence,
        source=f"{card.name}, joined with a head of `l2m train align`",
        trained_on=f"{card.trained_on} The head: views of {', '.join(scenes)}.",
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(out / f"{made.name}.safetensors", whole.state_dict())
    made = export_model(whole, made, ExportOptions(out, card.input.height, card.input.width))
    path = out / f"{made.name}.safetensors"
    made = replace(made, files={**made.files, "weights": ModelFile(path.name, sha256_of(path))})
    write_card(made, out / CARD)
    return made
