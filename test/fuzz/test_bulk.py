"""The bulk of the random inputs: seeds whose bytes and numbers are changed by a quick generator.

hypothesis draws 4 ms an input and shrinks what it finds; this draws 0.1 ms and prints the number
of the input, from which `content(target, number)` makes it again.
"""

import contextlib
import io
import json
import random
import struct
import types

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import CameraInfo
from test_bad_files import encode_rvl

from fuzz.budget import bulk
from fuzz.test_bags import bags, storage  # noqa: F401  a fixture
from fuzz.test_cards import CARD
from fuzz.test_files import ARRAYS, PICTURES, SHARD, saved
from fuzz.test_messages import LENSES, LIMITS
from l2m_ros.bags.recovery import McapStorage
from l2m_ros.engines.model_card import card_from_dict
from l2m_ros.errors import L2MError
from l2m_ros.files import parse_yaml
from l2m_ros.frames import messages as m
from l2m_ros.frames.compressed_depth import decompress_depth
from l2m_ros.frames.encodings import ENCODINGS
from l2m_ros.geometry.lens import fold_radius
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.synthetic import World, trial
from l2m_ros.image_header import focal_in_widths
from l2m_ros.images import decoded, read_arrays
from l2m_ros.mapping import wire
from l2m_ros.types import Correspondences, MetricPose, RelativePose
from l2m_ros.workshop.lifting.shards import read_shard

# Numbers at which code breaks.
DOUBLES = (0.0, -0.0, 1.0, -1.0, 1e-310, 1e-30, 1e308, -1e308, 1e15, 500.0, 0.5, 2.0**31,
           float("nan"), float("inf"), float("-inf"))  # fmt: skip
BYTES = (0, 1, 127, 128, 255)
YAML = b"a: &x {b: [1, 2.5e3, 'c'], d: null}\n? e\n: *x\nl2m:\n  ros__parameters: {model: lite}\n"


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """A few bytes changed, most in the head; runs taken out or repeated; cut."""
    out = bytearray(content)
    for _ in range(rng.randrange(5)):
        if not out:
            break
        at = rng.randrange(min(len(out), rng.choice((16, 64, 512, len(out)))))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] = rng.choice(BYTES)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del out[at : at + rng.randrange(1, 9)]
        else:
            out[at:at] = out[at : at + rng.randrange(1, 9)]
    return bytes(out[: rng.randrange(len(out) + 1)]) if rng.randrange(4) == 0 else bytes(out)


# ---- targets: one random input each; anything but an L2MError is a find -------------------------


def a_picture(rng):
    content = changed_bytes(rng, PICTURES[rng.choice(sorted(PICTURES))])
    focal_in_widths(content)
    pixels = decoded(content, "p", cv2.IMREAD_UNCHANGED, LIMITS)
    assert pixels.size


def a_raw_image(rng):
    width, height = rng.choice((rng.randrange(40), 2**32 - 1)), rng.randrange(40)
    given = {
        "data": rng.randbytes(rng.randrange(3000)),
        "width": width,
        "height": height,
        "step": rng.choice((width * 3, rng.randrange(200), 2**32 - 1)),
        "encoding": rng.choice((*ENCODINGS, "32FC1", "martian")),
        "is_bigendian": rng.randrange(2),
    }
    message = types.SimpleNamespace(**given)
    with contextlib.suppress(L2MError):
        depth = m.read_depth(message)
        assert (np.isnan(depth) | (depth > 0)).all()
    assert m.read_image(message).dtype == np.uint8


LEVELS = np.full((36, 44), 700, np.uint16)
LEVELS[:9] = 0  # unknown
PACKED = {"png": cv2.imencode(".png", LEVELS)[1].tobytes(), "rvl": encode_rvl(LEVELS)}


def a_compressed_depth(rng):
    packing, encoding = rng.choice(sorted(PACKED)), rng.choice(("16UC1", "32FC1"))
    content = struct.pack("<iff", 1, 900.0, 0.5) + PACKED[packing]
    form = rng.choice((*6 * (f"{encoding}; compressedDepth {packing}",), "jpeg", ""))
    depth = decompress_depth(changed_bytes(rng, content), form, LIMITS)
    assert (np.isnan(depth) | (depth > 0)).all()


