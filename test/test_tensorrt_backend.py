"""The TensorRT back-end on a fake engine and a fake GPU: caching, buffers, graphs, words.

What a real TensorRT computes is not tested here; that the right things are called with the right
buffers in the right order is.
"""

import gc
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes.exported import exported_toy
from fakes.toy_network import ramp

from l2m_ros.engines.backend import BackendOptions, choices, load_backend
from l2m_ros.engines.tensorrt.engine_cache import EngineCache, engines_folder, read_engine
from l2m_ros.errors import BackendUnavailable, ModelError
from l2m_ros.matching.network_matcher import NetworkMatcher

FAKES = Path(__file__).parent / "fakes" / "gpu"
MINE = (
    "tensorrt",
    "cuda",
    "l2m_ros.engines.tensorrt.backend",
    "l2m_ros.engines.tensorrt.cuda_memory",
)


def forget():
    for name in [n for n in sys.modules if n in MINE or n.startswith(("cuda.", "tensorrt."))]:
        parent, _, child = name.rpartition(".")
        if parent in sys.modules and hasattr(sys.modules[parent], child):
            delattr(sys.modules[parent], child)
        del sys.modules[name]


@pytest.fixture(scope="module")
def card():
    exported = exported_toy("fp16")
    gc.collect()
    gc.freeze()  # what the exporter imported: `gpu` would look at it after each test (0.7 s)
    return exported


@pytest.fixture
def gpu(monkeypatch):
    """The back-end's module on fakes, imported anew: .trt, .state (of CUDA), .module."""
    forget()
    monkeypatch.syspath_prepend(str(FAKES))
    module = importlib.import_module("l2m_ros.engines.tensorrt.backend")
    state = importlib.import_module("cuda.bindings.runtime").state
    yield SimpleNamespace(trt=module.trt, state=state, module=module)
    del state, module
    gc.collect()
    forget()


@pytest.fixture
def options(tmp_path):
    return BackendOptions(cache_dir=str(tmp_path / "engines"), device="cuda")


def cpu_matcher(card):
    return NetworkMatcher(card, load_backend("onnxruntime", card, BackendOptions()))


def test_numbers_are_those_of_onnxruntime_frame_after_frame(gpu, card, options):
    """Ten frames against two keyframes: staging, buffers and captured graphs never mix up."""
    fast = NetworkMatcher(card, gpu.module.load(card, options))
    slow = cpu_matcher(card)
    frames = [ramp(96, 64, x=3 * k, y=k) for k in range(10)]
    for keyframe in (ramp(96, 64), ramp(96, 64, x=9, y=4)):
        references = [m.reference(m.encode(keyframe)) for m in (fast, slow)]
        for frame in frames:
            got, expected = (
                m.match(m.encode(frame), r) for m, r in zip((fast, slow), references, strict=True)
            )
            assert np.array_equal(got.warp_px, expected.warp_px)
            assert np.array_equal(got.certainty, expected.certainty)
    assert gpu.state.calls.count("launch graph") > 20


def test_second_use_of_the_same_buffers_is_captured_once(gpu, card, options):
    backend = gpu.module.load(card, options)
    image = {"image": np.zeros((1, 3, 64, 96), np.float32)}
    gpu.state.calls.clear()
    for _ in range(4):
        backend.run("encode", image)  # the result is dropped, so its buffers come again
    calls = [c for c in gpu.state.calls if c not in ("malloc", "upload", "synchronize")]
    capture = ["begin capture", "execute", "end capture"]
    assert calls == ["execute", *capture, "launch graph", "launch graph", "launch graph"]


def test_uploads_do_not_wait_and_are_not_overwritten(gpu, card, options):
    """Many uploads before anything is read: each tensor has its own image."""
    backend = gpu.module.load(card, options)
    images = [np.full((1, 3, 64, 96), k / 8, np.float32) for k in range(6)]
    gpu.state.calls.clear()
    features = []
    for image in images:
        features.append(backend.run("encode", {"image": image}))
        image[:] = -1.0  # the caller may reuse it at once
    assert "synchronize" not in gpu.state.calls
    for k, kept in enumerate(features):
        assert np.allclose(backend.to_host({"fine": kept["fine"]})["fine"], k / 8, atol=1e-3)


