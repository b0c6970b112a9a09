"""What is wrong with a map, and what can be saved of it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput, L2MError, MapError
from l2m_ros.mapping import graph, sql, sqlite
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.loop_witness import LoopWitness
from l2m_ros.mapping.meta import CHECKSUM, MODEL, OWN_DETAIL
from l2m_ros.mapping.records import Edge, MapKeyframe
from l2m_ros.mapping.store import POSTGRES, MapStore, open_map
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import MetricPose


@dataclass(frozen=True)
class Saved:
    """What repair did."""

    keyframes: int
    lines: list[str]


def problems(address: str) -> list[str]:
    """Everything that a reader of this map could stumble over; empty = whole."""
    store = open_map(address)
    try:
        lines, meta = store.problems(), store.meta()
        for id in store.ids():
            lines += _keyframe(store, id, meta)
        return lines + _edges(store)
    except MapError as error:
        return [str(error)]
    finally:
        store.close()


def _keyframe(store: MapStore, id: int, meta: Mapping[str, str]) -> list[str]:
    try:
        if MODEL in meta and CHECKSUM in meta:
            store.features(id, meta[MODEL], meta[CHECKSUM])
            store.cells(id, meta[MODEL], meta[CHECKSUM])
        return [] if unsound(store.keyframe(id)) is None else [f"keyframe {id}: not usable"]
    except (L2MError, ValueError, KeyError) as error:
        return [f"keyframe {id}: {error}"]


def unsound(keyframe: MapKeyframe) -> str | None:
    """Why a keyframe cannot be used, or None."""
    try:
        keyframe.frame()
        if keyframe.map_from_camera is not None and keyframe.covariance is not None:
            sound_pose(keyframe.map_from_camera, keyframe.covariance)
    except InvalidInput as error:
        return str(error)
    return None


def sound_pose(pose: np.ndarray, covariance: np.ndarray) -> None:
    """Raises InvalidInput where these are no pose and no covariance."""
    MetricPose(pose, covariance, np.zeros(0, bool), "none")


def _edges(store: MapStore) -> list[str]:
    lines = []
    for edge in store.edges():
        try:
            sound_pose(edge.a_from_b, edge.covariance)
        except InvalidInput as error:
            lines.append(f"edge {edge.a} to {edge.b}: {error}")
    return lines


def repair(address: str) -> Saved:
    """Files: all readable rows into a new file; the old one is kept as `<name>.broken`.

    A database server keeps its own files whole: there only unusable keyframes are dropped.
    """
    if address.startswith(POSTGRES):
        return _dropped(address)
    path = Path(address).expanduser()
    if not path.is_file():
        raise MapError(f"{path}: there is no such map")
    fresh = path.with_name(f".{path.name}.repaired")
    sqlite.refuse_in_use(path)
    sqlite.remove(fresh)
    store = open_map(str(fresh), create=True)
    try:
        lines = _salvage(path, store)
        saved = len(store.ids())
    finally:
        store.close()
    if not saved:
        sqlite.remove(fresh)
        raise MapError(f"{path}: nothing can be saved; build the map again")
    broken = _kept(path)
    sqlite.replace_map(fresh, path)
    return Saved(saved, [*lines, f"{path}: {saved} keyframes saved; the old file is {broken}"])


def _kept(path: Path) -> Path:
    """The map and its log once more, as <name>.broken; one of an earlier repair is left alone: it
    may be the only one that holds what that repair could not read."""
    names = (f"{path.name}.broken{n or ''}" for n in count())
    broken = next(p for p in map(path.with_name, names) if not p.exists())
    for end in ("-wal", ""):
        old, new = Path(f"{path}{end}"), Path(f"{broken}{end}")
        if not old.exists():
            continue
        try:
            os.link(old, new)  # at no moment is there no map
        except OSError:  # a file system without hard links
            shutil.copy2(old, new)
    return broken


def _salvage(path: Path, out: MapStore) -> list[str]:
    """Keyframes one by one, so that a broken page costs those that lie on it."""
    lines: list[str] = []
    new_id: dict[int, int] = {}
    copied = path.with_name(f".{path.name}.copy")
    sqlite.remove(copied)  # a killed run's: its log would be read into the copy
    _copy_padded(path, copied)
    connection = sqlite3.connect(copied, isolation_level=None)
    try:
        known = _known_ids(connection)
        for id in range(1, max(known, default=0) + 1):
            keyframe = _salvaged(connection, id)
            if keyframe is None:
                lines += [f"keyframe {id} is lost"] if id in known else []
                continue
            new_id[id] = out.add(keyframe)
        edges = list(_salvaged_edges(connection, new_id))
        out.add_edges([*edges, *_priors(out, edges)])
        meta = dict(_rows(connection, "SELECT name, value FROM meta"))
        out.set_meta({str(k): str(v) for k, v in meta.items() if k not in ("model", "checksum")})
        if "model" in meta:
            out.set_meta({"model": str(meta["model"])})
    finally:
        connection.close()
        sqlite.remove(copied)
    return [*lines, f"{len(edges)} edges saved"]


def _priors(out: MapStore, edges: list[Edge]) -> Iterator[Edge]:
    """Where the edges are lost, a keyframe's place is what is left of the graph."""
    joined = {id for edge in edges for id in (edge.a, edge.b)}
    for id, (pose, covariance) in out.poses().items():
        if id not in joined:
            yield Edge(id, id, pose, covariance, "prior")


