"""Reads the node's parameters without a node: a ROS YAML file and NAME:=VALUE texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2m_ros.errors import InvalidInput
from l2m_ros.files import parse_yaml, read_yaml
from l2m_ros.parameters.table import PARAMETERS, converted, unknown_names, validation_error

NODE_KEYS = ("/**", "l2m", "/l2m", "/**/l2m")


def parameter_values(
    path: Path | None = None, overrides: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Every parameter's value: the override, else the file's, else the default."""
    given = {} if path is None else _read(path)
    for name, text in (overrides or {}).items():
        given[name] = parse_yaml(text, f"the value of {name}")
    if unknown := unknown_names(given):
        raise InvalidInput(f"unknown parameter {', '.join(unknown)}; docs/parameters.md lists them")
    values = {name: parameter.default for name, parameter in PARAMETERS.items()}
    values |= {name: converted(name, value) for name, value in given.items() if name in values}
    if (words := validation_error(values)) is not None:
        raise InvalidInput(words)
    return values


def _read(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    if not isinstance(document, dict):
        document = {}
    blocks = [document[key] for key in NODE_KEYS if key in document]
    if not blocks or not all(isinstance(b, dict) and "ros__parameters" in b for b in blocks):
        raise InvalidInput(f"{path}: parameters of the node lie under `l2m: ros__parameters:`")
    out: dict[str, Any] = {}
    for block in blocks:
        if not isinstance(tree := block["ros__parameters"] or {}, dict):
            raise InvalidInput(f"{path}: `ros__parameters:` holds no `name: value` lines")
        out |= _flat(tree)
    return out


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        out |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return out
