"""Hours of the node in a process of its own, over real DDS: does it go on, and is its memory flat?

    python benchmarks/soak.py                            everything, about two hours
    python benchmarks/soak.py frames --minutes 60        one phase
    python benchmarks/soak.py cycles --count 200

    frames     640x480, every output listened to                     60 minutes
    drive      160x120, for ever onward along a wall                 60
    flood      images at 200 Hz                                       5
    sizes      another image size every frame                         5
    nonsense   random parameters, transitions, stamps, encodings     30
    cycles     deactivate, cleanup, configure, activate              200 times
    kills      kill -9 and start again                                20 times

A node that also builds a map, which is thinned to so many keyframes again and again:

    python benchmarks/soak.py drive --model SMALL_LITE -p map.mode:=build -p map.path:=soak.l2m \
        -p map.max_keyframes:=150 -p map.nice:=5

One JSON line a phase. Memory is that of the node and its children: the median of the phase's last
quarter against that of its second quarter, so that the warm-up does not count. Ends with 1 where
memory grew by more than --growth percent, where the node ended, or where good input afterwards
brings no poses.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import refusals  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Odometry
from node_process import NodeProcess
from ros_bench import CAMERA, HEIGHT, WIDTH, depth, image, info, rgb, shift_px
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from l2m_ros.parameters.table import PARAMETERS
from l2m_ros.types import Camera

OUTPUTS = {
    "relative": Odometry, "odometry": Odometry, "correspondences": PointCloud2, "warp": Image,
    "certainty": Image, "matches": Image, "keyframe": Image,
}  # fmt: skip
MINUTES = {"frames": 60.0, "drive": 60.0, "flood": 5.0, "sizes": 5.0, "nonsense": 30.0}
COUNTS = {"cycles": 200, "kills": 20}
START_S = 300.0  # for the node to start, to answer or to end: the machine may be busy
MARKS = 200  # memory readings a phase
STEPS = 2  # of the bench for each image of a drive: 1 cm
FULL = 4  # times the bench's 160x120: the size of the shipped model's input
CYCLE = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
)
ANY_TRANSITION = (*CYCLE, 0, 99)
UNCONFIGURED, INACTIVE, ACTIVE = "unconfigured", "inactive", "active"
STATES = {  # every other transition is refused
    (UNCONFIGURED, Transition.TRANSITION_CONFIGURE): INACTIVE,
    (INACTIVE, Transition.TRANSITION_ACTIVATE): ACTIVE,
    (ACTIVE, Transition.TRANSITION_DEACTIVATE): INACTIVE,
    (INACTIVE, Transition.TRANSITION_CLEANUP): UNCONFIGURED,
}
NOISE = np.random.default_rng(7).integers(0, 256, (HEIGHT, 25_000, 3), np.uint8)
WALL = cv2.normalize(cv2.GaussianBlur(NOISE, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
DYNAMIC = [name for name, one in PARAMETERS.items() if one.when == "frame"]
VALUES = (1, 0, 0.01, -5.0, 1e9, 1e300, float("nan"), "nonsense", "", True, 7, [1.0, 2.0])
ENCODINGS = ("rgb8", "martian", "32FC1", "nv12", "bayer_rggb8", "16UC1", "")


def scaled_camera(scale: float) -> Camera:
    """The bench's camera for its picture in another size; pixel centres at integers."""
    K = np.diag([scale, scale, 1.0]) @ CAMERA.K
    K[:2, 2] += (scale - 1) / 2
    return Camera(round(WIDTH * scale), round(HEIGHT * scale), K)


def wall(step: int) -> npt.NDArray[np.uint8]:
    """What the bench's camera sees after so many steps along a wall of 500 m."""
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    x = ((u + shift_px(step, v)) % (WALL.shape[1] - 1)).astype(np.float32)
    return cv2.remap(WALL, x, v.astype(np.float32), cv2.INTER_LINEAR)


