"""`l2m train metric`: metres, learnt from pairs of images and relative poses.

    l2m train metric --minutes 2                     a head on `lite`, on rendered worlds
    l2m train metric --camera-height 0.45 --steps 6500   for one robot's camera
    l2m train metric --sequences DIR --minutes 60    posed recordings, rendered worlds beside them
    l2m train metric --config config/train/metric_compact.yaml    a network of its own

DIR holds folders with images/ and meta.json (world_from_camera in metres, K), or bags: with the
camera's true pose on /ground_truth/pose or /truth, else with odometry.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from l2m_ros.commands.train_input import say
from l2m_ros.commands.train_metric_head import BEFORE_PAIRS, TRIAL_MINUTES, run_metric_head
from l2m_ros.commands.train_output import learnt_words
from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from l2m_ros.engines.model_card import ModelCard
    from l2m_ros.workshop.training.metric import MetricOptions
    from l2m_ros.workshop.training.metric_data import Group
    from l2m_ros.workshop.training.metric_pairs import MetricPairs

HELD_OUT_SEED = 900  # of the worlds that are never trained on
HELD_OUT_WORLDS = 3
TRIAL_WORLDS = 3  # where a run is too short to be worth more


def run_metric(args: argparse.Namespace, config: Path | None) -> int:
    import torch

    from l2m_ros.networks.checkpoint import load_files
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.curves import read
    from l2m_ros.workshop.training.metric import train_metric
    from l2m_ros.workshop.training.metric_errors import MetricValidation

    options = _options(args, config)
    folder = args.out or Path("runs/metric")
    if options.on_lite:
        return run_metric_head(args, options, folder)
    pairs, held_out = metric_pairs(options, args.sequences)
    torch.manual_seed(options.loop.seed)
    network = build("mickey", **options.network)
    if args.start is not None:
        load_files(network, [args.start])
    before = MetricValidation(held_out, BEFORE_PAIRS)(network)["depth_error_percent"]
    if train_metric(options, network, pairs, held_out, folder):
        write_metric_model(folder, options, folder / "model")
        after = read(folder / "validation.csv")[-1]
        say(learnt_words(after, before, fresh=args.start is None))
        print(folder / "model")
    return 0


def _options(args: argparse.Namespace, config: Path | None) -> MetricOptions:
    """The config file's, with what the command line says instead."""
    from l2m_ros.commands.train_input import config_folder, loop_settings, settings_of
    from l2m_ros.workshop.training.metric import options_from

    settings = settings_of(config or config_folder() / "metric.yaml")
    options = options_from({**settings, "loop": loop_settings(args, settings)})
    options = _mounted(args, options)
    minutes = options.loop.minutes
    if not options.on_lite and minutes is not None and minutes <= TRIAL_MINUTES:
        few = min(TRIAL_WORLDS, options.worlds.worlds)
        options = replace(options, worlds=replace(options.worlds, worlds=few))
    return options


def _mounted(args: argparse.Namespace, options: MetricOptions) -> MetricOptions:
    """With the robot's camera that the command line names."""
    from l2m_ros.workshop.training.posed_views import PlaceOptions

    given = {"height_m": args.camera_height, "pitch_deg": args.camera_pitch}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not options.on_lite:
        raise InvalidInput(
            "--camera-height and --camera-pitch are for the head on lite: this config's network "
            "learns from worlds that are seen from paths"
        )
    worlds = replace(options.worlds, **given)
    if args.camera_pitch is not None and worlds.height_m is None:
        raise InvalidInput("--camera-pitch is of a camera whose --camera-height is known")
    PlaceOptions(height_m=worlds.height_m, pitch_deg=worlds.pitch_deg)  # refuses what cannot be
    return replace(options, worlds=worlds)


def metric_pairs(options: MetricOptions, sequences: Path | None) -> tuple[MetricPairs, MetricPairs]:
    """Pairs to train on, and pairs of rendered worlds that are never trained on."""
    from l2m_ros.progress import track
    from l2m_ros.workshop.training.metric_data import WorldOptions, frames_of_worlds
    from l2m_ros.workshop.training.metric_pairs import MetricPairs
    from l2m_ros.workshop.training.posed_recordings import frames_of_sequences

    def rendered(worlds: WorldOptions, what: str) -> list[Group]:
        return list(track(frames_of_worlds(worlds, options.size), what, total=worlds.worlds))

    groups: list[Group] = []
    held_out: list[Group] = []
    if sequences is not None:
        groups += frames_of_sequences(sequences, options.size, say)
        every = options.held_out_every
        held_out = groups[::every] if every else []
        groups = [group for k, group in enumerate(groups) if not every or k % every]
    groups += rendered(options.worlds, "rendering worlds")
    if not held_out:
        count = min(HELD_OUT_WORLDS, max(options.worlds.worlds, 1))
        first = max(HELD_OUT_SEED, options.worlds.first_seed + options.worlds.worlds)
        unseen = replace(options.worlds, worlds=count, first_seed=first)
        held_out = rendered(unseen, "rendering unseen worlds")
    seed = options.loop.seed
    return (
        MetricPairs(groups, seed, options.limits),
        MetricPairs(held_out, seed + 999, options.limits),
    )


def write_metric_model(run_folder: Path, options: MetricOptions, out: Path) -> ModelCard:
    """The mean weights of a run as a model: weights, card and graphs."""
    from l2m_ros.commands.train_output import fill, write_trained
    from l2m_ros.engines.model_card import InputSpec, ModelCard
    from l2m_ros.networks.registry import build

    network = build("mickey", **options.network)
    fill(network, run_folder)
    card = ModelCard(
        name="metric", architecture="mickey", config=options.network, folder=out,
        input=InputSpec(options.width, options.height, multiple=32),
        depth=depth_sigmas(run_folder), trained_on="see the run's log",
    )  # fmt: skip
    return write_trained(network, card)


def depth_sigmas(run_folder: Path) -> dict[str, float]:
    """What the matcher states of its depths: as measured on unseen worlds."""
    from l2m_ros.workshop.training.curves import read

    rows = read(run_folder / "validation.csv")
    if not rows or "place_sigma" not in rows[-1]:
        raise InvalidInput(f"{run_folder}/validation.csv states no place_sigma: train first")
    return {
        "scale_sigma": max(rows[-1]["place_sigma"], 0.01),
        "image_sigma": max(rows[-1]["image_sigma"], 0.01),
        "depth_sigma": max(rows[-1]["depth_sigma"], 0.01),
    }
