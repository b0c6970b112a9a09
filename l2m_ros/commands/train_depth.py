"""`l2m train depth`: metres for a matcher's encoder, learnt from images with depth.

    l2m train depth --minutes 10                     rendered worlds
    l2m train depth --sequences DIR --minutes 10     RGB-D recordings beside them

The encoder of `lite` stays as it is. DIR is a recording (images/, depth/, meta.json), or holds
some; --measure names recordings of other places, on which the card's sigmas are measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from l2m_ros.engines.model_card import ModelCard
    from l2m_ros.matching.network_matcher import NetworkMatcher
    from l2m_ros.workshop.training.data import Schedule
    from l2m_ros.workshop.training.depth_data import Pictures, Samples
    from l2m_ros.workshop.training.depth_head import HeadOptions

NAME = "lite_depth"
HELD_OUT_EVERY = 8  # worlds
TRIAL_WORLDS = 8
TRIAL_MINUTES = 2.0


def run_depth(args: argparse.Namespace, config: Path | None) -> int:
    import torch

    from l2m_ros.commands.train_input import say
    from l2m_ros.networks.checkpoint import load_files
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.depth_head import train_head

    options = head_options(args, config)
    folder = args.out or Path("runs/depth")
    torch.manual_seed(options.loop.seed)
    network = build(NAME, **options.network)
    if args.start is not None:
        load_files(network, [args.start])
    if args.measure is not None:  # said now, not after the training
        recordings_with_depth(args.measure)
    anew = options.loop.device.startswith("cuda") if options.anew is None else options.anew
    if args.photographs is not None and not anew:
        raise InvalidInput(
            "--photographs are used where each step cuts its images anew: set `anew: true` in "
            "the config, or use --device cuda"
        )
    made = anew_run(args, options) if anew else kept_run(args, options, folder)
    parts = (made.batches, made.some, made.unseen)
    if train_head(options, network, *parts, folder, fresh=args.start is None):
        measured = made.measured()
        if not measured:
            say("no --measure: the card's sigmas are those of rendered worlds that the head, or "
                "one of its members, never saw")  # fmt: skip
        source = f"{made.worlds} rendered worlds of this package's simulator"
        if args.sequences is not None:
            source += f"; recordings of {args.sequences}, whose licence holds for the weights too"
        write_head(folder, options, made.encoder, (made.some, made.unseen, *measured), source)
        print(folder / "model")
    return 0


@dataclass(frozen=True)
class DepthRun:
    """What a training of the head reads, on whatever device."""

    batches: Schedule
    some: Samples  # of the worlds, for the features' mean and for what the card states
    unseen: Samples
    measured: Callable[[], list[Samples]]
    worlds: int
    encoder: ModelCard


def kept_run(args: argparse.Namespace, options: HeadOptions, folder: Path) -> DepthRun:
    """What the eyes see is computed once: on a CPU they would take most of each step."""
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.matching.network_matcher import NetworkMatcher
    from l2m_ros.workshop.training.depth_data import merged
    from l2m_ros.workshop.training.depth_head import HeadBatches, shares_of

    matcher = load_matcher("lite", size=(options.width, options.height))
    assert isinstance(matcher, NetworkMatcher)
    recorded = recorded_samples(args.sequences, options, matcher, crops=options.crops)
    worlds = [*simulated(args.pairs, options, matcher), *rendered_samples(options, matcher, folder)]
    if len(worlds) < HELD_OUT_EVERY:
        raise InvalidInput(
            f"{len(worlds)} worlds are too few: {HELD_OUT_EVERY} or more are needed (`worlds` of "
            "the config, or --pairs)"
        )
    unseen = merged(worlds[::HELD_OUT_EVERY])
    seen = merged([w for k, w in enumerate(worlds) if k % HELD_OUT_EVERY])
    batches = HeadBatches([seen, *recorded], shares_of(True, len(recorded), options), options)
    return DepthRun(
        batches, merged([seen, unseen]), unseen,
        lambda: recorded_samples(args.measure, options, matcher, crops=0),
        len(worlds), matcher.card,
    )  # fmt: skip


def anew_run(args: argparse.Namespace, options: HeadOptions) -> DepthRun:
    """Images lie on the device; each step cuts and colours them anew and looks at them."""
    from l2m_ros.commands.train_input import say
    from l2m_ros.matching.catalogue import find_card
    from l2m_ros.networks.checkpoint import load_files
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.lifting.photographs import find_photographs, read_photograph
    from l2m_ros.workshop.training.data import usable_photographs
    from l2m_ros.workshop.training.depth_cuts import Stored
    from l2m_ros.workshop.training.depth_device import AnewBatches, Eyes, seen_whole
    from l2m_ros.workshop.training.depth_head import shares_of
    from l2m_ros.workshop.training.depth_sources import (
        Split,
        draft_worlds,
        recorded,
        some_seen,
        stored_size,
    )

    device, size = options.loop.device, (options.width, options.height)
    card = find_card("lite")
    lite = build(card.architecture, **card.config)
    load_files(lite, [card.file("weights")])
    card = replace(card, eyes_id=eyes_id_of(lite))
    eyes = Eyes(lite.eyes).to(device)
    photographs = None
    if args.photographs is not None:  # before minutes of rendering; damaged ones are left out
        found = usable_photographs(find_photographs(args.photographs), say)
        read = (read_photograph(path, max(size)) for path in found)
        photographs = Stored.photographs(read, stored_size(options)).to(device)
    worlds = draft_worlds(options, say)
    for at, folder in enumerate(args.pairs):
        worlds += recorded(recordings_with_depth(folder), options, (at + 2) * 10_000, dealt=True)
    split = Split.of(worlds)
    say(f"{len(worlds)} worlds, {len(split.seen)} images to learn from, {len(split.unseen)} not")
    split = Split(split.seen.to(device), split.unseen.to(device))

    def recordings(folder: Path | None) -> list[Stored]:
        found = [] if folder is None else recordings_with_depth(folder)
        return [s.to(device) for s in recorded(found, options, 10_000, dealt=False)]

    real = recordings(args.sequences)
    batches = AnewBatches(
        [split.seen, *real], shares_of(True, len(real), options), eyes, options, photographs
    )
    return DepthRun(
        batches, some_seen(split, eyes, size), seen_whole(split.unseen, eyes, size),
        lambda: [seen_whole(stored, eyes, size) for stored in recordings(args.measure)],
        len(worlds), card,
    )  # fmt: skip


def eyes_id_of(network: Any) -> str:
    from l2m_ros.networks.checkpoint import weights_id

    return weights_id(network.eyes.state_dict())


def head_options(args: argparse.Namespace, config: Path | None) -> HeadOptions:
    """The config file's, with what the command line says instead."""
    from l2m_ros.commands.train_input import config_folder, loop_settings, settings_of
    from l2m_ros.workshop.training.depth_head import HeadOptions
    from l2m_ros.workshop.training.loop import LoopOptions
    from l2m_ros.workshop.training.metric import filled

    settings = dict(settings_of(config or config_folder() / "depth.yaml"))
    loop = loop_settings(args, settings)
    settings.pop("loop", None)
    options: HeadOptions = filled(HeadOptions, settings, "the config")
    options = replace(options, loop=filled(LoopOptions, loop, "loop"))
    if options.loop.minutes is not None and options.loop.minutes <= TRIAL_MINUTES:
        options = replace(options, worlds=min(options.worlds, TRIAL_WORLDS))
    return options


