"""fp16 written into a graph, for engines that take the types as they stand (strongly typed).

Convolutions and matrix products, and what moves or adds their results, become fp16. fp32 stay:

    what has a long sum or a wide range   softmax, norms, reductions, exp, sqrt, sines
    coordinates and certainties           all between a grid sample's grid, or an output, and
                                          the last convolution, product or softmax before it,
                                          which is fp32 too
    the GP kernel                         all around an exp, with the product before it (cosines)
                                          and the one after it (kernel times solution)
    GridSample                            both inputs: TensorRT wants one type for the two, and
                                          half a mantissa is 0.5 px at 1000 px
    arithmetic whose every reader is fp32 free, and squares overflow half precision

No type but these two is touched, no operator is added but Cast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from l2m_ros.export.onnx_graph import (
    FLOAT,
    HALF,
    array_of,
    constants_to_initializers,
    opset,
    typed_slots,
    value_types,
)

HEAVY = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sum", "Max", "Min", "Where"}
MOVING = {
    "Concat", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten",
    "Expand", "Identity", "Pad", "Gather", "Tile", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip
ACTIVATIONS = {"Relu", "LeakyRelu", "Gelu", "Erf", "Sigmoid", "Tanh", "Clip", "PRelu"}
SPATIAL = {"MaxPool", "AveragePool", "Resize"}
FOLLOWERS = ARITHMETIC | MOVING | ACTIVATIONS | SPATIAL
# Where the search for coordinates ends: what lies before is about features.
BARRIERS = HEAVY | {"Softmax", "LogSoftmax", "LayerNormalization"}
WAVES = {"Sin", "Cos"}  # of arguments up to hundreds
HALF_MAX = 65504.0


def to_half(
    model: onnx.ModelProto, *, keep_fp32: Iterable[str] = (), given_half: Iterable[str] = ()
) -> onnx.ModelProto:
    """The graph in mixed precision.

    keep_fp32   outputs that stay fp32 (coordinates, certainties, what the host solves), and
                inputs whose products stay fp32 (the GP's solution)
    given_half  inputs that come in fp16, from a graph converted before
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    constants_to_initializers(half)
    graph = _Graph(half)
    protected = graph.protected(set(keep_fp32))
    chosen = graph.half_nodes(protected, set(given_half))
    graph.write(chosen, set(keep_fp32), set(given_half))
    return half


class _Graph:
    """The float values of a graph and who makes and reads them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.version = model, opset(model)
        self.nodes = list(model.graph.node)
        self.maker = {o: i for i, node in enumerate(self.nodes) for o in node.output if o}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.floats = {name for name, (kind, _) in value_types(model).items() if kind == FLOAT}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(i)

    def slots(self, node: onnx.NodeProto) -> tuple[list[int], list[int]]:
        """The float inputs and outputs whose type follows the operator's."""
        inputs, outputs = typed_slots(node, self.version)
        return (
            [i for i in inputs if node.input[i] in self.floats],
            [i for i in outputs if node.output[i] in self.floats],
        )

    # --- which nodes ---

    def protected(self, keep_fp32: set[str]) -> set[int]:
        """Nodes of coordinates, certainties and the GP kernel."""
        found: set[int] = set()
        for i, node in enumerate(self.nodes):
            if node.op_type == "GridSample":
                self._backward(node.input[1], found)
            elif node.op_type == "Exp" or node.op_type in WAVES:
                self._backward(node.input[0], found)
                if node.op_type == "Exp":
                    self._forward(i, found)
        for output in self.model.graph.output:
            if output.name in keep_fp32:
                self._backward(output.name, found)
        for value in self.model.graph.input:
            if value.name in keep_fp32:
                found.update(self._first_products(value.name))
        return found

    def _backward(self, name: str, found: set[int]) -> None:
        pending = [name]
        while pending:
            i = self.maker.get(pending.pop())
            if i is None or i in found:
                continue
            found.add(i)
            node = self.nodes[i]
            if node.op_type == "GridSample":
                pending.append(node.input[1])
            elif node.op_type not in BARRIERS:
                pending += [n for n in node.input if n in self.floats]

    def _forward(self, start: int, found: set[int]) -> None:
        pending, seen = [start], set()
        while pending:
            i = pending.pop()
            if i in seen:
                continue
            seen.add(i)
            found.add(i)
            if i == start or self.nodes[i].op_type not in BARRIERS:
                for name in self.nodes[i].output:
                    pending += self.readers.get(name, [])

    def _first_products(self, name: str) -> set[int]:
        found: set[int] = set()
        for i in self.readers.get(name, []):
            self._forward(i, found) if self.nodes[i].op_type not in BARRIERS else found.add(i)
        return found

    def half_nodes(self, protected: set[int], given_half: set[str]) -> set[int]:
        """Nodes that compute in fp16."""
        chosen: set[int] = set()
        half_values = set(given_half)
        for i, node in enumerate(self.nodes):
            inputs, outputs = self.slots(node)
            data = [node.input[k] for k in inputs if node.input[k] not in self.weights]
            follows = node.op_type in FOLLOWERS and data and all(n in half_values for n in data)
            if i in protected or not (node.op_type in HEAVY or follows):
                continue
            if not all(self._fits(node.input[k]) for k in inputs):
                continue
            chosen.add(i)
            half_values |= {node.output[k] for k in outputs}
        return self._without_arithmetic_for_fp32(chosen)

    def _fits(self, name: str) -> bool:
        tensor = self.weights.get(name)
        return tensor is None or bool(np.abs(array_of(tensor)).max(initial=0) < HALF_MAX)

    def _without_arithmetic_for_fp32(self, chosen: set[int]) -> set[int]:
        """Arithmetic that only fp32 nodes read is done in fp32 as well."""
        outputs = {value.name for value in self.model.graph.output}
        for i in sorted(chosen, reverse=True):
            node = self.nodes[i]
            readers = [r for name in node.output for r in self.readers.get(name, [])]
            read_outside = any(name in outputs for name in node.output)
            if (
                node.op_type in ARITHMETIC
                and readers
                and not read_outside
                and not any(r in chosen for r in readers)
            ):
                chosen.discard(i)
        return chosen

    # --- writing ---

    def write(self, chosen: set[int], keep_fp32: set[str], given_half: set[str]) -> None:
        """Set types, and casts where they change."""
        kinds = {name: FLOAT for name in self.floats}
        kinds.update({name: HALF for name in given_half})
        for i in chosen:
            kinds.update({self.nodes[i].output[k]: HALF for k in self.slots(self.nodes[i])[1]})
        writer = _Writer(self.weights, kinds)
        for i, node in enumerate(self.nodes):
            wanted = HALF if i in chosen else FLOAT
            for k in self.slots(node)[0]:
                node.input[k] = writer.as_type(node.input[k], wanted)
            writer.nodes.append(node)
        self._outputs(writer, kinds, keep_fp32)
        graph = self.model.graph
        for value in graph.input:
            if value.name in given_half:
                value.type.tensor_type.elem_type = HALF
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(writer.nodes)
        used = {name for node in writer.nodes for name in node.input}
        used |= {value.name for value in graph.output}
        graph.initializer.extend(t for name, t in self.weights.items() if name in used)

    def _outputs(self, writer: _Writer, kinds: Mapping[str, int], keep_fp32: set[str]) -> None:
        for value in self.model.graph.output:
            if kinds.get(value.name) != HALF:
                continue
            if value.name not in keep_fp32:
                value.type.tensor_type.elem_type = HALF
                continue
            inner = f"{value.name}_half"
            for node in writer.nodes:
                for names in (node.input, node.output):
                    names[:] = [inner if name == value.name else name for name in names]
            writer.nodes.append(
                helper.make_node("Cast", [inner], [value.name], f"cast_{value.name}", to=FLOAT)
            )


class _Writer:
    """Casts, each made once, and fp16 copies of weights."""

    def __init__(self, weights: dict[str, onnx.TensorProto], kinds: Mapping[str, int]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._weights, self._kinds = weights, kinds
        self._made: dict[tuple[str, int], str] = {}

    def as_type(self, name: str, wanted: int) -> str:
        if self._kinds[name] == wanted:
            return name
        if (name, wanted) not in self._made:
            self._made[name, wanted] = self._make(name, wanted)
        return self._made[name, wanted]

    def _make(self, name: str, wanted: int) -> str:
        new = f"{name}_{'half' if wanted == HALF else 'float'}_cast"
        if name in self._weights:
            array = array_of(self._weights[name]).astype(np.float16)
            self._weights[new] = numpy_helper.from_array(array, new)
        else:
            self.nodes.append(helper.make_node("Cast", [name], [new], f"cast_{new}", to=wanted))
        return new
