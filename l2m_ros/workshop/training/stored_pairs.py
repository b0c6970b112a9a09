"""Pairs from shards on disk (`l2m lift`, `l2m splat pairs`), and mixtures of several sources."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.lifting.motion import Cameras
from l2m_ros.workshop.lifting.pairs import Pair
from l2m_ros.workshop.lifting.shards import Sample, pixels, sample_from
from l2m_ros.workshop.training.data import PairMaker, stretched


@dataclass(frozen=True)
class _Stored:
    """Where one sample lies: members by name as (offset, length)."""

    path: Path
    key: str
    members: dict[str, tuple[int, int]]


class StoredPairs:
    """Every pair once a round, in an order of the round's own; difficulty is as it was stored."""

    def __init__(self, folders: Sequence[Path], seed: int = 0) -> None:
        self.seed = seed
        self._stored = [stored for folder in folders for stored in _found(folder)]

    def __len__(self) -> int:
        return len(self._stored)

    def pair(self, index: int, *, width: int, height: int, difficulty: float = 1.0) -> Pair:
        rounds, at = divmod(index, len(self._stored))
        rng = np.random.default_rng((self.seed, 4, rounds))
        chosen = int(rng.permutation(len(self._stored))[at])
        coin = np.random.default_rng((self.seed, 5, index))
        sample = _read(self._stored[chosen])
        pair = pair_of_sample(sample, int(coin.integers(len(sample.meta["views"]) - 1)))
        pair = pair.swapped() if coin.random() < 0.5 else pair
        return stretched(pair, width, height)


class MixedPairs:
    """Pairs drawn from several makers, each with its share."""

    def __init__(self, makers: Sequence[PairMaker], shares: Sequence[float], seed: int = 0) -> None:
        total = float(sum(shares))
        if len(makers) != len(shares) or min(shares) < 0 or not total > 0:
            raise InvalidInput(f"shares must be one for each source and positive, got {shares}")
        self.makers, self.seed = list(makers), seed
        self._shares = np.array(shares) / total

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair:
        rng = np.random.default_rng((self.seed, 6, index))
        maker = self.makers[int(rng.choice(len(self.makers), p=self._shares))]
        return maker.pair(index, width=width, height=height, difficulty=difficulty)


def pair_of_sample(sample: Sample, first: int = 0) -> Pair:
    """View `first` and its neighbour, with the labels between them."""
    a, b = first, first + 1
    arrays, ab, ba = sample.arrays, f"{a}_{b}", f"{b}_{a}"
    cameras = None
    if sample.meta["kind"] == "scene":
        (K_a, T_a), (K_b, T_b) = (
            (np.array(view["K"]), np.array(view["view_from_photograph"]))
            for view in (sample.meta["views"][a], sample.meta["views"][b])
        )
        overlap = float(np.sqrt(arrays[f"visible_{ab}"].mean() * arrays[f"visible_{ba}"].mean()))
        cameras = Cameras(K_a, K_b, T_a, T_b, overlap)
    return Pair(
        sample.images[f"view{a}"], sample.images[f"view{b}"],
        pixels(arrays[f"warp_{ab}"]), arrays[f"visible_{ab}"], arrays[f"unknown_{ab}"],
        pixels(arrays[f"warp_{ba}"]), arrays[f"visible_{ba}"], arrays[f"unknown_{ba}"],
        float(np.sqrt(arrays[f"visible_{ab}"].mean() * arrays[f"visible_{ba}"].mean())),
        cameras, None, arrays.get(f"depth_{a}"), arrays.get(f"depth_{b}"),
    )  # fmt: skip


def _found(folder: Path) -> list[_Stored]:
    """Every sample of a folder of shards, without reading the samples."""
    paths = sorted(folder.glob("shard-*.tar"))
    if not paths:
        raise InvalidInput(
            f"{folder}: holds no shards: write some with `l2m lift` or `l2m splat pairs`"
        )
    found = []
    for path in paths:
        members: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, name = member.name.partition(".")
                    members.setdefault(key, {})[name] = member.offset_data, member.size
        except tarfile.TarError as error:
            raise InvalidInput(f"{path}: is not a whole shard: {error}") from error
        found += [_Stored(path, key, parts) for key, parts in members.items()]
    return found


def _read(stored: _Stored) -> Sample:
    parts = {}
    with stored.path.open("rb") as file:
        for name, (offset, length) in stored.members.items():
            if not name.startswith("photo"):  # the photograph itself is in no pair
                file.seek(offset)
                parts[name] = file.read(length)
    return sample_from(stored.key, parts, str(stored.path))
