"""Messages <-> values: round trips, each encoding against closed forms, refusals in words."""

import array
import tracemalloc

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy")

from sensor_msgs.msg import CompressedImage, Image

from l2m_ros.errors import InvalidInput
from l2m_ros.frames import messages as m
from l2m_ros.frames.builder import FrameBuilder
from l2m_ros.frames.encodings import ENCODINGS, to_rgb
from l2m_ros.frames.inputs import Bundle
from l2m_ros.geometry import se3
from l2m_ros.types import Camera

RNG = np.random.default_rng(0)
HEAD = m.header(1_234_567_890_123_456_789, "cam")
RED, GREEN, BLUE = (200, 16, 32), (24, 180, 40), (8, 48, 220)


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def raw(data: bytes, width, height, step, encoding, big_endian=False) -> Image:
    message = Image(width=width, height=height, step=step, encoding=encoding)
    message.is_bigendian = big_endian
    message.data = array.array("B", data)
    return message


def test_stamp_round_trip():
    assert m.stamp_ns(type("M", (), {"header": HEAD})) == 1_234_567_890_123_456_789
    assert HEAD.frame_id == "cam"


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_eight_bit_colours_keep_every_value(encoding):
    pixels = noise(6, 8, 3)
    order = {"r": 0, "g": 1, "b": 2}
    if encoding == "mono8":
        stored, expected = pixels[..., 0], np.repeat(pixels[..., :1], 3, axis=2)
    else:
        planes = [pixels[..., order[c]] if c != "a" else noise(6, 8) for c in encoding[:-1]]
        stored, expected = np.stack(planes, axis=-1), pixels
    got = m.read_image(m.image_message(stored, encoding, HEAD))
    np.testing.assert_array_equal(got, expected)


def test_rgb8_is_read_in_place():
    message = m.image_message(noise(6, 8, 3), "rgb8", HEAD)
    got = m.read_image(message)
    message.data[0] = (message.data[0] + 1) % 256
    assert got[0, 0, 0] == message.data[0]
    assert not got.flags.writeable


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "rgb16", "bgr16", "rgba16", "bgra16"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_sixteen_bits_keep_the_high_byte(encoding, big_endian):
    channels = ENCODINGS[encoding].channels
    values = noise(4, 6, channels, dtype=np.uint16)
    data = values.astype(">u2" if big_endian else "<u2").tobytes()
    got = m.read_image(raw(data, 6, 4, 12 * channels, encoding, big_endian))
    high = (values >> 8).astype(np.uint8)
    rgb = {1: high.repeat(3, axis=2), 3: high, 4: high[..., :3]}[channels]
    np.testing.assert_array_equal(got, rgb[..., ::-1] if encoding.startswith("bgr") else rgb)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name.startswith("bayer")])
def test_bayer_of_a_flat_colour_is_that_colour(encoding):
    """A mosaic of one colour: every interpolation must give it back, in the right channels."""
    pattern, deep = encoding[6:10], encoding.endswith("16")
    tile = np.array([dict(zip("rgb", RED, strict=True))[c] for c in pattern]).reshape(2, 2)
    mosaic = np.tile(tile, (8, 8)).astype(np.uint16)
    stored = (mosaic << 8).astype("<u2") if deep else mosaic.astype(np.uint8)
    got = m.read_image(raw(stored.tobytes(), 16, 16, 16 * stored.itemsize, encoding))
    np.testing.assert_array_equal(got[4:12, 4:12], np.broadcast_to(RED, (8, 8, 3)))


