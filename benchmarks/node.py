"""The node in a process of its own, a simulated 640x480 camera with depth over real DDS: what a
frame costs beside matching and pose, the rate that is sustained, and whether memory grows.

    python benchmarks/node.py                      lite where it is there, else orb
    python benchmarks/node.py --model orb --seconds 600 --rate 30
    L2M_COMPILED=0 python benchmarks/node.py -p encode_ahead:=false -p backend:=onnxruntime

overhead = frame (message -> Frame) + publish; matching and pose are listed, not counted. The bytes
that a frame copies on its way are printed first (copies.py). Camera and node have Fast DDS as the
launch files set it, unless the environment names a profile. Rate and latency hold for a machine
that is idle otherwise; the processor time a frame, of all of the node's threads, for any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import copies
import numpy as np
import rclpy
import refusals  # noqa: F401
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from l2m_ros.errors import L2MError
from l2m_ros.frames.messages import camera_info_message, header, image_message
from l2m_ros.matching.catalogue import CLASSICAL, find_card
from l2m_ros.node.fastdds import PROFILE_VARIABLES
from l2m_ros.progress import track
from l2m_ros.types import Frame
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

LISTENED = {
    "pose + correspondences": {"pose": PoseWithCovarianceStamped, "correspondences": PointCloud2},
    "+ warp + certainty": {"warp": Image, "certainty": Image},
}
GOALS_MS = {"pose + correspondences": 5.0, "+ warp + certainty": 10.0}
START_S = 60.0  # for the node to load its model
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Options:
    model: str
    seconds: float
    rate_hz: float
    frames: int
    domain: int
    depth: bool
    parameters: tuple[str, ...] = ()  # NAME:=VALUE


class Camera:
    """Plays frames to and fro, so that motion has no jumps, at a fixed rate."""

    def __init__(self, node, frames: list[Frame], options: Options) -> None:
        qos = QoSProfile(depth=5)
        self._frames = [*frames, *frames[-2:0:-1]]
        self._period_s = 1.0 / options.rate_hz
        self._image = node.create_publisher(Image, "image", qos)
        self._info = node.create_publisher(CameraInfo, "camera_info", qos)
        self._depth = node.create_publisher(Image, "depth", qos) if options.depth else None
        self.sent = 0

    @property
    def connected(self) -> bool:
        publishers = [p for p in (self._image, self._info, self._depth) if p is not None]
        return all(p.get_subscription_count() for p in publishers)

    def play(self, seconds: float) -> None:
        started_s = time.monotonic()
        due_s = started_s
        while due_s - started_s < seconds:
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._send(self._frames[self.sent % len(self._frames)])
            due_s += self._period_s

    def _send(self, frame: Frame) -> None:
        head = header(time.time_ns(), "camera")
        self._info.publish(camera_info_message(frame.camera, head))
        if self._depth is not None:
            self._depth.publish(image_message(frame.depth, "32FC1", head))
        self._image.publish(image_message(frame.rgb, "rgb8", head))
        self.sent += 1


class Bench:
    """The node's process, a camera, and a listener that counts."""

    def __init__(self, options: Options, frames: list[Frame]) -> None:
        self._options = options
        rclpy.init(domain_id=options.domain)
        self._driver = rclpy.create_node("driver")
        self.camera = Camera(self._driver, frames, options)
        self.received: dict[str, int] = {}
        self.values: dict[str, str] = {}
        self._driver.create_subscription(DiagnosticArray, "/diagnostics", self._on_status, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._driver)
        self._spinning = threading.Thread(target=self._spin)
        self._ending = False
        self._spinning.start()
        self._process = self._start()

    def _spin(self) -> None:
        while not self._ending:
            self._executor.spin_once(timeout_sec=0.1)

    def _start(self) -> subprocess.Popen:
        parameters = [f"model:={self._options.model}", *self._options.parameters]
        if not self._options.depth:
            parameters.append("depth:=ignore")
        ros = [word for p in parameters for word in ("-p", p)]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self._options.domain)}
        # What `ros2 run` starts sets threads, too.
        run = [sys.executable, "resource/matcher", "--ros-args", *ros]
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        return subprocess.Popen(run, cwd=ROOT, env=environment)

    def _on_status(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values.update({value.key: value.value for value in status.values})

    def listen(self, name: str, kind: type) -> None:
        self.received[name] = 0

        def count(message: object) -> None:
            self.received[name] += 1

        self._driver.create_subscription(kind, f"/l2m/{name}", count, 5)

    def wait(self) -> None:
        end_s = time.monotonic() + START_S
        while not self.camera.connected:
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise SystemExit(f"the node did not start: {self.values.get('lifecycle')}")
            time.sleep(0.05)

    def number(self, key: str) -> float:
        return float(self.values.get(key, "nan"))

    def processor_s(self) -> float:
        """Of all threads of the node's process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._ending = True
        self._spinning.join()
        self._driver.destroy_node()
        rclpy.try_shutdown()


STAGES = (
    "wait", "frame", "encode", "handover", "match", "subpixel", "pose", "publish", "latency",
)  # fmt: skip
CORES = 2  # of the computer that the sustainable rate is told for


def measure(bench: Bench, phase: str, options: Options) -> None:
    """One phase: warm up, play, print."""
    bench.camera.play(3.0)
    time.sleep(1.5)  # diagnostics of the warm-up
    frames, dropped, sent = bench.number("frames"), bench.number("dropped_busy"), bench.camera.sent
    memory_mib, before = bench.memory_mib(), dict(bench.received)
    processor_s = bench.processor_s()
    started_s = time.monotonic()
    bench.camera.play(options.seconds)
    seconds, processor_s = time.monotonic() - started_s, bench.processor_s() - processor_s
    time.sleep(1.5)  # the last diagnostics
    overhead = bench.number("frame_ms_median") + bench.number("publish_ms_median")
    overhead_p95 = bench.number("frame_ms_p95") + bench.number("publish_ms_p95")
    print(f"\n{phase} ({options.model}, {seconds:.0f} s at {options.rate_hz:g} Hz)")
    print(f"  {'stage':<10}{'median ms':>12}{'p95 ms':>12}")
    for stage in STAGES:
        median, p95 = bench.number(f"{stage}_ms_median"), bench.number(f"{stage}_ms_p95")
        if np.isfinite(median):
            print(f"  {stage:<10}{median:>12.2f}{p95:>12.2f}")
    print(f"  {'overhead':<10}{overhead:>12.2f}{overhead_p95:>12.2f}   goal {GOALS_MS[phase]:g} ms")
    done = bench.number("frames") - frames
    print(f"  sustained {done / seconds:.1f} Hz: {done:.0f} of {bench.camera.sent - sent} frames, "
          f"{bench.number('dropped_busy') - dropped:.0f} dropped while busy, "
          f"{bench.number('lost_by_dds'):.0f} lost by DDS")  # fmt: skip
    each_ms = 1e3 * processor_s / max(done, 1)
    print(f"  {each_ms:.0f} ms of processor time a frame: {CORES} cores that do nothing else have "
          f"time for {CORES * 1e3 / max(each_ms, 1e-9):.1f} Hz")  # fmt: skip
    counts = {name: bench.received[name] - before.get(name, 0) for name in bench.received}
    print(f"  received {', '.join(f'{n} {name}' for name, n in counts.items())}")
    print(f"  memory {memory_mib:.0f} MiB, {bench.memory_mib() - memory_mib:+.1f} since")


def default_model() -> str:
    """lite where its weights are, else orb."""
    try:
        find_card("lite")
    except L2MError:
        return "orb"
    return "lite"


def parse(arguments: list[str] | None) -> Options:
    plain = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--model", default=None)
    parser.add_argument("--seconds", type=float, default=20.0, help="per phase")
    parser.add_argument("--rate", type=float, default=15.0, help="of the camera, Hz")
    parser.add_argument("--frames", type=int, default=40, help="different images")
    parser.add_argument("--no-depth", action="store_true")
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME:=VALUE")
    parser.add_argument("--domain", type=int, default=os.getpid() % 100 + 1)
    a = parser.parse_args(arguments)
    model = a.model or default_model()
    return Options(model, a.seconds, a.rate, a.frames, a.domain, not a.no_depth, tuple(a.param))


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if not any(name in os.environ for name in PROFILE_VARIABLES):
        profile = str(ROOT / "config" / "fastdds_large_images.xml")
        os.environ |= dict.fromkeys(PROFILE_VARIABLES, profile)
    copies.report(640, 480)
    scene = SimulationOptions(frames=options.frames, stereo=False)
    frames = [shot.frame for shot in track(simulate(scene), "rendering", options.frames)]
    bench = Bench(options, frames)
    try:
        bench.wait()
        for phase, topics in LISTENED.items():
            if "warp" in topics and options.model in CLASSICAL and options.model != "dis":
                continue  # a sparse matcher has neither
            for name, kind in topics.items():
                bench.listen(name, kind)
            measure(bench, phase, options)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
