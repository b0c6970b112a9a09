"""What cannot be done as asked is one line and exit code 2, as in `l2m`; to be imported first."""

import sys
from pathlib import Path
from types import TracebackType

from l2m_ros.cli import refusal


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    words = refusal(error)
    if words is None:
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"{Path(sys.argv[0]).name}: {words}", file=sys.stderr)
    raise SystemExit(2)


sys.excepthook = _end
