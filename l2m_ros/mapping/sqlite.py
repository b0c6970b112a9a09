"""A map in one SQLite file: embedded, one writer, many readers, safe against kill -9.

Write-ahead log while it is open; when the last one closes it, one file is left.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from l2m_ros.errors import MapError
from l2m_ros.mapping import sql
from l2m_ros.mapping.sql import FORMAT, MIGRATIONS, OLDEST

APPLICATION_ID = 0x4C324D4D  # "L2MM": tells a map from any other SQLite file
MAGIC = b"SQLite format 3\0"
TYPES = {
    "id": "INTEGER PRIMARY KEY AUTOINCREMENT",  # an id is never given twice
    "bytes": "BLOB",
    "int": "INTEGER",
    "real": "REAL",
}
# Names in a damaged schema are no UTF-8, and Python's sqlite3 fails over its own message.
DAMAGE = (sqlite3.Error, UnicodeDecodeError)
BUSY_S = 5.0  # how long to wait for another writer's transaction
POLL_S = 0.2
MADE_IN_S = 60.0  # an empty map's tables, on the slowest disk
LOGS = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a file, and reads into it


def open_store(address: str, *, write: bool, create: bool) -> SqliteStore:
    path = Path(address).expanduser()
    if not path.exists():
        if not create:
            raise MapError(f"{path}: there is no such map; build one with `l2m map build`")
        _make(path)
    _check_file(path)
    store = SqliteStore(path, _connect(path, write=write), write=write)
    try:
        store.check_format(write=write)
    except BaseException:
        store.close()
        raise
    return store


def _make(path: Path) -> None:
    """Tables first in a file beside it: a map is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(path)
        connection = sqlite3.connect(partial, isolation_level=None)
        try:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("BEGIN")
            _migrate(connection, 0)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        finally:
            connection.close()
        _move_new(partial, path)
    except (OSError, sqlite3.Error) as error:
        raise MapError(f"{path}: a map cannot be made here ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    """What a process left that was killed while it made this map's tables."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new*"):
        if time.time() - left.stat().st_mtime > MADE_IN_S:
            left.unlink(missing_ok=True)


def _move_new(partial: Path, path: Path) -> None:
    """Renamed, but never over a map that somebody made meanwhile.

    The log of a map that is gone (`rm office.l2m` after a kill) would be read into the new one.
    """
    if not path.exists():
        remove(path)
    try:
        os.link(partial, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            os.rename(partial, path)


def replace_map(new: Path, path: Path) -> None:
    """`new`, closed, in the place of the map `path`, if there is one.

    The log of a writer that was killed would be read into the new map.
    """
    refuse_in_use(path)
    for end in LOGS:
        Path(f"{path}{end}").unlink(missing_ok=True)
    os.replace(new, path)


def remove(path: Path) -> None:
    """The file and what SQLite keeps beside it."""
    for end in ("", *LOGS):
        Path(f"{path}{end}").unlink(missing_ok=True)


def refuse_in_use(path: Path) -> None:
    """Only the last user of a file can fold its log. What is no map, or damaged, nobody uses."""
    if not path.is_file():
        return
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=0.0, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise MapError(_words(path, error)) from error
    except DAMAGE:
        pass
    finally:
        connection.close()


def _migrate(connection: sqlite3.Connection | sqlite3.Cursor, format: int) -> None:
    for statements in MIGRATIONS[format:]:
        for statement in statements:
            connection.execute(sql.columns(statement, TYPES))
    connection.execute(f"PRAGMA user_version = {FORMAT}")


@dataclass(frozen=True)
class FileSizes:
    """Bytes that a file has, and that its head says it has."""

    found: int
    stated: int


def sizes(path: Path) -> FileSizes:
    """From the first 100 bytes; refuses what is no SQLite file."""
    if not path.is_file():
        raise MapError(f"{path} is no regular file: name a map's file")
    try:
        with path.open("rb") as file:
            head = file.read(100)
        found = path.stat().st_size
    except OSError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror})") from error
    if not head.startswith(MAGIC) or len(head) < 100:
        raise MapError(f"{path} is not a map (no SQLite file); build one with `l2m map build`")
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    return FileSizes(found, page * int.from_bytes(head[28:32], "big"))


