"""A map in PostgreSQL, shared by a fleet: several robots read while one writes.

Address: postgresql://user@host/database. Several maps of one database lie in schemas:
postgresql://host/database?options=-csearch_path%3Doffice (the schema is made with the map).
Whoever changes a map notifies the channel `l2m_map_<schema>`; readers listen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from l2m_ros.errors import MapError
from l2m_ros.files import passwords, without_password
from l2m_ros.mapping import sql
from l2m_ros.mapping.sql import FORMAT, MIGRATIONS, OLDEST

TYPES = {
    "id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "bytes": "BYTEA",
    "int": "BIGINT",
    "real": "DOUBLE PRECISION",
}
# A server that is out of reach (a robot out of the WLAN) is noticed within half a minute, where the
# kernel alone would wait for a quarter of an hour; the address may say otherwise.
WAITS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
LOCK_KEY = 0x4C324D4D  # of the advisory lock under which tables are made
NAMES = ("keyframe", "descriptor", "feature", "cells", "edge", "vocabulary", "meta")


def open_store(address: str, *, write: bool, create: bool) -> PostgresStore:
    store = PostgresStore(address, write=write)
    try:
        store.prepare(create=create)
    except BaseException:
        store.close()
        raise
    return store


class PostgresStore(sql.SqlStore):
    """May be used from several threads; calls take turns. A broken connection is made again."""

    def __init__(self, address: str, *, write: bool) -> None:
        self.address = without_password(address)
        self._address, self._write = address, write
        self._turn = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._listener: psycopg.Connection[Any] | None = None
        self._changes = 0

    def prepare(self, *, create: bool) -> None:
        """Checks the format; makes or migrates the tables where that is allowed."""
        with self.transaction(write=self._write) as cursor:
            row = cursor.execute("SELECT current_schema()").fetchone()
            if row[0] is None and create:
                cursor.run(SQL("CREATE SCHEMA {}").format(Identifier(self._schema_named())))
            there = cursor.execute("SELECT to_regclass('l2m_format') IS NOT NULL").fetchone()[0]
            if not there and not create:
                raise MapError(f"{self.address} holds no map; build one with `l2m map build --out`")
            if self._write:
                self._migrate(cursor)
            format = cursor.execute("SELECT format FROM l2m_format").fetchone()[0]
        if format > FORMAT:
            raise MapError(
                f"{self.address} was written by a newer l2m_ros (format {format}, this one reads "
                f"up to {FORMAT}): update l2m_ros"
            )
        if format < OLDEST:
            raise MapError(f"{self.address} is an unfinished map: build it again")
        self.format = format

    def _migrate(self, cursor: _Cursor) -> None:
        cursor.execute("SELECT pg_advisory_xact_lock(?)", (LOCK_KEY,))
        cursor.execute("CREATE TABLE IF NOT EXISTS l2m_format (format BIGINT NOT NULL)")
        row = cursor.execute("SELECT format FROM l2m_format").fetchone()
        if row is None:
            cursor.execute("INSERT INTO l2m_format VALUES (0)")
        format = 0 if row is None else int(row[0])
        for statements in MIGRATIONS[format:]:
            for statement in statements:
                cursor.execute(sql.columns(statement, TYPES))
        if format < FORMAT:
            cursor.execute("UPDATE l2m_format SET format = ?", (FORMAT,))

    def _schema_named(self) -> str:
        options = str(conninfo_to_dict(self._address).get("options") or "")
        name = options.partition("search_path=")[2].split(",")[0].split()
        return name[0].strip("\"'") if name else "public"

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[_Cursor]:
        if write and not self._write:
            raise MapError(f"{self.address} was opened for reading only")
        with self._turn:
            try:
                connection = self._open()
                with connection.transaction(), connection.cursor(binary=True) as cursor:
                    yield _Cursor(cursor)
                    if write:
                        cursor.execute(
                            "SELECT pg_notify('l2m_map_' || current_schema(), "
                            "pg_backend_pid()::text)"
                        )
            except psycopg.Error as error:
                raise MapError(_words(self._address, error)) from error

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        said = conninfo_to_dict(self._address)
        waits: dict[str, Any] = {name: value for name, value in WAITS.items() if name not in said}
        return psycopg.connect(self._address, autocommit=True, **waits)

    def size_bytes(self) -> int:
        with self.transaction() as cursor:
            sizes = (
                f"COALESCE(pg_total_relation_size(to_regclass('{name}')), 0)" for name in NAMES
            )
            total = "+".join(sizes)  # a table that an older map lacks has none
            return int(cursor.execute(f"SELECT {total}").fetchone()[0])

    def version(self) -> int:
        self._heard(0.0)
        return self._changes

    def wait(self, timeout_s: float) -> bool:
        return self._heard(timeout_s)

    def _heard(self, timeout_s: float) -> bool:
        """Whether somebody else's notification came; each is counted once."""
        try:
            if self._listener is None or self._listener.closed:
                self._listener = self._connect()
                row = self._listener.execute("SELECT current_schema()").fetchone()
                channel = Identifier(f"l2m_map_{row[0] if row else 'public'}")
                self._listener.execute(SQL("LISTEN {}").format(channel))
            own = 0 if self._connection is None else self._connection.info.backend_pid
            before = self._changes
            stop = 1 if timeout_s > 0 else None
            for notification in self._listener.notifies(timeout=timeout_s, stop_after=stop):
                self._changes += notification.pid != own
        except psycopg.Error as error:
            raise MapError(_words(self._address, error)) from error
        return self._changes != before

    def problems(self) -> list[str]:
        return []  # PostgreSQL keeps its own files whole; what rows hold is checked by `check`

    def close(self) -> None:
        for connection in (self._connection, self._listener):
            if connection is not None:
                connection.close()


class _Cursor:
    """A cursor that takes `?` as SQLite does."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> _Cursor:
        self._cursor.execute(statement.replace("?", "%s").encode(), values)
        return self

    def run(self, statement: Any) -> None:
        self._cursor.execute(statement)

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()


def _words(address: str, error: psycopg.Error) -> str:
    text = " ".join(str(error).split())
    for password in passwords(address):
        text = text.replace(password, "***")  # libpq quotes what it cannot read
    address = without_password(address)
    if isinstance(error, psycopg.errors.DiskFull):
        return f"{address}: the server's disk is full; free some space (nothing was lost)"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{address}: this user may not do that ({text}): GRANT it on the server"
    if isinstance(error, psycopg.OperationalError):
        return f"{address}: the server does not answer ({text}): is it running, is the name right?"
    return f"{address}: {text}"
