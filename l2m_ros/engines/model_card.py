"""A model card: one YAML file that says all that is needed to use the weights beside it.

    models/lite.yaml            what the network is and what it takes
    models/lite/encoder.onnx    the files that it names, each with its sha256

Sizes are (width, height) wherever they are a pair; a card names both numbers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.files import inside, read_yaml, write_whole
from l2m_ros.spelling import nearest

RESIZE_RULES = ("stretch", "letterbox")
INTERPOLATIONS = ("area", "bicubic")
PRECISIONS = ("fp32", "fp16")
GRAPH_ROLES = ("encoder", "reference", "decoder", "depth")
FILE_ROLES = (*GRAPH_ROLES, "weights")

SHA256 = re.compile(r"[0-9a-f]{64}")
WEIGHTS_ID = re.compile(r"[0-9a-f]{16}")
MAX_SIDE = 8192  # of a network's input

T = TypeVar("T")


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes the network's input: resized, then (rgb / 255 - mean) / std."""

    width: int
    height: int
    multiple: int = 1  # both sides are multiples of this; letterboxed content too
    resize: str = "stretch"  # stretch | letterbox (image in the upper left, grey beside it)
    interpolation: str = "area"  # area: fast | bicubic: antialiased, bit for bit as PIL's
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    turn: bool = False  # an upright image is turned by a quarter to fit a landscape input

    def __post_init__(self) -> None:
        _choice("input.resize", self.resize, RESIZE_RULES)
        if not isinstance(self.turn, bool):
            raise ModelError(f"input turn is {self.turn!r}, must be true or false")
        _choice("input.interpolation", self.interpolation, INTERPOLATIONS)
        _whole_number("input.multiple", self.multiple, 1, 4096)
        for side in ("width", "height"):
            value = getattr(self, side)
            _whole_number(f"input.{side}", value, 1, MAX_SIDE)
            if value % self.multiple:
                below = value - value % self.multiple
                fits = " or ".join(str(v) for v in (below, below + self.multiple) if v)
                raise ModelError(
                    f"input {side} {value} must be a multiple of {self.multiple}: take {fits}"
                )
        if not (_three_numbers(self.mean) and _three_numbers(self.std) and min(self.std) > 0):
            raise ModelError(f"input mean {self.mean} and std {self.std} must be three numbers")

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass(frozen=True)
class Solve:
    """The keyframe's linear solve, done on the host because no ONNX parser has a Cholesky.

    solution = matrix^-1 right, both outputs of the reference graph; matrix (B, n, n) is
    symmetric positive definite, right (B, n, c). The decoder graph takes the solution.
    """

    matrix: str
    right: str
    solution: str


@dataclass(frozen=True)
class ModelFile:
    """One file of a model, beside its card; sha256 None = not distributed by this package."""

    path: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise ModelError(f"a file's path is a text, got {self.path!r}")
        try:
            inside(Path(), self.path)
        except InvalidInput as error:
            raise ModelError(f"{error}: a card names files beside it") from error
        if self.sha256 is not None and not SHA256.fullmatch(str(self.sha256)):
            raise ModelError(f"the sha256 of {self.path} is no 64 lower-case hex digits")


@dataclass(frozen=True)
class Shape:
    """Graphs of another input size than the card's own, for images of that shape."""

    width: int
    height: int
    files: Mapping[str, ModelFile]

    def __post_init__(self) -> None:
        for side in ("width", "height"):
            _whole_number(f"shapes: {side}", getattr(self, side), 1, MAX_SIDE)
        for role in self.files:
            _choice("shapes: files", role, GRAPH_ROLES)

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass(frozen=True)
class ModelCard:
    """One model: see models/lite.yaml for an example with words."""

    name: str
    architecture: str
    input: InputSpec
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, ModelFile] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()
    precision: str = "fp32"
    trained: bool = True  # False: random weights, for measuring speed only
    weights_id: str | None = None  # of the trained numbers: another export keeps it, maps know it
    eyes_id: str | None = None  # of the part that training leaves alone: depth heads read it
    keep: Mapping[str, str] = field(default_factory=dict)  # reference tensor: the feature it equals
    solve: Solve | None = None
    licence: str = "unknown"
    source: str = ""
    trained_on: str = ""
    parameters: int | None = None
    # Its sigmas, relative; shift_sigma_m; camera_height_m, where it is for one robot's camera.
    depth: Mapping[str, float] = field(default_factory=dict)
    encoder: Mapping[str, str] = field(default_factory=dict)  # of a depth head: model, its weights
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    speed: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()  # where the files lie; not written to the card
    search: tuple[Path, ...] = ()  # where files that are not beside the card may lie

    def __post_init__(self) -> None:
        _choice("precision", self.precision, PRECISIONS)
        for name in ("name", "architecture", "licence", "source", "trained_on"):
            if not isinstance(getattr(self, name), str):
                raise ModelError(f"{name} is a text, got {getattr(self, name)!r}")
        for name in ("weights_id", "eyes_id"):
            value = getattr(self, name)
            if value is not None and not WEIGHTS_ID.fullmatch(str(value)):
                raise ModelError(f"{name} {value!r} is no 16 lower-case hex digits")
        if not self.name or set(self.name) & set("/\\\0"):
            raise ModelError(f"name {self.name!r} is no name of a model")
        for name in ("config", "files", "keep", "depth", "encoder", "accuracy", "speed"):
            if not isinstance(getattr(self, name), Mapping):
                raise ModelError(
                    f"{name} must hold `key: value` lines, got {getattr(self, name)!r}"
                )
        for role in self.files:
            _choice("files", role, FILE_ROLES)

    def has(self, role: str) -> bool:
        """Whether the card names a file of this role and it exists."""
        return role in self.files and self._found(role) is not None

    def file(self, role: str) -> Path:
        """The path of a file; raises if it is missing or its checksum is not the card's."""
        if role not in self.files:
            size = f"{self.input.width}x{self.input.height}"
            export = f"l2m export {self.name} --size {self.input.height}x{self.input.width}"
            raise ModelError(
                f"model {self.name} has no {role} file for {size} (width x height): write one "
                f"with `{export} --out DIR` and use --model DIR"
            )
        path = self._found(role)
        if path is None:
            raise ModelError(
                f"{self.files[role].path} of model {self.name} is not in {self.folder or '.'}: "
                f"fetch it with `l2m weights get {self.name}` or export it with "
                f"`l2m export {self.name} --out DIR`"
            )
        verify(path, self.files[role].sha256)
        return path

    def _found(self, role: str) -> Path | None:
        places = (self.folder, *self.search)
        paths = (place / self.files[role].path for place in places)
        return next((path for path in paths if path.is_file()), None)

    def resized(self, width: int, height: int) -> ModelCard:
        """The card for another input size: with graphs of that size, or without any."""
        if (width, height) == self.input.size:
            return self
        files = {role: file for role, file in self.files.items() if role not in GRAPH_ROLES}
        for shape in self.shapes:
            files |= shape.files if shape.size == (width, height) else {}
        size = replace(self.input, width=width, height=height)
        return replace(self, input=size, files=files, shapes=())


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, sha256: str | None) -> None:
    """Raises for an empty file, and for a checksum that is not the card's."""
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: fetch or export it again")
    if sha256 is not None and sha256_of(path) != sha256:
        raise ModelError(
            f"{path} is not the file that its model card describes (sha256 differs): "
            "it is truncated or of another model; fetch or export it again"
        )


