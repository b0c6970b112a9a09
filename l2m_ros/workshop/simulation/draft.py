"""Worlds by the hundred, to learn from: any scenery, painted coarsely and lit by few rays.

A second of a core instead of four. How fine a texture is painted changes from surface to surface,
or a network would read how near a thing is off how blurred it looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from l2m_ros.workshop.simulation import varied
from l2m_ros.workshop.simulation.scenery import Scenery
from l2m_ros.workshop.simulation.surfaces import Leaves, Surface
from l2m_ros.workshop.simulation.world import World, assemble

TEXELS = 2.5e6  # of a world
TEXELS_PER_M = (10.0, 1000.0)
MOST_TEXELS = 1400  # of a side
FINENESS_SIGMA = 0.4  # of its log, from surface to surface
SKIES = 6
KINDS = {
    "desk": 0.36, "kitchen": 0.14, "room": 0.2, "hall": 0.05, "corridor": 0.09, "street": 0.08,
    "yard": 0.08,
}  # fmt: skip


def kind_of(seed: int) -> str:
    return _drawn(np.random.default_rng([seed, 1]))


def _drawn(rng: np.random.Generator) -> str:
    return str(rng.choice(list(KINDS), p=list(KINDS.values())))


def draft_world(seed: int, kind: str | None = None) -> World:
    """The same one each time; kind: one of KINDS instead of any."""
    rng = np.random.default_rng([seed, 1])
    drawn = _drawn(rng)
    kind = kind or drawn
    scenery = varied.build_kind(kind, rng)
    lighting = replace(scenery.lighting, ambient_rays=4, lamp_rays=2, lumels_per_m=5.0)
    surfaces = _coarsely(scenery.surfaces, rng)
    drafted = Scenery(
        surfaces, lighting, scenery.free_box_m, scenery.look_span_rad, (), scenery.outdoors
    )
    return assemble(kind, drafted, seed, sky_seed=seed % SKIES)


def _coarsely(surfaces: Sequence[Surface], rng: np.random.Generator) -> list[Surface]:
    """Fineness falls with the root of the size: small things are looked at from near."""
    sides = np.array([np.sqrt(np.prod(surface.size_m)) for surface in surfaces])
    usual = np.sqrt(TEXELS / sides.sum())
    fineness = usual / np.sqrt(sides) * np.exp(rng.normal(0, FINENESS_SIGMA, len(sides)))
    longest = np.array([max(surface.size_m) for surface in surfaces])
    fineness = np.minimum(fineness.clip(*TEXELS_PER_M), MOST_TEXELS / longest)
    return [
        surface if isinstance(surface, Leaves) else replace(surface, texels_per_m=float(value))
        for surface, value in zip(surfaces, fineness, strict=True)
    ]
