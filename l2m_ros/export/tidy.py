"""What torch's exporter writes, made into what every engine reads."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from l2m_ros.export.onnx_graph import (
    FLOAT,
    HALF,
    array_of,
    constants_to_initializers,
    value_types,
)

REPEATED_BYTES = 1 << 16  # what folding a table must save


def tidy(model: onnx.ModelProto) -> None:
    """In place; the numbers stay the same."""
    constants_to_initializers(model)
    _drop_unread_inputs(model)
    _make_constant_outputs_nodes(model)
    _widen_integers(model)
    _fold_repeats(model)
    _spell_out_integer_clips(model)
    _forget_origin(model)


def _drop_unread_inputs(model: onnx.ModelProto) -> None:
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    kept = [value for value in graph.input if value.name in used]
    del graph.input[:]
    graph.input.extend(kept)


def _make_constant_outputs_nodes(model: onnx.ModelProto) -> None:
    """An output that depends on nothing is an initializer, which engines may not bind."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if tensor.name not in outputs:
            continue
        output, tensor.name = tensor.name, f"{tensor.name}_constant"
        for node in graph.node:
            node.input[:] = [tensor.name if name == output else name for name in node.input]
        graph.node.append(helper.make_node("Identity", [tensor.name], [output], output))


def _widen_integers(model: onnx.ModelProto) -> None:
    """torch.eye compares counters of 16 bits without sign, which TensorRT does not know."""
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.UINT16, TensorProto.INT16, TensorProto.UINT32):
            wide = numpy_helper.from_array(array_of(tensor).astype("int32"), tensor.name)
            tensor.CopyFrom(wide)


def _fold_repeats(model: onnx.ModelProto) -> None:
    """A table of indices that repeats along its first axes is stored once and expanded when the
    graph is loaded: two thirds of a decoder's file were such tables."""
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.INT64 or len(tensor.dims) < 2:
            continue
        table = array_of(tensor)
        once = table
        for axis in range(table.ndim - 1):
            first = np.take(once, [0], axis=axis)
            if not np.array_equal(np.broadcast_to(first, once.shape), once):
                break
            once = first
        if table.nbytes - once.nbytes < REPEATED_BYTES:
            continue
        name = tensor.name
        shape = numpy_helper.from_array(np.array(table.shape, np.int64), f"{name}_shape")
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(once), f"{name}_once"))
        model.graph.initializer.append(shape)
        node = helper.make_node("Expand", [tensor.name, shape.name], [name], name=f"{name}_repeat")
        model.graph.node.insert(0, node)


def _spell_out_integer_clips(model: onnx.ModelProto) -> None:
    """TensorRT clips floats only, but takes Max and Min of integers."""
    types = value_types(model)
    nodes = []
    for node in model.graph.node:
        integer = node.op_type == "Clip" and types[node.output[0]][0] not in (FLOAT, HALF)
        nodes += _max_min(node) if integer else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _max_min(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    value, low, high = (*node.input, "", "")[:3]
    bounds = [(op, bound) for op, bound in (("Max", low), ("Min", high)) if bound]
    spelt = []
    for k, (op, bound) in enumerate(bounds):
        out = node.output[0] if k == len(bounds) - 1 else f"{node.output[0]}_{op.lower()}"
        spelt.append(helper.make_node(op, [value, bound], [out], f"{node.name}_{op.lower()}"))
        value = out
    return spelt


def _forget_origin(model: onnx.ModelProto) -> None:
    """Source lines and paths of the exporting machine."""
    graph = model.graph
    del graph.metadata_props[:], model.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
