"""Number for number: a network under named weights against golden tensors of the reference.

    folder/cases.json     weights_prefix; per model its files (and for l2m units and sizes)
    folder/*.npz          golden tensors, most of them every k-th entry of the full one

Every key of every file is compared or reported as not compared. NAME/shape and NAME/stats
(mean, standard deviation, sum of magnitudes, smallest, largest) belong to the FULL tensor, so
what the slices leave out is held too.
"""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput

Resize = Callable[[np.ndarray, int, int], np.ndarray]  # rgb, width, height -> rgb
EXACT = 0.0
MODELS = ("l2m", "tinyroma", "lite", "mickey")


@dataclass(frozen=True)
class Answer:
    """What the network says a golden tensor should be."""

    value: np.ndarray
    tolerance: float
    # Equally right values, where the last bit of a coordinate decides (a flow just at the border).
    otherwise: np.ndarray | None = None


Answers = Mapping[str, Answer]


class InputMissing(InvalidInput):
    """A golden file lacks an input that other tensors of it follow from."""


class Tensors(dict[str, np.ndarray]):
    """Of one file, by key."""

    def __missing__(self, key: str) -> np.ndarray:
        raise InputMissing(f"{key} is missing, an input that other tensors follow from")


@dataclass(frozen=True)
class Row:
    """One golden tensor. Relative = the largest error / the golden's largest magnitude."""

    file: str
    key: str
    shape: tuple[int, ...]
    absolute: float
    relative: float
    tolerance: float
    note: str = ""

    @property
    def within(self) -> bool:
        return self.absolute <= self.tolerance  # False for NaN

    def line(self, width: int) -> str:
        mark = "" if self.within else "  MISS"
        figures = f"{self.absolute:9.2e}  {self.relative:9.2e}  {self.tolerance:9.0e}"
        return f"{self.key:<{width}}  {figures}{mark}  {self.note}".rstrip()


@dataclass
class Report:
    model: str
    rows: list[Row] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # file: key that nothing here computes
    inputs: int = 0  # keys that are inputs
    checks: list[str] = field(default_factory=list)  # spot checks of the weights that failed
    missing: list[str] = field(default_factory=list)  # file: which input is missing

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not any((self.unknown, self.checks, self.missing, self.misses))

    @property
    def misses(self) -> list[Row]:
        return [row for row in self.rows if not row.within]

    def answered(self, file: str, group: Callable[..., Answers], *given: Any) -> Answers:
        """What a group of functions answers; nothing, and told so, where an input is missing."""
        try:
            return group(*given)
        except InputMissing as error:
            self.missing.append(f"{file}: {error}")
            return {}

    def add(self, file: str, golden: Mapping[str, np.ndarray], answers: Answers) -> None:
        """Rows for every key of one file, in its order."""
        for key in golden:
            if key in answers or answered_by(key) in answers:
                self.rows.append(_row(file, key, golden[key], answers))
            else:
                self.unknown.append(f"{file}: {key}")

    def table(self) -> str:
        """For people; one line a tensor, what failed repeated at the end."""
        width = max((len(row.key) for row in self.rows), default=3)
        lines = [f"{'tensor':<{width}}  {'largest':>9}  {'relative':>9}  {'tolerance':>9}"]
        file = ""
        for row in self.rows:
            if row.file != file:
                file = row.file
                lines.append(f"-- {file}")
            lines.append(row.line(width))
        return "\n".join([*lines, *self._summary(width)])

    def _summary(self, width: int) -> list[str]:
        lines = [f"not compared: {key}" for key in self.unknown]
        lines += self.missing
        lines += [f"weights drawn otherwise than stated: {name}" for name in self.checks]
        if self.misses:
            lines += ["outside of their tolerance:", *(row.line(width) for row in self.misses)]
        good = len(self.rows) - len(self.misses)
        lines.append(
            f"{self.model}: {good} of {len(self.rows)} golden tensors within tolerance, "
            f"{len(self.unknown)} not compared, {self.inputs} inputs"
        )
        return lines

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "passed": self.passed,
            "compared": len(self.rows),
            "inputs": self.inputs,
            "outside_tolerance": [row.key for row in self.misses],
            "not_compared": self.unknown,
            "inputs_missing": self.missing,
            "weights_differ": self.checks,
            "tensors": [{**asdict(row), "within": row.within} for row in self.rows],
        }


