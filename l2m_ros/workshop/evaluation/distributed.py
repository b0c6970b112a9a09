"""Evaluation in pieces: one matcher on one scene each, on any runner; finished pieces are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from l2m_ros import __version__
from l2m_ros.matching.catalogue import NO_ENGINE, find_card, load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.workshop.evaluation.benchmark import Bench, BenchmarkOptions
from l2m_ros.workshop.evaluation.scenes import Scene
from l2m_ros.workshop.evaluation.summary import scene_summary
from l2m_ros.workshop.jobs.runners import Runner
from l2m_ros.workshop.jobs.store import Store

Size = tuple[int, int]


@lru_cache(maxsize=2)
def _loaded(name: str, backend: str, size: Size | None, precision: str) -> Matcher:
    """Once a process."""
    options = {} if precision == "fp32" else {"precision": precision}
    return load_matcher(name, backend=backend, size=size, **options)


@lru_cache
def _weights_of(name: str) -> list[str]:
    """A model that was trained again in its folder is another one."""
    if name in NO_ENGINE:
        return []
    card = find_card(name)
    return [f"{role} {file.sha256}" for role, file in sorted(card.files.items())]


@dataclass(frozen=True)
class EvaluationJob:
    """Piece i: matcher i % M on scene i // M -> its row of the report."""

    scenes: tuple[Scene, ...]
    matchers: tuple[str, ...]
    options: BenchmarkOptions
    backend: str = "auto"
    size: Size | None = None
    store: Store | None = None  # where finished rows are kept
    precision: str = "fp32"

    def __len__(self) -> int:
        return len(self.scenes) * len(self.matchers)

    def __call__(self, number: int) -> dict[str, Any]:
        scene, name = self._piece(number)
        matcher = _loaded(name, self.backend, self.size, self.precision)
        limited = scene.limited(self.options.limit)
        row = scene_summary(limited, name, list(Bench(scene, matcher, self.options).results()))
        if self.store is not None:
            self.store.write(self._name(number), json.dumps(row).encode())
        return row

    def kept(self, number: int) -> dict[str, Any] | None:
        """The row of an earlier run of the same piece."""
        found = None if self.store is None else self.store.read(self._name(number))
        return None if found is None else json.loads(found)

    def _piece(self, number: int) -> tuple[Scene, str]:
        return self.scenes[number // len(self.matchers)], self.matchers[number % len(self.matchers)]

    def _name(self, number: int) -> str:
        """Of the piece's file: other options, another truth or other weights have another name."""
        scene, matcher = self._piece(number)
        pairs = [
            (
                pair.a,
                pair.b,
                [m.tolist() for m in (pair.b_from_a, pair.homography) if m is not None],
            )
            for pair in scene.pairs
        ]
        said = [
            str(scene.folder), scene.meta, pairs, matcher, _weights_of(matcher),
            asdict(self.options), self.backend, self.size, self.precision,
            __version__,
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
        return f"{scene.name}-{key}.json"


def measured(job: EvaluationJob, runner: Runner, done: Callable[[], None]) -> list[dict[str, Any]]:
    """The rows of all pieces, in the order of scenes and matchers."""
    if job.store is not None:
        job.store.prepare()
    rows = {number: job.kept(number) for number in range(len(job))}
    for row in rows.values():
        if row is not None:
            done()
    for number, row in runner.run(job, [n for n, row in rows.items() if row is None]):
        rows[number] = row
        done()
    return [row for _, row in sorted(rows.items()) if row is not None]
