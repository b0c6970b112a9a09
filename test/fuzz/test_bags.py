"""Bags that are cut or damaged: read as far as they go, or refused; never another exception."""

import shutil
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.budget import share
from l2m_ros.bags.reader import open_bag
from l2m_ros.bags.recovery import McapStorage, recovered
from l2m_ros.bags.replay import find_topics
from l2m_ros.errors import L2MError

rosbag2 = pytest.importorskip("rosbags.rosbag2")
IMAGES = 12
SIZE = (64, 48)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """{suffix: the bytes of each file of a small bag with images and camera_infos}."""
    from rosbags.typesys import Stores, get_typestore

    store, folder = get_typestore(Stores.ROS2_JAZZY), tmp_path_factory.mktemp("whole")
    t = store.types
    info = t["sensor_msgs/msg/CameraInfo"]
    roi = t["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    K = np.array([50.0, 0, 32, 0, 50, 24, 0, 0, 1])
    P = np.hstack([K.reshape(3, 3), np.zeros((3, 1))]).ravel()
    out = {}
    for suffix, plugin in ((".mcap", "MCAP"), (".db3", "SQLITE3")):
        path = folder / f"b{suffix}"
        with rosbag2.Writer(
            path, version=8, storage_plugin=rosbag2.StoragePlugin[plugin]
        ) as writer:
            topics = {
                "/image": "sensor_msgs/msg/Image",
                "/camera_info": "sensor_msgs/msg/CameraInfo",
            }
            connections = {
                topic: writer.add_connection(topic, kind, typestore=store)
                for topic, kind in topics.items()
            }
            for k in range(1, IMAGES + 1):
                stamp = t["builtin_interfaces/msg/Time"](k, 0)
                head = t["std_msgs/msg/Header"](stamp, "camera")
                size = {"height": SIZE[1], "width": SIZE[0]}
                pixels = np.full(SIZE[1] * SIZE[0], k, np.uint8)
                image = t["sensor_msgs/msg/Image"](
                    head, **size, encoding="mono8", is_bigendian=0, step=SIZE[0], data=pixels
                )
                matrices = {"d": np.zeros(0), "k": K, "r": np.eye(3).ravel(), "p": P}
                camera = info(
                    head, **size, distortion_model="", **matrices, binning_x=0, binning_y=0, roi=roi
                )
                for topic, message in (("/image", image), ("/camera_info", camera)):
                    raw = store.serialize_cdr(message, topics[topic])
                    writer.write(connections[topic], k * 10**9, raw)
        out[suffix] = {file.name: file.read_bytes() for file in path.iterdir()}
    return out


def written(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def storage(files):
    return next(name for name in files if name.endswith((".mcap", ".db3")))


def images_in(path) -> tuple[int, list[str]]:
    said = []
    with open_bag(path, said.append) as bag:
        find_topics(bag, {})
        return sum(topic == "/image" for topic, _ in bag.messages(["/image"])), said


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_a_recording_that_lost_power_is_read_up_to_the_cut(bags, suffix, tmp_path):
    """No metadata.yaml, no index, the last page missing."""
    files = dict(bags[suffix])
    name = storage(files)
    del files["metadata.yaml"]
    whole, _ = images_in(written(tmp_path / "a", files))
    assert whole == IMAGES
    counts = []
    for share_kept in (0.3, 0.6, 0.85):
        cut = {name: files[name][: int(len(files[name]) * share_kept)]}
        try:
            count, said = images_in(written(tmp_path / "a", cut))
        except L2MError:
            count, said = 0, ["refused"]
        assert said
        counts.append(count)
    assert counts == sorted(counts) and counts[-1] >= 1, counts


def test_compressed_chunks_are_recovered(bags, tmp_path):
    lz4 = pytest.importorskip("lz4.frame")
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    content = bags[".mcap"][storage(bags[".mcap"])]
    records, at = b"", 8
    while at + 9 <= len(content):  # the records themselves, out of their chunks
        code, length = struct.unpack_from("<BQ", content, at)
        body = content[at + 9 : at + 9 + length]
        if code == 6:
            start = 28 + 4 + struct.unpack_from("<I", body, 28)[0] + 8
            records += body[start:]
        elif code in (3, 4, 5):
            records += content[at : at + 9 + length]
        at += 9 + length
    packers = {"lz4": lz4.compress, "zstd": zstd.compress, "": bytes}
    for compression, pack in packers.items():
        packed, name = pack(records), compression.encode()
        head = struct.pack("<QQQI", 0, 0, len(records), 0)
        head += struct.pack("<I", len(name)) + name + struct.pack("<Q", len(packed))
        chunk = struct.pack("<BQ", 6, len(head) + len(packed)) + head + packed
        (tmp_path / "c.mcap").write_bytes(content[:8] + chunk)
        bag = recovered(tmp_path / "c.mcap")
        assert bag is not None and bag.count("/image") == IMAGES, compression


def test_a_chunk_that_promises_gigabytes_is_left_out(tmp_path):
    head = struct.pack("<QQQI", 0, 0, 1 << 40, 0) + struct.pack("<I", 0) + struct.pack("<Q", 4)
    chunk = struct.pack("<BQ", 6, len(head) + 4) + head + bytes(4)
    (tmp_path / "c.mcap").write_bytes(b"\x89MCAP0\r\n" + chunk)
    assert list(McapStorage(tmp_path / "c.mcap").messages()) == []


@settings(max_examples=share(0.05))
@given(data=st.data())
def test_flipped_bytes(bags, tmp_path_factory, data):
    suffix = data.draw(st.sampled_from([".mcap", ".db3"]))
    files = dict(bags[suffix])
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    # Headers and indices lie at both ends; pixels fill the middle.
    ends = st.one_of(st.integers(0, 600), st.integers(-3000, -1))
    for at in data.draw(st.lists(st.one_of(ends, st.integers(0, len(content) - 1)), max_size=4)):
        content[at % len(content)] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    files[name] = bytes(content)
    folder = tmp_path_factory.getbasetemp() / "flipped"
    try:
        count, _ = images_in(written(folder, files))
        assert count <= IMAGES
    except L2MError as error:
        assert len(str(error)) < 2000