@dataclass
class Soak:
    """A node under test and what has been counted of it."""

    node: NodeProcess
    model: str
    pause_s: float
    parameters: list[str]
    rng: random.Random
    scale: int = 1  # of the images of a drive
    counts: Counter[str] = field(default_factory=Counter)
    poses: int = 0
    state: str = ACTIVE
    marks_mb: list[float] = field(default_factory=list)
    own_mb: list[float] = field(default_factory=list)  # of it, the node's without its children

    def start(self) -> None:
        self.node.start(f"model:={self.model}", *self.parameters)
        self.node.tracks(START_S)

    def listen(self) -> None:
        for name, kind in OUTPUTS.items():

            def count(message: object, name: str = name) -> None:
                self.counts[name] += 1

            self.node.bench.listen(kind, f"/l2m/{name}", count, depth=1)

    def repeat(self, seconds: float, step: Callable[[], None]) -> None:
        """Do the step for so long, reading the node's memory now and then."""
        started_s = time.monotonic()
        while (spent_s := time.monotonic() - started_s) < seconds:
            step()
            self.counts["steps"] += 1
            self.forget()
            if len(self.marks_mb) < MARKS * spent_s / seconds:
                self.mark()

    def mark(self) -> None:
        if self.node.process.poll() is not None:
            raise SystemExit(f"the node ended: {''.join(self.node.lines[-20:])}")
        self.marks_mb.append(self.node.memory_mb())
        self.own_mb.append(self.node.own_memory_mb())

    def forget(self) -> None:
        """The bench keeps every pose and every line; here they are counted."""
        poses = self.node.bench.poses
        self.poses += len(poses)
        poses.clear()
        del self.node.lines[:-100]

    # ---- phases ------------------------------------------------------------------------------

    def frames(self) -> None:
        """The bench's world in full size: the same pictures and depth, four times as large."""
        bench, size = self.node.bench, (FULL * WIDTH, FULL * HEIGHT)
        number = bench.number
        bench.publishers["camera_info"].publish(info(number, scaled_camera(FULL)))
        bench.publishers["depth"].publish(depth(number, shape=size[::-1]))
        bench.publishers["image"].publish(image(number, pixels=cv2.resize(rgb(number), size)))
        bench.number += 1
        time.sleep(self.pause_s)

    def drive(self) -> None:
        """Onward along a wall that never repeats: each place is a new one for a map."""
        bench, number = self.node.bench, self.node.bench.number
        size = (self.scale * WIDTH, self.scale * HEIGHT)
        pixels = cv2.resize(wall(STEPS * number), size)
        bench.publishers["camera_info"].publish(info(number, scaled_camera(self.scale)))
        bench.publishers["depth"].publish(depth(number, shape=size[::-1]))
        bench.publishers["image"].publish(image(number, pixels=pixels))
        bench.number += 1
        time.sleep(self.pause_s)

    def small_frames(self) -> None:
        self.node.bench.send()
        time.sleep(self.pause_s)

    def flood(self) -> None:
        self.node.bench.send()
        time.sleep(0.005)

    def sizes(self) -> None:
        bench, scale = self.node.bench, self.rng.choice((0.5, 0.75, 1.0, 1.5, 2.0))
        width, height = round(WIDTH * scale), round(HEIGHT * scale)
        pixels = np.random.default_rng(bench.number).integers(0, 256, (height, width, 3), np.uint8)
        bench.publishers["camera_info"].publish(info(bench.number, scaled_camera(scale)))
        bench.publishers["image"].publish(image(bench.number, pixels=pixels))
        bench.number += 1
        time.sleep(self.pause_s)

    def nonsense(self) -> None:
        """Wrong stamps, encodings and cameras; parameters and transitions by chance."""
        bench, rng = self.node.bench, self.rng
        choice = rng.randrange(10)
        if choice == 0:
            message = image(bench.number, stamp=rng.randrange(1, 2**60))
            message.encoding, message.step = rng.choice(ENCODINGS), rng.randrange(5000)
            bench.publishers["image"].publish(message)
        elif choice == 1:
            broken = CameraInfo(width=rng.randrange(1000), height=rng.randrange(1000))
            broken.k = [rng.choice((0.0, 1e300, float("nan"), 500.0)) for _ in range(9)]
            bench.publishers["camera_info"].publish(broken)
        elif choice == 2:
            refused = self.node.set(rng.choice(DYNAMIC), rng.choice(VALUES))
            self.counts["parameters refused" if refused else "parameters set"] += 1
        elif choice == 3 and rng.randrange(5) == 0:
            self.change(rng.choice(ANY_TRANSITION))
        else:
            self.small_frames()

    def change(self, transition: int) -> None:
        """Ask for a transition; an answer other than the life cycle's own ends the soak."""
        done, reached = self.node.change(transition), STATES.get((self.state, transition))
        if done != (reached is not None):
            answer = f"transition {transition} in state {self.state} was answered {done}"
            raise SystemExit(f"{answer}: {''.join(self.node.lines[-20:])}")
        self.state = reached or self.state
        self.counts["transitions done" if done else "transitions refused"] += 1

    def cycles(self, count: int) -> None:
        for _ in range(count):
            for transition in CYCLE:
                self.change(transition)
            self.node.bench.recover(1, START_S)
            self.forget()
            self.mark()

    def kills(self, count: int) -> None:
        for _ in range(count):
            self.node.process.send_signal(signal.SIGKILL)
            self.node.process.wait(10)
            self.start()
            self.forget()

    # ---- judgement -----------------------------------------------------------------------------

    def recover(self) -> None:
        """Good input brings poses back, in a node that is told its defaults again."""
        for name in DYNAMIC:
            self.node.set(name, PARAMETERS[name].default)
        for transition in CYCLE:
            self.node.change(transition)
        self.node.bench.number += 1000
        self.node.bench.recover(3, START_S)
        self.forget()

    def growth_percent(self) -> float:
        quarter = max(1, len(self.marks_mb) // 4)
        warm = np.median(self.marks_mb[quarter : 2 * quarter] or self.marks_mb)
        return float(100 * (np.median(self.marks_mb[-quarter:]) / warm - 1))


def run(name: str, args: argparse.Namespace) -> bool:
    """One phase on a fresh node; prints its line; whether all is well."""
    soak = Soak(
        NodeProcess(START_S),
        args.model,
        1 / args.rate,
        args.parameters,
        random.Random(args.seed),
        args.scale,
    )
    started_s = time.monotonic()
    try:
        soak.start()
        soak.listen()
        if name in COUNTS:
            getattr(soak, name)(args.count or COUNTS[name])
        else:
            soak.repeat(60 * (args.minutes or MINUTES[name]), getattr(soak, name))
        inputs = soak.node.bench.values("inputs")  # before recovery begins to count anew
        soak.recover()
        code = soak.node.end(signal.SIGINT, START_S)
    finally:
        soak.node.close()
    growth = soak.growth_percent() if soak.marks_mb else 0.0
    every = max(1, len(soak.marks_mb) // 8)
    marks, own = ([round(mb, 1) for mb in all[::every]] for all in (soak.marks_mb, soak.own_mb))
    figures = {"phase": name, "s": round(time.monotonic() - started_s), "poses": soak.poses}
    figures |= {"mb": marks, "node_mb": own, "growth_percent": round(growth, 2), "exit_code": code}
    figures |= {"counts": dict(soak.counts), "inputs": inputs}
    print(json.dumps(figures), flush=True)
    return growth <= args.growth and code == 0


def main() -> int:
    plain = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("phases", nargs="*", default=[*MINUTES, *COUNTS], metavar="PHASE")
    parser.add_argument("--minutes", type=float, help="of each timed phase")
    parser.add_argument("--count", type=int, help="of cycles or kills")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--rate", type=float, default=10.0, help="images a second, frames")
    parser.add_argument("--scale", type=int, default=1, help=f"drive; {FULL}: 640x480")
    parser.add_argument("--growth", type=float, default=2.0, help="percent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-p", dest="parameters", action="append", default=[], help="NAME:=VALUE")
    args = parser.parse_args()
    if unknown := set(args.phases) - {*MINUTES, *COUNTS}:
        parser.error(f"unknown phases: {', '.join(sorted(unknown))}")
    return 0 if all([run(name, args) for name in args.phases]) else 1


if __name__ == "__main__":
    sys.exit(main())
