"""Pictures and arrays from outside: refused by their headers, in words, before memory is spent."""

import io
import os
import resource
import struct
import tarfile
import types
import zipfile
import zlib

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.files import inside, read_file, read_text, whole_file, write_whole
from l2m_ros.frames.compressed_depth import decode_rvl, decompress_depth
from l2m_ros.frames.messages import read_image
from l2m_ros.image_header import USUAL, SizeLimits, header_size
from l2m_ros.images import decoded, read_array, read_arrays, read_depth, read_rgb
from l2m_ros.output_paths import refuse_overwriting
from l2m_ros.workshop.lifting.photographs import read_photograph
from l2m_ros.workshop.lifting.shards import is_whole

RGB = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
SUFFIXES = (".jpg", ".png", ".bmp", ".tiff", ".webp", ".ppm")


def decompress(data: bytes, limits=USUAL) -> np.ndarray:
    return read_image(types.SimpleNamespace(format="", data=data), limits)


def encoded(suffix: str, image=RGB) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def png_of(width: int, height: int, rows: int) -> bytes:
    """A PNG of zeros; of so many rows its content is there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    packed = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Headers that promise gigapixels, each followed by what its decoder wants to begin with."""
    jpeg = bytearray(encoded(".jpg"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    bmp = bytearray(encoded(".bmp"))
    bmp[18:26] = struct.pack("<ii", 40000, 40000)
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    webp += (16382).to_bytes(3, "little") * 2
    tiff = b"II*\0" + struct.pack("<IH", 8, 2)
    tiff += struct.pack("<HHII", 256, 4, 1, 50000) + struct.pack("<HHII", 257, 4, 1, 50000)
    tiled = b"II*\0" + struct.pack("<IH", 8, 4)
    for tag, value in ((256, 64), (257, 64), (322, 60000), (323, 60000)):
        tiled += struct.pack("<HHII", tag, 4, 1, value)
    return {
        "png": png_of(30000, 30000, rows=300),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "webp": webp,
        "tiff": tiff + bytes(4),
        "tiled tiff": tiled + bytes(4),
        "ppm": b"P6\n# comment\n40000 40000\n255\n" + bytes(100),
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(bombs()))
def test_bombs_are_refused_before_memory_is_spent(kind, tmp_path):
    data = bombs()[kind]
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (
        lambda: decompress(data),
        lambda: read_rgb(path),
        lambda: read_photograph(path),
        lambda: read_depth(path, 0.001),
        lambda: decompress_depth(bytes(12) + data, "16UC1; compressedDepth png"),
    ):
        with pytest.raises(InvalidInput, match="pixels are more than"):
            read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


@pytest.mark.parametrize("length", [1 << 20, 0x81B20000, 0xE0FFFFFF])
def test_a_png_whose_chunk_claims_more_than_there_is(length):
    """Found by coverage-guided fuzzing, in 79 bytes of a compressedDepth message."""
    whole = cv2.imencode(".png", np.full((20, 24), 700, np.uint16))[1].tobytes()
    at = whole.index(b"IDAT") - 4
    lying = whole[:at] + length.to_bytes(4, "big") + whole[at + 4 :]
    extra = length.to_bytes(4, "big") + b"tEXt"
    for content in (lying, whole[:at] + extra + whole[at:]):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InvalidInput, match="end is missing"):
            decoded(content, "x", cv2.IMREAD_UNCHANGED)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_limit_may_be_set():
    data = encoded(".png")
    assert decompress(data, SizeLimits(pixels=64 * 48)).shape == (48, 64, 3)
    with pytest.raises(InvalidInput, match="more than"):
        decompress(data, SizeLimits(pixels=64 * 48 - 1))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_headers_say_the_size_and_whole_files_are_read(suffix):
    data = encoded(suffix)
    assert header_size(data) == (64, 48)
    assert decompress(data).shape == (48, 64, 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_cut_is_refused_or_read_without_an_exception_of_another_kind(suffix):
    data = encoded(suffix)
    for length in [*range(0, 60), *range(60, len(data), len(data) // 40)]:
        try:
            decompress(data[:length])
        except InvalidInput:
            continue


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 31000), (40000, 20), (15, 300)])
def test_tiny_and_thin_pictures_are_refused(width, height, tmp_path):
    cv2.imwrite(str(tmp_path / "thin.png"), np.zeros((height, width, 3), np.uint8))
    with pytest.raises(InvalidInput, match=r"too few|more than"):
        read_rgb(tmp_path / "thin.png")


def test_missing_pixels_are_refused_and_decoders_keep_silent(capfd):
    """libjpeg prints a line a frame and fills with grey; webcams' harmless excess bytes pass."""
    whole = encoded(".jpg")
    missing = whole[: len(whole) // 2] + b"\xff\xd9"
    with pytest.raises(InvalidInput, match="pixels are not"):
        decompress(missing)
    excess = whole[:-2] + b"\x00\x00" + whole[-2:]
    assert decompress(excess).shape == (48, 64, 3)
    for at in range(700, len(whole) - 100, 97):
        broken = bytearray(whole)
        broken[at] ^= 0x55
        try:
            decompress(bytes(broken))
        except InvalidInput:
            continue
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"


def test_a_pipe_a_device_and_a_folder_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(InvalidInput, match=r"regular file|a folder"):
            read_rgb(path)
    with pytest.raises(InvalidInput, match="regular file"):
        read_file(type(tmp_path)("/dev/zero"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="not text"):
        read_text(tmp_path / "binary.yaml")
    with pytest.raises(InvalidInput, match="more than 2"):
        read_file(tmp_path / "binary.yaml", 2)


def npy_header(shape, descr="<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 an npz in disguise",
        npy_header((10**9, 10**9)) + bytes(80),
        npy_header((40, 40), "|O") + bytes(80),
        npy_header((4,)) + bytes(32),
        npy_header("(2, 2") + bytes(32),
        npy_header((-1, 3)) + bytes(32),
    ],
)
def test_npy_depth_that_is_none(content, tmp_path):
    (tmp_path / "d.npy").write_bytes(content)
    with pytest.raises(InvalidInput):
        read_depth(tmp_path / "d.npy", 1.0)


def test_npy_depth_that_is_one(tmp_path):
    for array in (RGB[..., 0].astype(np.float32), np.asfortranarray(RGB[..., 0].astype(float))):
        np.save(tmp_path / "d.npy", array)
        assert np.array_equal(read_array(tmp_path / "d.npy"), array)


def test_npz_that_unpacks_to_too_much_or_is_damaged():
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(1_000_000), b=np.arange(3))
    assert read_arrays(file.getvalue())["b"].tolist() == [0, 1, 2]
    with pytest.raises(InvalidInput, match="unpacks to"):
        read_arrays(file.getvalue(), max_bytes=1_000_000)
    with pytest.raises(InvalidInput):
        read_arrays(file.getvalue()[:-30])
    liar = io.BytesIO()
    with zipfile.ZipFile(liar, "w") as archive:
        archive.writestr("a.npy", npy_header((10**9, 10**9)))
    with pytest.raises(InvalidInput, match="promises"):
        read_arrays(liar.getvalue())


def test_names_that_lead_out_of_a_folder(tmp_path):
    assert inside(tmp_path, "a/b.onnx") == tmp_path / "a/b.onnx"
    for name in ("../b", "/etc/passwd", "a/../../b", "", "a\0b"):
        with pytest.raises(InvalidInput, match="inside"):
            inside(tmp_path, name)


def test_outputs_never_destroy_inputs(tmp_path):
    bag = tmp_path / "bag.mcap"
    bag.mkdir()
    link = tmp_path / "link"
    link.symlink_to(bag)
    for output in (bag, link, bag / "poses", tmp_path, tmp_path / "x" / ".." / "bag.mcap"):
        with pytest.raises(InvalidInput, match="overwrite the input"):
            refuse_overwriting([None, output], [bag])
    refuse_overwriting([tmp_path / "other", None], [bag, None])


def test_no_link_is_written_through(tmp_path):
    """In /tmp somebody else lays links of names that can be guessed."""
    names = set()
    for _ in range(3):
        with whole_file(tmp_path / "out.json") as partial:
            partial.write_text("new")
            names.add(partial.name)
    assert len(names) == 3


def test_written_files_have_the_usual_rights(tmp_path):
    write_whole(tmp_path / "a", b"1")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_truncated_shard_is_not_whole(tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("a")
        info.size = 20000
        tar.addfile(info, io.BytesIO(bytes(20000)))
    assert is_whole(path)
    content = path.read_bytes()
    for length in (0, 512, 10240, len(content) - 1):
        path.write_bytes(content[:length])
        assert not is_whole(path) or length == 10240  # zeros all through: read_shard refuses it


# ---- compressedDepth ---------------------------------------------------------------------------


def encode_rvl(image) -> bytes:
    """The slow readable twin, number by number and bit by bit."""
    nibbles = []

    def put(value: int) -> None:
        while True:
            group, value = value & 7, value >> 3
            nibbles.append(group | (8 if value else 0))
            if not value:
                return

    flat, at, before = image.ravel().astype(int).tolist(), 0, 0
    while at < len(flat):
        zeros = 0
        while at + zeros < len(flat) and not flat[at + zeros]:
            zeros += 1
        others = 0
        while at + zeros + others < len(flat) and flat[at + zeros + others]:
            others += 1
        put(zeros)
        put(others)
        for value in flat[at + zeros : at + zeros + others]:
            put((value - before) * 2 if value >= before else (before - value) * 2 - 1)
            before = value
        at += zeros + others
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)
    ]
    return struct.pack("<II", image.shape[1], image.shape[0]) + struct.pack(
        f"<{len(words)}I", *words
    )


