"""What a file from outside may be, where this package's own files lie, and how they are written.

Read: regular files of a bounded size, inside the folder that they are named in.
Written: beside the target and renamed, so that nobody reads a half and a killed process leaves
the old file as it was; never over the input.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from l2m_ros.errors import InvalidInput, L2MError
from l2m_ros.output_paths import check_file, refuse_existing

MAX_TEXT_BYTES = 64 << 20  # of YAML, JSON and trajectories
BAG_SUFFIXES = (".mcap", ".db3")  # a bag's folder is named so; the storage follows from it
BAG_INFO = "metadata.yaml"  # of a bag that is a folder
PARTIAL = ".part"  # ends the name of a file that is being written
PARTIAL_FOLDER = ".partial-"  # within the name of a folder that is being written
MAX_YAML_BYTES, MAX_YAML_VALUES = 4 << 20, 100_000
FULL_WORDS = ("no space left", "disk is full", "file too large", "disk i/o error")
NOTHING_KEPT = "nothing was kept. Free some space or name another place"
# What taking a value of the wrong kind raises.
WRONG_VALUES = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, AssertionError,
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_bag(path: Path) -> bool:
    """A file of a storage, or a folder with one."""
    return (path.is_file() and path.suffix in BAG_SUFFIXES) or (path / BAG_INFO).is_file()


def cache_folder() -> Path:
    """What this user's machine made or fetched: $XDG_CACHE_HOME/l2m_ros."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else home_folder() / ".cache") / "l2m_ros"


def home_folder() -> Path:
    """The user's own, or the temporary folder where the system knows none (containers)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir())


# --- reading --------------------------------------------------------------------------------


def read_file(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a regular file; a pipe would hang, a device never ends."""
    with _opened(path) as file:
        mode = os.fstat(file.fileno())
        if not stat.S_ISREG(mode.st_mode):
            raise InvalidInput(f"{path} is not a regular file: name a file, no pipe or device")
        if mode.st_size > max_bytes:
            raise InvalidInput(f"{path} has {mode.st_size} bytes, more than {max_bytes} are read")
        content: bytes = file.read(mode.st_size)  # room for what is read is made at once
        return content


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The same as text."""
    try:
        return read_file(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text (byte {error.start} is no UTF-8)") from error


def read_yaml(path: Path) -> Any:
    """A YAML document of plain values; one that repeats itself without end is refused."""
    return parse_yaml(read_text(path, MAX_YAML_BYTES), str(path))


def parse_yaml(text: str, name: str) -> Any:
    """The same from text; `name` is for the message of a refusal."""
    import yaml

    try:
        document = yaml.safe_load(text)
        if _values_in(document, {}) > MAX_YAML_VALUES:
            raise ValueError(f"it unfolds to more than {MAX_YAML_VALUES} values")
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"{name} is not YAML that can be read: {reason}") from error
    return document


def _values_in(node: Any, known: dict[int, int]) -> int:
    """Values of a document with its aliases unfolded; each is looked at once."""
    if not isinstance(node, (dict, list)):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_YAML_VALUES + 1  # a list that holds itself
        children = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_values_in(child, known) for child in children)
    return known[id(node)]


def read_json(path: Path) -> Any:
    """A JSON document."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is not JSON: {' '.join(str(error).split())[:200]}") from error


@contextmanager
def foreign_values(where: str | Path) -> Iterator[None]:
    """What a file from outside holds and cannot be used: one refusal that names the file."""
    try:
        yield
    except InvalidInput as error:
        if str(where) in str(error):
            raise
        raise InvalidInput(f"{where}: {error}") from error
    except L2MError:
        raise
    except WRONG_VALUES as error:
        name = "lacks" if isinstance(error, KeyError) else f"{type(error).__name__}:"
        reason = " ".join(f"{name} {error}".split())[:200]
        raise InvalidInput(f"{where} cannot be used ({reason})") from error


def _opened(path: Path):  # type: ignore[no-untyped-def]
    """Opened without waiting for a pipe's other end."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder: name a file")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.fdopen(os.open(path, flags), "rb")


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused where the name leads out of the folder."""
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise InvalidInput(f"{name!r} is no name of a file inside {folder or '.'}")
    return folder / parts


