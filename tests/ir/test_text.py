"""Text and back: attributes, types and whole graphs, drawn at random."""

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._sympy import functions as torch_sympy

from sparse_compiler.errors import GraphSyntaxError, UnsupportedError
from sparse_compiler.ir.attrs import Object, Slot, parse_attr, print_attr
from sparse_compiler.ir.graph import Builder, Graph, Node, Range, Value
from sparse_compiler.ir.text import parse_graph, parse_type, print_graph, print_type
from sparse_compiler.ir.types import (
    Layout,
    ScalarType,
    TensorType,
    TupleType,
    dtype_name,
    symbol,
    torch_dtype,
)
from sparse_compiler.ir.verify import verify
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.torch_call import TorchCall

S0, S1, U0 = symbol("s0"), symbol("s1"), symbol("u0")


def combine(children):
    pair = st.tuples(children, children)
    number = st.integers(2, 9)
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] - p[1]),
        pair.map(lambda p: p[0] * p[1]),
        pair.map(lambda p: torch_sympy.Max(*p)),
        pair.map(lambda p: torch_sympy.Min(*p)),
        st.tuples(children, number).map(lambda p: torch_sympy.FloorDiv(*p)),
        st.tuples(children, number).map(lambda p: torch_sympy.Mod(p[0] + S0, p[1])),
        st.tuples(children, number).map(lambda p: torch_sympy.PythonMod(*p)),
        st.tuples(children, number).map(lambda p: p[0] / p[1]),
        children.map(lambda e: e**2),
    )


