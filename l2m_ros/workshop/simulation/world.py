"""The simulated world: triangles, their textures with the light baked in, and what rays meet.

    world = make_world("room", seed=0)
    view  = world.view(world_from_camera, time_s)      the world as one camera sees it
    hit   = view.first_hit(rays)                       (N,) triangle, -1 = sky
    z     = view.depth_m(hit, rays)                    exact: from the triangle's plane, float64

Static surfaces make one rigid group, each moving object another, which only translates.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.spelling import nearest
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.simulation import bare, corridor, room, varied, yard
from l2m_ros.workshop.simulation.atlas import Atlas, pack
from l2m_ros.workshop.simulation.canvas import GAMMA, Canvas, encoded
from l2m_ros.workshop.simulation.lighting import Lighting, bake
from l2m_ros.workshop.simulation.raycast import Raycaster
from l2m_ros.workshop.simulation.scenery import Mover, Scenery
from l2m_ros.workshop.simulation.surfaces import Leaves, Surface, crossed

Indices = npt.NDArray[np.integer]

SCENES = MappingProxyType(
    {
        "room": room.build,
        "corridor": corridor.build,
        "yard": yard.build,
        "bare": bare.build,
        "varied": varied.build,  # another size and look with each seed
    }
)


@dataclass(frozen=True, eq=False)
class Triangles:
    """T triangles with the texture on each; texel = texel_a @ X + texel_b, X in the group."""

    corners: FloatArray  # (T, 3, 3)
    normal: FloatArray  # (T, 3) unit
    offset: FloatArray  # (T,): normal . X = offset
    texel_a: FloatArray  # (T, 2, 3) texels per metre
    texel_b: FloatArray  # (T, 2)
    patch: Indices  # (T,) which texture of the atlas
    facet: Indices  # (T,) equal on one smooth surface: edges between facets are smoothed
    gain: FloatArray  # (T,) light on a leaf, in encoded (gamma) values; 1 on sheets


@dataclass(frozen=True, eq=False)
class World:
    """Made by `make_world`; nothing in it changes."""

    name: str
    triangles: Triangles
    group: Indices  # (T,) 0 = static, k = moving object k - 1
    movers: Sequence[Mover]
    casters: Sequence[Raycaster]  # one for each group
    atlas: Atlas
    sky: ByteArray | None  # equirectangular, for rays that meet nothing
    free_box_m: FloatArray  # (2, 3) lowest and highest point of where a camera may be
    look_span_rad: float  # how far to either side of +x a robot looks around

    def view(
        self, world_from_camera: FloatArray, time_s: float = 0.0, *, moving: bool = False
    ) -> View:
        """What a camera at this pose and time sees; moving objects are left out by default."""
        return View(self, np.asarray(world_from_camera, float), time_s, moving)

    def offsets_m(self, time_s: float) -> FloatArray:
        """(groups, 3): where each group is, as a translation in the world."""
        return np.stack([np.zeros(3), *(mover.offset_m(time_s) for mover in self.movers)])


@dataclass(frozen=True, eq=False)
class View:
    """A world in the frame of one camera at one time."""

    world: World
    world_from_camera: FloatArray
    time_s: float
    moving: bool
    inverse_depth: FloatArray = field(init=False)  # (T, 3): 1/z = inverse_depth . (x, y, 1)

    def __post_init__(self) -> None:
        world, R = self.world, self.world_from_camera[:3, :3]
        table = world.triangles
        distance = table.offset - np.einsum("ti,ti->t", table.normal, self.origins())
        with np.errstate(divide="ignore", invalid="ignore"):  # planes through the camera: unseen
            object.__setattr__(self, "inverse_depth", (table.normal @ R) / distance[:, None])

    def origins(self) -> FloatArray:
        """(T, 3): the camera's centre in the group of each triangle."""
        starts = self.world_from_camera[:3, 3] - self.world.offsets_m(self.time_s)
        return starts[self.world.group]

    def first_hit(self, rays: FloatArray) -> Indices:
        """(N,) triangle that each camera ray (N, 3), z = 1, meets first; -1 = sky."""
        world, pose = self.world, self.world_from_camera
        directions = rays.astype(np.float32) @ pose[:3, :3].T.astype(np.float32)
        hit = world.casters[0].nearest(pose[:3, 3], directions)
        if self.moving:
            for number, mover in enumerate(world.movers, start=1):
                self._insert(hit, rays, directions, number, mover)
        return hit

    def _insert(
        self, hit: Indices, rays: FloatArray, directions: FloatArray, number: int, mover: Mover
    ) -> None:
        """Replaces the hits that a moving object hides."""
        offset = mover.offset_m(self.time_s)
        start = self.world_from_camera[:3, 3] - offset
        to_centre = np.asarray(mover.centre_m - start, np.float32)
        miss = np.cross(directions, to_centre)  # |d x c| = |d| times the distance to the centre
        near = np.einsum("ni,ni->n", miss, miss) <= mover.radius_m**2 * np.einsum(
            "ni,ni->n", directions, directions
        )
        chosen = np.flatnonzero(near)
        found = self.world.casters[number].nearest(start, directions[chosen])
        chosen, found = chosen[found >= 0], found[found >= 0]
        found = found + int(np.searchsorted(self.world.group, number))
        closer = self.depth_m(found, rays[chosen]) < self.depth_m(hit[chosen], rays[chosen])
        hit[chosen[closer]] = found[closer]

    def depth_m(self, hit: Indices, rays: FloatArray) -> FloatArray:
        """(N,) z along the optical axis of the point hit, infinity for sky; float64."""
        inverse = np.einsum("ni,ni->n", self.inverse_depth[hit], np.asarray(rays, float))
        with np.errstate(divide="ignore"):
            return np.where(hit >= 0, 1.0 / inverse, np.inf)


