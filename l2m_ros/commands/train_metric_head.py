"""`l2m train metric` with its default network: a head on the frozen `lite`.

Worlds are drafted, or --sequences and --pairs name folders of posed images. What `lite` sees in
them and how it matches them is kept in the run's folder.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l2m_ros.commands.train_input import say
from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from l2m_ros.matching.network_matcher import NetworkMatcher
    from l2m_ros.workshop.training.metric import MetricOptions
    from l2m_ros.workshop.training.metric_data import Group
    from l2m_ros.workshop.training.seen_pairs import SeenPairs

HELD_OUT_EVERY = 8  # worlds
TRIAL_WORLDS = 24  # of 8, a head errs by 130 % on others after two minutes; of 24 by 30 %
TRIAL_MINUTES = 5.0
RECOLOURED = 0.6  # of the rendered images: another exposure, white balance, blur, noise
BEFORE_PAIRS = 8  # that the untrained network is measured on


def run_metric_head(args: argparse.Namespace, options: MetricOptions, folder: Path) -> int:
    import torch

    from l2m_ros.commands.train_output import learnt_words
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.matching.network_matcher import NetworkMatcher
    from l2m_ros.networks.checkpoint import load_files
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.curves import read
    from l2m_ros.workshop.training.metric_head import HeadPairValidation, samples_of, train_on_bank
    from l2m_ros.workshop.training.pair_bank import TRAINED_MATCHES, PairBank

    matcher = load_matcher("lite", size=options.size)
    assert isinstance(matcher, NetworkMatcher)
    seen, unseen = seen_and_unseen(args, options, matcher, folder)
    bank = PairBank.of(seen, options.limits, TRAINED_MATCHES)
    held_out = PairBank.of(unseen, options.limits)
    say(f"{len(bank)} pairs of {len(bank.K)} images to learn from, {len(held_out)} pairs not")
    torch.manual_seed(options.loop.seed)
    network = build("lite_depth", **head_network(options))
    if args.start is not None:
        load_files(network, [args.start])
    before = HeadPairValidation(held_out, BEFORE_PAIRS, options.size)(network)
    if train_on_bank(options, network, bank, held_out, folder, fresh=args.start is None):
        write_metric_head(args, options, matcher, samples_of(held_out), folder, len(seen))
        after = read(folder / "validation.csv")[-1]
        error = before["depth_error_percent"]
        say(learnt_words(after, error, fresh=args.start is None))
        print(folder / "model")
    return 0


def head_network(options: MetricOptions) -> dict[str, int]:
    return {name: value for name, value in options.network.items() if name != "backbone"}


def seen_and_unseen(
    args: argparse.Namespace, options: MetricOptions, matcher: NetworkMatcher, folder: Path
) -> tuple[list[SeenPairs], list[SeenPairs]]:
    """Every eighth rendered world is never trained on, nor every held_out_every-th recording."""
    recorded = list(recorded_pairs(args, options, matcher))
    every = options.held_out_every
    seen = [part for k, part in enumerate(recorded) if not every or k % every]
    unseen = recorded[::every] if every else []
    count = options.worlds.worlds
    if options.loop.minutes is not None and options.loop.minutes <= TRIAL_MINUTES:
        count = min(count, TRIAL_WORLDS)
    if not unseen and count < 2:
        raise InvalidInput(
            "nothing is held out to measure on: set `worlds` to 2 or more in the config, or "
            "`held_out_every`"
        )
    wanted = replace(options, worlds=replace(options.worlds, worlds=count))
    for number, part in rendered_pairs(wanted, matcher, folder):
        (seen if number % HELD_OUT_EVERY else unseen).append(part)
    return seen, unseen


def recorded_pairs(
    args: argparse.Namespace, options: MetricOptions, matcher: NetworkMatcher
) -> Iterator[SeenPairs]:
    """Of --sequences, and of what `l2m simulate` wrote (--pairs)."""
    from l2m_ros.progress import track
    from l2m_ros.workshop.training.posed_recordings import frames_of_sequences
    from l2m_ros.workshop.training.seen_pairs import seen_pairs

    for folder in [*([args.sequences] if args.sequences else []), *args.pairs]:
        groups = frames_of_sequences(folder, options.size, say)
        for number, group in enumerate(track(groups, "matching pairs")):
            ends = _some_ends(group, number, options)
            if len(ends) and len(part := seen_pairs(group, ends, matcher)):
                yield part


def _some_ends(group: Group, number: int, options: MetricOptions) -> np.ndarray:
    """Pairs within the limits, at most `pairs_of_world`."""
    from l2m_ros.workshop.training.metric_pairs import pair_list

    ends = pair_list(group, options.limits)
    allowed = ends.ends[: ends.allowed(1.0)]
    allowed = allowed[allowed[:, 0] < allowed[:, 1]]
    rng = np.random.default_rng((options.loop.seed, 57, number))
    some = rng.permutation(len(allowed))[: options.pairs_of_world]
    return np.asarray(allowed[np.sort(some)])


def rendered_pairs(
    options: MetricOptions, matcher: NetworkMatcher, folder: Path
) -> Iterator[tuple[int, SeenPairs]]:
    """(number, pairs) of each drafted world; kept, so that the same command need not draw again."""
    from l2m_ros.progress import track
    from l2m_ros.workshop.jobs.runners import runner_of
    from l2m_ros.workshop.training.seen_pairs import SeenPairs

    worlds = options.worlds
    size, eyes = matcher.card.input.size, matcher.card.weights_id or ""
    mount = "" if worlds.height_m is None else f"-{worlds.height_m:g}m{worlds.pitch_deg:+g}deg"
    far = "-".join(f"{value:g}" for value in astuple(options.limits))
    kept = folder / "seen" / f"{size[0]}x{size[1]}-{eyes}-seed{worlds.first_seed}{mount}-{far}"
    paths = [kept / f"world{number}.npz" for number in range(worlds.worlds)]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    if missing:
        processes = min(worlds.processes(), len(missing))
        work = functools.partial(_keep, options, kept, matcher if processes == 1 else None)
        rendered = runner_of(None, processes).run(work, missing)
        list(track(rendered, "rendering worlds", len(missing)))
    for number, path in enumerate(paths):
        part = SeenPairs.load(path)
        if len(part):
            yield number, part


def _keep(options: MetricOptions, kept: Path, matcher: NetworkMatcher | None, number: int) -> None:
    """Draws and keeps a world. matcher: None in a process of its own, with one thread."""
    import cv2

    from l2m_ros.workshop.training.seen_pairs import seen_pairs

    if matcher is None:
        cv2.setNumThreads(1)
        matcher = _lite(options.size)
    frames, ends = _drafted(options.worlds.first_seed + number, options)
    seen_pairs(frames, ends, matcher).save(kept / f"world{number}.npz")


@functools.cache
def _lite(size: tuple[int, int]) -> NetworkMatcher:
    """Of one process among several: with a thread each they do not wait for one another."""
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.matching.network_matcher import NetworkMatcher

    matcher = load_matcher("lite", size=size, threads=1)
    assert isinstance(matcher, NetworkMatcher)
    return matcher


def _drafted(seed: int, options: MetricOptions) -> tuple[Group, np.ndarray]:
    """Images of a drafted world, and pairs of those that show the same place."""
    from l2m_ros.types import Camera
    from l2m_ros.workshop.simulation.draft import draft_world
    from l2m_ros.workshop.training.depth_data import recoloured
    from l2m_ros.workshop.training.metric_data import PosedFrame, resized
    from l2m_ros.workshop.training.metric_pairs import pair_list
    from l2m_ros.workshop.training.posed_views import PlaceOptions, places_of_world

    drawn = (4 * options.width // 5, 4 * options.height // 5)
    rng = np.random.default_rng([seed, 79])
    frames: list[PosedFrame] = []
    places: list[int] = []
    mounted = PlaceOptions(height_m=options.worlds.height_m, pitch_deg=options.worlds.pitch_deg)
    for view in places_of_world(draft_world(seed), seed, mounted, drawn):
        rgb = recoloured(view.image.rgb, rng) if rng.random() < RECOLOURED else view.image.rgb
        camera = Camera(*drawn, view.image.K)
        frame = PosedFrame(rgb, camera, view.world_from_camera, view.image.depth)
        frames.append(resized(frame, options.size))
        places.append(view.place)
    ends = []
    for place in sorted(set(places)):
        own = np.flatnonzero(np.array(places) == place)
        found = pair_list([frames[k] for k in own], options.limits).ends
        ends.append(own[found[found[:, 0] < found[:, 1]]])
    return frames, np.concatenate(ends) if ends else np.zeros((0, 2), int)


def write_metric_head(
    args: argparse.Namespace,
    options: MetricOptions,
    matcher: NetworkMatcher,
    unseen: object,
    folder: Path,
    worlds: int,
) -> None:
    """A model that `mono_depth` takes, as `l2m train depth` writes it."""
    from l2m_ros.commands.train_depth import recorded_samples, write_head
    from l2m_ros.workshop.training.depth_data import Samples
    from l2m_ros.workshop.training.depth_head import HeadOptions
    from l2m_ros.workshop.training.metric_head import SHIFT_SIGMA_M

    assert isinstance(unseen, Samples)
    head = HeadOptions(
        network=head_network(options), width=options.width, height=options.height,
        loop=options.loop,
    )  # fmt: skip
    measured = recorded_samples(args.measure, head, matcher, crops=0)
    source = f"relative poses of pairs of images in {worlds} worlds and recordings"
    if args.sequences is not None:
        source += f", {args.sequences} among them, whose licence holds for the weights too"
    measured = (unseen, unseen, *measured)
    known = {"shift_sigma_m": SHIFT_SIGMA_M}
    if options.worlds.height_m is not None:
        known["camera_height_m"] = options.worlds.height_m
    write_head(folder, head, matcher.card, measured, source, known)
