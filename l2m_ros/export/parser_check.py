"""Whether TensorRT will take a graph: every operator, type and rank, by a table of facts.

    problems = problems_of(onnx_graph.load(path))

The table (`tensorrt_ops.json`) ships with the package; another one of the same layout, or of
the layout {"operators": {OP: {"supported": bool, "types": [..]}}}, may be given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from l2m_ros.errors import ModelError
from l2m_ros.export.onnx_graph import opset, typed_slots, value_types
from l2m_ros.files import read_json

OPSETS = range(17, 21)
TYPE_NAMES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT8: "INT8",
}
# Operators whose output type is free, so that it has to be looked at too.
TYPE_MAKERS = {"Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "Range"}


@dataclass(frozen=True)
class Table:
    """What an engine's parser takes."""

    operators: Mapping[str, Mapping[str, Any]]
    forbidden: Mapping[str, str]
    max_rank: int


def load_table(path: Path | None = None) -> Table:
    """The package's table; operators and types from another file where one is given."""
    own = json.loads(resources.files(__package__).joinpath("tensorrt_ops.json").read_text())
    operators = own["operators"]
    if path is not None:
        operators = _merged(operators, path)
    return Table(operators, own["forbidden"], own["max_rank"])


def _merged(own: dict[str, dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    """The file's operators and types with the package's structural rules."""
    try:
        given = read_json(path)["operators"]
        taken = {op: facts for op, facts in given.items() if facts.get("supported", True)}
        types = {op: {"types": list(facts["types"])} for op, facts in taken.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f'{path} is no operator table ({{"operators": {{OP: {{"types": [..]}}}}}}): {error!r}'
        ) from error
    return {op: {**own.get(op, {}), **facts} for op, facts in types.items()}


def problems_of(model: onnx.ModelProto, table: Table | None = None) -> list[str]:
    """What TensorRT would not take; empty = nothing. One line each, naming the node."""
    table = table or load_table()
    problems = []
    if opset(model) not in OPSETS:
        problems.append(f"opset {opset(model)} is not within {OPSETS[0]} to {OPSETS[-1]}")
    if any(tensor.external_data for tensor in model.graph.initializer):
        problems.append("weights lie in another file (external data)")
    types = value_types(model)
    problems += _input_problems(model, types)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {n.output[0] for n in model.graph.node if n.op_type == "Constant"}
    for node in model.graph.node:
        problems += [
            f"{node.op_type} {node.name or node.output[0]}: {words}"
            for words in _node_problems(node, table, types, constants, opset(model))
        ]
    return problems


def _input_problems(model: onnx.ModelProto, types: Any) -> list[str]:
    named = (*model.graph.input, *model.graph.output)
    return [
        f"{value.name} has no fixed shape: {types.get(value.name, (0, '?'))[1]}"
        for value in named
        if value.name not in types or None in types[value.name][1]
    ]


def _node_problems(
    node: onnx.NodeProto, table: Table, types: Any, constants: set[str], version: int
) -> list[str]:
    if node.domain not in ("", "ai.onnx"):
        return [f"it is of domain {node.domain}, which TensorRT does not know"]
    if node.op_type in table.forbidden:
        return [f"forbidden: {table.forbidden[node.op_type]}"]
    if node.op_type not in table.operators:
        return ["TensorRT has no such operator"]
    facts = table.operators[node.op_type]
    return [
        *_type_problems(node, facts["types"], types, version),
        *_rank_problems(node, facts.get("rank"), table.max_rank, types),
        *_rule_problems(node, facts, constants),
    ]


def _type_problems(node: onnx.NodeProto, allowed: list[str], types: Any, version: int) -> list[str]:
    inputs, outputs = typed_slots(node, version)
    names = [node.input[i] for i in inputs]
    if node.op_type in TYPE_MAKERS:
        names += list(node.output)
    else:
        names += [node.output[i] for i in outputs]
    problems = []
    for name in filter(None, names):
        if name not in types:
            problems.append(f"the type of {name} cannot be inferred")
            continue
        kind = TYPE_NAMES.get(types[name][0], f"type {types[name][0]}")
        if kind not in allowed:
            problems.append(f"{name} is {kind}, TensorRT takes {', '.join(allowed)}")
    return problems


def _rank_problems(
    node: onnx.NodeProto, ranks: list[int] | None, max_rank: int, types: Any
) -> list[str]:
    problems = []
    for name in filter(None, (*node.input, *node.output)):
        shape = types[name][1] if name in types else ()
        if len(shape) > max_rank:
            problems.append(f"{name} has {len(shape)} dimensions, TensorRT takes {max_rank}")
        if None in shape:
            problems.append(f"{name} has no fixed shape: {shape}")
    first = node.input[0] if node.input else ""
    if ranks is not None and first in types and len(types[first][1]) not in ranks:
        problems.append(
            f"{first} has {len(types[first][1])} dimensions, TensorRT takes "
            f"{' or '.join(map(str, ranks))}"
        )
    return problems


def _rule_problems(
    node: onnx.NodeProto, facts: Mapping[str, Any], constants: set[str]
) -> list[str]:
    problems = []
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for name, allowed in facts.get("attributes", {}).items():
        value = attributes.get(name)
        value = value.decode() if isinstance(value, bytes) else value
        if value is not None and value not in allowed:
            problems.append(f"{name} is {value}, it must be {' or '.join(map(str, allowed))}")
    for index in facts.get("constant_inputs", []):
        name = node.input[index] if index < len(node.input) else ""
        if name and name not in constants:
            problems.append(f"input {index} ({name}) must be a constant")
    if len([o for o in node.output if o]) > facts.get("outputs", 1 << 30):
        problems.append(f"only {facts['outputs']} output is supported")
    return problems
