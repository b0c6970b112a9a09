"""Model cards, YAML, parameter files: read or refused with L2MError, never another exception."""

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.budget import share
from l2m_ros.engines.model_card import ModelCard, card_from_dict, load_card
from l2m_ros.errors import L2MError
from l2m_ros.files import read_json, read_yaml
from l2m_ros.parameters.file import parameter_values
from l2m_ros.parameters.table import PARAMETERS

CARD = {
    "name": "m",
    "architecture": "lite",
    "input": {"width": 64, "height": 32, "multiple": 32, "mean": [0, 0, 0], "std": [1, 1, 1]},
    "files": {"encoder": {"path": "e.onnx", "sha256": "0" * 64}},
    "keep": {"fine": "p1"},
    "solve": {"matrix": "K", "right": "F", "solution": "x"},
    "precision": "fp16",
    "config": {"depth": 3},
}
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../..", "/etc/passwd", "a/../../b", "fp16", 10**400, -0.0]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw, tree):
    """A tree with some of its values replaced, taken out or added."""
    out = dict(tree)
    for key in draw(st.lists(st.sampled_from(sorted(tree)), max_size=2, unique=True)):
        if isinstance(tree[key], dict) and draw(st.booleans()):
            out[key] = draw(changed(tree[key]))
        elif draw(st.booleans()):
            out[key] = draw(values)
        else:
            del out[key]
    if draw(st.integers(0, 5)) == 0:
        out[draw(st.text(max_size=6))] = draw(values)
    return out


@settings(max_examples=share(0.06))
@example({**CARD, "files": {"encoder": {"path": "../../x"}}})
@example({**CARD, "files": {"encoder": {"path": "/etc/passwd"}}})
@example({**CARD, "files": {"encoder": {"path": ""}}})
@example({**CARD, "files": {"encoder": "e.onnx"}})
@example({**CARD, "files": ["e.onnx"]})
@example({**CARD, "input": {"width": 64, "height": 32, "multiple": 0}})
@example({**CARD, "input": {"width": "64", "height": 32}})
@example({**CARD, "input": {"width": 64, "height": 32, "mean": 0}})
@example({**CARD, "input": {"width": 64, "height": 32, "std": ["a", 1, 1]}})
@example({**CARD, "input": {"width": 64, "height": 32, "std": [float("nan"), 1, 1]}})
@example({**CARD, "precision": ["fp16"]})
@example({**CARD, "name": "../lite"})
@example({**CARD, "name": 5})
@example({**CARD, "keep": [1]})
@example({**CARD, "solve": 3})
@given(changed(CARD))
def test_cards(raw):
    try:
        card = card_from_dict(raw)
    except L2MError as error:
        assert "\n" not in str(error)[:200]
        return
    assert isinstance(card, ModelCard) and card.name and "/" not in card.name
    for file in card.files.values():
        assert not file.path.startswith("/") and ".." not in file.path.split("/")


@settings(max_examples=share(0.06))
@example(b"a: &a [*a]")
@example(b"? [1]\n: 2")
@example(b"!!python/object/apply:os.system ['true']")
@example(b"a: 2021-99-99")
@example(b"{" * 1000)
@given(
    st.binary(max_size=60)
    | st.text(alphabet="a:-[]{}&*!?|>'\"%@ \n\t0123.eE", max_size=60).map(str.encode)
    | values.map(lambda v: yaml.safe_dump(v).encode())
)
def test_yaml_and_json(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "f.yaml"
    path.write_bytes(content)
    for read in (read_yaml, read_json, load_card):
        try:
            read(path)
        except L2MError:
            continue


@settings(max_examples=share(0.06))
@given(st.dictionaries(st.sampled_from([*sorted(PARAMETERS), "nope", "odom."]), values, max_size=3))
@example({"max_image_pixels": 10**400})
@example({"tracking.max_sigma_m": -(10**400)})
def test_parameter_files(tmp_path_factory, given_values):
    path = tmp_path_factory.getbasetemp() / "p.yaml"
    path.write_text(yaml.safe_dump({"l2m": {"ros__parameters": given_values}}))
    try:
        read = parameter_values(path)
    except L2MError:
        return
    assert set(read) == set(PARAMETERS)
    for name, value in read.items():
        assert PARAMETERS[name].validation_error(value) is None, name
