"""What several verbs share: sizes, back-ends, and the log on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2m_ros.errors import InvalidInput

BACKENDS = ("auto", "torch", "onnxruntime", "openvino", "tensorrt")
PRECISIONS = ("fp32", "bf16")  # engines.backend has them; a parser does without its imports


def size_of(order: str) -> Callable[[str], tuple[int, int]]:
    """A parser of '640x480' in the order that a verb states; the result is (width, height)."""

    def parse(text: str) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+)[x,](\d+)", text)
        if not found or "0" in found.groups():
            raise argparse.ArgumentTypeError(f"{text!r} is not a size: write {order}, as 640x480")
        first, second = (int(number) for number in found.groups())
        return (first, second) if order == "WxH" else (second, first)

    return parse


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser of a whole number in bounds; for argparse's `type`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} to {most}"
            )
        return number

    return parse


def real(low: float, high: float) -> Callable[[str], float]:
    """A parser of a number in bounds; for argparse's `type`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return number

    return parse


def place(text: str) -> Path | str:
    """A folder, or an address with "://" as it is."""
    return text if "://" in text else Path(text)


def draw_shards(out: Path | str, picture: Path) -> None:
    """The first pairs of a folder of shards, with their matches."""
    from l2m_ros.images import write_rgb
    from l2m_ros.workshop.lifting.picture import contact_sheet, samples_of

    if not isinstance(out, Path):
        raise InvalidInput(f"--picture reads shards of a folder, not of {out}")
    write_rgb(picture, contact_sheet(samples_of(out)))


def add_second_look(parser: argparse.ArgumentParser, default: str) -> None:
    """A choice of three; the option alone means always, whatever stands behind it."""
    from l2m_ros.matching.second_look import WHEN

    parser.add_argument(
        "--second-look", nargs="?", choices=WHEN, const="always", default=default,
        help="of dense matchers: match what both images see once more, turned and scaled alike. "
        "auto: where the first match shows a need for it; never: one look, as the node has it "
        f"(default {default}; alone: always)",
    )  # fmt: skip


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=PRECISIONS[0],
        help="bf16: L2M by torch on a CPU that multiplies in bfloat16 (default: %(default)s)",
    )  # fmt: skip


def precision_option(precision: str) -> dict[str, str]:
    """Keywords of `load_matcher`: none by default, as classical matchers have no precision."""
    return {} if precision == PRECISIONS[0] else {"precision": precision}


def add_force(parser: argparse.ArgumentParser) -> None:
    """Of verbs whose output takes long: `output_paths.refuse_existing` keeps what is there."""
    parser.add_argument("--force", action="store_true", help="replace outputs that are there")


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the work is done; the result is the same."""
    parser.add_argument(
        "--processes", type=whole(1, 1024), default=1, metavar="N",
        help="use N processes of this machine (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--ray", metavar="ADDRESS|auto",
        help="do the work on a Ray cluster; auto: this machine's, else one started for it",
    )  # fmt: skip


def numbers(count: int) -> Callable[[str], list[float]]:
    """A parser of `count` numbers with commas between them."""

    def parse(text: str) -> list[float]:
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
        if not all(map(math.isfinite, values)):
            raise argparse.ArgumentTypeError(f"{text!r}: NaN and infinity are not allowed")
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{text!r} holds {len(values)} numbers, not {count}")
        return values

    return parse


def defaults_shown(parser: argparse.ArgumentParser) -> Callable[..., None]:
    """`parser.add_argument` that adds the default to the help, so that no text repeats it."""

    def add(*names: str, **options: Any) -> None:
        default = options.get("default")
        if default is not None and "help" in options:
            shown = f"{default[0]}x{default[1]}" if isinstance(default, tuple) else default
            options["help"] = f"{options['help']} (default: {shown})"
        parser.add_argument(*names, **options)

    return add


def as_json(figures: Any, indent: int | None = 1) -> str:
    """Valid JSON: what is no number (an average over nothing) becomes null."""
    return json.dumps(_finite(figures), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _ToStderr(logging.Handler):
    """To what is stderr when something is said: a caller may have put another in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_log(level: int = logging.INFO) -> None:
    """What the package says while it works (which back-end, and why) goes to stderr."""
    logger = logging.getLogger("l2m_ros")
    if not logger.handlers:
        handler = _ToStderr()
        handler.setFormatter(logging.Formatter("l2m: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)


def add_truth_arguments(parser: argparse.ArgumentParser) -> None:
    """The truth that poses are compared with, and its own error."""
    parser.add_argument(
        "--truth",
        metavar="TOPIC|FILE",
        help="poses of the camera to compare with; a file holds TUM's lines, as groundtruth.txt",
    )
    parser.add_argument(
        "--truth-sigma",
        metavar="M,DEG",
        default="0,0",
        help="the truth's own error, one standard deviation per axis of a relative pose (metres, "
        "degrees): added to each covariance before NEES and wrong poses are counted",
    )
