"""The tables of a map and all that is asked of them: the same words for both databases.

A database brings `transaction` (a cursor; committed at the end, rolled back on any error) and
the types of its columns; statements are written with `?`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput, MapError
from l2m_ros.files import foreign_values
from l2m_ros.mapping import codec
from l2m_ros.mapping.records import Edge, MapInfo, MapKeyframe, StoredCells, StoredFeatures
from l2m_ros.mapping.store import Poses
from l2m_ros.types import FloatArray

# {id}: a key that counts itself; {bytes}, {int}, {real}: types of the database.
TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE keyframe (id {id}, stamp_ns {int} NOT NULL, camera TEXT NOT NULL, "
    "image {bytes} NOT NULL, depth {bytes}, depth_scale_m {real} NOT NULL, "
    "scale_source TEXT NOT NULL, depth_source TEXT NOT NULL, run {int} NOT NULL, "
    "name TEXT NOT NULL, pose {bytes}, covariance {bytes}, truth {bytes})",
    "CREATE TABLE descriptor (keyframe {int} PRIMARY KEY "
    "REFERENCES keyframe(id) ON DELETE CASCADE, data {bytes} NOT NULL)",
    "CREATE TABLE feature (keyframe {int} NOT NULL REFERENCES keyframe(id) ON DELETE CASCADE, "
    "model TEXT NOT NULL, checksum TEXT NOT NULL, width {int} NOT NULL, height {int} NOT NULL, "
    "data {bytes} NOT NULL, PRIMARY KEY (keyframe, model))",
    "CREATE TABLE edge (a {int} NOT NULL REFERENCES keyframe(id) ON DELETE CASCADE, "
    "b {int} NOT NULL REFERENCES keyframe(id) ON DELETE CASCADE, "
    "kind TEXT NOT NULL CHECK (kind IN ('odometry', 'loop', 'prior')), "
    "pose {bytes} NOT NULL, covariance {bytes} NOT NULL, PRIMARY KEY (a, b, kind))",
    "CREATE INDEX edge_b ON edge (b)",
    "CREATE TABLE vocabulary (one {int} PRIMARY KEY CHECK (one = 1), data {bytes} NOT NULL)",
)
WITH_MOTION = (  # neither database can change a check that a column has
    "DROP INDEX edge_b",
    "ALTER TABLE edge RENAME TO edge_before",
    "CREATE TABLE edge (a {int} NOT NULL REFERENCES keyframe(id) ON DELETE CASCADE, "
    "b {int} NOT NULL REFERENCES keyframe(id) ON DELETE CASCADE, "
    "kind TEXT NOT NULL CHECK (kind IN ('odometry', 'loop', 'prior', 'motion')), "
    "pose {bytes} NOT NULL, covariance {bytes} NOT NULL, PRIMARY KEY (a, b, kind))",
    "INSERT INTO edge (a, b, kind, pose, covariance) "
    "SELECT a, b, kind, pose, covariance FROM edge_before",
    "DROP TABLE edge_before",
    "CREATE INDEX edge_b ON edge (b)",
)
WITH_CELLS = (
    "CREATE TABLE cells (keyframe {int} PRIMARY KEY REFERENCES keyframe(id) ON DELETE CASCADE, "
    "model TEXT NOT NULL, checksum TEXT NOT NULL, data {bytes} NOT NULL)",
)
KEYFRAME = (
    "id, stamp_ns, camera, image, depth, depth_scale_m, scale_source, depth_source, run, name, "
    "pose, covariance, truth"
)
ADD_KEYFRAME = (
    "INSERT INTO keyframe (stamp_ns, camera, image, depth, depth_scale_m, scale_source, "
    "depth_source, run, name, pose, covariance, truth) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"
)
ADD_EDGE = (
    "INSERT INTO edge (a, b, kind, pose, covariance) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (a, b, kind) DO UPDATE SET pose = excluded.pose, covariance = excluded.covariance"
)
ADD_FEATURES = (
    "INSERT INTO feature (keyframe, model, checksum, width, height, data) "
    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (keyframe, model) DO UPDATE SET "
    "checksum = excluded.checksum, width = excluded.width, height = excluded.height, "
    "data = excluded.data"
)
ADD_CELLS = (
    "INSERT INTO cells (keyframe, model, checksum, data) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (keyframe) DO UPDATE SET model = excluded.model, checksum = excluded.checksum, "
    "data = excluded.data"
)
ADD_DESCRIPTOR = (
    "INSERT INTO descriptor (keyframe, data) VALUES (?, ?) "
    "ON CONFLICT (keyframe) DO UPDATE SET data = excluded.data"
)
# One tuple of statements a format: a map of format n lacks those from n on.
MIGRATIONS: tuple[tuple[str, ...], ...] = (TABLES, WITH_MOTION, WITH_CELLS)
FORMAT = len(MIGRATIONS)  # a map of a higher number is refused
# Older maps are read as they are: what was added since is looked for from these formats on.
OLDEST, CELLS_SINCE = 1, 3

SET_META = (
    "INSERT INTO meta (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
SET_VOCABULARY = (
    "INSERT INTO vocabulary (one, data) VALUES (1, ?) "
    "ON CONFLICT (one) DO UPDATE SET data = excluded.data"
)


class SqlStore:
    """A `MapStore` over a database; see `sqlite.py` and `postgres.py` for what differs."""

    address: str
    format = FORMAT  # of the map; lower where an older one is only read

    # --- what a database brings ---------------------------------------------------------------

    def transaction(self, *, write: bool = False) -> AbstractContextManager[Any]:
        raise NotImplementedError

    def size_bytes(self) -> int:
        raise NotImplementedError

    # --- writing ------------------------------------------------------------------------------

    def add(
        self,
        keyframe: MapKeyframe,
        edges: Iterable[Edge] = (),
        features: StoredFeatures | None = None,
        descriptor: FloatArray | None = None,
        cells: StoredCells | None = None,
    ) -> int:
        with self.transaction(write=True) as cursor:
            id = int(cursor.execute(ADD_KEYFRAME, _row(keyframe)).fetchone()[0])
            for edge in edges:
                cursor.execute(ADD_EDGE, _edge_row(edge, new=id))
            if features is not None:
                cursor.execute(ADD_FEATURES, _features_row(id, features))
            if descriptor is not None:
                cursor.execute(ADD_DESCRIPTOR, (id, _half(descriptor)))
            if cells is not None:
                cursor.execute(ADD_CELLS, _cells_row(id, cells))
        return id

    def add_edges(self, edges: Iterable[Edge]) -> None:
        with self.transaction(write=True) as cursor:
            for edge in edges:
                cursor.execute(ADD_EDGE, _edge_row(edge))

    def remove_edges(self, edges: Iterable[Edge]) -> None:
        with self.transaction(write=True) as cursor:
            for edge in edges:
                cursor.execute(
                    "DELETE FROM edge WHERE a = ? AND b = ? AND kind = ?",
                    (edge.a, edge.b, edge.kind),
                )

    def remove(self, ids: Iterable[int], bridges: Iterable[Edge] = ()) -> None:
        with self.transaction(write=True) as cursor:
            for id in ids:
                cursor.execute("DELETE FROM keyframe WHERE id = ?", (id,))
            for edge in bridges:
                cursor.execute(ADD_EDGE, _edge_row(edge))

    def set_poses(self, poses: Poses) -> None:
        with self.transaction(write=True) as cursor:
            for id, placed in poses.items():
                pose, covariance = placed or (None, None)
                cursor.execute(
                    "UPDATE keyframe SET pose = ?, covariance = ? WHERE id = ?",
                    (codec.encode_matrix(pose), codec.encode_matrix(covariance), id),
                )

    def set_depth(self, id: int, depth: bytes, scale_m: float, source: str) -> None:
        with self.transaction(write=True) as cursor:
            cursor.execute(
                "UPDATE keyframe SET depth = ?, depth_scale_m = ?, depth_source = ? WHERE id = ?",
                (depth, scale_m, source, id),
            )

    def put_features(self, id: int, features: StoredFeatures) -> None:
        with self.transaction(write=True) as cursor:
            cursor.execute(ADD_FEATURES, _features_row(id, features))

    def put_cells(self, id: int, cells: StoredCells) -> None:
        with self.transaction(write=True) as cursor:
            cursor.execute(ADD_CELLS, _cells_row(id, cells))

    def put_descriptors(self, vocabulary: bytes, by_id: Mapping[int, FloatArray]) -> None:
        with self.transaction(write=True) as cursor:
            cursor.execute(SET_VOCABULARY, (vocabulary,))
            cursor.execute("DELETE FROM descriptor")
            for id, descriptor in by_id.items():
                cursor.execute(ADD_DESCRIPTOR, (id, _half(descriptor)))

    def set_meta(self, values: Mapping[str, str]) -> None:
        with self.transaction(write=True) as cursor:
            for item in values.items():
                cursor.execute(SET_META, item)

    # --- reading ------------------------------------------------------------------------------

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Whatever stands in a row that cannot be used is a refusal with the remedy."""
        try:
            with foreign_values(f"{self.address}: {what}"):
                yield
        except InvalidInput as error:
            remedy = f"save what is left with `l2m map check --repair {self.address}`"
            raise MapError(f"{error}: {remedy}") from error

    def _all(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self.transaction() as cursor:
            return list(cursor.execute(statement, values).fetchall())

    def ids(self) -> list[int]:
        return [int(row[0]) for row in self._all("SELECT id FROM keyframe ORDER BY id")]

    def runs(self) -> dict[int, int]:
        rows = self._all("SELECT id, run FROM keyframe ORDER BY id")
        with self._readable("the number of a drive"):
            return {int(id): int(run) for id, run in rows}

    def keyframe(self, id: int) -> MapKeyframe:
        rows = self._all(f"SELECT {KEYFRAME} FROM keyframe WHERE id = ?", (id,))
        if not rows:
            raise MapError(f"{self.address}: keyframe {id} is not in this map")
        with self._readable(f"keyframe {id}"):
            return keyframe_of(rows[0])

    def edges(self) -> list[Edge]:
        rows = self._all("SELECT a, b, pose, covariance, kind FROM edge ORDER BY a, b, kind")
        with self._readable("an edge"):
            return [edge_of(row) for row in rows]

    def poses(self) -> dict[int, tuple[FloatArray, FloatArray]]:
        rows = self._all(
            "SELECT id, pose, covariance FROM keyframe "
            "WHERE pose IS NOT NULL AND covariance IS NOT NULL ORDER BY id"
        )
        with self._readable("a pose"):
            return {int(id): (_m(T, 4), _m(P, 6)) for id, T, P in rows}

    def features(self, id: int, model: str, checksum: str) -> StoredFeatures | None:
        rows = self._all(
            "SELECT width, height, data FROM feature "
            "WHERE keyframe = ? AND model = ? AND checksum = ?",
            (id, model, checksum),
        )
        if not rows:
            return None
        width, height, data = rows[0]
        with self._readable(f"features of keyframe {id}"):
            arrays = codec.decode_arrays(_bytes(data) or b"")
            return StoredFeatures(model, checksum, (int(width), int(height)), arrays)

    def cells(self, id: int, model: str, checksum: str) -> StoredCells | None:
        if self.format < CELLS_SINCE:
            return None
        rows = self._all(
            "SELECT data FROM cells WHERE keyframe = ? AND model = ? AND checksum = ?",
            (id, model, checksum),
        )
        if not rows:
            return None
        with self._readable(f"cells of keyframe {id}"):
            return StoredCells(model, checksum, codec.decode_cells(_bytes(rows[0][0]) or b""))

    def features_bytes(self) -> int:
        return int(self._all("SELECT COALESCE(SUM(LENGTH(data)), 0) FROM feature")[0][0])

    def descriptors(self) -> tuple[list[int], FloatArray]:
        rows = self._all("SELECT keyframe, data FROM descriptor ORDER BY keyframe")
        if not rows:
            return [], np.zeros((0, 0), np.float32)
        with self._readable("a descriptor"):
            data = [np.frombuffer(_bytes(row[1]) or b"", np.float16) for row in rows]
            return [int(row[0]) for row in rows], np.stack(data).astype(np.float32)

    def vocabulary(self) -> bytes | None:
        rows = self._all("SELECT data FROM vocabulary")
        with self._readable("the vocabulary"):
            return _bytes(rows[0][0]) if rows else None

    def meta(self) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._all("SELECT name, value FROM meta")}

    def info(self) -> MapInfo:
        with self.transaction() as cursor:
            ask = lambda text: cursor.execute(text).fetchall()  # noqa: E731
            total, placed, depth = ask("SELECT COUNT(*), COUNT(pose), COUNT(depth) FROM keyframe")[
                0
            ]
            edges = dict(ask("SELECT kind, COUNT(*) FROM edge GROUP BY kind"))
            models = dict(ask("SELECT model, COUNT(*) FROM feature GROUP BY model"))
        size = self.size_bytes()
        return MapInfo(
            self.address, self.format, total, placed, edges, depth, models, size, self.meta()
        )