def yuv_of(rgb):
    """ITU-R BT.601, studio range, as OpenCV and the drivers have it."""
    r, g, b = np.array(rgb) / 255
    y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    u = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    v = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    return (round(y), round(u), round(v))


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE])
@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"])
def test_yuv_of_a_flat_colour_is_that_colour(encoding, colour):
    y, u, v = yuv_of(colour)
    if encoding.startswith("nv"):
        pair = [u, v] if encoding == "nv12" else [v, u]
        data = bytes([y]) * 48 + bytes(pair * 12)
        message = raw(data, 8, 6, 8, encoding)
    else:
        pair = [u, y, v, y] if encoding in ("yuv422", "uyvy") else [y, u, y, v]
        message = raw(bytes(pair * 4 * 6), 8, 6, 16, encoding)
    got = m.read_image(message).astype(int)
    assert got.shape == (6, 8, 3)
    assert np.abs(got - colour).max() <= 4  # 8-bit YUV rounds


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "mono16", "nv12", "yuv422"])
def test_padded_rows(encoding):
    layout = ENCODINGS[encoding]
    rows = 4 * layout.rows[0] // layout.rows[1]
    tight = noise(rows, 8 * layout.channels * np.dtype(layout.dtype).itemsize)
    padded = np.concatenate([tight, noise(rows, 5)], axis=1)
    expected = m.read_image(raw(tight.tobytes(), 8, 4, tight.shape[1], encoding))
    got = m.read_image(raw(padded.tobytes(), 8, 4, padded.shape[1], encoding))
    np.testing.assert_array_equal(got, expected)
    unpadded_end = padded.tobytes()[:-5]  # the last row's padding may be missing
    got = m.read_image(raw(unpadded_end, 8, 4, padded.shape[1], encoding))
    np.testing.assert_array_equal(got, expected)


def test_compressed_png_is_exact_and_jpeg_is_near():
    pixels = cv2.GaussianBlur(noise(48, 64, 3), (0, 0), 4)
    for ending, tolerance in ((".png", 0), (".jpg", 12)):
        packed = cv2.imencode(ending, pixels[..., ::-1])[1]
        message = CompressedImage(format=ending[1:], data=array.array("B", packed.tobytes()))
        assert np.abs(m.read_image(message).astype(int) - pixels).max() <= tolerance


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_gbrg8", "bayer_grbg16", "mono16"])
@pytest.mark.parametrize("bits", [12, 16])
def test_a_compressed_image_is_what_it_was_before_it_was_packed(encoding, bits):
    """image_transport packs a mosaic as grey, and 16 bits as they are: it was shown as a mosaic,
    and the high byte of 12 bits has four."""
    kind = np.uint16 if encoding.endswith("16") else np.uint8
    stored = noise(16, 16, dtype=kind) >> (16 - bits if kind is np.uint16 else 0)
    packed = array.array("B", cv2.imencode(".png", stored)[1].tobytes())
    message = CompressedImage(format=f"{encoding}; png compressed ", data=packed)
    plain = m.image_message(stored, encoding, HEAD)
    found = m.unpacked_image(message)
    assert m.image_bits(found) == m.image_bits(plain)
    bits = m.image_bits(plain) or 16
    np.testing.assert_array_equal(m.read_image(found, bits=bits), m.read_image(plain, bits=bits))


def test_a_compressed_image_is_not_turned_as_its_exif_says():
    """image_transport does not turn it, nor was the camera calibrated so."""
    pixels = cv2.GaussianBlur(noise(48, 64, 3), (0, 0), 4)
    jpeg = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
    upside_down = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    exif = b"Exif\0\0" + upside_down
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=array.array("B", turned))
    assert np.abs(m.read_image(message).astype(int) - pixels).max() <= 12


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (raw(b"", 0, 0, 0, "rgb8"), "empty (0x0)"),
        (raw(b"", 8, 4, 24, "rgb8"), "cut off: 0 bytes of 96"),
        (raw(bytes(50), 8, 4, 24, "rgb8"), "cut off: 50 bytes of 96"),
        (raw(bytes(96), 8, 4, 8, "rgb8"), "step is 8 bytes"),
        (raw(bytes(96), 8, 4, 24, "martian8"), "encoding 'martian8' is unknown; known are"),
        (raw(bytes(42), 7, 4, 14, "yuv422"), "sides must be even"),
        (CompressedImage(format="jpeg", data=array.array("B", bytes(99))), "not a PNG, JPEG"),
        (CompressedImage(format="jpeg"), "is empty"),
    ],
)
def test_images_that_are_none_are_refused_in_words(message, words):
    with pytest.raises(InvalidInput) as refusal:
        m.read_image(message)
    assert words in str(refusal.value)


