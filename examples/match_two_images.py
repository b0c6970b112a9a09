"""Match two pictures of one camera and print where the second was taken from, in metres.

    l2m simulate --out pair --frames 8
    python examples/match_two_images.py pair/images/000000.png pair/images/000007.png \
        --camera 457,457,319.5,239.5 --depth pair/depth/000000.png --depth-scale 0.0005

Without --depth the pose has a direction and no length.
"""

import argparse

import numpy as np

from l2m_ros import (
    Camera,
    Frame,
    Lost,
    MetricPose,
    correspondences,
    estimate_pose,
    load_matcher,
    read_depth,
    read_rgb,
)


def main() -> int:
    args = _arguments()
    fx, fy, cx, cy = args.camera
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    depth = read_depth(args.depth, args.depth_scale) if args.depth else None
    keyframe, query = _frame(args.keyframe, K, depth), _frame(args.query, K, None)

    matcher = load_matcher(args.model)
    reference = matcher.reference(matcher.encode(keyframe.rgb))  # once per keyframe
    match = matcher.match(matcher.encode(query.rgb), reference)  # once per query
    pairs = correspondences(match)
    pose = estimate_pose(pairs, query, keyframe)

    if isinstance(pose, Lost):
        print(f"no pose: {pose.detail}")
        return 1
    x, y, z = pose.keyframe_from_camera[:3, 3]
    unit = "m" if isinstance(pose, MetricPose) else "(direction only)"
    print(f"{len(pairs)} matches, {pose.inliers.sum()} inliers")
    print(f"the query's camera is at {x:.3f} {y:.3f} {z:.3f} {unit} in the keyframe's axes")
    return 0


def _frame(path: str, K: np.ndarray, depth: np.ndarray | None) -> Frame:
    rgb = read_rgb(path)
    return Frame(rgb, Camera(rgb.shape[1], rgb.shape[0], K), depth)


def _camera(text: str) -> list[float]:
    numbers = [float(number) for number in text.split(",")]
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} holds {len(numbers)} numbers, not 4")
    return numbers


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keyframe")
    parser.add_argument("query")
    parser.add_argument("--camera", required=True, type=_camera, metavar="fx,fy,cx,cy")
    parser.add_argument("--depth", help="of the keyframe: a 16-bit PNG or .npy")
    parser.add_argument("--depth-scale", type=float, default=0.001, help="metres per unit")
    parser.add_argument("--model", default="lite")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
