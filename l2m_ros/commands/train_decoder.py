"""`l2m train decoder`: the matching stage, from lifted photographs, stored pairs, or both."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from l2m_ros.commands.train_input import (
    check_device,
    config_folder,
    loop_settings,
    settings_of,
    unpacked,
)
from l2m_ros.commands.train_pairs import training_pairs
from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from l2m_ros.engines.model_card import InputSpec, ModelCard
    from l2m_ros.workshop.training.decoder import DecoderOptions
    from l2m_ros.workshop.training.loop import Validate

SCENE_PAIRS = 8  # of each real scene, at every validation: half a minute on two cores


def run_decoder(args: argparse.Namespace) -> int:
    from l2m_ros.workshop.training.carry import NAME, check_carry, write_carry
    from l2m_ros.workshop.training.decoder import train_decoder

    options = _options(args)
    check_device(options.loop.device)
    folder = args.out or Path("runs") / options.model
    # What can be refused at once, before photographs are checked and worlds rendered.
    scenes = _scenes(args.scenes, options.model)
    network = _network(options, args.xfeat, args.align, begins=args.carry is None)
    if args.carry is not None:
        check_carry(args.carry)
    pairs, held_out = training_pairs(unpacked(args.photographs, folder), args, options)
    leads = train_decoder(options, network, pairs, held_out, folder, scenes, args.carry)
    if leads:
        write_carry(folder, folder / NAME)
        write_model(folder, options, folder / "model")
        print(folder / "model")
    return 0


def _options(args: argparse.Namespace) -> DecoderOptions:
    """The config file's, with what the command line says instead."""
    from l2m_ros.workshop.training.decoder import options_from

    settings = settings_of(args.config or config_folder() / f"{args.model}.yaml")
    options = options_from({**settings, "loop": loop_settings(args, settings)})
    if args.align is not None:
        options = with_head(options)
    return replace(options, start=args.start or options.start)


def with_head(options: DecoderOptions) -> DecoderOptions:
    """The network has the head of `l2m train align`, which stays as it came."""
    from l2m_ros.networks.lite.aligned import ALIGNED, HEAD

    if options.model != "lite":
        raise InvalidInput(f"--align goes with --model lite, not with {options.model}")
    loop = replace(options.loop, rates={f"{HEAD}.": 0.0, **options.loop.rates})
    return replace(options, network={"aligned": ALIGNED, **options.network}, loop=loop)


def write_model(run_folder: Path, options: DecoderOptions, out: Path) -> ModelCard:
    """The mean weights of a run as a model: weights, card, and the graphs of `lite`."""
    from l2m_ros.commands.train_output import fill, write_trained
    from l2m_ros.engines.model_card import ModelCard
    from l2m_ros.networks.registry import build

    network = build(options.model, **options.network)
    fill(network, run_folder)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = ModelCard(
        name=options.model, architecture=options.model, input=_input_of(options.model),
        config=options.network, parameters=parameters, folder=out,
    )  # fmt: skip
    # The graphs of the others take minutes and gigabytes: `l2m export` does them.
    return write_trained(network, card, graphs=options.model == "lite")


def _input_of(model: str) -> InputSpec:
    from l2m_ros.engines.model_card import InputSpec

    if model == "lite":
        return InputSpec(width=640, height=480, multiple=32, turn=True)
    return InputSpec(width=560, height=560, multiple=14)


def _network(
    options: DecoderOptions, xfeat: Path | None, align: Path | None, begins: bool
) -> nn.Module:
    """The network to train; `lite` begins with eyes that see: those of the `lite` that ships.

    xfeat: a file of other eyes. align: the head to join, unless what it starts from has one.
    """
    import torch

    from l2m_ros.matching.catalogue import find_card
    from l2m_ros.networks.lite.aligned import HEAD, head_names
    from l2m_ros.networks.lite.files import load_eyes, load_head
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.decoder import begin_with

    torch.manual_seed(options.loop.seed)
    network = build(options.model, **options.network)
    if options.model == "lite" and begins and options.start is None:
        load_eyes(network.eyes, xfeat or find_card("lite").file("weights"))
    lacks_head = True
    if options.start is not None:
        names = head_names(network) if align is not None else ()
        lacks_head = begin_with(network, options.start, names)
    if align is not None and begins and lacks_head:
        load_head(align, network.get_submodule(HEAD), network.eyes)
    return network


def _scenes(folder: Path | None, architecture: str) -> Validate | None:
    """AUC@10 degrees over some pairs of every scene, as `l2m evaluate` has it."""
    if folder is None:
        return None
    from l2m_ros.engines.model_card import ModelCard
    from l2m_ros.engines.torch import TorchBackend
    from l2m_ros.matching.network_matcher import NetworkMatcher
    from l2m_ros.workshop.evaluation.benchmark import Bench, BenchmarkOptions
    from l2m_ros.workshop.evaluation.metrics import auc_percent
    from l2m_ros.workshop.evaluation.scenes import find_scenes

    scenes = [scene for scene in find_scenes([folder]) if scene.kind == "pose"]

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device.type
        card = ModelCard(name="trained", architecture=architecture, input=_input_of(architecture))
        matcher = NetworkMatcher(card, TorchBackend(model, device))
        # Of the network alone.
        options = BenchmarkOptions(limit=SCENE_PAIRS, subpixel=False, second_look="never")
        figures = {}
        for scene in scenes:
            errors = [result.error for result in Bench(scene, matcher, options).results()]
            figures[f"auc10_{scene.name}"] = auc_percent(errors, [10.0])[0]
        return {**figures, "auc10_mean": sum(figures.values()) / max(len(figures), 1)}

    return validate