@dataclass(frozen=True)
class Cases:
    """A folder of golden data."""

    folder: Path
    table: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        return str(self.table.get("weights_prefix", ""))

    def of(self, model: str) -> Mapping[str, Any]:
        if not isinstance(self.table.get(model), Mapping):
            raise InvalidInput(f"{self.folder}/cases.json names no files for {model}")
        table: Mapping[str, Any] = self.table[model]
        if not isinstance(table.get("files"), list):
            raise InvalidInput(f"{self.folder}/cases.json: {model}.files must be a list of names")
        return table

    def load(self, name: str) -> Tensors:
        path = self.folder / name
        if not path.is_file():
            raise InvalidInput(f"{path}, which cases.json names, is not there")
        try:
            with np.load(path, allow_pickle=False) as file:
                return Tensors({key: file[key] for key in file.files})
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{path} is not a whole .npz file: {error}") from error


def read_cases(folder: Path) -> Cases:
    path = folder / "cases.json"
    if not path.is_file():
        raise InvalidInput(f"{folder} holds no cases.json: name a folder of golden data")
    try:
        table = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise InvalidInput(f"{path} must hold an object with weights_prefix and models")
    return Cases(folder, table)


def answered_by(key: str) -> str:
    """feat8/stats and feat8/chmean are answered by feat8."""
    base, _, leaf = key.rpartition("/")
    return base if leaf in ("stats", "shape", "chmean") else key


def _row(file: str, key: str, golden: np.ndarray, answers: Answers) -> Row:
    answer, leaf = answers.get(key), ""
    if answer is None:
        answer, leaf = answers[answered_by(key)], key.rpartition("/")[2]
    if leaf == "shape":
        error = 0.0 if tuple(golden) == answer.value.shape else np.inf
        return Row(file, key, golden.shape, error, error, EXACT)
    if leaf == "stats":
        return _stats_row(file, key, golden, answer)
    if leaf == "chmean":
        value = answer.value.mean(axis=(2, 3), dtype=np.float64)
        answer = Answer(value, answer.tolerance)
    absolute, note = _error(golden, answer)
    return Row(file, key, golden.shape, absolute, absolute / _size(golden), answer.tolerance, note)


def _stats_row(file: str, key: str, golden: np.ndarray, answer: Answer) -> Row:
    """The sum of magnitudes is held per entry, so that one tolerance serves all five."""
    value = answer.value.astype(np.float64)
    per_entry = np.array([1, 1, 1 / value.size, 1, 1])
    ours = [value.mean(), value.std(), np.abs(value).sum(), value.min(), value.max()]
    if golden.shape != (5,):
        return Row(file, key, golden.shape, np.inf, np.inf, answer.tolerance, "not five numbers")
    error = np.abs(np.array(ours) - golden) * per_entry
    if answer.otherwise is not None:  # entries at the border may add to either value
        free = np.abs(answer.value.astype(np.float64) - answer.otherwise)
        error[[0, 2]] = np.maximum(error[[0, 2]] - free.sum() / value.size, 0)
        error[1] = max(error[1] - np.sqrt(free.sum() / value.size), 0)
    absolute = float(error.max())
    return Row(
        file, key, golden.shape, absolute, absolute / _size(golden * per_entry), answer.tolerance
    )


def _error(golden: np.ndarray, answer: Answer) -> tuple[float, str]:
    """Largest difference to the full tensor, or to every k-th entry of each axis."""
    best, note = np.inf, f"shape {answer.value.shape} cannot give {golden.shape}"
    for steps in _steps(answer.value.shape, golden.shape):
        cut = tuple(slice(None, None, step) for step in steps)
        difference = _difference(golden, answer.value[cut])
        if answer.otherwise is not None:
            other = _difference(golden, answer.otherwise[cut])
            difference = np.fmin(difference, other)
        error = float(difference.max()) if difference.size else 0.0
        if error <= best:
            best, note = error, "" if max(steps, default=1) == 1 else f"every {list(steps)}"
    return best, note


def _difference(golden: np.ndarray, value: np.ndarray) -> np.ndarray:
    difference = np.abs(golden.astype(np.float64) - value.astype(np.float64))
    difference[golden == value] = 0.0  # infinities that agree
    return np.where(np.isnan(difference), np.inf, difference)


def _steps(full: tuple[int, ...], cut: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every choice of steps k with ceil(n / k) = m on each axis; more than one may fit."""
    if len(full) != len(cut):
        return iter(())
    fitting = [
        [k for k in range(1, max(n, 1) + 1) if -(-n // k) == m] if n != m else [1]
        for n, m in zip(full, cut, strict=True)
    ]
    return itertools.product(*fitting)


def _size(golden: np.ndarray) -> float:
    return max(float(np.abs(golden.astype(np.float64)).max(initial=0.0)), 1e-12)


def cut_to(full: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """The upper left part of the full tensor that the golden one covers."""
    return full[tuple(slice(0, side) for side in golden.shape)]
