"""Every back-end that can run here gives the numbers of the torch network."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from fakes.exported import exported_toy
from fakes.toy_network import ToyNetwork, ramp
from safetensors.torch import save_file

from l2m_ros.engines import backend as backends
from l2m_ros.engines.backend import BackendOptions, choices, load_backend, solve_spd
from l2m_ros.engines.model_card import InputSpec, ModelCard, ModelFile
from l2m_ros.engines.torch import TorchBackend
from l2m_ros.errors import BackendUnavailable, InvalidInput, ModelError
from l2m_ros.export.agreement import agreement
from l2m_ros.export.stages import ExportOptions, export_model
from l2m_ros.matching.catalogue import find_card
from l2m_ros.matching.preprocess import network_input
from l2m_ros.networks import registry

MEDIAN_PX = {"fp32": 1e-3, "fp16": 0.1}
P99_PX = {"fp32": 0.05, "fp16": 0.5}


@pytest.fixture
def card(monkeypatch, tmp_path):
    """The toy as an architecture with weights on disk and graphs."""
    monkeypatch.setitem(registry.ARCHITECTURES, "toy", ToyNetwork)
    save_file(ToyNetwork().state_dict(), tmp_path / "toy.safetensors")
    files = {**exported_toy("fp32").files, "weights": ModelFile("toy.safetensors")}
    return replace(exported_toy("fp32"), files=files, search=(tmp_path,))


def available(name, card, device):
    try:
        return load_backend(name, card, BackendOptions(device=device))
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", backends.BACKENDS)
def test_numbers_of_torch(name, device, card):
    if (name, device) == ("tensorrt", "cpu"):
        pytest.skip("TensorRT has no CPU")
    backend = available(name, card, device)
    images = [network_input(card.input, ramp(96, 64, x=x)) for x in (7, 0)]
    result = agreement(ToyNetwork().eval(), backend, card, images)
    assert result.median_px < MEDIAN_PX["fp32"] and result.p99_px < P99_PX["fp32"]
    assert result.pixels > 50


@pytest.mark.slow
def test_openvino_in_half_is_lite_within_a_fraction_of_a_pixel() -> None:
    pytest.importorskip("openvino")
    lite = find_card("lite")
    half = load_backend("openvino", lite, BackendOptions(device="cpu"))
    network = load_backend("torch", lite, BackendOptions(device="cpu")).network
    result = agreement(network, half, lite, moved_pictures(lite.input))
    assert result.median_px < 0.2 and result.pixels > 1000


def trained_lite():
    return load_backend("torch", find_card("lite"), BackendOptions(device="cpu")).network


def moved_pictures(spec, by=(9, 5)):
    """Two inputs of a network: one texture, seen from two places."""
    noise = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    scene = cv2.resize(noise, (spec.width + 80, spec.height + 80))
    return [
        network_input(spec, scene[y : y + spec.height, x : x + spec.width]) for x, y in (by, (0, 0))
    ]


def cases():
    from l2m_ros.networks.l2m import network as l2m

    tiny = InputSpec(168, 112, 14)
    yield "l2m", dict(l2m.TINY), tiny
    yield "tinyroma", {}, InputSpec(192, 128, 32)
    yield "lite", {}, InputSpec(192, 128, 32)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("architecture", "config", "spec"), cases(), ids=["l2m", "tinyroma", "lite"]
)
def test_real_networks_through_onnx(architecture, config, spec, precision, tmp_path):
    """Two are untrained, so matches are arbitrary: ties of an argmax may flip single cells in fp16.
    Of an untrained `lite` more than half flip (0.6 px in the median), so it has its weights."""
    torch.manual_seed(0)
    images = None
    if architecture == "lite":
        network, images = trained_lite(), moved_pictures(spec)
        config = find_card("lite").config
    else:
        network = registry.build(architecture, **config).eval()
    plain = ModelCard(name=architecture, architecture=architecture, input=spec, config=config)
    options = ExportOptions(tmp_path, spec.height, spec.width, precision)
    written = export_model(network, plain, options)
    backend = load_backend("onnxruntime", written, BackendOptions(device="cpu"))
    result = agreement(network, backend, written, images)
    assert result.median_px < MEDIAN_PX[precision]
    if precision == "fp32":
        assert result.p99_px < P99_PX[precision]


def test_auto_says_which_and_why(card, caplog):
    caplog.set_level("INFO", "l2m_ros")
    backend = load_backend("auto", card, BackendOptions(device="cpu"))
    assert backend.name == "onnxruntime"
    assert "toy runs by onnxruntime on cpu: ONNX graphs are there" in caplog.text
    without = replace(card, files={"weights": card.files["weights"]})
    choice = choices(without, BackendOptions(device="cpu"))[0]
    assert choice.name == "torch" and "has no ONNX graphs" in choice.why


@pytest.mark.parametrize(
    ("graphs", "remedy"), [(True, "pip install 'l2m_ros[onnx]'"), (False, "[torch]', or make them")]
)
def test_the_remedy_is_what_is_missing(card, monkeypatch, graphs, remedy):
    """Graphs of a size that a card has none of do not come by installing ONNX Runtime."""
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    given = card if graphs else replace(card, files={"weights": card.files["weights"]})
    with pytest.raises(BackendUnavailable) as refusal:
        choices(given, BackendOptions(device="cpu"))
    assert remedy in str(refusal.value)


def test_auto_takes_the_first_engine_with_cuda(card, monkeypatch):
    """tensorrt, onnxruntime with CUDA, torch with CUDA, onnxruntime on the CPU."""
    for usable, expected in (
        ({"tensorrt", "onnxruntime", "torch"}, ("tensorrt", "cuda")),
        ({"onnxruntime", "torch"}, ("onnxruntime", "cuda")),
        ({"torch"}, ("torch", "cuda")),
        (set(), ("onnxruntime", "cpu")),
    ):
        monkeypatch.setattr(backends, "_cuda_of", usable.__contains__)
        choice = choices(card, BackendOptions())[0]
        assert (choice.name, choice.device) == expected
    with pytest.raises(BackendUnavailable, match="no engine here has a CUDA device"):
        choices(card, BackendOptions(device="cuda"))


def test_auto_takes_openvino_where_the_cpu_multiplies_in_half_precision(card, monkeypatch, caplog):
    monkeypatch.setattr(backends, "_openvino_is_faster", lambda: True)
    options = BackendOptions(device="cpu")
    plain = replace(card, solve=None)
    names = [choice.name for choice in backends.choices(plain, options)]
    assert names == ["openvino", "onnxruntime"]

    def broken(card, options):
        raise ModelError("openvino cannot load it")

    monkeypatch.setitem(backends.BACKENDS, "openvino", broken)
    caplog.set_level("INFO", "l2m_ros")
    assert load_backend("auto", plain, options).name == "onnxruntime"
    assert "openvino on cpu would not open (openvino cannot load it)" in caplog.text
    assert card.solve is not None  # a Gaussian process bears no rounded features
    assert backends.choices(card, options)[0].name == "onnxruntime"


def test_auto_falls_back_where_a_device_is_told_of_but_does_not_open(
    card, monkeypatch, caplog
) -> None:
    """onnxruntime-gpu tells how it was built, also where no GPU is plugged in."""
    tried = []

    def engine(name: str, opens: bool):
        def load(card, options):
            tried.append((name, options.device))
            if not opens and options.device == "cuda":
                raise BackendUnavailable("the driver is missing")
            return name

        return load

    monkeypatch.setattr(backends, "_cuda_of", {"onnxruntime", "torch"}.__contains__)
    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", engine("onnxruntime", False))
    monkeypatch.setitem(backends.BACKENDS, "torch", engine("torch", False))
    with caplog.at_level("INFO"):
        assert load_backend("auto", card, BackendOptions()) == "onnxruntime"
    assert tried == [("onnxruntime", "cuda"), ("torch", "cuda"), ("onnxruntime", "cpu")]
    assert "onnxruntime on cuda would not open (the driver is missing)" in caplog.text
    assert "toy runs by onnxruntime on cpu" in caplog.text
    with pytest.raises(BackendUnavailable, match="torch on cuda would not open"):
        load_backend("auto", card, BackendOptions(device="cuda"))
    monkeypatch.setitem(backends.BACKENDS, "torch", engine("torch", True))
    assert load_backend("auto", card, BackendOptions()) == "torch"


def test_missing_engines_are_named(card, monkeypatch):
    monkeypatch.setattr(
        backends.importlib, "import_module", lambda name: (_ for _ in ()).throw(
            ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt")
        )
    )  # fmt: skip
    with pytest.raises(BackendUnavailable, match=r"TensorRT 10\.3 or newer"):
        load_backend("tensorrt", card, BackendOptions())


def test_no_gpu_is_one_line(card):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    for name in ("torch", "onnxruntime"):
        with pytest.raises(BackendUnavailable, match="CUDA") as refusal:
            load_backend(name, card, BackendOptions(device="cuda"))
        assert "\n" not in str(refusal.value)


def test_options_are_checked():
    for bad in ({"device": "gpu"}, {"threads": -1}, {"optimization_level": 9}):
        with pytest.raises(InvalidInput):
            BackendOptions(**bad)


def test_solve_is_a_solution_and_refuses_what_has_none():
    draw = np.random.default_rng(0)
    A = draw.normal(size=(2, 30, 30)).astype(np.float32)
    A = A @ A.transpose(0, 2, 1) + np.eye(30, dtype=np.float32)
    b = draw.normal(size=(2, 30, 4)).astype(np.float32)
    assert np.allclose(A @ solve_spd(A, b), b, atol=1e-4)
    for broken in (-A, np.full_like(A, np.nan)):
        with pytest.raises(ModelError, match="cannot be solved"):
            solve_spd(broken, b)


def test_weights_are_loaded_strictly(card, tmp_path):
    path = tmp_path / "toy.safetensors"
    whole = path.read_bytes()
    state = ToyNetwork().state_dict()
    save_file({**state, "mix.bais": torch.zeros(8)}, tmp_path / "extra.safetensors")
    save_file({k: v for k, v in state.items() if k != "mix.bias"}, tmp_path / "less.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(whole[:-50])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name, words in (
        ("cut", "truncated"),
        ("empty", "is empty"),
        ("extra", r"mix\.bais"),
        ("less", r"mix\.bias"),
        ("nowhere", "is not there"),
    ):
        options = BackendOptions(weights=str(tmp_path / f"{name}.safetensors"))
        with pytest.raises(ModelError, match=words) as refusal:
            load_backend("torch", card, options)
        assert "\n" not in str(refusal.value)
    load_backend("torch", card, BackendOptions(weights=str(path)))


def test_untrained_weights_only_where_allowed(card, caplog):
    bare = replace(card, files={})
    with pytest.raises(ModelError, match="has no weights"):
        load_backend("torch", bare, BackendOptions())
    load_backend("torch", bare, BackendOptions(untrained=True))
    assert "drawn at random" in caplog.text


def test_graphs_of_two_models_do_not_go_together(card, tmp_path):
    """An encoder whose features the decoder does not know."""
    backend = load_backend("onnxruntime", card, BackendOptions(device="cpu"))
    features = backend.run("encode", {"image": np.zeros((1, 3, 64, 96), np.float32)})
    with pytest.raises(ModelError, match="not of one model"):
        backend.run("match", {"query_other": features["fine"]})
    wrong = {**features, "coarse": features["fine"]}
    with pytest.raises(ModelError, match="of the same model and size"):
        backend.run("reference", wrong)


def test_torch_keeps_the_reference_of_a_plain_network():
    torch_backend = TorchBackend(ToyNetwork().eval())
    features = torch_backend.run("encode", {"image": np.zeros((1, 3, 64, 96), np.float32)})
    reference = torch_backend.run("reference", features)
    assert reference["fine"] is features["fine"]
