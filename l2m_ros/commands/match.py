"""Match two pictures: how many matches, the relative pose, and two pictures to look at.

A is the query, B the keyframe: the warp lies on A's pixels and points into B, and the pose
b_from_a takes points of camera A into camera B. With --camera the pose is estimated, in metres
where a depth is given. matches.png and warped.png (B brought onto A) go to --out; what is certain,
and warped.png, are by the first look at the whole pictures.

--like-reference runs the published matcher's own schedule instead: both directions, a second
pass at a higher resolution, attenuated certainty, balanced sampling of 10000 matches.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_ros.commands.options import (
    BACKENDS,
    add_precision,
    add_second_look,
    as_json,
    defaults_shown,
    numbers,
    precision_option,
    show_log,
    size_of,
)
from l2m_ros.errors import InvalidInput
from l2m_ros.output_paths import check_outputs

if TYPE_CHECKING:
    from l2m_ros.types import ByteArray, Correspondences, DenseMatch, Frame

# Mean certainty of the matches that agree on a pose: with a second look `lite` gave 30 pairs of
# unrelated photographs 0.10 to 0.26, 3 of two rendered places (a door, and another one) up to 0.51,
# 42 pairs of seven scenes 0.54 to 0.99. More is asked where the first look saw nothing in common.
# On others, 29 pairs of photographs and 15 of 16 of rendered places are doubted, and of 42 of the
# scenes one, whose pose is 13 degrees off.
CERTAIN, CERTAIN_UNSEEN = 0.4, 0.6
UNSEEN = 0.01  # share of the pixels that are certain at first look
ASSUMED_FOCAL = 0.8  # of the longest side: between a phone (0.75) and a laptop (0.9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.images import DEPTH_SCALE_M
    from l2m_ros.matching.catalogue import DEFAULT_MODEL
    from l2m_ros.matching.sampling import LIMIT

    parser.add_argument("a", type=Path, metavar="A", help="query picture")
    parser.add_argument("b", type=Path, metavar="B", help="keyframe picture")
    add = defaults_shown(parser)
    add("--model", default=DEFAULT_MODEL, help="matcher by name or folder")
    parser.add_argument("--backend", default="auto", choices=BACKENDS)
    parser.add_argument(
        "--size", type=size_of("WxH"), metavar="WxH", help="size of the network's input"
    )
    add_precision(parser)
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint instead of the card's")
    parser.add_argument(
        "--camera",
        type=numbers(4),
        metavar="fx,fy,cx,cy",
        help="focal lengths and centre of A and B, pixels",
    )
    parser.add_argument(
        "--camera-b", type=numbers(4), metavar="fx,fy,cx,cy", help="of B, if it differs"
    )
    parser.add_argument(
        "--depth-a", type=Path, metavar="FILE", help="depth of A: a 16-bit PNG, or a .npy in metres"
    )
    parser.add_argument("--depth-b", type=Path, metavar="FILE", help="depth of B")
    add("--depth-scale", type=float, default=DEPTH_SCALE_M, help="metres per unit of a PNG")
    add("--limit", type=int, default=LIMIT, help="at most so many matches")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("match"),
        metavar="DIR|FILE.jpg",
        help="where the pictures go (default: match)",
    )
    add_second_look(parser, "auto")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of words")
    reference = parser.add_argument_group("the published schedule")
    reference.add_argument("--like-reference", action="store_true")
    reference.add_argument(
        "--fine-size", type=size_of("WxH"), metavar="WxH", help="size of the second pass"
    )
    reference.add_argument("--one-direction", action="store_true", help="A to B only")
    reference.add_argument("--no-upsample", action="store_true", help="no second pass")
    reference.add_argument("--no-attenuate", action="store_true")
    reference.add_argument("--seed", type=int, default=0, help="of the sampling")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.geometry.pose_by_length import MAJORITY
    from l2m_ros.images import read_rgb

    show_log()
    if args.second_look == "always" and args.like_reference:
        raise InvalidInput("--second-look is not part of the published schedule: leave out one")
    if args.limit < 1:
        raise InvalidInput(f"--limit is {args.limit}: it must be at least 1")
    if not 0 < args.depth_scale < math.inf:
        raise InvalidInput(
            f"--depth-scale is {args.depth_scale}: it must be more than 0 (metres per unit)"
        )
    read = [args.a, args.b, args.depth_a, args.depth_b]
    if _is_picture(args.out):
        check_outputs([args.out], read)
    else:
        check_outputs([], read, [args.out])
    a, b = read_rgb(args.a), read_rgb(args.b)
    said: list[str] = []
    frames = _frames(args, a, b, said.append)
    dense, pairs = _like_reference(args, a, b) if args.like_reference else _matched(args, a, b)
    print("".join(f"l2m match: {words}\n" for words in said), end="", file=sys.stderr)
    report: dict[str, Any] = {"matches": len(pairs)}
    if dense is not None:
        report["certain_share"] = round(float((dense.certainty > 0.5).mean()), 4)
    report["pose"] = _pose(pairs, *frames)
    if dense is not None and "inliers" in report["pose"]:
        few = report["pose"]["inliers"] < MAJORITY * len(pairs)
        bound = CERTAIN_UNSEEN if report["certain_share"] < UNSEEN else CERTAIN
        unsure = not args.like_reference and report["pose"]["certainty"] < bound
        report["pose"] |= {"doubtful": few or unsure, "uncertain": unsure}
    report["pictures"] = _pictures(args.out, a, b, dense, pairs)
    print(as_json(report) if args.json else _words(report))
    return 0 if len(pairs) else 1


# --- matching -------------------------------------------------------------------------------


def _matched(
    args: argparse.Namespace, a: ByteArray, b: ByteArray
) -> tuple[DenseMatch | None, Correspondences]:
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.matching.pairs import pairs_of
    from l2m_ros.matching.second_look import second_look
    from l2m_ros.types import Correspondences

    options = {"weights": args.weights} if args.weights else {}
    options |= precision_option(args.precision)
    matcher = load_matcher(args.model, backend=args.backend, size=args.size, **options)
    query, keyframe = matcher.encode(a), matcher.encode(b)
    reference = matcher.reference(keyframe)
    match = matcher.match(query, reference)
    dense = None if isinstance(match, Correspondences) else match
    if dense is None or args.second_look == "never":
        return dense, pairs_of(match, a, b, args.limit)
    pairs = second_look(
        matcher, dense, reference, a, b, args.limit,
        when=args.second_look, encoded=(query, keyframe),
    )  # fmt: skip
    return dense, pairs


def _like_reference(
    args: argparse.Namespace, a: ByteArray, b: ByteArray
) -> tuple[DenseMatch, Correspondences]:
    import torch

    from l2m_ros.engines.backend import BackendOptions
    from l2m_ros.engines.torch import load_network
    from l2m_ros.matching.catalogue import find_card
    from l2m_ros.matching.preprocess import resize
    from l2m_ros.workshop.parity.published_sampling import SamplingOptions, sample_matches
    from l2m_ros.workshop.parity.published_schedule import match_images, match_tiny, scaled

    card = find_card(args.model)
    if card.architecture not in ("l2m", "tinyroma"):
        raise InvalidInput(
            f"--like-reference is for l2m, roma_outdoor, roma_indoor and tinyroma, not {card.name}"
        )
    network: Any = load_network(card, BackendOptions(weights=args.weights))[0]
    if card.architecture == "tinyroma":
        images = [scaled(torch.from_numpy(i.transpose(2, 0, 1).copy())) for i in (a, b)]
        warp, certainty = match_tiny(network, *images)
        sampling = SamplingOptions(number=5000, half=False, every=8)
    else:
        options = _schedule(args, normalised=card.input.mean != (0.0, 0.0, 0.0))
        by_pil = lambda rgb, w, h: resize(rgb, w, h, "bicubic")  # noqa: E731
        warp, certainty = match_images(network, a, b, options, by_pil)
        sampling = SamplingOptions()
    drawn, sure = sample_matches(
        warp, certainty, sampling, torch.Generator().manual_seed(args.seed)
    )
    sizes = (a.shape[1], a.shape[0]), (b.shape[1], b.shape[0])
    return _from_normalised(warp.numpy(), certainty.numpy(), drawn.numpy(), sure.numpy(), *sizes)


def _schedule(args: argparse.Namespace, *, normalised: bool) -> Any:
    """The published defaults, and what the command line changes of them."""
    from l2m_ros.workshop.parity.published_schedule import MatchOptions

    options = MatchOptions()
    if normalised:  # RoMa
        options = MatchOptions(coarse=(560, 560), fine=(864, 864), normalize=True)
    if args.size:
        options = replace(options, coarse=args.size[::-1])
    if args.fine_size:
        options = replace(options, fine=args.fine_size[::-1])
    if args.no_upsample:
        options = replace(options, fine=None)
    return replace(options, symmetric=not args.one_direction, attenuate=not args.no_attenuate)


def _from_normalised(
    warp: Any, certainty: Any, drawn: Any, sure: Any, size_a: Any, size_b: Any
) -> tuple[DenseMatch, Correspondences]:
    """A's half of the warp, and the drawn matches of both halves, in pixels."""
    from l2m_ros.matching.network_matcher import to_pixels
    from l2m_ros.types import Correspondences, DenseMatch

    # The second half, if there is one, holds A's coordinates on B's grid.
    width = warp.shape[1]
    first = warp[:, : width // 2] if _has_both_directions(warp) else warp
    flow = to_pixels(first[..., 2:].transpose(2, 0, 1), size_b, size_b, size_b)
    dense = DenseMatch(flow, certainty[:, : first.shape[1]], size_a, size_b)
    points = drawn.T[:, :, None]  # (4, n, 1)
    query = to_pixels(points[:2], size_a, size_a, size_a)[:, 0]
    keyframe = to_pixels(points[2:], size_b, size_b, size_b)[:, 0]
    return dense, Correspondences(query, keyframe, sure)


def _has_both_directions(warp: Any) -> bool:
    """The first direction's x grows over its width; twice that width starts over."""
    x = warp[0, :, 0]
    return bool(x[warp.shape[1] // 2 - 1] > 1 - 3.0 / warp.shape[1])


# --- pose and pictures ----------------------------------------------------------------------


Say = Callable[[str], None]


def _camera_of(path: Path, rgb: ByteArray, args: argparse.Namespace, say: Say) -> list[float]:
    """fx, fy, cx, cy by the focal length in the picture's EXIF, else by one that is assumed."""
    from l2m_ros.files import read_file
    from l2m_ros.image_header import focal_in_widths

    focal = focal_in_widths(read_file(path, 1 << 30))
    if focal is None and (args.depth_a or args.depth_b or args.camera_b):
        raise InvalidInput("a pose in metres needs A's camera too: --camera fx,fy,cx,cy")
    height, width = rgb.shape[:2]
    focal_px = (focal or ASSUMED_FOCAL) * max(width, height)
    source = "by its EXIF" if focal else "assumed; say --camera fx,fy,cx,cy"
    say(f"{path.name}: focal length {focal_px:.0f} px, {source}")
    return [focal_px, focal_px, (width - 1) / 2, (height - 1) / 2]


def _frames(args: argparse.Namespace, a: ByteArray, b: ByteArray, say: Say) -> tuple[Frame, Frame]:
    from l2m_ros.images import read_depth
    from l2m_ros.types import Camera, Frame

    frames = []
    first = args.camera or _camera_of(args.a, a, args, say)
    second = args.camera_b or args.camera or _camera_of(args.b, b, args, say)
    cameras = (first, second)
    for rgb, given, path in zip((a, b), cameras, (args.depth_a, args.depth_b), strict=True):
        fx, fy, cx, cy = given
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        depth = None if path is None else read_depth(path, args.depth_scale)
        frames.append(Frame(rgb, Camera(rgb.shape[1], rgb.shape[0], K), depth))
    return frames[0], frames[1]


def _pose(pairs: Correspondences, query: Frame, keyframe: Frame) -> dict[str, Any]:
    from l2m_ros.geometry import se3
    from l2m_ros.geometry.pose import estimate_pose
    from l2m_ros.types import Lost, MetricPose

    pose = estimate_pose(pairs, query, keyframe)
    if isinstance(pose, Lost):
        return {"lost": pose.reason.value, "detail": pose.detail}
    T = pose.keyframe_from_camera
    report: dict[str, Any] = {
        "metric": isinstance(pose, MetricPose),
        "b_from_a": T.tolist(),
        "rotation_deg": round(float(np.degrees(se3.angle_rad(T[:3, :3]))), 4),
        "translation": T[:3, 3].tolist(),
        "inliers": int(pose.inliers.sum()),
        "certainty": round(float(pairs.confidence[pose.inliers].mean()), 3),
    }
    if isinstance(pose, MetricPose):
        report["scale_source"] = pose.scale_source
        report["sigma_m"] = np.sqrt(np.diag(pose.covariance)[:3]).tolist()
    return report


def _is_picture(out: Path) -> bool:
    """One picture, not a folder of that name."""
    return out.suffix.lower() in (".png", ".jpg", ".jpeg")


def _pictures(
    out: Path, a: ByteArray, b: ByteArray, dense: DenseMatch | None, pairs: Correspondences
) -> list[str]:
    from l2m_ros.drawing import draw_matches, warped_keyframe
    from l2m_ros.images import write_rgb

    if _is_picture(out):
        write_rgb(out, draw_matches(a, b, pairs))
        return [str(out)]
    pictures = {"matches.png": draw_matches(a, b, pairs)}
    if dense is not None:
        pictures["warped.png"] = warped_keyframe(a, b, dense)
    for name, picture in pictures.items():
        write_rgb(out / name, picture)
    return [str(out / name) for name in pictures]


def _words(report: dict[str, Any]) -> str:
    lines = [f"{report['matches']} matches"]
    if "certain_share" in report:
        lines[0] += (
            f"; {100 * report['certain_share']:.1f} % of the pixels are certain at first look"
        )
    lines += _pose_words(report.get("pose"))
    return "\n".join([*lines, *(f"wrote {path}" for path in report["pictures"])])


def _pose_words(pose: dict[str, Any] | None) -> list[str]:
    if pose is None:
        return []
    if "lost" in pose:
        return [f"no pose: {pose['lost']}, {pose['detail']}"]
    x, y, z = pose["translation"]
    if pose["metric"]:
        moved = f"translation {x:.4f} {y:.4f} {z:.4f} m"
    elif x == y == z == 0:
        moved = "no parallax, so no direction of translation (no depth, no scale)"
    else:
        moved = f"translation {x:.4f} {y:.4f} {z:.4f} (direction only: no depth, no scale)"
    lines = [
        f"b_from_a: rotation {pose['rotation_deg']:.2f} deg, {moved}, {pose['inliers']} inliers"
    ]
    if pose["metric"]:
        sigmas = " ".join(f"{s:.4f}" for s in pose["sigma_m"])
        lines.append(f"scale from {pose['scale_source']}, standard deviation {sigmas} m")
    if pose.get("doubtful"):
        why = "fewer than half of the matches agree with it"
        if pose["uncertain"]:
            why = (
                f"its matches are uncertain ({pose['certainty']:.2f} in the mean): do both "
                "pictures show the same place?"
            )
        lines.append(f"do not trust this pose: {why}")
    return [*lines, *(" ".join(f"{v: .6f}" for v in row) for row in pose["b_from_a"])]
