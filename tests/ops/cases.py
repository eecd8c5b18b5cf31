"""Random uses of every op: what the tests of types and references run on.

A case draws an op and the tensors it reads. `test_ops.py` fails where an op of the registry has
none, so that a new op is tested by adding its case here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st

from sparse_compiler.ir.attrs import Slot
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.types import TupleType, tensor_type
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.pack import Pack
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Permute, Relayout, Reshape, Slice
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.ops.torch_call import GetItem, TorchCall

SIZE = st.integers(1, 5)
SHAPE = st.lists(SIZE, min_size=1, max_size=4)


@dataclass(frozen=True)
class Case:
    """inputs: what `reference` takes; types: of the inputs, where they are no plain tensors."""

    op: Op
    inputs: tuple = ()
    types: tuple = field(default=())

    def input_types(self):
        return self.types or tuple(map(tensor_type, self.inputs))


def noise(draw, *shape):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return torch.randn(shape, generator=generator)


def broadcastable(draw, shape):
    """A shape that broadcasts to `shape`: leading dimensions dropped, some of the others 1."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else size for size in kept)


@st.composite
def linear(draw):
    batch, k, m = draw(st.lists(SIZE, max_size=3)), draw(SIZE), draw(SIZE)
    bias = [noise(draw, m)] if draw(st.booleans()) else []
    epilogue, operands = draw(
        st.sampled_from([("x0", 0), ("gelu(x0)", 0), ("add(relu(x0), mul(x1, x2))", 2)])
    )
    extra = [noise(draw, *broadcastable(draw, (*batch, m))) for _ in range(operands)]
    tensors = [noise(draw, *batch, k), noise(draw, m, k), *bias, *extra]
    return Case(Linear(bool(bias), epilogue), tuple(tensors))


@st.composite
def pointwise(draw):
    shape = draw(SHAPE)
    expr, count = draw(
        st.sampled_from([("neg(x0)", 1), ("sub(x1, x0)", 2), ("maximum(mul(x0, x2), x1)", 3)])
    )
    return Case(
        Pointwise(expr), tuple(noise(draw, *broadcastable(draw, shape)) for _ in range(count))
    )


@st.composite
def layer_norm(draw):
    shape = draw(SHAPE)
    scale, shift = draw(st.booleans()), draw(st.booleans())
    vectors = [noise(draw, shape[-1]) for _ in range(scale + shift)]
    return Case(LayerNorm(1e-3, scale, shift), (noise(draw, *shape), *vectors))


@st.composite
def rms_norm(draw):
    shape, scale = draw(SHAPE), draw(st.booleans())
    return Case(RmsNorm(1e-3, scale), (noise(draw, *shape), *[noise(draw, shape[-1])] * scale))


@st.composite
def softmax(draw):
    return Case(Softmax(draw(st.booleans())), (noise(draw, *draw(SHAPE)),))


@st.composite
def attention(draw):
    b, groups, per, queries, keys, d, e = (draw(SIZE) for _ in range(7))
    mask = [noise(draw, *broadcastable(draw, (b, groups * per, queries, keys)))]
    mask = mask if draw(st.booleans()) and mask[0].dim() >= 2 else []
    op = Attention(bool(mask), not mask and draw(st.booleans()), draw(st.sampled_from([None, 0.5])))
    q = noise(draw, b, groups * per, queries, d)
    k, v = noise(draw, b, groups, keys, d), noise(draw, b, groups, keys, e)
    return Case(op, (q, k, v, *mask))


@st.composite
def reshape(draw):
    shape = draw(SHAPE)
    at = draw(st.integers(0, len(shape) - 1))
    product = 1
    for size in shape[at:]:
        product *= size
    return Case(Reshape((1, *shape[:at], product)), (noise(draw, *shape),))


@st.composite
def permute(draw):
    shape = draw(SHAPE)
    return Case(Permute(tuple(draw(st.permutations(range(len(shape)))))), (noise(draw, *shape),))


@st.composite
def narrow(draw):
    shape = draw(SHAPE)
    dim = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, shape[dim]))
    return Case(Slice(dim, start, draw(st.integers(start, shape[dim]))), (noise(draw, *shape),))


@st.composite
def relayout(draw):
    shape = draw(SHAPE)
    order = tuple(draw(st.permutations(range(len(shape)))))
    return Case(Relayout(order, draw(st.integers(0, len(shape)))), (noise(draw, *shape),))


@st.composite
def pack(draw):
    return Case(Pack(draw(st.sampled_from(["csr", "dense"]))), (noise(draw, *draw(SHAPE)),))


@st.composite
def torch_call(draw):
    op = TorchCall("aten.cat.default", ((Slot(0), Slot(1)),), (("dim", -1),))
    shape = draw(SHAPE)
    return Case(op, (noise(draw, *shape), noise(draw, *shape)))


@st.composite
def getitem(draw):
    tensors = tuple(noise(draw, *draw(SHAPE)) for _ in range(draw(st.integers(1, 3))))
    type_ = TupleType(tuple(map(tensor_type, tensors)))
    return Case(GetItem(draw(st.integers(0, len(tensors) - 1))), (tensors,), (type_,))


CASES: dict[str, Callable[[], st.SearchStrategy[Case]]] = {
    "attention": attention,
    "getitem": getitem,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "softmax": softmax,
    "linear": linear,
    "pack": pack,
    "permute": permute,
    "pointwise": pointwise,
    "relayout": relayout,
    "reshape": reshape,
    "slice": narrow,
    "torch_call": torch_call,
}