def make_world(scene: str = "room", seed: int = 0) -> World:
    """Builds (1 to 3 seconds) or remembers the world of this name and seed."""
    if scene not in SCENES:
        raise InvalidInput(
            f"unknown scene {scene!r}; there are {', '.join(SCENES)}{nearest(scene, SCENES)}"
        )
    return _remembered(scene, int(seed))


@functools.lru_cache(maxsize=3)  # about 100 MB each
def _remembered(scene: str, seed: int) -> World:
    scenery = SCENES[scene](np.random.default_rng([seed, 1]))
    return assemble(scene, scenery, seed)


def assemble(name: str, scenery: Scenery, seed: int, *, sky_seed: int | None = None) -> World:
    """Paints, lights and indexes a scenery; sky_seed: if its sky is to be that of another seed."""
    bodies = [scenery.surfaces, *(mover.surfaces for mover in scenery.movers)]
    surfaces = [surface for body in bodies for surface in body]
    groups = np.repeat(np.arange(len(bodies)), [len(body) for body in bodies])
    textures, gains = _painted(surfaces, groups, scenery.lighting, seed)
    triangles, group = _indexed(surfaces, groups, textures, gains)
    casters = [Raycaster(triangles.corners[group == number]) for number in range(len(bodies))]
    sky = _sky(seed if sky_seed is None else sky_seed) if scenery.outdoors else None
    return World(
        name,
        triangles,
        group,
        scenery.movers,
        casters,
        pack(textures),
        sky,
        np.asarray(scenery.free_box_m, float),
        scenery.look_span_rad,
    )


def _painted(
    surfaces: Sequence[Surface], groups: Indices, lighting: Lighting, seed: int
) -> tuple[list[ByteArray], list[FloatArray | None]]:
    """The textures with the light on them; for leaves, the light of each triangle apart."""
    fixed = np.concatenate(
        [s.triangles()[0] for s, g in zip(surfaces, groups, strict=True) if g == 0]
    )
    rng = np.random.default_rng([seed, 2])
    lights = bake(surfaces, lighting, Raycaster(fixed), rng)
    textures: list[ByteArray] = []
    gains: list[FloatArray | None] = []
    for number, (surface, light) in enumerate(zip(surfaces, lights, strict=True)):
        width_m, height_m = surface.size_m
        rng = np.random.default_rng([seed, 4, number])
        albedo = surface.material(Canvas(rng, width_m, height_m, surface.texels_per_m))
        leafy = isinstance(surface, Leaves)
        if not leafy:
            size = albedo.shape[1::-1]
            albedo = albedo * cv2.resize(light, size, interpolation=cv2.INTER_LINEAR)
        textures.append(encoded(albedo).round().astype(np.uint8))
        gains.append(np.tile(light.mean(axis=1), 2) ** (1 / GAMMA) if leafy else None)
    return textures, gains


