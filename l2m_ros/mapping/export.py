"""A map for other programs: COLMAP's text model, a point cloud, nerfstudio's transforms.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import write_whole
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.mapping import codec
from l2m_ros.mapping.records import MapKeyframe
from l2m_ros.mapping.store import MapStore
from l2m_ros.types import ByteArray, Camera, FloatArray, Frame

Cloud = tuple[FloatArray, ByteArray]  # (N, 3) metres in map, (N, 3) colours

STRIDE_PX = 4  # of the pixels whose depth becomes a point
# COLMAP's cameras take distortion in the same order, and pixel centres at halves: +0.5.
# Model and how many of D's numbers it takes; FULL_OPENCV has those of a plumb bob, too.
COLMAP_LENSES = {
    "none": ("PINHOLE", 0),
    "plumb_bob": ("OPENCV", 4),
    "equidistant": ("OPENCV_FISHEYE", 4),
    "rational_polynomial": ("FULL_OPENCV", 8),
}

# nerfstudio's model and what it calls the numbers of D; `l2m splat` reads by these tables.
NERFSTUDIO_LENSES = {
    "none": ("OPENCV", ()),
    "plumb_bob": ("OPENCV", ("k1", "k2", "p1", "p2", "k3")),
    "equidistant": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
}


def placed_keyframes(store: MapStore) -> Iterator[MapKeyframe]:
    for id in store.poses():
        yield store.keyframe(id)


def points(store: MapStore, voxel_m: float) -> tuple[FloatArray, ByteArray]:
    """(N, 3) metres in map and (N, 3) colours: one point a voxel, from the keyframes' depth."""
    clouds = [keyframe_points(k.frame(), k.map_from_camera) for k in placed_keyframes(store)]
    if not clouds:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    xyz, rgb = (np.concatenate(part) for part in zip(*clouds, strict=True))
    return voxelised(xyz, rgb, voxel_m)


def keyframe_points(
    frame: Frame, map_from_camera: FloatArray | None
) -> tuple[FloatArray, ByteArray]:
    if frame.depth is None or map_from_camera is None:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    depth = frame.depth[::STRIDE_PX, ::STRIDE_PX]
    v, u = np.nonzero(np.isfinite(depth))
    rays = unproject(frame.camera, np.column_stack([u, v]) * STRIDE_PX)
    xyz = rays * depth[v, u][:, None]
    world = xyz @ map_from_camera[:3, :3].T + map_from_camera[:3, 3]
    return world, frame.rgb[::STRIDE_PX, ::STRIDE_PX][v, u]


LEAST_VOXEL_M = 1e-6  # below, every point is one of its own


def voxelised(xyz: FloatArray, rgb: ByteArray, voxel_m: float) -> tuple[FloatArray, ByteArray]:
    """The first point of each voxel."""
    if voxel_m < LEAST_VOXEL_M or not len(xyz):
        return xyz, rgb
    _, first = np.unique(np.floor(xyz / voxel_m).astype(np.int64), axis=0, return_index=True)
    return xyz[first], rgb[first]


def write_ply(store: MapStore, path: Path, *, voxel_m: float) -> str:
    xyz, rgb = points(store, voxel_m)
    if not len(xyz):
        raise InvalidInput(f"{store.address} has no keyframe with a place and depth")
    fields = [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")]
    table = np.empty(len(xyz), fields)
    for i, axis in enumerate("xyz"):
        table[axis] = xyz[:, i]
    for i, colour in enumerate(("red", "green", "blue")):
        table[colour] = rgb[:, i]
    kinds = [f"property float {n}" for n in "xyz"]
    kinds += [f"property uchar {n}" for n in ("red", "green", "blue")]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}", *kinds]
    write_whole(path, "\n".join([*head, "end_header\n"]).encode() + table.tobytes())
    return f"{len(xyz)} points"


