"""What `l2m train decoder` trains on: photographs, and what --pairs names, each with its share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from l2m_ros.commands.train_input import HELD_OUT_SEED, rendered_images, say, split

if TYPE_CHECKING:
    from l2m_ros.types import ByteArray
    from l2m_ros.workshop.training.data import PairMaker, PhotographPairs, Schedule
    from l2m_ros.workshop.training.decoder import DecoderOptions
    from l2m_ros.workshop.training.device_data import DevicePairs

BANKED_VIEWS = 200  # of every scene of Gaussians, on a GPU
RENDERED_FRAMES = 24  # per world, where no photographs are named
Source = TypeVar("Source")


def training_pairs(
    photographs: Path | None, args: argparse.Namespace, options: DecoderOptions
) -> tuple[PairMaker | Schedule, PhotographPairs]:
    """Pairs to train on and lifted pairs of held-out photographs; on a GPU the first are made
    there, if they can be."""
    from l2m_ros.workshop.training.data import PhotographPairs

    seed, device = options.loop.seed, options.loop.device
    named = Named.of(args.pairs)
    lifted, held_out = _images(photographs, alone=not named)
    measured = PhotographPairs(held_out, seed + 999)
    shares = named.shares(args.pairs_share if lifted else 1.0, args.taught_share)
    on_device = device.startswith("cuda") or options.pairs_on_device
    if on_device and not named.shards:
        return _device_pairs(lifted, named, shares, options), measured
    return _makers(lifted, named, shares, seed), measured


def _images(
    photographs: Path | None, alone: bool
) -> tuple[Sequence[Path] | Sequence[ByteArray], Sequence[Path] | Sequence[ByteArray]]:
    """(to train on, held out). Without photographs: of rendered worlds, to train on only where
    there is nothing else."""
    from l2m_ros.workshop.lifting.photographs import find_photographs
    from l2m_ros.workshop.training.data import usable_photographs

    if photographs is not None:
        return split(usable_photographs(find_photographs(photographs), say))
    held_out = rendered_images(3, HELD_OUT_SEED)
    if not alone:
        return [], held_out
    say("no --photographs: images of rendered worlds are used, good for a trial only")
    return rendered_images(RENDERED_FRAMES, 0), held_out


@dataclass(frozen=True)
class Named:
    """The paths of --pairs by what they hold."""

    scenes: list[Path] = field(default_factory=list)  # of Gaussians
    shards: list[Path] = field(default_factory=list)
    posed: list[Path] = field(default_factory=list)  # images with depth and poses
    taught: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Named:
        from l2m_ros.workshop.training.taught_pairs import LISTING

        named = cls()
        for path in paths:
            if path.suffix == ".ply":
                named.scenes.append(path)
            elif any(path.glob("**/pairs.json")):
                named.posed.append(path)
            elif (path / LISTING).is_file():
                named.taught.append(path)
            else:
                named.shards.append(path)
        return named

    def __bool__(self) -> bool:
        return any((self.scenes, self.shards, self.posed, self.taught))

    def shares(self, of_all: float, taught: float) -> dict[str, float]:
        """Of all pairs: `of_all` in equal parts for every scene of Gaussians, for all shards and
        for all posed images; what a teacher made counts `taught` of those together."""
        parts = {"scenes": len(self.scenes), "shards": bool(self.shards), "posed": bool(self.posed)}
        if self.taught:
            parts["taught"] = taught * max(sum(parts.values()), 1)
        total = sum(parts.values())
        return {name: of_all * part / total for name, part in parts.items() if part}


def _makers(
    images: Sequence[Path] | Sequence[ByteArray],
    named: Named,
    shares: dict[str, float],
    seed: int,
) -> PairMaker:
    """Made one by one, on the CPU."""
    from l2m_ros.workshop.gaussians.pairs import SplatPairs, scene_views
    from l2m_ros.workshop.training.data import PhotographPairs
    from l2m_ros.workshop.training.posed_pairs import PosedPairs
    from l2m_ros.workshop.training.stored_pairs import MixedPairs, StoredPairs
    from l2m_ros.workshop.training.taught_pairs import TaughtPairs

    makers: list[tuple[PairMaker, float]] = []
    if len(images):
        makers.append((PhotographPairs(images, seed), 1.0 - sum(shares.values())))
    for path in named.scenes:
        makers.append((SplatPairs(scene_views(path), seed), shares["scenes"] / len(named.scenes)))
    if named.shards:
        makers.append((StoredPairs(named.shards, seed), shares["shards"]))
    if named.posed:
        makers.append((PosedPairs(named.posed, seed), shares["posed"]))
    if named.taught:
        makers.append((TaughtPairs(named.taught, seed), shares["taught"]))
    if len(makers) == 1:
        return makers[0][0]
    sources, weights = zip(*makers, strict=True)
    return MixedPairs(sources, weights, seed)


def _device_pairs(
    images: Sequence[Path] | Sequence[ByteArray],
    named: Named,
    shares: dict[str, float],
    options: DecoderOptions,
) -> Schedule:
    """Made by torch in batches, where the network is."""
    from l2m_ros.workshop.training.device_data import DeviceBatches, InBlocks, LiftedViews
    from l2m_ros.workshop.training.device_posed import PosedViews
    from l2m_ros.workshop.training.device_taught import TaughtViews

    device, block = options.loop.device, options.steps_a_draw
    sources: dict[DevicePairs, float] = {}
    if named.scenes:
        sources[_banked(named.scenes, options)] = shares["scenes"]
    if len(images):
        sources[LiftedViews(images, device)] = 1.0 - sum(shares.values())
    if named.posed:
        sources[PosedViews.read(named.posed, device)] = shares["posed"]
    if named.taught:
        sources[TaughtViews(named.taught, device)] = shares["taught"]
    sizes = tuple(replace(size, batch=block * size.batch) for size in options.sizes)
    drawn = DeviceBatches(sources, sizes, options.loop.seed, options.both_ways, device)
    return InBlocks(drawn, block)


def _banked(scenes: Sequence[Path], options: DecoderOptions) -> DevicePairs:
    """Views of scenes of Gaussians, rendered now, as large as the largest pairs."""
    from l2m_ros.workshop.gaussians.bank import BankOptions, view_bank
    from l2m_ros.workshop.training.device_bank import BankViews

    made = [(s.made_width or s.width, s.made_height or s.height) for s in options.sizes]
    width, height = max(made, key=lambda size: size[0] * size[1])
    how = BankOptions(
        BANKED_VIEWS, width, height, options.loop.difficulty[1], seed=options.loop.seed
    )
    return BankViews(view_bank(scenes, how).to(options.loop.device))
