"""Every matcher by name, and where model cards are looked for.

load_matcher("lite")                        the compact network that ships with the package
load_matcher("l2m", backend="tensorrt")     a network by its card
load_matcher("out/my_model")                a folder that `l2m export` wrote
load_matcher("sift")                        a classical matcher: no model, no engine
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from l2m_ros.engines.backend import backend_options, is_depth_head, load_backend
from l2m_ros.engines.model_card import ModelCard, load_card
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.files import cache_folder
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.metric_matcher import MetricMatcher
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.matching.shaped import ShapedMatcher
from l2m_ros.spelling import nearest

log = logging.getLogger(__name__)
DEFAULT_MODEL = "lite"
KINDS = {"mickey": MetricMatcher}  # architectures whose matches are no dense warp
CARD = "card.yaml"  # in a model's own folder
Size = tuple[int, int]  # (width, height)
Loader = Callable[[str, str, "Size | None", dict[str, Any]], Matcher]


def model_folders() -> list[Path]:
    """Where cards are looked for, first hit wins."""
    named = os.environ.get("L2M_MODELS", "")
    here = Path(__file__).resolve().parents[2]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    share = [Path(prefix) / "share/l2m_ros/models" for prefix in prefixes if prefix]
    return [
        *(Path(folder).expanduser() for folder in named.split(os.pathsep) if folder),
        cache_folder() / "models",
        *share,
        Path(sys.prefix) / "share/l2m_ros/models",
        here / "models",  # a checkout
    ]


def find_card(name: str) -> ModelCard:
    """The card of a model by name, by its folder, or by its YAML file.

    A bare name is looked for in the model folders first: a folder of the same name that happens
    to lie in the working directory is meant only where it is written as ./name.
    """
    if not isinstance(name, str) or "\0" in name:
        raise InvalidInput(f"a model's name is a text, got {name!r}")
    folders = tuple(model_folders())
    given = Path(name).expanduser()
    here = [given] if given.suffix in (".yaml", ".yml") else [given / CARD]
    known: list[Path] = []
    if os.sep not in name and given.name == name:
        known = [p for f in folders for p in (f / f"{name}.yaml", f / name / CARD)]
    for path in (*known, *here):
        if path.is_file():
            if path in known and here[0].is_file():
                log.warning("%s is not used; to use it say --model ./%s", here[0], name)
            return load_card(path, search=folders)
    if given.is_dir():
        raise ModelError(f"{given} holds no {CARD}: name a folder that `l2m export` wrote")
    if name in MATCHERS:
        looked = ", ".join(map(str, folders))
        raise ModelError(f"the card of {name} is not installed (looked in {looked})")
    names = sorted({*MATCHERS, *card_names()})
    raise InvalidInput(
        f"unknown matcher {name!r}{nearest(name, names)} (known: {', '.join(names)}; "
        "or a folder that `l2m export` wrote)"
    )


def card_names() -> list[str]:
    """Names of all cards that are found."""
    found = set()
    for folder in model_folders():
        found |= {path.stem for path in folder.glob("*.yaml")}
        found |= {path.parent.name for path in folder.glob(f"*/{CARD}")}
    return sorted(found)


def load_matcher(
    name: str, *, backend: str = "auto", size: Size | None = None, **options: Any
) -> Matcher:
    """A matcher by name. size is (width, height) of a network's input; None = its card's.

    Classical matchers have neither back-end nor input size and ignore both; a network takes
    the fields of `BackendOptions`, a classical matcher those of its own constructor.
    """
    if name in MATCHERS:
        return MATCHERS[name](name, backend, size, options)
    return _network(name, backend, size, options)


def _network(name: str, backend: str, size: Size | None, options: dict[str, Any]) -> Matcher:
    card = find_card(name)
    if is_depth_head(card):
        raise InvalidInput(
            f"{card.name} reads metres and matches nothing: use it as mono_depth:={card.name}"
        )
    if size is not None:
        card = replace(card.resized(*size), shapes=())  # this size and no other
    kind = KINDS.get(card.architecture, NetworkMatcher)

    def load(card: ModelCard) -> Any:
        return kind(card, load_backend(backend, card, backend_options(**options)))

    return ShapedMatcher(card, load) if card.shapes else load(card)


def _made_by(file: str, kind: str) -> Loader:
    """A matcher without card or engine; its file is imported when it is asked for."""

    def load(name: str, backend: str, size: Size | None, options: dict[str, Any]) -> Matcher:
        try:
            module = importlib.import_module(f"l2m_ros.matching.{file}")
        except ModuleNotFoundError as error:
            raise ModelError(
                f"matcher {name} needs {error.name}: pip install 'l2m_ros[peers]'"
            ) from error
        try:
            matcher: Matcher = getattr(module, kind)(**options)
        except TypeError as error:
            raise InvalidInput(f"matcher {name}: {error}") from error
        return matcher

    return load


CLASSICAL: dict[str, Loader] = {
    "sift": _made_by("classical", "SiftMatcher"),
    "orb": _made_by("classical", "OrbMatcher"),
    "akaze": _made_by("classical", "AkazeMatcher"),
    "dis": _made_by("classical", "DisMatcher"),
}
PEERS: dict[str, Loader] = {
    "xfeat": _made_by("peers", "XFeatPeer"),
    "xfeat-star": _made_by("peers", "XFeatStarPeer"),
    "xfeat-lighterglue": _made_by("peers", "XFeatLighterGluePeer"),
    "aliked-lightglue": _made_by("peers", "AlikedLightGluePeer"),
    "disk-lightglue": _made_by("peers", "DiskLightGluePeer"),
}
NO_ENGINE = {**CLASSICAL, **PEERS}  # neither card nor back-end nor input size
MATCHERS: dict[str, Loader] = {
    **NO_ENGINE,
    "lite": _network,
    "l2m": _network,
    "roma_outdoor": _network,
    "roma_indoor": _network,
    "tinyroma": _network,
    "mickey": _network,
}
