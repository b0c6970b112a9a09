"""Track a folder of pictures against keyframes and write the camera's path as a TUM trajectory.

    l2m simulate --out walk --frames 40
    python examples/track_folder.py walk --out walk.tum

The folder holds images/*.png, depth/*.png with the same names, and meta.json with K and
depth_scale, as `l2m simulate` writes it. The node does the same with a live camera.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from l2m_ros import Camera, Frame, Tracker, load_matcher, read_depth, read_rgb
from l2m_ros.geometry import se3

PERIOD_NS = 1_000_000_000 // 15


def main() -> int:
    args = _arguments()
    if not (args.folder / "meta.json").is_file():
        raise SystemExit(f"{args.folder} holds no meta.json: l2m simulate --out DIR makes a folder")
    tracker = Tracker(load_matcher(args.model))
    lines = []
    for frame in frames(args.folder):
        result = tracker.process(frame)
        print(f"{frame.stamp_ns / 1e9:8.3f} s  {result.state.value}: {result.reason}")
        if result.odom_from_camera is not None:
            lines.append(tum_line(frame.stamp_ns, result.odom_from_camera))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(lines))
    print(f"{args.out}: {len(lines)} poses")
    return 0 if lines else 1


def frames(folder: Path):
    """Every picture with its depth; stamps are made up, 15 a second."""
    meta = json.loads((folder / "meta.json").read_text())
    for number, path in enumerate(sorted((folder / "images").glob("*.png"))):
        rgb = read_rgb(path)
        depth = read_depth(folder / "depth" / path.name, meta["depth_scale"])
        camera = Camera(rgb.shape[1], rgb.shape[0], np.array(meta["K"]))
        yield Frame(rgb, camera, depth, stamp_ns=(number + 1) * PERIOD_NS)


def tum_line(stamp_ns: int, odom_from_camera: np.ndarray) -> str:
    """stamp x y z qx qy qz qw"""
    values = [*odom_from_camera[:3, 3], *se3.quaternion(odom_from_camera[:3, :3])]
    return f"{stamp_ns / 1e9:.9f} {' '.join(f'{value:.9f}' for value in values)}\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("poses.tum"))
    parser.add_argument("--model", default="lite")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
