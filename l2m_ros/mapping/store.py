"""Where a map lies: one SQLite file, or a PostgreSQL database that a fleet shares.

    store = open_map("office.l2m")                      read only
    store = open_map("postgresql://host/maps", write=True)

Every call is one transaction: a process that is killed loses at most the keyframe under way.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from l2m_ros.errors import MapError
from l2m_ros.files import without_password
from l2m_ros.mapping.records import Edge, MapInfo, MapKeyframe, StoredCells, StoredFeatures
from l2m_ros.types import FloatArray

POSTGRES = ("postgresql://", "postgres://")

Poses = Mapping[int, tuple[FloatArray, FloatArray] | None]  # id: (map_from_camera, covariance)


class MapStore(Protocol):
    """What every store can do. Calls raise MapError with one line that names the remedy."""

    address: str

    def add(
        self,
        keyframe: MapKeyframe,
        edges: Iterable[Edge] = (),
        features: StoredFeatures | None = None,
        descriptor: FloatArray | None = None,
        cells: StoredCells | None = None,
    ) -> int:
        """Stores all of one keyframe and returns its id; 0 in an edge means this keyframe."""
        ...

    def add_edges(self, edges: Iterable[Edge]) -> None: ...

    def remove_edges(self, edges: Iterable[Edge]) -> None: ...

    def remove(self, ids: Iterable[int], bridges: Iterable[Edge] = ()) -> None:
        """Keyframes with all that belongs to them; `bridges` replace the edges they carried."""
        ...

    def ids(self) -> list[int]: ...

    def runs(self) -> dict[int, int]:
        """By keyframe, the number of the drive that it is of."""
        ...

    def keyframe(self, id: int) -> MapKeyframe: ...

    def edges(self) -> list[Edge]: ...

    def poses(self) -> dict[int, tuple[FloatArray, FloatArray]]:
        """Of the placed keyframes."""
        ...

    def set_poses(self, poses: Poses) -> None:
        """All at once; None takes a keyframe's place away."""
        ...

    def set_depth(self, id: int, depth: bytes, scale_m: float, source: str) -> None: ...

    def features(self, id: int, model: str, checksum: str) -> StoredFeatures | None: ...

    def put_features(self, id: int, features: StoredFeatures) -> None: ...

    def cells(self, id: int, model: str, checksum: str) -> StoredCells | None: ...

    def put_cells(self, id: int, cells: StoredCells) -> None: ...

    def features_bytes(self) -> int: ...

    def descriptors(self) -> tuple[list[int], FloatArray]:
        """Ids and (N, D) float32 of the keyframes that have one."""
        ...

    def put_descriptors(self, vocabulary: bytes, by_id: Mapping[int, FloatArray]) -> None:
        """A vocabulary and the descriptors made with it, all replaced at once."""
        ...

    def vocabulary(self) -> bytes | None: ...

    def meta(self) -> dict[str, str]: ...

    def set_meta(self, values: Mapping[str, str]) -> None: ...

    def info(self) -> MapInfo: ...

    def version(self) -> int:
        """Another number whenever somebody else has changed the map."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """True as soon as somebody else changed the map, False after the time is over."""
        ...

    def problems(self) -> list[str]:
        """What the database itself says is broken."""
        ...

    def close(self) -> None: ...


def open_map(address: str, *, write: bool = False, create: bool = False) -> MapStore:
    """The store behind an address; `create` makes it where there is none."""
    if "://" in address and not address.startswith(POSTGRES):
        shown = without_password(address)
        raise MapError(f"{shown}: a map is a file or {POSTGRES[0]}..., nothing else")
    kind = "postgres" if address.startswith(POSTGRES) else "sqlite"
    module = importlib.import_module(f"l2m_ros.mapping.{kind}")
    store: MapStore = module.open_store(address, write=write or create, create=create)
    return store