def test_keyframe_stays_on_the_gpu(gpu, card, options):
    """Per frame: one upload (the image) and one download each of warp, certainty, precision."""
    matcher = NetworkMatcher(card, gpu.module.load(card, options))
    reference = matcher.reference(matcher.encode(ramp(96, 64)))
    for _ in range(3):  # warm: buffers allocated, graphs captured
        matcher.match(matcher.encode(ramp(96, 64, x=5)), reference)
    gpu.state.calls.clear()
    matcher.match(matcher.encode(ramp(96, 64, x=6)), reference)
    assert gpu.state.calls.count("upload") == 1
    assert gpu.state.calls.count("download") == 3
    assert gpu.state.calls.count("malloc") == 0
    assert gpu.state.calls.count("synchronize") == 1


def test_memory_is_bounded_and_given_back(gpu, card, options):
    matcher = NetworkMatcher(card, gpu.module.load(card, options))
    for k in range(40):  # a new keyframe each time: old buffers and graphs must go
        features = matcher.encode(ramp(96, 64, x=k))
        reference = matcher.reference(features)
        matcher.match(features, reference)
    assert gpu.state.calls.count("malloc") < 40
    assert matcher.backend.device_memory_bytes() >= sum(map(len, gpu.state.device.values()))
    del matcher, features, reference
    gc.collect()
    assert not gpu.state.device and not gpu.state.pinned and not gpu.state.queues


def test_an_engine_that_cannot_be_captured_runs_plainly(gpu, card, options):
    gpu.trt.ALLOW_CAPTURE = False
    matcher = NetworkMatcher(card, gpu.module.load(card, options))
    reference = matcher.reference(matcher.encode(ramp(96, 64)))
    for _ in range(4):
        match = matcher.match(matcher.encode(ramp(96, 64, x=5)), reference)
    assert "launch graph" not in gpu.state.calls
    slow = cpu_matcher(card)
    expected = slow.match(slow.encode(ramp(96, 64, x=5)), slow.reference(slow.encode(ramp(96, 64))))
    assert np.array_equal(match.warp_px, expected.warp_px)


def test_graphs_can_be_switched_off(gpu, card, options):
    backend = gpu.module.load(card, replace(options, cuda_graphs=False))
    for _ in range(4):
        backend.run("encode", {"image": np.zeros((1, 3, 64, 96), np.float32)})
    assert "begin capture" not in gpu.state.calls


def test_engines_are_built_once_with_what_was_asked(gpu, card, options, capfd):
    gpu.module.load(card, replace(options, workspace_mib=64, optimization_level=5))
    assert [b[:3] for b in gpu.trt.BUILDS] == [(64 << 20, 5, False)] * 3  # TF32 off
    assert [b[3] for b in gpu.trt.BUILDS] == [b"", b"+", b"++"]  # one timing cache for all
    assert "building toy encode" in capfd.readouterr().err
    gpu.module.load(card, replace(options, workspace_mib=64, optimization_level=5))
    assert len(gpu.trt.BUILDS) == 3
    left = sorted(p.suffix for p in Path(options.cache_dir).iterdir())
    assert left == [".cache", ".engine", ".engine", ".engine"]  # nothing half-written


@pytest.mark.parametrize("change", ["version", "gpu", "capability", "options", "onnx"])
def test_whatever_an_engine_depends_on_builds_another(gpu, card, options, change, tmp_path):
    before = gpu.module.key_of(card, "match", options)
    if change == "version":
        gpu.trt.__version__ = "11.4.0"
    elif change == "gpu":
        gpu.state.name = b"Other GPU"
    elif change == "capability":
        gpu.state.capability = (9, 0)
    elif change == "options":
        options = replace(options, workspace_mib=123)
    else:
        path = tmp_path / "decoder.onnx"
        path.write_bytes(card.file("encoder").read_bytes())
        files = {**card.files, "decoder": replace(card.files["decoder"], sha256=None)}
        card = replace(card, folder=tmp_path, files=files)
    after = gpu.module.key_of(card, "match", options)
    assert before.digest() != after.digest() and before.filename() != after.filename()


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-100],
            "empty": b"",
            "header": content[:14] + b"{" + content[15:],
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "foreign": b"ftrt" + content,
        }[how]
    )


