"""Reading ONNX graphs: types and shapes of every value, constants, and which slots are typed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from l2m_ros.errors import ModelError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def load(path: Path) -> onnx.ModelProto:
    """The model in a file; refused with words if it is not one."""
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: export it again")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's DecodeError, or a missing file of external data
        raise ModelError(f"{path} is not an ONNX model or is truncated: {error}") from error
    if not model.graph.node:
        raise ModelError(f"{path} holds no graph: it is not an ONNX model or is truncated")
    return model


def opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def value_types(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    """name: (element type, shape) of every value that inference can tell; None = not fixed."""
    graph = _inferred(model)
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            shape = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim
            )
            found[value.name] = (tensor.elem_type, shape)
    for initializer in model.graph.initializer:
        found[initializer.name] = (initializer.data_type, tuple(initializer.dims))
    return found


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """Shapes inferred on a copy without the weights: protobuf ends at 2 GB, L2M is near."""
    light = onnx.ModelProto()
    light.CopyFrom(_without_weights(model))
    return onnx.shape_inference.infer_shapes(light, data_prop=True).graph


SMALL = 1024  # elements; smaller initializers may be shapes and axes, which inference reads


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    known = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Constant nodes become initializers: one way to say one thing."""
    graph = model.graph
    rest = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            rest.append(node)
    del graph.node[:]
    graph.node.extend(rest)


def array_of(tensor: TensorProto) -> Any:
    return numpy_helper.to_array(tensor)


@lru_cache(maxsize=512)
def _schema(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def typed_slots(node: onnx.NodeProto, version: int) -> tuple[list[int], list[int]]:
    """Indices of the inputs and outputs that carry the operator's own element type.

    That is the type of its first input: Gather's data but not its indices, Resize's image but
    not its scales, Where's two values but not its condition.
    """
    schema = _schema(node.op_type, version, node.domain)
    if schema is None or not schema.inputs:
        return list(range(len(node.input))), list(range(len(node.output)))
    first = schema.inputs[2 if node.op_type == "Where" else 0].type_str

    def slots(formal: Any, actual: Any) -> list[int]:
        last = len(formal) - 1  # a variadic formal parameter stands for all that follow
        return [i for i in range(len(actual)) if formal[min(i, last)].type_str == first]

    return slots(schema.inputs, node.input), slots(schema.outputs, node.output)