def test_compressed_depth_is_read_in_all_its_kinds():
    rng = np.random.default_rng(1)
    millimetres = rng.integers(300, 60000, (40, 52)).astype(np.uint16)
    millimetres[rng.random(millimetres.shape) < 0.4] = 0
    assert np.array_equal(decode_rvl(encode_rvl(millimetres)), millimetres)
    expected = np.where(millimetres > 0, millimetres * 0.001, np.nan)
    header = struct.pack("<iff", 0, 0.0, 0.0)
    for fmt, body in (
        ("16UC1; compressedDepth", encoded(".png", millimetres)),
        ("16UC1; compressedDepth png", encoded(".png", millimetres)),
        ("16UC1; compressedDepth rvl", encode_rvl(millimetres)),
    ):
        depth = decompress_depth(header + body, fmt)
        assert np.allclose(depth, expected, equal_nan=True) and depth.dtype == np.float32
    metres = np.linspace(0.5, 9, 40 * 52).reshape(40, 52)
    a, b = 100 * 101.0, 1 - 101.0 / 10  # quantisation 100, farthest 10 m
    levels = np.rint(a / metres + b).astype(np.uint16)
    inverse = struct.pack("<iff", 1, a, b)
    depth = decompress_depth(inverse + encoded(".png", levels), "32FC1; compressedDepth png")
    assert np.abs(depth - metres).max() < 0.01


@pytest.mark.parametrize(
    ("data", "fmt"),
    [
        (b"", "16UC1; compressedDepth png"),
        (bytes(12), "16UC1; compressedDepth rvl"),
        (bytes(12) + struct.pack("<II", 50000, 50000), "16UC1; compressedDepth rvl"),
        (bytes(12) + struct.pack("<II", 64, 48) + bytes(64), "16UC1; compressedDepth rvl"),
        (bytes(12) + struct.pack("<II", 64, 48) + b"\xff" * 64, "16UC1; compressedDepth rvl"),
        (bytes(12) + encoded(".png"), "16UC1; compressedDepth png"),
        (encoded(".jpg"), "jpeg"),
        (bytes(12) + encoded(".jpg"), "16UC1; jpeg compressed"),
    ],
)
def test_compressed_depth_that_is_none(data, fmt):
    with pytest.raises(InvalidInput):
        decompress_depth(data, fmt)


def test_decoding_is_bit_equal_to_opencv():
    for suffix in SUFFIXES:
        data = encoded(suffix)
        same = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(decoded(data, "x", cv2.IMREAD_COLOR), same)