def columns(text: str, types: Mapping[str, str]) -> str:
    """A statement of TABLES with a database's own types."""
    return text.format(**types)


def _row(k: MapKeyframe) -> tuple[Any, ...]:
    return (
        k.stamp_ns, codec.encode_camera(k.camera), k.image, k.depth, k.depth_scale_m,
        k.scale_source, k.depth_source, k.run, k.name, codec.encode_matrix(k.map_from_camera),
        codec.encode_matrix(k.covariance), codec.encode_matrix(k.truth),
    )  # fmt: skip


def keyframe_of(row: Any) -> MapKeyframe:
    id, stamp, camera, image, depth, scale, source, kind, run, name, pose, covariance, truth = row
    return MapKeyframe(
        int(id),
        int(stamp),
        codec.decode_camera(camera),
        _bytes(image) or b"",
        _bytes(depth),
        float(scale),
        source,
        kind,
        int(run),
        name,
        codec.decode_matrix(_bytes(pose), 4),
        codec.decode_matrix(_bytes(covariance), 6),
        codec.decode_matrix(_bytes(truth), 4),
    )


def edge_of(row: Any) -> Edge:
    a, b, pose, covariance, kind = row
    return Edge(int(a), int(b), _m(pose, 4), _m(covariance, 6), str(kind))


def _edge_row(edge: Edge, new: int = 0) -> tuple[Any, ...]:
    pose, covariance = codec.encode_matrix(edge.a_from_b), codec.encode_matrix(edge.covariance)
    return edge.a or new, edge.b or new, edge.kind, pose, covariance


def _features_row(id: int, f: StoredFeatures) -> tuple[Any, ...]:
    return id, f.model, f.checksum, *f.image_size, codec.encode_arrays(f.arrays)


def _cells_row(id: int, cells: StoredCells) -> tuple[Any, ...]:
    return id, cells.model, cells.checksum, codec.encode_cells(cells.grid)


def _half(descriptor: FloatArray) -> bytes:
    return np.asarray(descriptor, np.float16).tobytes()


def _bytes(value: Any) -> bytes | None:
    """SQLite lets any type into any column, and bytes(10**10) would be ten gigabytes."""
    if value is None:
        return None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidInput(f"{type(value).__name__} is stored where bytes should be")
    return bytes(value)


def _m(content: Any, side: int) -> FloatArray:
    matrix = codec.decode_matrix(_bytes(content), side)
    if matrix is None:
        raise InvalidInput("a matrix is missing")
    return matrix