def _copy_padded(path: Path, copied: Path) -> None:
    """With its log, and as long as its head says: SQLite reads nothing of a file cut short."""
    sizes = sqlite.sizes(path)
    for end in ("-wal", ""):
        if Path(f"{path}{end}").exists():
            shutil.copyfile(f"{path}{end}", f"{copied}{end}")
    if sizes.found < sizes.stated:
        os.truncate(copied, sizes.stated)


def _rows(connection: sqlite3.Connection, statement: str, *values: Any) -> list[Any]:
    """What can be read of a query before the first broken page."""
    rows: list[Any] = []
    try:
        for row in connection.execute(statement, values):
            rows.append(row)
    except sqlite.DAMAGE:
        pass
    return rows


def _known_ids(connection: sqlite3.Connection) -> set[int]:
    """From either end, and from what edges and descriptors name."""
    found = {row[0] for row in _rows(connection, "SELECT id FROM keyframe ORDER BY id")}
    found |= {row[0] for row in _rows(connection, "SELECT id FROM keyframe ORDER BY id DESC")}
    found |= {id for row in _rows(connection, "SELECT a, b FROM edge") for id in row}
    found |= {row[0] for row in _rows(connection, "SELECT keyframe FROM descriptor")}
    return {id for id in found if isinstance(id, int)}


def _salvaged(connection: sqlite3.Connection, id: int) -> MapKeyframe | None:
    rows = _rows(connection, f"SELECT {sql.KEYFRAME} FROM keyframe WHERE id = ?", id)
    try:
        keyframe = sql.keyframe_of(rows[0])
    except (IndexError, L2MError, ValueError, TypeError, KeyError):
        return None
    return keyframe if unsound(keyframe) is None else None


def _salvaged_edges(connection: sqlite3.Connection, new_id: dict[int, int]) -> Iterator[Edge]:
    for row in _rows(connection, "SELECT a, b, pose, covariance, kind FROM edge"):
        try:
            edge = sql.edge_of(row)
            sound_pose(edge.a_from_b, edge.covariance)
        except (L2MError, ValueError, TypeError):
            continue
        if edge.a in new_id and edge.b in new_id:
            yield Edge(new_id[edge.a], new_id[edge.b], edge.a_from_b, edge.covariance, edge.kind)


def _dropped(address: str) -> Saved:
    store = open_map(address, write=True)
    try:
        bad = [id for id in store.ids() if _keyframe(store, id, {})]
        store.remove(bad, graph.bridges(set(bad), store.edges()))
        left = len(store.ids())
    finally:
        store.close()
    return Saved(left, [f"{len(bad)} unusable keyframes dropped, {left} left"])


def describe_anew(address: str, matcher_of: Callable[[dict[str, str]], Matcher]) -> None:
    """Descriptors and features by this matcher, how well views agree; places stay as they are."""
    store = open_map(address, write=True)
    try:
        drive = DriveRecorder(store, matcher_of(store.meta()), describe_anew=True)
        drive.keep_features()
        drive.learn_vocabulary()
        own = LoopWitness(drive.places, drive.options).own_detail(drive.edges)
        store.set_meta({OWN_DETAIL: f"{own:.3f}"})
    finally:
        store.close()
