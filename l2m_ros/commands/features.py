"""What encoders see: PCA pictures, and how often features find their own point again.

The three main components of a model's features over all images become red, green and blue, so
equal colours in two images are equal features. What that means is printed: the share of cells
whose nearest neighbour in another view (10, 30, 60 degrees aside) is the right cell, within 1 and
2 cells. The views are the images lifted to 3D (or those of --photographs) and pairs of --sequence.

    l2m features A.jpg B.jpg --model dinov2=vitl14.pth --model fit3d=fine.pth --model l2m=enc.pth
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from l2m_ros.workshop.encoder.nearest import ViewChange
    from l2m_ros.workshop.encoder.patch_encoders import FeatureMap

CELL_HEIGHT_PX = 240
LABEL_HEIGHT_PX = 22
OUTLIERS = 0.02  # share of the values at either end that may saturate
LONGEST_PX = 640  # of the images as encoders see them
LIFTED_PX = (320, 256)
LIFTINGS = 12  # of few images: each is lifted that often at least, in all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2m_ros.commands.options import size_of, whole

    parser.add_argument("images", type=Path, nargs="+", metavar="IMG")
    parser.add_argument(
        "--model", action="append", metavar="NAME|LABEL=FILE",
        help="a model, or an encoder's weights under a label; may be repeated (default lite)",
    )  # fmt: skip
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--layer", help="a feature map by its name (default: the coarsest)")
    parser.add_argument("--out", type=Path, default=Path("features.png"), help="picture to write")
    parser.add_argument(
        "--photographs", type=Path, metavar="DIR", help="to lift and measure on (default: IMG)"
    )
    parser.add_argument(
        "--depth", type=Path, metavar="DIR", help="depth of --photographs (default: made-up)"
    )
    parser.add_argument(
        "--sequence", type=Path, action="append", default=[], metavar="DIR",
        help="a posed recording with depth to measure on; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--pairs",
        type=whole(0),
        default=24,
        help="at most, of each kind and angle; 0: picture only (24)",
    )
    parser.add_argument(
        "--size", type=size_of("WxH"), default=LIFTED_PX, help="of lifted views (320x256)"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.commands.options import as_json
    from l2m_ros.images import check_picture, write_rgb
    from l2m_ros.matching.catalogue import DEFAULT_MODEL
    from l2m_ros.output_paths import check_outputs
    from l2m_ros.workshop.lifting.photographs import read_photograph

    check_outputs([args.out], args.images)
    check_picture(args.out)
    images = [read_photograph(path, longest_side=LONGEST_PX) for path in args.images]
    eyes = [_eyes(name, args) for name in args.model or [DEFAULT_MODEL]]
    rows = [_row("images", images, images)]
    for eye in eyes:
        maps = [eye.features(image).values for image in images]
        rows.append(_row(eye.label, principal_colours(maps), images))
    write_rgb(args.out, np.vstack(rows))
    if args.pairs == 0:
        print(args.out)
        return 0
    figures = _figures(eyes, _changes(args))
    print(as_json(figures) if args.json else f"{_table(figures)}\n{args.out}")
    return 0


@dataclass(frozen=True)
class Eyes:
    """A model as something that gives features."""

    label: str
    features: Callable[[np.ndarray], FeatureMap]


def _eyes(name: str, args: argparse.Namespace) -> Eyes:
    """An encoder's file or a shipped encoder; else the feature maps of a model of the catalogue."""
    from l2m_ros.workshop.encoder.patch_encoders import (
        SHIPPED,
        FeatureMap,
        features_of,
        load_encoder,
    )

    if "=" in name or (name in SHIPPED and args.layer is None and args.backend == "auto"):
        encoder = load_encoder(name)
        return Eyes(encoder.label, lambda rgb: features_of(encoder, rgb))
    from l2m_ros.matching.catalogue import load_matcher

    matcher = load_matcher(name, backend=args.backend)

    def features(rgb: np.ndarray) -> FeatureMap:
        (values,), _ = feature_maps(matcher, [rgb], args.layer)
        height, width = values.shape[1:]
        return FeatureMap(values, (rgb.shape[1] / width, rgb.shape[0] / height))

    return Eyes(name if args.layer is None else f"{name}: {args.layer}", features)