def check_readable(file: Path | None) -> None:
    """Before hours of work: a regular file with something in it, that may be read."""
    if file is None:
        return
    with _opened(file) as opened:
        mode = os.fstat(opened.fileno())
    if not stat.S_ISREG(mode.st_mode) or mode.st_size == 0:
        raise InvalidInput(f"{file} is empty, or no regular file: name another one")


def check_input_folder(folder: Path | None) -> None:
    """Before hours of work: the folder is there."""
    if folder is not None and not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder: name one")


# --- writing --------------------------------------------------------------------------------


def write_whole(path: Path, content: bytes | str, if_full: str = NOTHING_KEPT) -> None:
    """The file with this content (text as UTF-8); its folder is made. if_full: see `whole_file`."""
    data = content.encode() if isinstance(content, str) else content
    with whole_file(path, if_full) as partial:
        partial.write_bytes(data)


@contextmanager
def whole_file(path: Path, if_full: str = NOTHING_KEPT) -> Iterator[Path]:
    """A path to write to; the file becomes `path` if the block ends well, and goes if it does not.

    It is flushed to the disk first: after a power cut there is the old file or the new one.
    if_full: what to tell the user where the disk is full.
    """
    check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nobody can guess the name: in /tmp, a link that somebody laid there would be written through.
    guess = secrets.token_hex(4)
    partial = path.with_name(f".{path.name}.{guess}.{os.getpid()}{PARTIAL}")
    try:
        with full_disk_in_words(path, if_full):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A path to make a folder (or file) at; it becomes `target` if the block ends well.

    Ctrl-C and SIGTERM remove what was begun; what a killed process left goes with the next run.
    An existing target is refused, or replaced by force.
    """
    target = Path(target)
    refuse_existing(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    beside, held = _held_folder(target)
    try:
        with _termination_as_interrupt(), full_disk_in_words(target):
            made = beside / (target.stem or target.name)
            yield made
            refuse_existing(target, force=force)
            if target.exists():
                os.replace(target, beside / "replaced")
            os.replace(made, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        os.close(held)


def _held_folder(target: Path) -> tuple[Path, int]:
    """A new folder beside the target, and what holds its lock while this process lives.

    It is locked before it has the name by which leftovers are found.
    """
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    held = os.open(fresh, os.O_RDONLY)
    _lock(held)
    beside = fresh.with_name(fresh.name.replace(".new-", PARTIAL_FOLDER))
    os.replace(fresh, beside)
    return beside, held


def _remove_leftovers(target: Path) -> None:
    """Folders of killed runs: those whose lock nobody holds any more."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}{PARTIAL_FOLDER}*"):
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        if _lock(held):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _lock(descriptor: int) -> bool:
    """Whether this process has it now; not where the disk knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def local(place: Path | str | None) -> Path | None:
    """The path of a place that may be an address: None where it is one."""
    return None if place is None or "://" in str(place) else Path(place).expanduser()


def without_password(place: Path | str) -> str:
    """A path or an address as it may be shown: in a log, in an error, on a screen."""
    hidden = re.sub(r"(?i)([?&](?:ssl)?password=)[^&]*", r"\1***", str(place))
    scheme, separator, rest = hidden.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{host}" if separator else hidden


def passwords(address: str) -> list[str]:
    """What `without_password` takes out, as it is written and as it is meant; longest first."""
    found = [*re.findall(r"(?i)[?&](?:ssl)?password=([^&]+)", address)]
    user, at, _ = address.partition("://")[2].rpartition("@")
    found += [user.partition(":")[2]] if at else []
    return sorted({w for one in found for w in (one, unquote(one)) if w}, key=len, reverse=True)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM (timeout, docker stop) raises KeyboardInterrupt, unless somebody handles it."""
    unhandled = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not unhandled or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def full_disk_in_words(what: Path, if_full: str = NOTHING_KEPT) -> Iterator[None]:
    """Turns an error about space, of whatever library it is, into one line."""
    try:
        yield
    except InvalidInput:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise InvalidInput(
            f"{what}: the disk is full ({_free_mb(what)} MB free); {if_full}"
        ) from error


def is_full_disk(error: BaseException) -> bool:
    """OSError says it by number, SQLite by the class, torch and safetensors in words."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if type(error).__name__ == "FullError":
        return True
    words = str(error).lower()
    return any(one in words for one in FULL_WORDS)


def _free_mb(path: Path) -> int:
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 1_000_000
