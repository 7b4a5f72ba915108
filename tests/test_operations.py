"""Every row of the table of operations: numpy, torch, derivative, ONNX form and opcode say the same."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from recurra.errors import CellError
from recurra.program.graph import Graph
from recurra.program.operations import TABLE, Operation, onnx_form
from recurra.program.widths import HIDDEN

POSITIVE = {"log", "sqrt", "rsqrt"}
NEVER_WRITTEN = {"sigmoid_gradient", "tanh_gradient"}
ROWS = [pytest.param(row, id=name) for name, row in TABLE.items()]


def attribute_of(row: Operation) -> tuple[float, ...]:
    return (25.0,) if row.name == "spike" else ()


def arguments(row: Operation, count: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    values = [rng.normal(size=count) * 2 for _ in range(row.arity)]
    if row.name in POSITIVE:
        values = [np.abs(v) + 0.1 for v in values]
    if row.name == "log1p":
        values = [np.abs(v) - 0.5 for v in values]
    if row.name == "mix":
        values = [rng.integers(0, 2**24, count).astype(float) for _ in range(2)]
        values[0][:3] = values[1][1:4] = (0, 2**24 - 1, 2**24)
    if row.name == "where":
        values[0] = (values[0] > 0).astype(float)
    if row.name == "clip":
        values[1:] = [np.full(count, -1.0), np.full(count, 1.5)]
    if row.name in {"eq", "ne", "le", "ge", "lt", "gt", "minimum", "maximum"}:
        values[1][: count // 2] = values[0][: count // 2]
    if row.name in {"relu", "abs", "sign", "step", "spike"}:
        values[0][:4] = 0.0
    if row.name == "sign":
        values[0][4:7] = (np.nan, np.inf, -np.inf)
    return values


def evaluate(graph: Graph, given: dict[int, np.ndarray], number: int) -> np.ndarray:
    node = graph.nodes[number]
    if number in given:
        return given[number]
    if node.operation == "constant":
        return np.array(node.attribute)
    inputs = [evaluate(graph, given, i) for i in node.inputs]
    extra = () if node.attribute is None else (node.attribute,)
    return np.asarray(TABLE[node.operation].numpy(*inputs, *extra), dtype=float)


@pytest.mark.parametrize("row", ROWS)
def test_numpy_equals_torch(row: Operation) -> None:
    values = arguments(row)
    expected = row.torch(torch)(*(torch.from_numpy(v) for v in values), *attribute_of(row))
    np.testing.assert_allclose(
        np.asarray(row.numpy(*values, *attribute_of(row)), dtype=float), expected.numpy(), rtol=1e-13, atol=1e-15
    )


@pytest.mark.parametrize("row", [r for r in ROWS if r.values[0].name not in NEVER_WRITTEN])
def test_derivative_equals_that_of_torch(row: Operation) -> None:
    values = arguments(row)
    tensors = [torch.from_numpy(v).requires_grad_() for v in values]
    result = row.torch(torch)(*tensors, *attribute_of(row))
    cotangent = np.random.default_rng(1).normal(size=values[0].shape)
    expected: tuple[torch.Tensor | None, ...] = (None,) * row.arity
    if result.requires_grad:
        expected = torch.autograd.grad(result, tensors, torch.from_numpy(cotangent), allow_unused=True)
    graph = Graph()
    inputs = [graph.leaf("state", (HIDDEN,), k) for k in range(row.arity)]
    extra = attribute_of(row)
    number = graph.call(row.name, *inputs, attribute=extra[0] if extra else None)
    seed = graph.leaf("grad_output", (HIDDEN,))
    given = dict(zip(inputs, values, strict=True)) | {seed: cotangent}
    parts = (None,) * row.arity
    if row.derivative is not None:
        parts = row.derivative(graph, inputs, number, seed, extra[0] if extra else None)
    for position, (part, gradient) in enumerate(zip(parts, expected, strict=True)):
        if row.name == "clip" and position > 0:
            continue
        got = np.zeros_like(cotangent) if part is None else evaluate(graph, given, part) * np.ones_like(cotangent)
        wanted = np.zeros_like(cotangent) if gradient is None else gradient.numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-13)


def test_opcodes_are_numbered_without_gaps() -> None:
    codes = {row.opcode for row in TABLE.values()}
    assert codes == set(range(len(codes)))


def test_the_operation_without_an_onnx_form_says_why() -> None:
    assert [name for name, row in TABLE.items() if isinstance(row.onnx, str)] == ["mix"]
    assert onnx_form("add") == ("Add", 0, 1)
    with pytest.raises(CellError, match=r"'mix' has no form in ONNX: .* layer.eval\(\)"):
        onnx_form("mix")


@pytest.mark.parametrize("row", [r for r in ROWS if not isinstance(r.values[0].onnx, str)])
def test_onnx_form_equals_numpy(row: Operation) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is an extra: pip install 'recurra[onnx]'")
    from onnx.reference import ReferenceEvaluator

    nodes: list = []

    def build(form: object) -> str:
        if isinstance(form, int):
            return f"v{form}"
        name = f"n{len(nodes)}"
        if isinstance(form, float):
            nodes.append(onnx.helper.make_node("Constant", [], [name], value_float=form))
            nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}d"], to=onnx.TensorProto.DOUBLE))
            return f"{name}d"
        assert isinstance(form, tuple)
        inputs = [build(part) for part in form[1:]]
        name = f"n{len(nodes)}"
        attributes = {"Cast": {"to": onnx.TensorProto.BOOL}, "Mod": {"fmod": 1}}.get(form[0], {})
        nodes.append(onnx.helper.make_node(form[0], inputs, [name], **attributes))
        return name

    values = arguments(row)
    if row.name == "clip":
        values[1:] = [np.array(-1.0), np.array(1.5)]
    result = build(row.onnx)
    infos = [
        onnx.helper.make_tensor_value_info(f"v{k}", onnx.TensorProto.DOUBLE, v.shape) for k, v in enumerate(values)
    ]
    kind = onnx.TensorProto.BOOL if row.boolean else onnx.TensorProto.DOUBLE
    output = onnx.helper.make_tensor_value_info(result, kind, None)
    graph = onnx.helper.make_graph(nodes, row.name, infos, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    (got,) = ReferenceEvaluator(model).run(None, {f"v{k}": v for k, v in enumerate(values)})
    np.testing.assert_allclose(
        np.asarray(got, dtype=float),
        np.asarray(row.numpy(*values, *attribute_of(row)), dtype=float),
        rtol=1e-12,
        atol=1e-13,
    )
