"""Random uses of the ops on sequences and of general ones; `cases.py` collects them."""

import torch
from hypothesis import strategies as st

from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.index import Gather, Index
from sparse_compiler.ops.iota import Full, Iota
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.reduce import REDUCTIONS, Reduce
from sparse_compiler.ops.roll import Flip, Roll
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.ops.scan import Cumsum
from sparse_compiler.ops.shape import Expand, Slice
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.ops.take import Spread, Take, ranges_of
from tests.ops.cases import SHAPE, SIZE, Case, broadcastable, noise

FLOATING = ["f32", "f64", "bf16"]
ANY = [*FLOATING, "i64", "i32", "bool"]
DTYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "bool": torch.bool,
}


def values(draw, shape, dtypes=("f32", "i64", "bool")):
    """Random numbers of a random dtype; integers of both signs."""
    dtype = draw(st.sampled_from(dtypes))
    numbers = noise(draw, *shape) * 4
    return (numbers > 0) if dtype == "bool" else numbers.to(DTYPES[dtype])


def dim_of(draw, shape):
    return draw(st.integers(0, len(shape) - 1))


def some_dims(draw, shape):
    return tuple(draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)))


def numbers_below(draw, shape, size, *, negative=False):
    low = -size if negative else 0
    dtype = draw(st.sampled_from([torch.int64, torch.int32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return torch.randint(low, size, tuple(shape), generator=generator).to(dtype)


@st.composite
def pointwise(draw):
    """Numbers and truths of one, two and three tensors; mixed dtypes, and a result's own."""
    shape = draw(SHAPE)
    expr, kinds = draw(
        st.sampled_from(
            [
                ("neg(x0)", [("f32", "i64")]),
                ("sub(x1, x0)", [FLOATING, ("f32", "i32")]),
                ("maximum(mul(x0, x2), x1)", [("f32",)] * 3),
                ("where(lt(x0, x1), f32(x0), x1)", [("i64", "i32"), ("f32",)]),
                ("logical_and(x0, ge(x1, 2.0))", [ANY, ("i64", "f32")]),
                ("add(i64(x0), 3.0)", [ANY]),
                ("bitwise_or(x0, x1)", [("i64", "bool"), ("i32", "bool")]),
                ("div(x0, x1)", [("i64", "f32"), ("f32",)]),
            ]
        )
    )
    dtype = draw(st.sampled_from([None, "f32", "i64", "bool"]))
    tensors = [values(draw, broadcastable(draw, shape), kind) for kind in kinds]
    return Case(Pointwise(expr, dtype), tuple(tensors))


@st.composite
def narrow(draw):
    shape = draw(SHAPE)
    dim = dim_of(draw, shape)
    start = draw(st.integers(0, shape[dim]))
    stop = draw(st.integers(start, shape[dim]))
    op = Slice(dim, start, stop, draw(st.integers(1, 3)))
    return Case(op, (values(draw, shape, ANY),))


@st.composite
def expand(draw):
    shape = tuple(draw(SHAPE))
    return Case(Expand(shape), (values(draw, broadcastable(draw, shape), ANY),))


@st.composite
def cat(draw):
    shape = draw(SHAPE)
    dim = dim_of(draw, shape)
    dtype = draw(st.sampled_from(ANY))
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    parts = [[*shape[:dim], size, *shape[dim + 1 :]] for size in sizes]
    return Case(Cat(dim), tuple(values(draw, part, [dtype]) for part in parts))


@st.composite
def roll(draw):
    shape = draw(SHAPE)
    dims = some_dims(draw, shape)
    shifts = tuple(draw(st.integers(-7, 7)) for _ in dims)
    return Case(Roll(shifts, dims), (values(draw, shape, ANY),))


@st.composite
def flip(draw):
    shape = draw(SHAPE)
    return Case(Flip(some_dims(draw, shape)), (values(draw, shape, ANY),))


@st.composite
def iota(draw):
    dtype = draw(st.sampled_from(["i64", "i32", "f32", "f64"]))
    number = st.integers(-3, 3) if dtype[0] == "i" else st.sampled_from([0.5, -1.25, 2.0])
    return Case(Iota(draw(st.integers(0, 9)), draw(number), draw(number), dtype))


@st.composite
def full(draw):
    dtype = draw(st.sampled_from(ANY))
    value = draw(st.sampled_from([0, 1, -3] if dtype[0] == "i" else [True, 0, 2.5, -torch.inf]))
    return Case(Full(value, tuple(draw(st.lists(SIZE, max_size=3))), dtype))


@st.composite
def reduce(draw):
    shape, fn = draw(SHAPE), draw(st.sampled_from(sorted(REDUCTIONS)))
    dims = some_dims(draw, shape)
    dims = dims[:1] if REDUCTIONS[fn].single else dims
    no_bool = ["f32", "f64", "i64", "i32"]  # of which torch has no argmax
    dtypes = {"mean": FLOATING, "argmax": no_bool, "argmin": no_bool}.get(fn, ANY)
    return Case(Reduce(fn, dims, draw(st.booleans())), (values(draw, shape, dtypes),))


@st.composite
def softmax(draw):
    shape = draw(SHAPE)
    return Case(Softmax(draw(st.booleans()), dim_of(draw, shape)), (noise(draw, *shape),))


@st.composite
def cumsum(draw):
    shape = draw(SHAPE)
    return Case(Cumsum(dim_of(draw, shape)), (values(draw, shape, ANY),))


@st.composite
def embedding(draw):
    rows, columns = draw(SIZE), draw(SIZE)
    ids = numbers_below(draw, draw(st.lists(SIZE, max_size=3)), rows)
    return Case(Embedding(), (values(draw, (rows, columns), ANY), ids))


@st.composite
def index(draw):
    shape, common = draw(SHAPE), draw(SHAPE)
    first = dim_of(draw, shape)
    count = draw(st.integers(1, len(shape) - first))
    picks = [
        numbers_below(draw, broadcastable(draw, common), shape[first + k], negative=True)
        for k in range(count)
    ]
    return Case(Index(first), (values(draw, shape, ANY), *picks))


@st.composite
def gather(draw):
    shape = draw(SHAPE)
    dim = dim_of(draw, shape)
    sizes = [draw(st.integers(1, s)) if d != dim else draw(SIZE) for d, s in enumerate(shape)]
    places = numbers_below(draw, sizes, shape[dim])
    return Case(Gather(dim), (values(draw, shape, ANY), places))


@st.composite
def matmul(draw):
    batch, m, k, n = draw(st.lists(SIZE, max_size=2)), draw(SIZE), draw(SIZE), draw(SIZE)
    left, right = (broadcastable(draw, batch) for _ in range(2))
    return Case(Matmul(), (noise(draw, *left, m, k), noise(draw, *right, k, n)))


@st.composite
def rotary(draw):
    b, h, s, half, rest = draw(SIZE), draw(SIZE), draw(SIZE), draw(SIZE), draw(st.integers(0, 3))
    angles = (draw(st.sampled_from([1, b])), s, 2 * half)
    tensors = (noise(draw, b, h, s, 2 * half + rest), noise(draw, *angles), noise(draw, *angles))
    return Case(Rotary(draw(st.booleans())), tensors)


@st.composite
def spread(draw):
    shape, keep = draw(SHAPE), torch.tensor(draw(st.lists(st.booleans(), min_size=1, max_size=9)))
    x = noise(draw, *shape[:-1], int(keep.sum()))
    return Case(Spread(ranges_of(keep)), (x, noise(draw, len(keep))))


@st.composite
def take(draw):
    shape = draw(SHAPE)
    dim = draw(st.integers(0, len(shape) - 1))
    keep = torch.tensor(draw(st.lists(st.booleans(), min_size=shape[dim], max_size=shape[dim])))
    return Case(Take(dim, ranges_of(keep)), (values(draw, shape, ANY),))


CASES = {
    "cat": cat,
    "cumsum": cumsum,
    "embedding": embedding,
    "expand": expand,
    "flip": flip,
    "full": full,
    "gather": gather,
    "index": index,
    "iota": iota,
    "matmul": matmul,
    "pointwise": pointwise,
    "reduce": reduce,
    "roll": roll,
    "rotary": rotary,
    "slice": narrow,
    "softmax": softmax,
    "spread": spread,
    "take": take,
}
