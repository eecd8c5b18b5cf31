"""Random uses of every op: what the tests of types and references run on.

A case draws an op and the tensors it reads. `test_ops.py` fails where an op of the registry has
none, so that a new op is tested by adding its case here.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sparse_compiler.ir.attrs import Object, Slot
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.types import TupleType, tensor_type
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.pack import Pack
from sparse_compiler.ops.shape import Permute, Relayout, Reshape
from sparse_compiler.ops.torch_call import GetItem, TorchCall
from sparse_compiler.ops.tvm_call import TvmCall

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
def attention(draw):
    b, groups, per, queries, keys, d, e = (draw(SIZE) for _ in range(7))
    mask = [noise(draw, *broadcastable(draw, (b, groups * per, queries, keys)))]
    mask = mask if draw(st.booleans()) and mask[0].dim() >= 2 else []
    causal, scale = not mask and draw(st.booleans()), draw(st.sampled_from([None, 0.5]))
    op = Attention(bool(mask), causal, scale, nan_rows=draw(st.booleans()))
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
def relayout(draw):
    shape = draw(SHAPE)
    order = tuple(draw(st.permutations(range(len(shape)))))
    return Case(Relayout(order, draw(st.integers(0, len(shape)))), (noise(draw, *shape),))


@st.composite
def pack(draw):
    return Case(
        Pack(draw(st.sampled_from(["csr", "dense"]))), (noise(draw, *draw(SHAPE), draw(SIZE)),)
    )


@st.composite
def torch_call(draw):
    op = TorchCall("aten.cat.default", ((Slot(0), Slot(1)),), (("dim", -1),))
    shape = draw(SHAPE)
    return Case(op, (noise(draw, *shape), noise(draw, *shape)))


@st.composite
def tvm_call(draw):
    return Case(TvmCall("relax.scale", Object("scale"), (3,)), (noise(draw, *draw(SHAPE)),))


OBJECTS = {"scale": lambda inputs, sizes: inputs[0] * sizes[0]}


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
    "linear": linear,
    "pack": pack,
    "permute": permute,
    "relayout": relayout,
    "reshape": reshape,
    "torch_call": torch_call,
    "tvm_call": tvm_call,
}

for _path in sorted(Path(__file__).parent.glob("cases_*.py")):  # each has CASES of its own family
    CASES |= importlib.import_module(f"tests.ops.{_path.stem}").CASES


def drawn(strategy: Callable[[], Any], count: int, number: int = 0) -> list[Case]:
    """Random cases, the same ones for the same number."""
    found: list[Case] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found
