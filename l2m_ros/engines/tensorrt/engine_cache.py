"""Built engines on disk: found by all that they depend on, written whole, never trusted blindly.

    lite-match-3f1c9a....engine =  magic line, one JSON line (the key and the payload's sha256),
                                   the engine

An engine fits one ONNX file, one TensorRT, one kind of GPU and one set of options. Whatever does
not fit, or is damaged, is built again: a stale engine is a slow start, not a crash.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from l2m_ros.errors import ModelError
from l2m_ros.files import cache_folder, write_whole

MAGIC = b"l2m engine 1\n"
SUFFIX = ".engine"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on."""

    model: str
    stage: str
    onnx_sha256: str
    precision: str
    width: int
    height: int
    tensorrt: str
    gpu: str
    compute_capability: str
    cuda: str  # of the runtime that the engine was built with
    driver: str  # CUDA version that the driver supports: a downgrade invalidates engines
    workspace_mib: int
    optimization_level: int

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def filename(self) -> str:
        return f"{self.model}-{self.stage}-{self.digest()[:20]}{SUFFIX}"

    def difference(self, other: EngineKey) -> str:
        """In words, what differs: 'gpu is Orin, not NVIDIA H200'."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return ", ".join(f"{name} is {theirs}, not {mine}" for name, mine, theirs in pairs
                         if mine != theirs)  # fmt: skip


class EngineCache:
    """A folder of engines and of TensorRT's timing caches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: EngineKey) -> Path:
        return self.folder / key.filename()

    def get(self, key: EngineKey) -> bytes | None:
        """The engine of that key, or None and a logged reason to build it."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            found, engine = read_engine(path)
        except ModelError as error:
            log.warning("%s; building it again", error)
            return None
        if found != key:
            log.warning("%s does not fit: %s; building it again", path, key.difference(found))
            return None
        return engine

    def put(self, key: EngineKey, engine: bytes) -> Path:
        header = {"key": asdict(key), "sha256": hashlib.sha256(engine).hexdigest()}
        path = self.path(key)
        write_whole(path, MAGIC + json.dumps(header).encode() + b"\n" + engine)
        return path

    def drop(self, key: EngineKey) -> None:
        self.path(key).unlink(missing_ok=True)

    def timing(self, key: EngineKey) -> Path:
        """Measured kernel times: good for every network on the same GPU and TensorRT."""
        name = f"{key.tensorrt}-{key.gpu}-{key.compute_capability}".replace(" ", "_")
        return self.folder / f"timing-{name.replace('/', '_')}.cache"

    def engines(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{SUFFIX}"))


def engines_folder(given: str | None) -> Path:
    """Where engines are kept; `given` is the parameter cache_dir, in a file that no shell reads."""
    return Path(given).expanduser() if given else cache_folder() / "engines"


def read_engine(path: Path) -> tuple[EngineKey, bytes]:
    """Key and engine of a file; refused with words if it is damaged or no engine of ours."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise ModelError(f"{path} is not an engine that `l2m engine build` wrote")
    header, _, engine = content[len(MAGIC) :].partition(b"\n")
    try:
        fields_of = json.loads(header)
        key, sha256 = EngineKey(**fields_of["key"]), fields_of["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} has a damaged header ({error})") from error
    if hashlib.sha256(engine).hexdigest() != sha256:
        raise ModelError(f"{path} is damaged: its checksum differs")
    return key, engine
