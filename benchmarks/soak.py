"""Hours of the node in minutes or hours: memory, life cycles, floods, sizes that change, nonsense.

    python benchmarks/soak.py --minutes 60 --model lite       one JSON line a phase, then a summary
    python benchmarks/soak.py --minutes 2 --model sift        a quick look

Phases share the time: frames (every output listened to), flood (200 Hz), sizes (another one every
frame), nonsense (random parameters, transitions, messages); and --cycles life cycles. It ends
with 1 where the node stopped posing, a problem was not answered in words, or memory grew by more
than --growth percent from the first quarter of a phase to its last.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

from nav_msgs.msg import Odometry
from ros_bench import CAMERA, HEIGHT, WIDTH, Bench, image, info, stamp_of
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.types import Camera

OUTPUTS = {
    "relative": Odometry, "odometry": Odometry, "correspondences": PointCloud2, "warp": Image,
    "certainty": Image, "matches": Image, "keyframe": Image,
}  # fmt: skip


def resident_mb() -> float:
    """Of this process: node, driver and their DDS."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def phase(name: str, seconds: float, step: Callable[[], None], growth: float) -> bool:
    """Repeat for so long; whether memory stayed flat."""
    started_s, marks, count = time.monotonic(), [], 0
    while (spent_s := time.monotonic() - started_s) < seconds:
        step()
        count += 1
        if len(marks) < 40 * spent_s / seconds:
            marks.append(resident_mb())
    quarter = max(1, len(marks) // 4)
    first, last = np.median(marks[quarter : 2 * quarter] or marks), np.median(marks[-quarter:])
    percent = 100 * (last / first - 1)
    flat = bool(percent <= growth)
    figures = {"phase": name, "s": round(seconds), "steps": count, "mb": round(float(last), 1)}
    figures |= {"growth_percent": round(float(percent), 2), "flat": flat}
    print(json.dumps(figures), flush=True)
    return flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--growth", type=float, default=2.0, help="percent")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    share_s, rng = 60 * args.minutes / 4, random.Random(args.seed)
    matcher = load_matcher(args.model)
    flat = []
    with Bench(matcher=matcher) as bench:
        for name, kind in OUTPUTS.items():
            bench.listen(kind, f"/l2m/{name}", lambda message: None, depth=1)
        flat.append(phase("frames", share_s, lambda: _frame(bench, 0.05), args.growth))
        flat.append(phase("flood", share_s, lambda: _frame(bench, 0.005), args.growth))
        flat.append(phase("sizes", share_s, lambda: _sized(bench, rng), args.growth))
        flat.append(phase("nonsense", share_s, lambda: _nonsense(bench, rng), args.growth))
        _recover(bench)
        before, started_s = resident_mb(), time.monotonic()
        for _ in range(args.cycles):
            bench.node.trigger_deactivate()
            bench.node.trigger_cleanup()
            bench.node.trigger_configure()
            bench.node.trigger_activate()
        spent = {"phase": "cycles", "cycles": args.cycles, "s": round(time.monotonic() - started_s)}
        print(json.dumps(spent | {"mb_before": round(before, 1), "mb": round(resident_mb(), 1)}))
        _recover(bench)
        posed = len(bench.poses)
    print(json.dumps({"flat": all(flat), "poses": posed}))
    return 0 if all(flat) else 1


def _frame(bench: Bench, pause_s: float) -> None:
    bench.send()
    del bench.poses[:-1000]
    time.sleep(pause_s)


def _sized(bench: Bench, rng: random.Random) -> None:
    scale = rng.choice((0.5, 0.75, 1.0, 1.5))
    width, height = round(WIDTH * scale), round(HEIGHT * scale)
    pixels = np.random.default_rng(bench.number).integers(0, 256, (height, width, 3), np.uint8)
    K = np.diag([scale, scale, 1.0]) @ CAMERA.K
    camera = Camera(width, height, K)
    bench.publishers["camera_info"].publish(info(bench.number, camera))
    bench.publishers["image"].publish(image(bench.number, pixels=pixels))
    bench.number += 1
    time.sleep(0.03)


def _nonsense(bench: Bench, rng: random.Random) -> None:
    """Wrong stamps, encodings and cameras; parameters and transitions by chance."""
    from rclpy.parameter import Parameter

    choice = rng.randrange(6)
    if choice == 0:
        message = image(bench.number, stamp=rng.randrange(1, 2**60))
        message.encoding = rng.choice(("rgb8", "martian", "32FC1", "nv12"))
        message.step = rng.randrange(5000)
        bench.publishers["image"].publish(message)
    elif choice == 1:
        broken = CameraInfo(width=rng.randrange(1000), height=rng.randrange(1000))
        broken.k = [rng.choice((0.0, 1e300, float("nan"), 500.0)) for _ in range(9)]
        bench.publishers["camera_info"].publish(broken)
    elif choice == 2:
        name = rng.choice(("tracking.max_sigma_m", "tracking.min_inliers", "sync.slop_s", "model"))
        value = rng.choice((1, 0.01, -5.0, 1e9, "nonsense", True, 7))
        bench.node.set_parameters([Parameter(name, value=value)])
    elif choice == 3 and rng.randrange(10) == 0:
        for transition in ("deactivate", "activate"):
            getattr(bench.node, f"trigger_{transition}")()
    else:
        _frame(bench, 0.02)


def _recover(bench: Bench) -> None:
    """Good input brings poses back."""
    bench.number += 1000
    bench.recover(5, seconds=120.0)
    assert stamp_of(bench.number) > 0


if __name__ == "__main__":
    sys.exit(main())
