"""Every op of the registry: its type rule against its reference, and both against mathematics."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_compiler.errors import GraphSyntaxError, UnsupportedError, VerifyError
from sparse_compiler.ir.attrs import Slot
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.op import OPS, Op
from sparse_compiler.ir.text import parse_graph, print_type
from sparse_compiler.ir.types import ScalarType, TensorType, symbol, tensor_type
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.norm import LayerNorm
from sparse_compiler.ops.pack import Pack
from sparse_compiler.ops.pointwise import Pointwise, broadcast
from sparse_compiler.ops.shape import Permute, Relayout, Reshape, Slice
from sparse_compiler.ops.torch_call import TorchCall
from tests.ops.cases import CASES, OBJECTS


def test_every_op_has_a_case():
    assert list(OPS) == sorted(CASES), "add a case to tests/ops/cases.py"


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_infer_is_the_type_of_the_reference(name, data):
    case = data.draw(CASES[name]())
    inferred = case.op.infer(case.input_types())
    result = case.op.bind({}, OBJECTS).reference(*case.inputs)
    if inferred is not None:
        assert isinstance(inferred, TensorType)
        assert inferred.logical == tensor_type(result)
    else:
        assert name in ("torch_call", "tvm_call")


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_attributes_survive_the_text(name, data):
    case = data.draw(CASES[name]())
    attributes = case.op.attributes()
    assert type(case.op)(**attributes) == case.op
    names = [f"a{i}" for i in range(len(case.inputs))]
    heads = "".join(f"input %{n}: f32[1]\n" for n in names)
    node = Node(case.op, tuple(names), TensorType("f32", (1,)), "y")
    text = f"{heads}{str(node).replace(' = ', ': f32[1] = ', 1)}\nreturn %y"
    assert parse_graph(text).nodes == (node,)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_too_few_or_foreign_inputs_are_refused(name, data):
    case = data.draw(CASES[name]())
    types = case.input_types()
    if name in ("full", "iota"):  # which take none
        with pytest.raises(VerifyError, match="0 inputs"):
            case.op.infer((TensorType("f32", (1,)),))
        return
    if name not in ("cat", "index", "tvm_call"):  # which take any number
        with pytest.raises((VerifyError, GraphSyntaxError)):
            case.op.infer(types[:-1])
    if name not in ("getitem", "torch_call", "tvm_call"):
        with pytest.raises(VerifyError, match="takes tensors"):
            case.op.infer((*types[:-1], ScalarType("i64", 3)))


def test_an_op_that_says_nothing_fuses_with_nothing():
    assert (Op.view, Op.weight_input) == (False, None)
    with pytest.raises(NotImplementedError):
        Op().infer(())
    with pytest.raises(NotImplementedError):
        Op().reference()


# --- references, written out ------------------------------------------------------------------


def test_linear_is_a_product_a_bias_and_an_epilogue():
    x, w, b, r = (torch.randn(s).double() for s in ((2, 3, 4), (5, 4), (5,), (3, 1)))
    product = torch.einsum("bsk,mk->bsm", x, w)
    assert torch.allclose(Linear().reference(x, w), product)
    assert torch.allclose(Linear(True).reference(x, w, b), product + b)
    op = Linear(True, "mul(tanh(x0), x1)")
    assert torch.allclose(op.reference(x, w, b, r), torch.tanh(product + b) * r)
    op = Linear(False, "sub(x1, x0)")
    assert torch.allclose(op.reference(x, w, r), r - product)


def test_layer_norm_by_its_formula():
    x, gamma, beta = (torch.randn(s).double() for s in ((3, 7), (7,), (7,)))
    mean = x.mean(-1, keepdim=True)
    normal = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 0.1)
    assert torch.allclose(LayerNorm(0.1, False, False).reference(x), normal)
    assert torch.allclose(LayerNorm(0.1, True, False).reference(x, gamma), normal * gamma)
    assert torch.allclose(LayerNorm(0.1, False, True).reference(x, beta), normal + beta)
    both = LayerNorm(0.1, True, True).reference(x, gamma, beta)
    assert torch.allclose(both, normal * gamma + beta)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_by_its_formula(heads, causal):
    q, k, v = (torch.randn(s).double() for s in ((2, 4, 5, 3), (2, heads, 6, 3), (2, heads, 6, 2)))
    keys, values = (t.repeat_interleave(4 // heads, 1) for t in (k, v))
    scores = q @ keys.transpose(2, 3) * 0.7
    if causal:
        scores = scores.masked_fill(~torch.ones(5, 6, dtype=torch.bool).tril(), -math.inf)
    expected = scores.softmax(-1) @ values
    assert torch.allclose(Attention(False, causal, 0.7).reference(q, k, v), expected)
    plain = (q @ keys.transpose(2, 3) / math.sqrt(3)).softmax(-1) @ values
    assert torch.allclose(Attention().reference(q, k, v), plain)


def test_attention_masks():
    q, k, v = (torch.randn(1, 2, n, 3) for n in (4, 5, 5))
    keep = torch.rand(4, 5) > 0.3
    keep[:, 0] = True
    added = torch.zeros(4, 5).masked_fill(~keep, -math.inf)
    first = Attention(True).reference(q, k, v, keep)
    assert torch.allclose(first, Attention(True).reference(q, k, v, added), atol=1e-6)
    shape = tensor_type(q), tensor_type(k), tensor_type(v)
    assert Attention(True).infer((*shape, tensor_type(keep))).shape == (1, 2, 4, 3)
    with pytest.raises(VerifyError, match="do not broadcast"):
        Attention(True).infer((*shape, TensorType("f32", (4, 4))))


S0, S1 = symbol("s0"), symbol("s1")


@pytest.mark.parametrize(
    ("op", "shapes", "result"),
    [
        (Linear(), [(S0, S1, 4), (8, 4)], "f32[s0, s1, 8]"),
        (Pointwise("add(x0, x1)"), [(S0, 1, 4), (S1, 4)], "f32[s0, s1, 4]"),
        (Reshape((S0 * S1, 4)), [(S0, S1, 4)], "f32[s0*s1, 4]"),
        (Permute((1, 2, 0)), [(S0, S1, 4)], "f32[s1, 4, s0]"),
        (Slice(1, 1, S1), [(S0, S1)], "f32[s0, s1 - 1]"),
        (Attention(), [(S0, 2, S1, 3), (S0, 2, 7, 3), (S0, 2, 7, 5)], "f32[s0, 2, s1, 5]"),
        (LayerNorm(1e-5, True, False), [(S0, 4), (4,)], "f32[s0, 4]"),
        (Pack("csr"), [(8, 4)], "f32[8, 4]{csr}"),
        (Relayout((1, 0), 1), [(S0, 4)], "f32[s0, 4]{1|0}"),
        (Relayout(), [(S0, 4)], "f32[s0, 4]"),
    ],
)
def test_symbolic_shapes(op, shapes, result):
    assert print_type(op.infer(tuple(TensorType("f32", s) for s in shapes))) == result


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Linear(), [(2, 3), (4, 5)]),
        (Linear(), [(2, 3), (3,)]),
        (Linear(True), [(2, 3), (4, 3), (3,)]),
        (Linear(False, "add(x0, x1)"), [(2, 3), (4, 3), (5, 2, 4)]),
        (Linear(False, "add(x0, x1)"), [(1, 3), (4, 3), (2, 4)]),
        (Pointwise("add(x0, x1)"), [(2, 3), (2, 4)]),
        (Pointwise("add(x0, x1)"), [(S0,), (S1,)]),
        (LayerNorm(), [(2, 3), (3,), (2,)]),
        (Attention(), [(2, 3), (2, 3), (2, 3)]),
        (Attention(), [(1, 2, 3, 4), (1, 2, 5, 3), (1, 2, 5, 4)]),
        (Attention(), [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 6, 4)]),
        (Attention(), [(1, 3, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)]),
        (Attention(), [(2, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)]),
    ],
)
def test_types_that_do_not_fit(op, shapes):
    with pytest.raises(VerifyError):
        op.infer(tuple(TensorType("f32", s) for s in shapes))


def test_dtypes_do_not_mix():
    f32, f64 = TensorType("f32", (4, 4)), TensorType("f64", (4, 4))
    for op in (Linear(), Cat(0), Matmul()):
        with pytest.raises(VerifyError, match="one dtype"):
            op.infer((f32, f64))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3).map(lambda n: n or 1), max_size=3), max_size=3))
def test_broadcast_is_torchs(shapes):
    shapes = [tuple(shape) for shape in shapes]
    try:
        expected = tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        with pytest.raises(VerifyError, match="do not broadcast"):
            broadcast(*shapes)
    else:
        assert broadcast(*shapes) == expected


def test_a_torch_operator_that_is_missing_is_named():
    with pytest.raises(UnsupportedError, match=r"torch has no operator 'aten\.nothing\.default'"):
        TorchCall("aten.nothing.default").reference()


def test_a_torch_call_passes_lists_and_keywords():
    x = torch.randn(2, 3)
    op = TorchCall("aten.sum.dim_IntList", (Slot(0), (0, 1)), (("dtype", torch.float64),))
    assert torch.equal(op.reference(x), x.sum((0, 1), dtype=torch.float64))
    assert torch.equal(
        TorchCall("aten.linear.default", (Slot(1), Slot(0))).reference(x, x), F.linear(x, x)
    )