@pytest.mark.parametrize("how", ["truncated", "empty", "header", "flipped", "foreign"])
def test_a_damaged_engine_is_built_again(gpu, card, options, how):
    gpu.module.load(card, options)
    victim = EngineCache(Path(options.cache_dir)).engines()[0]
    damage(victim, how)
    with pytest.raises(ModelError):
        read_engine(victim)
    gpu.module.load(card, options)
    assert len(gpu.trt.BUILDS) == 4
    read_engine(victim)


def test_an_engine_that_tensorrt_refuses_is_built_again(gpu, card, options):
    """Whole and of the right key, but of another GPU inside: deserialising says None."""
    gpu.state.name = b"Old GPU"
    gpu.module.load(card, options)
    gpu.state.name = b"Fake GPU"
    cache = EngineCache(Path(options.cache_dir))
    for path in cache.engines():
        key, engine = read_engine(path)
        cache.put(replace(key, gpu="Fake GPU"), engine)
    gpu.module.load(card, options)
    assert len(gpu.trt.BUILDS) == 6


def test_an_engine_that_cannot_be_kept_is_used_all_the_same(gpu, card, options, caplog, tmp_path):
    """Minutes of building were thrown away where the cache was full or not ours."""
    (tmp_path / "engines").write_text("a file where the folder should be")
    matcher = NetworkMatcher(card, gpu.module.load(card, options))
    assert matcher.encode(ramp(64, 48)).data
    assert "set cache_dir" in caplog.text


def test_the_cache_of_a_parameter_file_may_begin_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engines_folder("~/engines") == tmp_path / "engines"


def test_a_copied_engine_of_another_gpu_is_not_used(gpu, card, options, caplog):
    gpu.module.load(card, options)
    key = gpu.module.key_of(card, "match", options)
    cache = EngineCache(Path(options.cache_dir))
    other = replace(key, gpu="Orin")
    cache.put(other, b"an engine")
    cache.path(other).replace(cache.path(key))
    assert cache.get(key) is None
    assert "gpu is Orin, not Fake GPU" in caplog.text


def test_damaged_timing_cache_starts_anew(gpu, card, options):
    path = EngineCache(Path(options.cache_dir)).timing(gpu.module.key_of(card, "match", options))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    gpu.module.load(card, options)
    assert gpu.trt.BUILDS[0][3] == b""


def test_refusals_are_one_line_with_a_remedy(gpu, card, options, tmp_path):
    with pytest.raises(ModelError, match=r"no tactic fits.*raise workspace_mib"):
        gpu.module.build(
            card.file("encoder"),
            gpu.module.key_of(card, "encode", options),
            type("Options", (), {"workspace_mib": 0, "optimization_level": 3}),
            tmp_path / "t",
        )
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not onnx")
    with pytest.raises(ModelError, match="cannot parse"):
        key = gpu.module.key_of(card, "encode", options)
        gpu.module.build(broken, key, options, tmp_path / "t")
    gpu.state.memory_limit = 1000
    with pytest.raises(BackendUnavailable, match=r"memory is full; use fp16"):
        gpu.module.load(card, options).run(
            "encode", {"image": np.zeros((1, 3, 64, 96), np.float32)}
        )
    gpu.state.memory_limit = 1 << 30
    backend = gpu.module.load(card, options)
    with pytest.raises(ModelError, match=r"takes \(1, 3, 64, 96\)"):
        backend.run("encode", {"image": np.zeros((1, 3, 64, 64), np.float32)})
    gpu.trt.__version__ = "10.2.0"
    with pytest.raises(BackendUnavailable, match=r"10\.3 or newer"):
        gpu.module.load(card, options)
    gpu.trt.__version__ = "10.3.0"
    gpu.state.devices = 0
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU"):
        gpu.module.load(card, options)


def test_auto_prefers_tensorrt_where_there_is_a_gpu(gpu, card):
    choice = choices(card, BackendOptions())[0]
    assert (choice.name, choice.device) == ("tensorrt", "cuda")
    gpu.state.devices = 0
    choice = choices(card, BackendOptions())[0]
    assert (choice.name, choice.device) == ("onnxruntime", "cpu")
    assert "no engine here has a CUDA device" in choice.why


def test_progress_monitor_ends_the_build_on_interrupt(gpu, monkeypatch):
    monitor = gpu.module._Monitor("building")
    monitor.phase_start("Building", None, 3)
    assert monitor.step_complete("Building", 0) and monitor.step_complete("Inner", 0)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu.module.progress, "update", interrupted)
    assert not monitor.step_complete("Building", 1)