def test_encodings_beyond_ours_go_to_cv_bridge(monkeypatch):
    asked = []

    class Bridge:
        def imgmsg_to_cv2(self, message, desired):
            asked.append((message.encoding, desired))
            return np.full((2, 2, 3), 7, np.uint8)

    monkeypatch.setattr(m, "_cv_bridge", Bridge)
    assert m.read_image(raw(bytes(16), 2, 2, 8, "rgb32f")).max() == 7
    assert asked == [("rgb32f", "rgb8")]
    m.read_image(raw(bytes(12), 2, 2, 6, "rgb8"))
    assert len(asked) == 1  # ours never touch it


@pytest.mark.parametrize("big_endian", [False, True])
def test_depth_in_millimetres_and_in_metres(big_endian):
    order = ">" if big_endian else "<"
    millimetres = np.array([[0, 1, 1500], [65535, 2000, 10]], order + "u2")
    metres = np.array([[0, 0.5, np.inf], [np.nan, -1, 4.25]], order + "f4")
    got = m.read_depth(raw(millimetres.tobytes(), 3, 2, 6, "16UC1", big_endian))
    expected = np.float32([[np.nan, 0.001, 1.5], [np.nan, 2.0, 0.01]])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    got = m.read_depth(raw(metres.tobytes(), 3, 2, 12, "32FC1", big_endian))
    np.testing.assert_array_equal(got, np.float32([[np.nan, 0.5, np.nan], [np.nan, np.nan, 4.25]]))
    with pytest.raises(InvalidInput, match="16UC1"):
        m.read_depth(raw(bytes(18), 3, 2, 9, "rgb8"))


LENSES = {
    "plumb_bob": [0.1, -0.2, 0.001, 0.002, 0.03],
    "rational_polynomial": [0.1, -0.2, 0.001, 0.002, 0.03, 0.1, 0.1, 0.01],
    "equidistant": [0.1, -0.02, 0.01, 0.002],
}
K = np.array([[50.0, 0, 31], [0, 50, 24], [0, 0, 1]])
CAMERAS = [
    Camera(640, 480, np.array([[500.5, 0, 319.25], [0, 501, 240.75], [0, 0, 1]])),
    *(Camera(64, 48, K, lens, D) for lens, D in LENSES.items()),
]


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.distortion)
def test_camera_round_trip(camera):
    back = m.read_camera(m.camera_info_message(camera, HEAD))
    assert (back.size, back.distortion) == (camera.size, camera.distortion)
    np.testing.assert_array_equal(back.K, camera.K)
    np.testing.assert_array_equal(back.D, camera.D)


def test_camera_of_a_rectified_binned_window():
    info = m.camera_info_message(CAMERAS[1], HEAD)
    info.p = [40.0, 0, 30, 0, 0, 41, 20, 0, 0, 0, 1, 0]
    rectified = m.read_camera(info, rectified=True)
    assert rectified.distortion == "none"
    assert rectified.K[0, 0] == 40 and rectified.K[1, 2] == 20
    info.binning_x = info.binning_y = 2
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 8, 4, 32, 16
    window = m.read_camera(info, rectified=True)
    assert window.size == (16, 8)
    assert window.K[0, 2] == (30 - 8 - 0.5) / 2  # centres at integers: u' = (u - 1/2) / 2


def test_camera_without_calibration_is_refused_in_words():
    info = m.camera_info_message(CAMERAS[0], HEAD)
    info.k = [0.0] * 9
    with pytest.raises(InvalidInput, match="not calibrated"):
        m.read_camera(info)


def test_stereo_baseline():
    info = m.camera_info_message(CAMERAS[0], HEAD)
    with pytest.raises(InvalidInput, match="baseline"):
        m.read_right_from_camera(info)
    info.p[3] = -0.12 * info.p[0]
    np.testing.assert_allclose(m.read_right_from_camera(info)[:3, 3], [-0.12, 0, 0], atol=1e-12)
    info.p[3] = -120.0 * info.p[0]
    with pytest.raises(InvalidInput, match=r"baseline is 120 m .* in millimetres"):
        m.read_right_from_camera(info)