def _indexed(
    surfaces: Sequence[Surface],
    groups: Indices,
    textures: Sequence[ByteArray],
    gains: Sequence[FloatArray | None],
) -> tuple[Triangles, Indices]:
    corners, texels, patch, facet, gain, group = [], [], [], [], [], []
    leaf_facet = len(surfaces)
    for number, surface in enumerate(surfaces):
        triangles, uv = surface.triangles()
        count = len(triangles)
        corners.append(triangles)
        texels.append(uv * textures[number].shape[1::-1])
        patch.append(np.full(count, number))
        group.append(np.full(count, groups[number]))
        light = gains[number]
        gain.append(np.ones(count) if light is None else light)
        facet.append(np.full(count, number) if light is None else leaf_facet + np.arange(count))
        leaf_facet += 0 if light is None else count
    P, t = np.concatenate(corners), np.concatenate(texels)
    normal = crossed(P[:, 1] - P[:, 0], P[:, 2] - P[:, 0])
    area = np.linalg.norm(normal, axis=1, keepdims=True)
    A, b = _affine(P, t, normal / area**2)
    normal = normal / area
    offset = np.einsum("ti,ti->t", normal, P[:, 0])
    table = Triangles(
        P, normal, offset, A, b, np.concatenate(patch), np.concatenate(facet), np.concatenate(gain)
    )
    return table, np.concatenate(group)


def _affine(P: FloatArray, t: FloatArray, scaled: FloatArray) -> tuple[FloatArray, FloatArray]:
    """texel = A X + b from three corners: A takes edges to texel edges and the normal to 0.

    `scaled` is n / |n|^2 of n = e1 x e2, so (e2 x scaled, scaled x e1) is the dual basis.
    """
    e1, e2 = P[:, 1] - P[:, 0], P[:, 2] - P[:, 0]
    dual = np.stack([crossed(e2, scaled), crossed(scaled, e1)], axis=1)  # (T, 2, 3)
    edges = np.stack([t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]], axis=2)  # (T, texel axis, edge)
    A = edges @ dual
    return A, t[:, 0] - np.einsum("tij,tj->ti", A, P[:, 0])


@functools.lru_cache(maxsize=8)
def _sky(seed: int) -> ByteArray:
    """Equirectangular, azimuth along x, zenith at the top: clouds on a flat layer overhead."""
    canvas = Canvas(np.random.default_rng([seed, 3]), 20.48, 20.48, 50.0)
    layer = np.clip(0.3 + 0.45 * canvas.noise(0.3, octaves=5), 0, 1)
    azimuth = np.pi * (1 - (np.arange(2048) + 0.5) / 1024)
    height = np.sin(np.pi * (0.5 - (np.arange(1024) + 0.5) / 1024))[:, None]
    reach = 90.0 * np.sqrt(1 - height**2) / (np.maximum(height, 0.0) + 0.12)
    x, y = 512 + reach * np.cos(azimuth), 512 + reach * np.sin(azimuth)
    at = x.astype(np.float32), y.astype(np.float32)
    clouds = cv2.remap(layer, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    clouds = (clouds * np.clip(4 * height + 0.2, 0.1, 1))[..., None]
    haze = (1 - np.clip(height, 0, 1))[..., None] ** 3
    blue = np.array([0.3, 0.5, 0.82]) + haze * [0.46, 0.34, 0.13]
    colour = blue * (1 - clouds) + clouds * [0.96, 0.96, 0.97]
    return np.round(255 * np.clip(colour, 0, 1)).astype(np.uint8)
