"""The log of a run: log.csv, validation.csv, curves.png, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from l2m_ros.files import full_disk_in_words, whole_file
from l2m_ros.images import write_figure

RESUMES = "free some space and start the same command again: it goes on from its checkpoint"
MEAN_OVER = 20  # steps; a line of log.csv and of the progress is their mean


class Log:
    """Collects figures and writes a line every MEAN_OVER steps and at every validation."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self._columns: dict[str, list[str]] = {}  # of the tables, as they are on disk
        self._recent: deque[Mapping[str, float | Tensor]] = deque(maxlen=MEAN_OVER)
        self._means: dict[str, float] = {}
        for name in ("log.csv", "validation.csv"):
            self._columns[name] = _drop_after(folder / name, step)
        self._board = _tensorboard(folder)

    def step(self, step: int, elapsed_s: float, terms: Mapping[str, float | Tensor]) -> None:
        """Tensors are read when a line is due: reading one waits for the device."""
        self._recent.append(terms)
        if step % MEAN_OVER == 0 or not self._means:
            self._means = _means(self._recent)
        if step % MEAN_OVER == 0:
            self._write("log.csv", step, elapsed_s, self._means)

    def validation(self, step: int, elapsed_s: float, figures: dict[str, float]) -> None:
        self._write("validation.csv", step, elapsed_s, figures)
        draw(self.folder)

    def summary(self) -> str:
        means = self._means
        return (
            f"loss {means['loss']:.3f} rate {means['rate']:.1e} {means['pairs_per_s']:.1f} pairs/s"
        )

    def _write(self, name: str, step: int, elapsed_s: float, figures: dict[str, float]) -> None:
        path = self.folder / name
        row = {"step": step, "minutes": round(elapsed_s / 60, 3)}
        row |= {key: float(f"{value:.6g}") for key, value in figures.items()}
        self._append(name, row)
        if self._board is not None:
            for key, value in figures.items():
                self._board.add_scalar(f"{path.stem}/{key}", value, step)

    def _append(self, name: str, row: dict[str, float]) -> None:
        """Add a row; a new column rewrites the file, so that it stays one table."""
        path, columns = self.folder / name, self._columns[name]
        if set(row) <= set(columns) and path.exists():
            with full_disk_in_words(path, RESUMES), open(path, "a", newline="") as file:
                csv.DictWriter(file, columns).writerow(row)
            return
        self._columns[name] = _write_table(path, [*read(path), row])

    def flush(self) -> None:
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        draw(self.folder)
        if self._board is not None:
            self._board.close()


def _means(recent: Iterable[Mapping[str, float | Tensor]]) -> dict[str, float]:
    """Of what the last step has, over the steps that have it."""
    rows = list(recent)
    return {name: fmean(float(t[name]) for t in rows if name in t) for name in rows[-1]}


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a log; an unfinished last line is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    kept = []
    for row in rows:
        try:
            kept.append({key: float(value) for key, value in row.items() if value})
        except (TypeError, ValueError):
            continue
    return kept


def _write_table(path: Path, rows: list[dict[str, float]]) -> list[str]:
    """Returns its columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path, RESUMES) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return columns


def _drop_after(path: Path, step: int) -> list[str]:
    """Rows that a killed run wrote after its last checkpoint will be written again, and so is one
    that it wrote half of. Returns the columns that are left."""
    kept = [row for row in read(path) if row.get("step", math.inf) <= step]
    if not kept:
        path.unlink(missing_ok=True)
        return []
    text = path.read_text()
    head, *lines = text.splitlines()
    if len(kept) == len(lines) and text.endswith("\n"):
        return head.split(",")
    return _write_table(path, kept)


def _tensorboard(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def draw(folder: Path) -> None:
    """curves.png: the loss, and what the validation measured, over the steps."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    logged, checked = read(folder / "log.csv"), read(folder / "validation.csv")
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    _panel(panels[0], logged, [k for k in _names(logged) if k == "loss"], "training loss")
    _panel(panels[1], checked, [k for k in _names(checked) if "epe" in k], "EPE median, px")
    shares = [k for k in _names(checked) if "within" in k or "auc" in k]
    _panel(panels[2], checked, shares, "%")
    write_figure(folder / "curves.png", figure, dpi=90)


def _names(rows: list[dict[str, float]]) -> list[str]:
    return [key for key in (rows[-1] if rows else {}) if key not in ("step", "minutes")]


def _panel(axes: Any, rows: list[dict[str, float]], names: list[str], title: str) -> None:
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.grid(alpha=0.3)
    if names:
        axes.legend(fontsize=6)
    if "EPE" in title and names:
        axes.set_yscale("log")
