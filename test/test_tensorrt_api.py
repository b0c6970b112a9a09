"""Every name of TensorRT that the back-end uses exists in 10.3, 10.16 and 11.4.

The source is read, not run: TensorRT need not be installed. Names come from `trt.X.Y`, from
attributes of variables annotated with a class of TensorRT, and from methods that subclasses
override; a variable of TensorRT without an annotation is an error, so nothing goes unchecked.
"""

import ast
import json
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parent / "l2m_ros" / "engines" / "tensorrt" / "backend.py"
FACTS = json.loads((HERE / "data" / "tensorrt_api.json").read_text())
# Methods whose results are plain numbers, strings or enum members: nothing is called on them.
PLAIN = {"get_tensor_name", "get_tensor_mode", "get_tensor_shape", "get_tensor_dtype"}


def dotted(node):
    """'trt.ILogger.ERROR' of nested attributes, '' of anything else."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f"{base}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def class_of(annotation):
    name = dotted(annotation) if annotation is not None else ""
    return name[4:] if name.startswith("trt.") else ""


class Reader(ast.NodeVisitor):
    """Collects (class, member); member '' is the class itself."""

    def __init__(self, source):
        self.used, self.faults = set(), []
        self.held = [{}]  # variables of TensorRT's classes, by function
        self.fields = {}  # the same of `self`
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and dotted(node.target).startswith("self."):
                self.fields[dotted(node.target)] = class_of(node.annotation)
        self.visit(tree)

    def holder(self, node):
        name = dotted(node)
        return next((h[name] for h in reversed(self.held) if name in h), self.fields.get(name, ""))

    def visit_FunctionDef(self, node):
        arguments = (*node.args.args, *node.args.kwonlyargs)
        self.held.append({a.arg: class_of(a.annotation) for a in arguments})
        self.generic_visit(node)
        self.held.pop()

    def visit_AnnAssign(self, node):
        self.held[-1][dotted(node.target)] = class_of(node.annotation)
        self.generic_visit(node)

    def visit_Assign(self, node):
        call = node.value if isinstance(node.value, ast.Call) else None
        method = call.func if call and isinstance(call.func, ast.Attribute) else None
        if method is not None and method.attr not in PLAIN:
            makes = dotted(method).startswith("trt.") or self.holder(method.value)
            if makes:
                self.faults.append(f"line {node.lineno}: annotate what {method.attr} returns")
        self.generic_visit(node)

    def visit_Attribute(self, node):
        name = dotted(node)
        if name.startswith("trt."):
            self.used.add((*name.split(".")[1:3], "")[:2])
        elif self.holder(node.value):
            self.used.add((self.holder(node.value), node.attr))
        else:
            self.generic_visit(node)

    def visit_ClassDef(self, node):
        for base in filter(None, map(class_of, node.bases)):
            methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            self.used |= {(base, name) for name in methods if not name.startswith("_")}
        self.generic_visit(node)


def names_of(source):
    reader = Reader(source)
    assert not reader.faults, reader.faults
    return {(c, m) for c, m in reader.used if not m.startswith("__") and not c.startswith("__")}


USED = sorted(names_of(SOURCE.read_text()))


def test_the_reader_sees_what_it_should():
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in USED
    assert ("IExecutionContext", "execute_async_v3") in USED  # through self._context
    assert ("IBuilderConfig", "builder_optimization_level") in USED
    assert ("IProgressMonitor", "step_complete") in USED
    assert ("ParserError", "desc") in USED
    assert len(USED) > 40


def test_the_reader_fails_where_it_should():
    with pytest.raises(AssertionError, match="annotate"):
        names_of("import tensorrt as trt\ndef f():\n    b = trt.Builder(0)\n    b.anything()\n")
    with pytest.raises(AssertionError, match="annotate"):
        names_of("def f(b: trt.Builder):\n    n = b.create_network(0)\n    n.anything()\n")
    assert ("Builder", "typo") in names_of("def f(b: trt.Builder):\n    return b.typo()\n")
    assert ("BuilderFlag", "FP16") in names_of("x = trt.BuilderFlag.FP16\n")


@pytest.mark.parametrize("version", FACTS["versions"])
@pytest.mark.parametrize(("owner", "member"), USED)
def test_name_exists(version, owner, member):
    known = FACTS["versions"][version]
    assert owner in known, f"tensorrt {version} has no {owner}, or it is not in the table"
    if member:
        assert member in known[owner], f"tensorrt {version}: {owner} has no {member}"


def test_three_versions_and_nothing_but_what_is_used():
    assert [v.split(".")[:2] for v in FACTS["versions"]] == [["10", "3"], ["10", "16"], ["11", "4"]]
    for known in FACTS["versions"].values():
        listed = {(owner, member) for owner, members in known.items() for member in members}
        assert listed == {(owner, member) for owner, member in USED if member}


def test_the_table_agrees_with_the_bindings_where_they_are_listed():
    """Against a full listing of the bindings, if there is one on this machine."""
    folder = Path(os.environ.get("L2M_SHARED", HERE.parent.parent / "shared"))
    path = folder / "reference" / "tensorrt_api.json"
    if not path.is_file():
        pytest.skip(f"no {path} here")
    full = json.loads(path.read_text())["versions"]
    for version, known in FACTS["versions"].items():
        for owner, members in known.items():
            assert set(members) <= set(full[version][owner]), (version, owner)
