"""Which triangle a ray meets first: Intel Embree through `embreex`, its only importer here.

Embree computes in single precision, so it only names the triangle; distances are taken
from the triangle's plane in double precision by whoever asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import BackendUnavailable
from l2m_ros.types import FloatArray


class Raycaster:
    """A fixed set of triangles, (T, 3, 3) metres."""

    def __init__(self, corners: FloatArray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise BackendUnavailable(
                "rendering the simulated world needs embreex: pip install embreex"
            ) from error
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(self._scene, np.ascontiguousarray(corners, np.float32))

    def nearest(self, origin: FloatArray, directions: FloatArray) -> npt.NDArray[np.int32]:
        """(N,) index of the first triangle on each ray, -1 for none; origin (3,) or (N, 3)."""
        return np.asarray(self._run(origin, directions, query="INTERSECT"), np.int32)

    def distances(self, origin: FloatArray, directions: FloatArray) -> npt.NDArray[np.float32]:
        """(N,) how far each ray gets, in lengths of its direction; infinity for none."""
        far = np.asarray(self._run(origin, directions, query="DISTANCE"), np.float32)
        return np.where(far > 1e30, np.float32(np.inf), far)

    def _run(self, origin: FloatArray, directions: FloatArray, query: str) -> Any:
        rays = np.ascontiguousarray(directions, np.float32)
        starts = np.ascontiguousarray(np.broadcast_to(np.asarray(origin, np.float32), rays.shape))
        return self._scene.run(starts, rays, query=query)