def _check_file(path: Path) -> None:
    """Foreign and truncated files."""
    size = sizes(path)
    if size.found < size.stated and not path.with_name(path.name + "-wal").exists():
        raise MapError(
            f"{path} is cut short ({size.found} of {size.stated} bytes): copy it again, or save "
            f"what is left with `l2m map check --repair {path}`"
        )


def _connect(path: Path, *, write: bool) -> sqlite3.Connection:
    if write:
        options = "mode=rw"
    else:
        # Readers share memory through a file beside the map; where that cannot be, nobody writes.
        alone = not os.access(path.parent, os.W_OK)
        log = path.with_name(path.name + "-wal")
        if alone and log.exists() and log.stat().st_size:
            raise MapError(
                f"{path}: its newest keyframes lie in {log.name}, which cannot be read in a folder "
                "that may not be written: copy both files to another one"
            )
        options = "mode=ro&immutable=1" if alone else "mode=ro"
    if write and not os.access(path, os.W_OK):
        raise MapError(f"{path} is read-only: open it with map.mode localize, or chmod u+w it")
    try:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(path.absolute()))}?{options}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        if write:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        raise MapError(_words(path, error)) from error
    return connection


class SqliteStore(sql.SqlStore):
    """May be used from several threads; calls take turns."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, write: bool) -> None:
        self.path, self.address, self._write = path, str(path), write
        self._connection = connection
        self._turn = threading.RLock()

    def check_format(self, *, write: bool) -> None:
        with self.transaction(write=write) as cursor:
            found = cursor.execute("PRAGMA application_id").fetchone()[0]
            format = cursor.execute("PRAGMA user_version").fetchone()[0]
        if found != APPLICATION_ID:
            raise MapError(f"{self.path} is an SQLite file of another program, not a map")
        if format > FORMAT:
            raise MapError(
                f"{self.path} was written by a newer l2m_ros (format {format}, this one reads up "
                f"to {FORMAT}): update l2m_ros"
            )
        if format < OLDEST:
            raise MapError(f"{self.path} is an unfinished map: build it again")
        if not write:
            self.format = format
        elif format < FORMAT:
            with self.transaction(write=True) as cursor:
                _migrate(cursor, format)

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[sqlite3.Cursor]:
        with self._turn:
            try:
                cursor = self._connection.cursor()
                cursor.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield cursor
                    cursor.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.rollback()
            except DAMAGE as error:
                raise MapError(_words(self.path, error)) from error

    def size_bytes(self) -> int:
        beside = self.path.with_name(self.path.name + "-wal")
        return sum(p.stat().st_size for p in (self.path, beside) if p.exists())

    def version(self) -> int:
        with self._turn:
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def wait(self, timeout_s: float) -> bool:
        before, ends = self.version(), time.monotonic() + timeout_s
        while time.monotonic() < ends:
            time.sleep(min(POLL_S, max(ends - time.monotonic(), 0.0)))
            if self.version() != before:
                return True
        return False

    def problems(self) -> list[str]:
        try:
            with self._turn:
                found = self._connection.execute("PRAGMA integrity_check").fetchall()
                loose = self._connection.execute("PRAGMA foreign_key_check").fetchall()
        except DAMAGE as error:
            return [_words(self.path, error)]
        lines = [str(row[0]) for row in found if row[0] != "ok"]
        return lines + [f"{row[0]} {row[1]} belongs to no keyframe" for row in loose]

    def close(self) -> None:
        with self._turn:
            if self._write:
                # The last one out folds the log into the file, and a reader makes none.
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA busy_timeout = 0")
                    self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()


def _words(path: Path, error: Exception) -> str:
    """One line with the remedy."""
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return f"{path}: the disk is full; free some space and save again (nothing was lost)"
    if "readonly" in text or "read-only" in text:
        return f"{path} is read-only: open it with map.mode localize, or chmod u+w it"
    if "locked" in text:
        return f"{path} is being written by another process: end that one, or use another file"
    if (
        isinstance(error, UnicodeDecodeError)
        or "malformed" in text
        or "not a database" in text
        or "corrupt" in text
    ):
        return f"{path} is damaged: save what is left with `l2m map check --repair {path}`"
    if "unable to open" in text:
        return f"{path}: cannot be opened; check its name and its folder's rights"
    return f"{path}: {text}"