def write_colmap(store: MapStore, folder: Path, *, voxel_m: float) -> str:
    """images/ and sparse/0/{cameras,images,points3D}.txt."""
    cameras: dict[str, int] = {}
    camera_lines, image_lines = [], []
    for keyframe in placed_keyframes(store):
        key = codec.encode_camera(keyframe.camera)
        if key not in cameras:
            cameras[key] = len(cameras) + 1
            camera_lines.append(f"{cameras[key]} {_colmap_camera(keyframe.camera)}")
        name = _image_name(keyframe)
        write_whole(folder / "images" / name, keyframe.image)
        camera_from_map = se3.inverse(_pose(keyframe))
        x, y, z, w = se3.quaternion(camera_from_map[:3, :3])
        numbers = " ".join(f"{n:.9f}" for n in (w, x, y, z, *camera_from_map[:3, 3]))
        image_lines.append(f"{keyframe.id} {numbers} {cameras[key]} {name}\n")
    xyz, rgb = points(store, voxel_m)
    point_lines = [
        f"{i} {x:.5f} {y:.5f} {z:.5f} {r} {g} {b} 0"
        for i, ((x, y, z), (r, g, b)) in enumerate(zip(xyz, rgb, strict=True), start=1)
    ]
    model = folder / "sparse" / "0"
    write_whole(model / "cameras.txt", _lines(camera_lines))
    write_whole(model / "images.txt", _lines(image_lines))
    write_whole(model / "points3D.txt", _lines(point_lines))
    return f"{len(image_lines)} images, {len(xyz)} points"


def _colmap_camera(camera: Camera) -> str:
    D, kind, K = camera.D, camera.distortion, camera.K
    if kind == "plumb_bob" and D[4:].any():  # k3
        D, kind = np.concatenate([D, np.zeros(3)]), "rational_polynomial"
    _refuse_skew(K, "COLMAP")
    model, count = COLMAP_LENSES[kind]
    numbers = [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, *D[:count]]
    return f"{model} {camera.width} {camera.height} " + " ".join(f"{n:.9g}" for n in numbers)


def write_nerfstudio(store: MapStore, folder: Path, *, voxel_m: float) -> str:
    """images/, transforms.json (OpenGL axes) and the points to start splats from."""
    frames, models = [], set()
    for keyframe in placed_keyframes(store):
        name = _image_name(keyframe)
        model, lens = _nerfstudio_lens(keyframe.camera)
        models.add(model)
        write_whole(folder / "images" / name, keyframe.image)
        K, pose = keyframe.camera.K, _pose(keyframe) @ np.diag([1.0, -1.0, -1.0, 1.0])
        entry = {
            "file_path": f"images/{name}",
            "transform_matrix": pose.tolist(),
            "fl_x": K[0, 0],
            "fl_y": K[1, 1],
            "cx": K[0, 2] + 0.5,
            "cy": K[1, 2] + 0.5,
            "w": keyframe.camera.width,
            "h": keyframe.camera.height,
            **lens,
        }
        if keyframe.depth is not None:
            depth = Path("depths") / f"{keyframe.id:06d}.png"
            write_whole(folder / depth, keyframe.depth)
            entry["depth_file_path"] = str(depth)
        frames.append(entry)
    write_ply(store, folder / "points.ply", voxel_m=voxel_m)
    if len(models) > 1:
        raise InvalidInput(f"nerfstudio takes one kind of lens, this map has {len(models)}")
    whole = {"camera_model": "".join(models), "ply_file_path": "points.ply", "frames": frames}
    write_whole(folder / "transforms.json", json.dumps(whole, indent=1).encode())
    return f"{len(frames)} images"


def _nerfstudio_lens(camera: Camera) -> tuple[str, dict[str, float]]:
    lens = NERFSTUDIO_LENSES.get(camera.distortion)
    if lens is None:
        raise InvalidInput(f"nerfstudio has no camera like {camera.distortion}: rectify first")
    _refuse_skew(camera.K, "nerfstudio")
    model, names = lens
    return model, dict(zip(names, camera.D.tolist(), strict=False))


def _refuse_skew(K: FloatArray, program: str) -> None:
    if K[0, 1] != 0:
        raise InvalidInput(f"{program} has no camera with a skew ({K[0, 1]:g} px): rectify first")


def _pose(keyframe: MapKeyframe) -> FloatArray:
    if keyframe.map_from_camera is None:
        raise InvalidInput(f"keyframe {keyframe.id} has no place")
    return keyframe.map_from_camera


def _image_name(keyframe: MapKeyframe) -> str:
    ending = "png" if keyframe.image.startswith(codec.PNG) else "jpg"
    return f"{keyframe.id:06d}.{ending}"


def _lines(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