def random_pose(seed):
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    T[:3, 3] = rng.normal(size=3)
    half = rng.normal(size=(6, 6))
    return T, half @ half.T


@pytest.mark.parametrize("seed", range(8))
def test_poses_round_trip(seed):
    T, covariance = random_pose(seed)
    for message in (
        m.pose_message(T, covariance, HEAD),
        m.odometry_message(T, covariance, HEAD, "child"),
    ):
        back, spread = m.read_pose(message.pose)
        np.testing.assert_allclose(back, T, atol=1e-12)
        np.testing.assert_allclose(spread, covariance, atol=1e-12)
    np.testing.assert_allclose(
        m.read_transform(m.transform_message(T, HEAD, "child").transform), T, atol=1e-12
    )
    sample = m.read_odometry(m.odometry_message(T, covariance, HEAD, "child"))
    assert sample.stamp_ns == 1_234_567_890_123_456_789
    np.testing.assert_allclose(sample.odom_from_base, T, atol=1e-12)


@pytest.mark.parametrize("axis", np.eye(3).tolist() + [[0.6, 0.8, 0]])
def test_quaternion_of_half_turns(axis):
    """Half turns are where dividing by 1 + trace would fail."""
    for angle in (np.pi, np.pi - 1e-9, 1e-9, 0.0):
        R = Rotation.from_rotvec(np.array(axis) * angle).as_matrix()
        np.testing.assert_allclose(m.checked_rotation(se3.quaternion(R), "q"), R, atol=1e-12)


def test_odometry_of_nonsense_is_refused():
    message = m.odometry_message(np.eye(4), np.eye(6), HEAD, "child")
    message.pose.pose.orientation.w = 0.0
    with pytest.raises(InvalidInput, match="length 0"):
        m.read_odometry(message)
    message = m.odometry_message(np.eye(4), np.eye(6), HEAD, "child")
    message.pose.pose.position.x = float("nan")
    with pytest.raises(InvalidInput, match="NaN"):
        m.read_odometry(message)


def nav2_accepts(message) -> bool:
    """nav2_util's validateMsg: finite numbers, a frame, a unit quaternion, a stamp in range."""
    q, p = message.pose.pose.orientation, message.pose.pose.position
    finite = np.isfinite([p.x, p.y, p.z, q.x, q.y, q.z, q.w, *message.pose.covariance]).all()
    unit = abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1) < 1e-4
    return bool(finite and unit and message.header.frame_id and HEAD.stamp.nanosec < 1e9)


@pytest.mark.parametrize("rank", [0, 3, 6])
def test_covariances_that_consumers_accept(rank):
    """Finite, exactly symmetric, and invertible even where the estimate claims certainty."""
    half = np.random.default_rng(rank).normal(size=(6, rank)) * 0.01
    message = m.pose_message(np.eye(4), half @ half.T, HEAD)
    P = np.asarray(message.pose.covariance).reshape(6, 6)
    assert nav2_accepts(message)
    np.testing.assert_allclose(P, P.T, rtol=0, atol=1e-15)
    assert np.linalg.eigvalsh(P)[0] >= 0.99 * m.MIN_VARIANCE
    np.testing.assert_allclose(P, half @ half.T, atol=2 * m.MIN_VARIANCE)
    twist = m.odometry_message(np.eye(4), half @ half.T, HEAD, "c").twist.covariance
    assert (np.diag(np.asarray(twist).reshape(6, 6)) >= 1e6).all()


def test_cloud_round_trip():
    columns = RNG.normal(size=(17, len(m.CLOUD_FIELDS))).astype(np.float32)
    columns[3, :3] = np.nan
    message = m.cloud_message(columns, HEAD)
    assert len(message.data) == message.row_step == 17 * message.point_step
    assert not message.is_dense
    back = m.read_cloud(message)
    assert tuple(back) == m.CLOUD_FIELDS
    np.testing.assert_array_equal(np.stack(list(back.values()), axis=1), columns)
    assert len(m.read_cloud(m.cloud_message(columns[:0], HEAD))["u"]) == 0