INTEGERS = st.integers(-(2**40), 2**40)
EXPRESSIONS = st.recursive(
    st.one_of(st.sampled_from([S0, S1, U0]), st.integers(-4, 9).map(sympy.Integer)),
    combine,
    max_leaves=6,
).filter(lambda e: bool(e.free_symbols))
TEXTS = st.text(max_size=12) | st.sampled_from(["a\\", '"', '\\"', "](", ", ", "# no", "\n", "😀"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    INTEGERS,
    st.floats(allow_nan=True),
    TEXTS,
    EXPRESSIONS,
    st.integers(0, 20).map(Slot),
    st.sampled_from([torch.float32, torch.bfloat16, torch.bool, torch.complex64]),
    st.sampled_from([torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")]),
    st.sampled_from([torch.contiguous_format, torch.channels_last, torch.preserve_format]),
    st.sampled_from([torch.strided, torch.sparse_csr]),
    st.complex_numbers(allow_nan=False, max_magnitude=10),
    st.sampled_from(["body", "true_graph_0"]).map(Object),
)
ATTRIBUTES = st.recursive(LEAVES, lambda c: st.lists(c, max_size=4).map(tuple), max_leaves=8)


def same(a, b):
    """Equality that tells 1 from True and 1.0, and finds nan equal to nan."""
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return type(b) is float and (a == b or (math.isnan(a) and math.isnan(b)))
    if isinstance(a, sympy.Expr):
        return isinstance(b, sympy.Expr) and a == b
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(ATTRIBUTES)
def test_attributes(value):
    text = print_attr(value)
    assert "\n" not in text
    assert same(value, parse_attr(text))


def test_infinities_keep_their_sign_and_zero_too():
    for value in (math.inf, -math.inf, -0.0):
        assert math.copysign(1, parse_attr(print_attr(value))) == math.copysign(1, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "a.b",
        "print(1)",
        "__import__('os')",
        "[1]",
        "lambda: 1",
        'dtype("zz")',
        "(1",
        "9**9**9**9",
        '"a" * 9999999999',
        "s0**(9**9)",
        "-" * 5000 + "1",
        '-"text"',
    ],
)
def test_what_is_no_attribute_is_refused(text):
    with pytest.raises((GraphSyntaxError, UnsupportedError)):
        parse_attr(text)


def test_an_attribute_without_text_is_named():
    with pytest.raises(UnsupportedError, match="type set has no text form"):
        print_attr({1})


DIMS = st.one_of(
    st.integers(0, 4096), st.sampled_from([S0, S1, S0 * 2, torch_sympy.FloorDiv(S0, 2)])
)


@st.composite
def tensor_types(draw, *, plain=False):
    shape = tuple(draw(st.lists(DIMS, max_size=4)))
    dtype = draw(st.sampled_from(["f32", "f16", "i64", "bool", "complex64"]))
    if plain or not shape or draw(st.booleans()):
        return TensorType(dtype, shape)
    order = tuple(draw(st.permutations(range(len(shape)))))
    layout = Layout(order, draw(st.integers(0, len(shape))))
    return TensorType(dtype, shape, layout, draw(st.sampled_from(["dense", "csr", "bsr4x1"])))


TYPES = st.recursive(
    st.one_of(tensor_types(), st.builds(ScalarType, st.just("i64"), DIMS)),
    lambda c: st.lists(st.none() | c, max_size=3).map(lambda items: TupleType(tuple(items))),
    max_leaves=4,
)


@settings(max_examples=80, deadline=None)
@given(TYPES)
def test_types(type_):
    assert parse_type(print_type(type_)) == type_


def test_dtypes():
    for name in ("f32", "f64", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool", "complex64"):
        assert dtype_name(torch_dtype(name)) == name
    for name in ("f31", "nn", "Tensor"):
        with pytest.raises(UnsupportedError, match="unknown dtype"):
            torch_dtype(name)


NAMES = st.from_regex(r"[A-Za-z_][\w.]{0,8}", fullmatch=True)
LOCATIONS = st.sampled_from(["", "model.py:12", "odd [0](x) # file.py:3", 'quoted ".py:1'])


@st.composite
def graphs(draw):
    """Any graph at all that the text can carry; not one that means something."""
    names = iter(draw(st.lists(NAMES, min_size=8, max_size=8, unique=True)))
    inputs = [
        Value(next(names), draw(tensor_types(plain=True))) for _ in range(draw(st.integers(1, 2)))
    ]
    params = [
        Value(next(names), draw(tensor_types(plain=True))) for _ in range(draw(st.integers(0, 2)))
    ]
    known = [v.name for v in (*inputs, *params)]
    nodes = []
    for _ in range(draw(st.integers(0, 4))):
        args = tuple(draw(st.lists(ATTRIBUTES, max_size=3)))
        kwargs = tuple(draw(st.lists(st.tuples(TEXTS, ATTRIBUTES), max_size=2)))
        op = draw(st.sampled_from([TorchCall("aten.relu.default", args, kwargs), Pointwise("x0")]))
        read = tuple(draw(st.lists(st.sampled_from(known), max_size=3)))
        nodes.append(Node(op, read, draw(TYPES), next(names), draw(LOCATIONS)))
        known.append(nodes[-1].name)
    ranges = {"s0": Range(draw(st.integers(0, 3)), draw(st.none() | st.integers(3, 99)))}
    outputs = tuple(draw(st.lists(st.sampled_from(known), max_size=3)))
    updates = tuple((draw(st.sampled_from(known)), v.name) for v in params)
    return Graph(tuple(inputs), tuple(params), tuple(nodes), outputs, updates, ranges)


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_graphs(graph):
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    assert (again.inputs, again.params, again.outputs, again.updates) == (
        graph.inputs,
        graph.params,
        graph.outputs,
        graph.updates,
    )
    assert again.symbols == graph.symbols
    assert [(n.inputs, n.type, n.name, n.loc) for n in again.nodes] == [
        (n.inputs, n.type, n.name, n.loc) for n in graph.nodes
    ]
    assert all(map(same_op, again.nodes, graph.nodes))


def same_op(a, b):
    attributes = (a.op.attributes(), b.op.attributes())
    return type(a.op) is type(b.op) and all(
        same(x, y) for x, y in zip(*(tuple(d.values()) for d in attributes), strict=True)
    )


def test_what_a_person_writes_may_hold_comments_and_blank_lines():
    graph = parse_graph(
        """
        # a comment
        input %x: f32[2]      # the data

        %y: f32[2] = pointwise[expr="relu(x0)"](%x)   # model.py:3
        return %y             # the result
        """
    )
    verify(graph)
    assert (graph.nodes[0].loc, graph.outputs) == ("model.py:3", ("y",))


def test_objects_are_named_and_come_back_empty():
    text = "object %body\ninput %x: f32[2]\nreturn %x\n"
    graph = parse_graph(text)
    assert dict(graph.objects) == {"body": None}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("%y: f32[2] = nonsense(%x)", "no op is named"),
        ("%y: f32[2] = pointwise[exp=1](%x)", "unexpected keyword"),
        ("%y: f32[2] = pointwise(%x", "a bracket is missing"),
        ("%y: f32[2] = pointwise(%x) trailing", "cannot read this line"),
        ("%y: f32[2 = pointwise(%x)", "cannot read"),
        ("%y: none = pointwise(%x)", "needs a type"),
        ("gibberish", "cannot read this line"),
        ("input %z: (f32[2],)", "inputs and parameters are tensors"),
        ("%y: f32[2]{x|0} = pointwise(%x)", "cannot read"),
        ('%y: f32["a"] = pointwise(%x)', "is no dimension"),
        ("%y: f32[1.5] = pointwise(%x)", "is no dimension"),
        ("symbol s0 in [x, 2]", "cannot read this line"),
        ("update %x", "cannot read this line"),
    ],
)
def test_syntax_errors_name_the_line(line, part):
    with pytest.raises(GraphSyntaxError, match="line 3: ") as caught:
        parse_graph(f"\ninput %x: f32[2]\n{line}\nreturn %x\n")
    assert part in str(caught.value)


def test_a_graph_ends_with_return():
    with pytest.raises(GraphSyntaxError, match="no return line"):
        parse_graph("input %x: f32[2]\n")


def test_names_from_modules_that_text_cannot_carry_are_mended():
    builder = Builder()
    name = builder.param(builder.fresh("experts.a b:(c)=[d], #e"), TensorType("f32", (2,)))
    graph = builder.build([name])
    assert parse_graph(str(graph)).params == graph.params
    assert builder.fresh("experts.a b:(c)=[d], #e") == f"{name}_2"
