"""PCA pictures of what encoders see: images in columns, models in rows.

The three main components of a model's features over all images become red, green and blue, so
equal colours in two images are equal features.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput

CELL_HEIGHT_PX = 240
LABEL_HEIGHT_PX = 22
OUTLIERS = 0.02  # share of the values at either end that may saturate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", metavar="IMG")
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="may be repeated (default lite)"
    )
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--layer", help="a feature map by its name (default: the coarsest)")
    parser.add_argument("--out", type=Path, default=Path("features.png"), help="picture to write")


def run(args: argparse.Namespace) -> int:
    import cv2

    from l2m_ros.matching.catalogue import DEFAULT_MODEL, load_matcher
    from l2m_ros.workshop.lifting.photographs import read_photograph

    images = [read_photograph(path, longest_side=1280) for path in args.images]
    rows = [_row("images", images, images)]
    for name in args.model or [DEFAULT_MODEL]:
        matcher = load_matcher(name, backend=args.backend)
        maps, layer = feature_maps(matcher, images, args.layer)
        rows.append(_row(f"{name}: {layer}", principal_colours(maps), images))
    try:
        written = cv2.imwrite(str(args.out), np.vstack(rows)[..., ::-1])
    except cv2.error:  # OpenCV raises on an ending that it does not know
        written = False
    if not written:
        raise InvalidInput(f"{args.out}: cannot be written as a picture; name a .png or .jpg")
    print(args.out)
    return 0


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