def _changes(args: argparse.Namespace) -> dict[tuple[str, float], list[ViewChange]]:
    """Pairs of views by (where from, degrees)."""
    from l2m_ros.workshop.encoder.nearest import ANGLES_DEG, lifted_changes, recorded_changes
    from l2m_ros.workshop.encoder.photographs import photographs_of
    from l2m_ros.workshop.lifting.depth import DepthFiles, ProceduralDepth
    from l2m_ros.workshop.lifting.photographs import find_photographs

    folder = args.photographs or args.images[0].parent
    found = args.images
    if args.photographs is not None:
        found = find_photographs(folder)
        found = found[:: max(1, len(found) // args.pairs)][: args.pairs]
    elif args.depth is not None:
        raise InvalidInput("--depth goes with --photographs")
    again = max(1, -(-min(LIFTINGS, args.pairs) // len(found)))
    photographs = [p for p in photographs_of(folder, found) for _ in range(again)]
    source = DepthFiles(args.depth) if args.depth else ProceduralDepth()
    changes = {}
    for angle in ANGLES_DEG:
        changes["lifted", angle] = list(lifted_changes(photographs, angle, args.size, depth=source))
        for sequence in args.sequence:
            changes[sequence.name, angle] = list(
                recorded_changes(sequence, angle, count=args.pairs)
            )
    return changes


def _figures(
    eyes: list[Eyes], changes: dict[tuple[str, float], list[ViewChange]]
) -> list[dict[str, Any]]:
    """A row for each model, kind of pair and angle."""
    from l2m_ros.workshop.encoder.nearest import nearest_shares

    rows = []
    for (kind, angle), some in sorted(changes.items()):
        for eye in eyes:
            shares = nearest_shares(eye.features, some)
            figures = shares.percent() if shares.cells else dict.fromkeys(shares.percent(), None)
            rows.append(
                {"views": kind, "degrees": angle, "model": eye.label, "pairs": shares.pairs,
                 "cells": shares.cells, **figures}
            )  # fmt: skip
    if not any(row["cells"] for row in rows):
        print("l2m features: no pair of views shares enough to be measured", file=sys.stderr)
    return rows


def _table(figures: list[dict[str, Any]]) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    width = max(len(row["model"]) for row in figures)
    lines = [
        f"{'views':<14}{'degrees':>8}  {'model':<{width}}  {'pairs':>5}  {'within 1':>8}"
        f"  {'within 2 cells, %':>17}"
    ]
    lines += [
        f"{row['views']:<14}{row['degrees']:>8g}  {row['model']:<{width}}  {row['pairs']:>5}"
        f"  {percent(row['within1']):>8}  {percent(row['within2']):>17}"
        for row in figures
    ]
    return "\n".join(lines)


def feature_maps(
    matcher: Any, images: list[np.ndarray], layer: str | None
) -> tuple[list[np.ndarray], str]:
    """(C, h, w) of each image without its padding, and the name of the map."""
    if not hasattr(matcher, "backend"):
        raise InvalidInput(f"{matcher.name} has no dense features: name a network")
    encoded = [matcher.backend.to_host(matcher.encode(image).data) for image in images]
    spatial = {name: f for name, f in encoded[0].items() if f.ndim == 4 and min(f.shape[2:]) > 1}
    if layer is None:
        layer = min(spatial, key=lambda name: (spatial[name][0, 0].size, -spatial[name].shape[1]))
    if layer not in spatial:
        raise InvalidInput(
            f"{matcher.name} has no feature map {layer!r}; it has {', '.join(spatial)}"
        )
    maps = [features[layer][0].astype(np.float32) for features in encoded]
    return [_content(m, matcher, image) for m, image in zip(maps, images, strict=True)], layer


def _content(features: np.ndarray, matcher: Any, image: np.ndarray) -> np.ndarray:
    """The part of the map that the image covers (the rest of the input is padding)."""
    from l2m_ros.matching.preprocess import content_size

    spec = matcher.card.input
    covered = content_size(spec, (image.shape[1], image.shape[0]))
    rows = round(features.shape[1] * covered[1] / spec.size[1])
    columns = round(features.shape[2] * covered[0] / spec.size[0])
    return features[:, : max(rows, 1), : max(columns, 1)]


def principal_colours(maps: list[np.ndarray]) -> list[np.ndarray]:
    """(h, w, 3) uint8 per map (C, h, w): three principal components over all of them."""
    cells = np.concatenate([m.reshape(len(m), -1).T for m in maps])
    centre = cells.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(cells - centre, rowvar=False))
    axes = vectors[:, ::-1][:, :3]
    # Eigenvectors have no sign: the heavier side points up, so that pictures repeat.
    axes = axes * np.where(np.abs(axes).max(axis=0) == axes.max(axis=0), 1.0, -1.0)
    scores = (cells - centre) @ axes
    low, high = np.quantile(scores, (OUTLIERS, 1 - OUTLIERS), axis=0)
    colours = np.clip((scores - low) / np.maximum(high - low, 1e-9), 0, 1)
    colours = np.rint(colours * 255).astype(np.uint8)
    ends = np.cumsum([m[0].size for m in maps])[:-1]
    parts = np.split(colours, ends)
    return [part.reshape(*m.shape[1:], -1) for part, m in zip(parts, maps, strict=True)]


def _row(label: str, pictures: list[np.ndarray], images: list[np.ndarray]) -> np.ndarray:
    """The pictures in one line at the images' shapes, under their label."""
    import cv2

    cells = []
    for picture, image in zip(pictures, images, strict=True):
        width = round(image.shape[1] * CELL_HEIGHT_PX / image.shape[0])
        mode = cv2.INTER_AREA if picture.shape[0] > CELL_HEIGHT_PX else cv2.INTER_NEAREST
        cells.append(cv2.resize(picture, (width, CELL_HEIGHT_PX), interpolation=mode))
    line = np.hstack(cells)
    head = np.full((LABEL_HEIGHT_PX, line.shape[1], 3), 255, np.uint8)
    cv2.putText(head, label, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([head, line])