def load_card(path: Path, search: tuple[Path, ...] = ()) -> ModelCard:
    """The card in a YAML file; unknown keys fail with the nearest right spelling."""
    try:
        raw = read_yaml(path)
    except InvalidInput as error:
        raise ModelError(f"{path} is not a model card: {error}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} is not a model card: it holds no `key: value` lines")
    try:
        return card_from_dict(raw, folder=path.parent, search=search)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def card_from_dict(
    raw: dict[str, Any], *, folder: Path = Path(), search: tuple[Path, ...] = ()
) -> ModelCard:
    values = dict(raw)
    values["input"] = _filled(InputSpec, values.get("input"), "input", tuples=("mean", "std"))
    if values.get("solve") is not None:
        values["solve"] = _filled(Solve, values["solve"], "solve")
    files = values.get("files") or {}
    if not isinstance(files, Mapping):
        raise ModelError(f"files must hold `role: {{path, sha256}}` lines, got {files!r}")
    values["files"] = {
        role: _filled(ModelFile, entry, f"files.{role}") for role, entry in files.items()
    }
    values["shapes"] = tuple(_shape(entry) for entry in values.get("shapes") or ())
    for key in ("folder", "search"):
        if key in values:
            raise ModelError(f"unknown key {key!r}")
    return _filled(ModelCard, {**values, "folder": folder, "search": search}, "card")


def _shape(raw: Any) -> Shape:
    shape = _filled(Shape, raw, "shapes")
    if not isinstance(shape.files, Mapping):
        raise ModelError(f"shapes: files must hold `role: {{path, sha256}}`, got {shape.files!r}")
    files = {role: _filled(ModelFile, e, f"shapes: {role}") for role, e in shape.files.items()}
    return replace(shape, files=files)


def write_card(card: ModelCard, path: Path) -> None:
    import yaml

    write_whole(path, yaml.safe_dump(_plain(card), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """Dataclasses as plain dicts for YAML, without empty and local fields."""
    if hasattr(value, "__dataclass_fields__"):
        items = {f.name: getattr(value, f.name) for f in fields(value)}
        return {
            k: _plain(v)
            for k, v in items.items()
            if k not in ("folder", "search") and v is not None and v not in ({}, ())
        }
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _filled(kind: type[T], raw: Any, where: str, tuples: tuple[str, ...] = ()) -> T:
    if not isinstance(raw, Mapping):
        raise ModelError(f"{where} must hold `key: value` lines, got {raw!r}")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in raw:
        if key not in known:
            raise ModelError(f"unknown key {key!r} in {where}{nearest(str(key), known)}")
    try:
        values = {k: tuple(v) if k in tuples else v for k, v in raw.items()}
        return kind(**values)
    except TypeError as error:
        entries = fields(kind)  # type: ignore[arg-type]
        lacking = [repr(f.name) for f in entries if _is_required(f) and f.name not in raw]
        words = f"lacks {', '.join(lacking)}" if lacking else f"cannot be read: {error}"
        raise ModelError(f"{where} {words}") from error


def _is_required(entry: Any) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _whole_number(what: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ModelError(f"{what} {value!r} must be a whole number from {low} to {high}")


def _three_numbers(values: Any) -> bool:
    return len(values) == 3 and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def _choice(what: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ModelError(
            f"{what} is {value!r}, known: {', '.join(known)}{nearest(str(value), known)}"
        )
