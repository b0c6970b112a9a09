"""Progress of long work: a bar on a terminal, plain lines otherwise, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
BAR_WIDTH = 30
TERMINAL_PERIOD_S = 0.1
LINES_PERIOD_S = 10.0  # a log is read later: few lines


class progress:
    """`with progress(200, "rendering") as bar: bar.update()`; total None = unknown."""

    def __init__(self, total: float | None, what: str) -> None:
        self.total, self.what, self.done, self.note = total, what, 0.0, ""
        self._terminal = sys.stderr.isatty()
        self._shown_done = -1.0
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> progress:
        return self

    def update(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        period = TERMINAL_PERIOD_S if self._terminal else LINES_PERIOD_S
        if time.monotonic() - self._shown >= period:
            self._show()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self.done:
            self._show(last=True)

    def _show(self, *, last: bool = False) -> None:
        self._shown = time.monotonic()
        complete = bool(self.total) and self.done >= (self.total or 0.0)
        said = complete and self._shown_done == self.done
        self._shown_done = self.done
        if self._terminal:
            print(f"\r\033[K{self._line()}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif not said:  # a log has the last line once
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        elapsed_s = time.monotonic() - self._started
        if not self.total:
            return f"{self.what}: {self.done:g} in {elapsed_s:.0f} s {self.note}".rstrip()
        share = min(self.done / self.total, 1.0)
        bar = ("#" * round(share * BAR_WIDTH)).ljust(BAR_WIDTH, ".") if self._terminal else ""
        left_s = elapsed_s / share - elapsed_s if share > 0 else 0.0
        time_text = f"{left_s:.0f} s left" if 0 < share < 1 else f"{elapsed_s:.1f} s"
        count = f"{round(self.done, 1):g}/{self.total:g}"
        if self.total == 1 and not self.done.is_integer():  # a share, not a number of things
            count = f"{100 * share:.0f} %"
        return " ".join(f"{self.what}: {bar} {count} {time_text} {self.note}".split())


def track(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """The items, with their progress shown."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(total, what) as bar:
        for item in items:
            yield item
            bar.update()