def a_camera(rng):
    model, count = rng.choice(LENSES)
    info = CameraInfo(width=rng.choice((0, 1, *6 * (640,))), height=rng.choice((0, *6 * (480,))))
    info.distortion_model = rng.choice((*6 * (model,), "", "martian"))
    d = [rng.uniform(-0.3, 0.3) for _ in range(rng.choice((0, count)))]
    k = [500.0 * rng.uniform(0.5, 2.0), 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    p = [500.0, 0.0, 320.0, -50.0, 0.0, 500.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for _ in range(rng.randrange(4)):  # with more of them every camera would be refused
        numbers = rng.choice((d, k, p))
        if numbers:
            at = rng.randrange(len(numbers))
            numbers[at] = rng.choice((*DOUBLES, numbers[at] * rng.uniform(0.5, 2.0)))
    info.d, info.k, info.p = d, k, p
    info.binning_x, info.roi.width = rng.choice((*6 * (0,), 2, 99)), rng.choice((*6 * (0,), 30))
    with contextlib.suppress(L2MError):
        assert np.isfinite(m.read_right_from_camera(info)).all()
    camera = m.read_camera(info, rectified=bool(rng.randrange(2)))
    assert np.isfinite(camera.K).all() and fold_radius(camera) > 0


def arrays(rng):
    read_arrays(changed_bytes(rng, ARRAYS))


def text(rng):
    parse_yaml(changed_bytes(rng, YAML).decode("utf-8", "replace"), "y")


CARD_TEXT = json.dumps(CARD).encode()


def a_card(rng):
    try:
        raw = json.loads(changed_bytes(rng, CARD_TEXT))
    except (ValueError, RecursionError):
        return
    card_from_dict(raw)


SENT = io.BytesIO()
wire.write(
    SENT,
    wire.Message("add", {"epoch": 1, "stamp_ns": 2**60}, {"rgb": np.zeros((4, 4, 3), np.uint8)}),
)


def a_message_of_the_map(rng):
    wire.read(io.BytesIO(changed_bytes(rng, SENT.getvalue())))


TARGETS = {
    a_message_of_the_map: 0.25,
    a_picture: 0.04,
    a_raw_image: 0.25,
    a_camera: 0.25,
    a_compressed_depth: 0.1,
    arrays: 0.1,
    a_card: 0.2,
    text: 0.02,
}


def name_of(value) -> str:
    return getattr(value, "__name__", "")


def rounds(target, number: int) -> random.Random:
    """The generator of one input of a target."""
    return random.Random(f"{target.__name__} {number}")


@pytest.mark.parametrize(
    ("target", "share"), TARGETS.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_targets(target, share):
    """Some must be taken: where all are refused, nothing is asserted of what was read."""
    refused = 0
    for number in range(bulk(share)):
        try:
            target(rounds(target, number))
        except L2MError as error:
            refused += 1
            assert len(str(error)) < 2000
        except Exception as error:
            raise AssertionError(f"{target.__name__}({number})") from error
    assert refused < 0.95 * bulk(share) or bulk(share) < 40


def test_shards_and_arrays_in_files(tmp_path):
    path, whole = tmp_path / "f", (SHARD, saved(np.zeros((3, 4), np.float32)))
    for number in range(bulk(0.02)):
        rng = random.Random(number)
        path.write_bytes(changed_bytes(rng, whole[0]))
        try:
            list(read_shard(path))
        except L2MError:
            continue
        except Exception as error:
            raise AssertionError(f"shard {number}") from error


def test_recordings(bags, tmp_path):  # noqa: F811
    whole = bags[".mcap"][storage(bags[".mcap"])]
    path = tmp_path / "r.mcap"
    for number in range(bulk(0.02)):
        path.write_bytes(changed_bytes(random.Random(number), whole))
        try:
            count = sum(1 for _ in McapStorage(path).messages())
        except L2MError:
            continue
        except Exception as error:
            raise AssertionError(f"recording {number}") from error
        assert count <= 40


POSED = trial(World("keyframe", outliers=0.3), 0)


def test_poses_are_finite_or_lost():
    """Matches in one place, on a line, few, far outside; depth and confidence of any kind."""
    options = PoseOptions()
    for number in range(bulk(0.004)):
        rng = np.random.default_rng(number)
        query, keyframe = POSED.matches.query_px.copy(), POSED.matches.keyframe_px.copy()
        kept = rng.permutation(len(query))[: rng.choice([0, 1, 4, 8, 30, len(query)])]
        query, keyframe = query[kept], keyframe[kept]
        kind = rng.integers(6)
        if kind == 0 and len(query):
            query[:] = query[0]
        elif kind == 1:
            query[:, 1] = 50.0
        elif kind == 2:
            keyframe = query.copy()
        elif kind == 3:
            query += rng.choice([0.0, 1e6, -1e9])
        elif kind == 4:
            query = rng.uniform(0, 600, query.shape)
        confidence = rng.choice([0.0, 0.5, 1.0], len(query))
        try:
            matches = Correspondences(query, keyframe, confidence)
            outcome = estimate_pose(matches, POSED.query, POSED.keyframe, options, ScaleEvidence())
        except L2MError:
            continue
        except Exception as error:
            raise AssertionError(f"pose {number}") from error
        if isinstance(outcome, MetricPose):
            assert np.isfinite(outcome.keyframe_from_camera).all(), number
            assert np.isfinite(outcome.covariance).all(), number
            assert np.linalg.eigvalsh(outcome.covariance)[0] > 0, number
        elif isinstance(outcome, RelativePose):
            assert np.isfinite(outcome.rotation).all(), number