def rendered_samples(
    options: HeadOptions, matcher: NetworkMatcher, folder: Path
) -> Iterator[Samples]:
    """Of each world; its pictures stay in the run's folder, where the same command finds them."""
    from l2m_ros.progress import track
    from l2m_ros.workshop.simulation.draft import kind_of
    from l2m_ros.workshop.training.depth_data import encoded
    from l2m_ros.workshop.training.depth_sources import family_of, number_of

    for world in track(range(options.worlds), "rendering worlds"):
        family = family_of(options, world, kind_of(number_of(options, world)))
        yield encoded(kept_pictures(options, world, folder), matcher.backend, family)


def simulated(
    folders: Sequence[Path], options: HeadOptions, matcher: NetworkMatcher
) -> Iterator[Samples]:
    """Of worlds that `l2m simulate` wrote."""
    from l2m_ros.workshop.training.depth_sources import family_of

    for at, folder in enumerate(folders):
        found = recorded_samples(folder, options, matcher, options.crops, first=(at + 2) * 10_000)
        for number, samples in enumerate(found):
            dealt = family_of(options, number, None)
            yield replace(samples, family=np.full(len(samples), dealt))


def kept_pictures(options: HeadOptions, world: int, folder: Path) -> Pictures:
    """Of one world, from the run's folder or rendered."""
    from l2m_ros.workshop.simulation.draft import draft_world
    from l2m_ros.workshop.training.depth_data import Pictures, pictures_of
    from l2m_ros.workshop.training.depth_sources import number_of
    from l2m_ros.workshop.training.depth_views import images_of_world

    size, seed = (options.width, options.height), options.loop.seed
    kind = f"{options.width}x{options.height}-{options.views}x{options.crops}-seed{seed}"
    path = folder / "pictures" / kind / f"world{world}.npz"
    if not path.is_file():
        number = number_of(options, world)
        drawn = (4 * size[0] // 5, 4 * size[1] // 5)
        views = images_of_world(draft_world(number), number, options.views, drawn)
        pictures_of(views, world, size, options.crops, seed).save(path)
    return Pictures.load(path)


def recordings_with_depth(folder: Path) -> list[Path]:
    """At or below the folder; refused where there is none."""
    found = sorted(path.parent for path in folder.glob("**/meta.json"))
    with_depth = [path for path in found if (path / "depth").is_dir()]
    if not with_depth:
        raise InvalidInput(f"{folder} holds no recording with meta.json and depth/")
    return with_depth


def recorded_samples(
    folder: Path | None,
    options: HeadOptions,
    matcher: NetworkMatcher,
    crops: int,
    first: int = 10_000,  # number of the first place
) -> list[Samples]:
    """Of each recording at or below the folder."""
    from l2m_ros.workshop.training.depth_data import encoded, images_of_sequence, pictures_of

    if folder is None:
        return []
    size = (options.width, options.height)
    return [
        encoded(
            pictures_of(
                images_of_sequence(path, options.every),
                first + number,
                size,
                crops,
                options.loop.seed,
            ),
            matcher.backend,
        )
        for number, path in enumerate(recordings_with_depth(folder))
    ]


def write_head(
    run_folder: Path,
    options: HeadOptions,
    encoder: ModelCard,
    measured: Sequence[Samples],
    trained_on: str,
    known: Mapping[str, float] | None = None,
) -> ModelCard:
    """The mean weights of a run as a head: weights, card and graph.

    measured: images of all worlds, of those that were held out, of recordings of other places.
    known: what its card says of its depths besides what is measured here.
    """
    from l2m_ros.commands.train_output import fill, write_trained
    from l2m_ros.engines.model_card import InputSpec, ModelCard
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.depth_head import head_errors, left_out_errors, stated

    network = build(NAME, **options.network)
    fill(network, run_folder)
    worlds, *others = measured
    # Worlds that a single member left out say less than those that none saw.
    left_out = left_out_errors(network, worlds) if options.left_out == "families" else None
    errors = [head_errors(network, part) for part in others]
    sigmas = stated(left_out, errors)
    sigmas["place_sigma"] = max(sigmas["place_sigma"], options.place_sigma)
    sigmas.update(known or {})
    spec = replace(encoder.input, width=options.width, height=options.height)
    assert isinstance(spec, InputSpec)
    card = ModelCard(
        name=NAME, architecture=NAME, input=spec, folder=run_folder / "model",
        trained_on=trained_on, depth=sigmas, config=options.network,
        encoder={"model": encoder.name, "eyes_id": encoder.eyes_id or ""},
    )  # fmt: skip
    return write_trained(network, card)