def test_float_images_round_trip():
    warp = RNG.normal(size=(5, 7, 2)).astype(np.float32)
    message = m.image_message(warp, "32FC2", HEAD)
    assert (message.width, message.height, message.step) == (7, 5, 56)
    np.testing.assert_array_equal(np.frombuffer(message.data, "<f4").reshape(5, 7, 2), warp)


def test_fast_rows_equal_a_slow_twin():
    """bgr8 by strides against a loop over pixels."""
    data, width, height, step = noise(4 * 20).tobytes(), 6, 4, 20
    slow = np.zeros((height, width, 3), np.uint8)
    for v in range(height):
        for u in range(width):
            b, g, r = data[v * step + 3 * u : v * step + 3 * u + 3]
            slow[v, u] = r, g, b
    got = to_rgb(data, width=width, height=height, step=step, encoding="bgr8")
    np.testing.assert_array_equal(got, slow)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_camera_that_fills_fewer_bits_is_not_dark(bits):
    """The brightest value of the camera becomes white, whatever its bits."""
    ramp = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(4, 16)
    message = m.image_message(ramp, "mono16", HEAD)
    assert m.image_bits(message) == bits
    got = m.read_image(message, bits=bits)[..., 0]
    np.testing.assert_array_equal(got, ramp >> (bits - 8))
    assert m.image_bits(m.image_message(noise(4, 8), "mono8", HEAD)) == 0


def test_the_bits_of_a_camera_only_grow():
    """Brightness does not follow the scene: a dark image after a bright one stays dark."""
    camera_info = m.camera_info_message(
        Camera(16, 16, np.array([[9.0, 0, 8], [0, 9.0, 8], [0, 0, 1]])), HEAD
    )

    def mean(frames, value):
        image = m.image_message(np.full((16, 16), value, np.uint16), "mono16", HEAD)
        bundle = Bundle(1, {"image": image, "camera_info": camera_info}, 0.0)
        return int(frames.build(bundle).rgb.mean())

    frames = FrameBuilder()
    assert mean(frames, 1000) == 250  # 10 bits so far
    assert mean(frames, 3000) == 187  # it has 12
    assert mean(frames, 1000) == 62
    assert mean(FrameBuilder(image_bits=12), 1000) == 62  # told
    assert mean(FrameBuilder(image_bits=10), 3000) == 255  # what is brighter is cut


def bytes_made(make) -> int:
    """The most memory that is held beyond what was there before."""
    tracemalloc.start()
    made = make()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del made
    return peak


def test_an_image_is_read_in_place_and_written_with_one_copy():
    rgb = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    metres = np.full((240, 320), 2.0, np.float32)
    metres[::7] = np.nan
    head = m.header(1, "camera")
    image, depth = m.image_message(rgb, "rgb8", head), m.image_message(metres, "32FC1", head)
    assert bytes_made(lambda: m.read_image(image)) < 5_000
    assert bytes_made(lambda: m.read_depth(depth)) < 0.6 * metres.nbytes  # masks of 1 byte a pixel
    assert bytes_made(lambda: m.image_message(rgb, "rgb8", head)) < 1.1 * rgb.nbytes + 5_000
    columns = np.zeros((5000, len(m.CLOUD_FIELDS)), np.float32)
    assert bytes_made(lambda: m.cloud_message(columns, head)) < 1.1 * columns.nbytes + 20_000
    assert bytes(image.data) == rgb.tobytes()
    assert not np.shares_memory(np.frombuffer(image.data, np.uint8), rgb)


def test_depth_that_says_unknown_in_another_way_becomes_nan():
    head, metres = m.header(1, "camera"), np.ones((4, 4), np.float32)
    metres[0] = [0.0, -1.0, np.inf, np.nan]
    read = m.read_depth(m.image_message(metres, "32FC1", head))
    assert np.isnan(read[0]).all() and (read[1:] == 1.0).all()
