"""Gaussians as a PLY file in the layout of the published 3DGS code, which viewers open.

    x y z nx ny nz f_dc_0..2 f_rest_0..(3 (K - 1) - 1) opacity scale_0..2 rot_0..3

All float32, little-endian: opacity is a logit, scale a logarithm, rot is w x y z, f_rest holds
all red coefficients first, then green, then blue. Degree 3 makes the 59 numbers without normals.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values, read_file, write_whole
from l2m_ros.workshop.gaussians.model import DEGREES, Gaussians

TYPES = {
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "uchar": "u1", "uint8": "u1",
    "char": "i1", "int8": "i1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
}  # fmt: skip
MAX_BYTES = 8 << 30
FORMATS = {"binary_little_endian": "<", "binary_big_endian": ">"}


def _names(rest: int) -> list[str]:
    return [
        *"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2",
        *(f"f_rest_{i}" for i in range(rest)),
        "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """The file, whole or not at all; normals are written as zeros, as the published code does."""
    g = {name: value.detach().cpu().float() for name, value in gaussians.tensors()}
    n, k = len(gaussians), g["sh"].shape[1]
    columns = [
        g["means"], torch.zeros(n, 3), g["sh"][:, 0],
        g["sh"][:, 1:].transpose(1, 2).reshape(n, 3 * (k - 1)),
        g["opacity_logits"][:, None], g["log_scales"], g["quaternions"],
    ]  # fmt: skip
    table = torch.cat(columns, dim=1).numpy().astype("<f4")
    properties = "".join(f"property float {name}\n" for name in _names(3 * (k - 1)))
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {n}\n{properties}end_header\n"
    write_whole(path, header.encode() + table.tobytes())


def read_ply(path: Path) -> Gaussians:
    """Gaussians of a 3DGS file; properties that we do not know are skipped."""
    data = read_file(path, MAX_BYTES)
    with foreign_values(path):
        columns = _columns(data, path)
    missing = [name for name in _names(0) if name not in columns and name not in ("nx", "ny", "nz")]
    if missing:
        raise InvalidInput(
            f"{path}: lacks {', '.join(missing)}: it holds points, not Gaussians of 3DGS"
        )
    rest = sum(re.fullmatch(r"f_rest_\d+", name) is not None for name in columns)
    if rest % 3 or rest // 3 + 1 not in DEGREES:
        raise InvalidInput(f"{path}: {rest} f_rest properties fit no degree (0, 9, 24 or 45)")

    def stack(names: list[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([columns[n] for n in names], axis=-1))

    count = len(columns["x"])
    dc = stack(["f_dc_0", "f_dc_1", "f_dc_2"])[:, None]
    higher = torch.zeros(count, 0, 3)
    if rest:
        names = [f"f_rest_{i}" for i in range(rest)]
        higher = stack(names).reshape(count, 3, rest // 3).transpose(1, 2)
    gaussians = Gaussians(
        means=stack(list("xyz")),
        log_scales=stack(["scale_0", "scale_1", "scale_2"]),
        quaternions=stack(["rot_0", "rot_1", "rot_2", "rot_3"]),
        opacity_logits=torch.from_numpy(columns["opacity"]),
        sh=torch.cat([dc, higher], dim=1).contiguous(),
    )
    finite = torch.stack([t.isfinite().reshape(count, -1).all(1) for _, t in gaussians.tensors()])
    return gaussians.select(finite.all(dim=0))


def _columns(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """The vertex element's properties as float32, by name."""
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise InvalidInput(f"{path}: is not a PLY file")
    body = data.index(b"\n", end) + 1
    lines = [line.split() for line in data[:end].decode("ascii", "replace").splitlines()]
    kind = next((line[1] for line in lines if line[:1] == ["format"]), "")
    elements = [line for line in lines if line[:1] == ["element"]]
    if kind not in FORMATS or not elements or elements[0][1] != "vertex":
        raise InvalidInput(f"{path}: need a binary PLY whose first element is 'vertex'")
    count, first = int(elements[0][2]), lines.index(elements[0]) + 1
    fields = []
    for line in lines[first:]:
        if line[:1] == ["element"]:
            break
        if line[:1] == ["property"]:
            if len(line) != 3 or line[1] not in TYPES:
                raise InvalidInput(f"{path}: cannot read 'property {' '.join(line[1:])}'")
            fields.append((line[2], FORMATS[kind] + TYPES[line[1]]))
    table = np.dtype(fields)
    if count < 0 or not fields:
        raise InvalidInput(f"{path}: announces {count} vertices of {len(fields)} properties")
    if len(data) - body < count * table.itemsize:
        raise InvalidInput(f"{path}: is cut short: {count} Gaussians are announced")
    rows = np.frombuffer(data, table, count, body)
    return {name: rows[name].astype(np.float32) for name, _ in fields}
