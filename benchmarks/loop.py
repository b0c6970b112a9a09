"""Round and round a corridor that looks alike along its walls: how far off is the map, with and
without the loops that were closed, and is any loop wrong?

python benchmarks/loop.py [--metres 60] [--model lite] [--width 640] [--kept loop.l2m] [--no-wheels]

The robot has wheels whose odometry drifts by 1 % of the way, as the simulator's does; without them
what it drove before and after a view without detail (it turns before a wall) may stay apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import blas  # noqa: F401
import numpy as np

from l2m_ros.bags.mapping import BuildOptions, build_map
from l2m_ros.bags.recording import Recording, Shot
from l2m_ros.geometry import se3
from l2m_ros.mapping import chaining, graph, joining
from l2m_ros.mapping.alignment import aligned
from l2m_ros.mapping.options import MAPPER, PickerOptions
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.store import MapStore, open_map
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.progress import track
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation.faults import Faults
from l2m_ros.workshop.simulation.path import make_path
from l2m_ros.workshop.simulation.sequence import SimulatedFrame, SimulationOptions, simulate
from l2m_ros.workshop.simulation.world import make_world

WRONG_M, WRONG_DEG = 0.10, 5.0  # of a loop, against the truth


def drive(
    metres: float, width: int, rate_hz: float, *, wheels: bool
) -> tuple[int, FloatArray, Iterator[Shot]]:
    """Frames and shots of a wheeled robot with a depth camera, noise on all."""
    world = make_world("corridor", 0)
    whole = make_path("drive", world=world, frames=4000, rate_hz=rate_hz)
    path = whole.world_from_camera
    way_m = np.cumsum(np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1))
    frames = int(np.searchsorted(way_m, metres)) + 1
    options = SimulationOptions(
        scene="corridor",
        path="drive",
        frames=frames,
        width=width,
        height=3 * width // 4,
        rate_hz=rate_hz,
        stereo=False,
        faults=Faults.named(["noise", "depth"]),
    )
    shots = (
        Shot(
            s.frame,
            str(s.index),
            s.world_from_camera,
            _sample(s) if wheels else None,
            s.base_from_camera,
        )
        for s in simulate(options)
    )
    return frames, shots


def _sample(shot: SimulatedFrame) -> OdometrySample:
    return OdometrySample(shot.frame.stamp_ns, shot.odom_from_base, shot.odom_covariance)


def report(store: MapStore) -> None:
    truth = {id: store.keyframe(id).truth for id in store.ids()}
    edges, placed = store.edges(), store.poses()
    tracked = [e for e in edges if e.kind == "odometry"]
    group = chaining.components(store.ids(), tracked)[0]
    inside = [e for e in tracked if e.a in set(group)]
    chain = graph.optimised(inside, chaining.chained(group, inside, {}))
    print(f"  edges of tracking alone: {_ate(chain, truth)}", flush=True)
    print(f"  with loops: {_ate(placed, truth)}, {len(placed)} of {len(truth)} placed", flush=True)
    loops = [e for e in edges if e.kind == "loop"]
    far = [e for e in loops if abs(e.a - e.b) > 10]
    wrong = [e for e in loops if _is_wrong(e, truth)]
    used = [e for e in wrong if e.a in placed and e.b in placed]
    believed = set(joining.believed(store.runs(), edges, MAPPER.recent, MAPPER.gates))
    bad = sum(e in believed and graph.misfit(e, placed) < graph.WRONG_CHI2 for e in used)
    print(
        f"  {len(loops)} loops, {len(far)} of them over more than 10 keyframes; wrong: "
        f"{len(wrong)}, with a say: {bad}",
        flush=True,
    )


def _ate(placed: graph.Placed, truth: dict[int, FloatArray | None]) -> str:
    ids = [id for id in placed if truth[id] is not None]
    known = np.stack([truth[id] for id in ids])
    poses = np.stack([placed[id][0] for id in ids])
    off_m = np.linalg.norm((aligned(known, poses) @ poses - known)[:, :3, 3], axis=1)
    return f"ATE rmse {np.sqrt(np.mean(off_m**2)):.3f} m, most {off_m.max():.3f} m"


def _is_wrong(edge: Edge, truth: dict[int, FloatArray | None]) -> bool:
    d = se3.difference(edge.a_from_b, se3.inverse(truth[edge.a]) @ truth[edge.b])
    return bool(np.linalg.norm(d[:3]) > WRONG_M or np.degrees(np.linalg.norm(d[3:])) > WRONG_DEG)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metres", type=float, default=60.0)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--rate-hz", type=float, default=2.0)
    parser.add_argument("--every-m", type=float, default=0.3, help="between keyframes")
    parser.add_argument("--no-wheels", action="store_true")
    parser.add_argument("--kept", type=Path, help="the map's file; one that is there is only read")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.kept or Path(folder) / "loop.l2m"
        if not path.exists():
            wheels = not args.no_wheels
            frames, shots = drive(args.metres, args.width, args.rate_hz, wheels=wheels)
            recording = Recording(path, frames, "corridor", lambda: shots)
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            store = open_map(str(part), create=True)
            started = time.process_time()
            built = build_map(
                recording,
                store,
                load_matcher(args.model),
                BuildOptions(picker=PickerOptions(args.every_m)),
                lambda s: track(s, "driving", frames),
                lambda ids: track(ids, "closing loops"),
            )
            store.close()
            part.rename(path)
            print(f"  {built}, {time.process_time() - started:.0f} s of processor", flush=True)
        store = open_map(str(path), write=False)
        print(f"corridor, {args.metres:g} m, {args.model}")
        report(store)
        store.close()


if __name__ == "__main__":
    main()
