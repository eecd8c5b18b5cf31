"""Random uses larger than a tile: the small ones of `tests/ops/cases.py` never leave the first.

Sizes lie around the widths of tiles, odd ones among them; weights have zeros, and whole empty rows.
"""

from functools import partial

import torch
from hypothesis import strategies as st

from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.group_norm import GroupNorm
from sparse_compiler.ops.index import Gather, Index
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.pad import Pad
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.pool import AdaptivePool, Pool
from sparse_compiler.ops.reduce import REDUCTIONS, Reduce
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.ops.scan import Cumsum
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.ops.take import Spread
from sparse_compiler.ops.upsample import Upsample
from tests.ops.cases import Case, noise

COLUMNS = st.sampled_from([1, 2, 17, 65, 131])
ROWS = st.sampled_from([1, 5, 33])
DEPTH = st.sampled_from([1, 30, 64, 530])
LENGTH = st.sampled_from([1, 3, 70, 515, 1030])


def sparse(draw, *shape):
    """A weight of about a third non-zeros, every third row empty."""
    weight = noise(draw, *shape)
    weight = weight * (weight.abs() > 1.0)
    if shape[0] > 1:
        weight[::3] = 0.0
    return weight


@st.composite
def linear(draw):
    columns, depth, rows = draw(COLUMNS), draw(DEPTH), draw(ROWS)
    x = noise(draw, columns, depth)
    operands = [noise(draw, rows), noise(draw, columns, rows)]
    return Case(Linear(True, "add(relu(x0), x1)"), (x, sparse(draw, rows, depth), *operands))


@st.composite
def blocks(draw):
    """A weight of whole blocks of 32, so that every format of blocks can store it."""
    columns, deep, high = draw(COLUMNS), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    weight = noise(draw, high * 32, deep * 32)
    kept = noise(draw, high, deep) > 0
    weight *= kept.repeat_interleave(32, 0).repeat_interleave(32, 1)
    return Case(Linear(epilogue="gelu(x0)"), (noise(draw, columns, deep * 32), weight))


@st.composite
def conv(draw):
    """One to three dimensions, strides, dilation, groups, transposed ones."""
    dims, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 4]))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    stride, dilation = (tuple(draw(st.integers(1, 2)) for _ in range(dims)) for _ in range(2))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    transposed = draw(st.booleans())
    each = draw(st.sampled_from([1, 8]))
    weight = sparse(draw, groups * draw(st.sampled_from([2, 4])), each, *kernel)
    size = {1: 70, 2: 11, 3: 6}[dims]
    op = Conv(stride, padding, dilation, groups, transposed, (0,) * dims * transposed)
    return Case(op, (noise(draw, 2, each * groups, *(size + d for d in range(dims))), weight))


@st.composite
def depthwise(draw):
    """One filter for each channel: plain windows of odd size, and others."""
    side, stride = draw(st.sampled_from([2, 3, 5])), draw(st.integers(1, 2))
    op = Conv((stride,) * 2, (side // 2,) * 2, (1, 1), 4, draw(st.booleans()))
    op = Conv(*(op.stride, op.padding, op.dilation, 4, op.transposed, (0, 0) * op.transposed))
    return Case(
        op, (noise(draw, 2, 4, 11, 9), noise(draw, 4 * draw(st.integers(1, 2)), 1, side, side))
    )


@st.composite
def norm(draw):
    columns, features = draw(COLUMNS), draw(st.sampled_from([1, 33, 1030]))
    x, vectors = noise(draw, columns, features), [noise(draw, features) for _ in range(2)]
    if draw(st.booleans()):
        return Case(LayerNorm(1e-3, True, True), (x, *vectors))
    return Case(RmsNorm(1e-3, True), (x, vectors[0]))


@st.composite
def group_norm(draw):
    shape = (2, 6, draw(st.sampled_from([3, 12])), 13)
    vectors = [noise(draw, 6) for _ in range(2)]
    op = GroupNorm(draw(st.sampled_from([1, 2, 6])), 1e-3, True, True, "silu(x0)")
    return Case(op, (noise(draw, *shape), *vectors))


@st.composite
def softmax(draw):
    shape = (draw(COLUMNS), draw(st.sampled_from([1, 33, 70])))
    return Case(Softmax(draw(st.booleans()), 1), (noise(draw, *shape),))


@st.composite
def reduce(draw):
    fn, dim = draw(st.sampled_from(sorted(REDUCTIONS))), draw(st.integers(0, 1))
    x = noise(draw, *((draw(LENGTH), 3) if draw(st.booleans()) else (3, draw(LENGTH))))
    if fn == "prod":
        x = x.sign() + (x == 0)
    if fn not in ("mean", "prod") and draw(st.booleans()):
        x = (x * 4).long()
    return Case(Reduce(fn, (dim,), draw(st.booleans())), (x,))


@st.composite
def image_reduce(draw):
    fn = draw(st.sampled_from([name for name, row in REDUCTIONS.items() if row.planar]))
    return Case(Reduce(fn, (2, 3)), (noise(draw, 2, 5, 13, draw(st.sampled_from([1, 11]))),))


@st.composite
def cumsum(draw):
    shape = (draw(st.sampled_from([1, 2])), draw(LENGTH), draw(st.sampled_from([1, 67])))
    x = noise(draw, *shape)
    return Case(Cumsum(1), (x if draw(st.booleans()) else (x * 4).long(),))


@st.composite
def index(draw):
    x, many = noise(draw, 9, 70), draw(st.sampled_from([1, 40]))
    at = torch.randint(-9, 9, (many,), generator=torch.Generator().manual_seed(many))
    if draw(st.booleans()):
        return Case(Index(0), (x, at))
    return Case(Gather(0), (x, at.abs().clamp_max(8)[:, None].expand(many, 70).contiguous()))


@st.composite
def embedding(draw):
    ids = torch.arange(draw(st.sampled_from([1, 131]))) % 7
    return Case(Embedding(), (noise(draw, 7, draw(st.sampled_from([3, 300]))), ids))


def _rotary(draw, tokens):
    turned = draw(st.sampled_from([4, 6]))
    angles = [noise(draw, 1, tokens, turned) for _ in range(2)]
    return Case(Rotary(draw(st.booleans())), (noise(draw, 1, 3, tokens, 6), *angles))


@st.composite
def rotary(draw):
    return _rotary(draw, draw(st.sampled_from([17, 131])))


@st.composite
def one_position(draw):
    return _rotary(draw, 1)


def _attention(draw, queries, *, masked):
    keys, groups = 21, draw(st.sampled_from([1, 2]))
    q, k, v = noise(draw, 1, 4, queries, 8), *(noise(draw, 1, groups, keys, 8) for _ in range(2))
    seen = noise(draw, 1, 1, queries, keys) > (10 if draw(st.booleans()) else 0)
    mask = [torch.where(seen, 0.0, float("-inf"))] * masked
    return Case(Attention(masked, False, None, nan_rows=draw(st.booleans())), (q, k, v, *mask))


@st.composite
def attention(draw):
    return _attention(draw, 19, masked=False)


@st.composite
def masked_attention(draw):
    """Some of the masks hide every key."""
    return _attention(draw, 19, masked=True)


@st.composite
def one_query(draw):
    return _attention(draw, 1, masked=draw(st.booleans()))


@st.composite
def border(draw):
    before, after = (tuple(draw(st.integers(1, 2)) for _ in range(4)) for _ in range(2))
    return Case(Pad("constant", before, after, 1.5), (noise(draw, 2, 3, 13, 9),))


@st.composite
def spread(draw):
    columns = draw(COLUMNS)
    return Case(Spread(((1, 4), (6, 7), (9, 20))), (noise(draw, columns, 15), noise(draw, 23)))


@st.composite
def upsample(draw):
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "linear"]))
    size = (draw(st.sampled_from([7, 22])), draw(st.sampled_from([9, 31])))
    corners = mode == "linear" and draw(st.booleans())
    scales = (2.0, 2.5) if draw(st.booleans()) and size == (22, 31) else ()
    return Case(Upsample(mode, size, corners, scales), (noise(draw, 2, 3, 11, 12),))


@st.composite
def pool(draw, kind):
    side = draw(st.integers(2, 3))
    op = Pool(kind, (side, side), (1, 1), (1, 1), (1, 1), False, draw(st.booleans()))
    return Case(op, (noise(draw, 2, 3, 13, 14),))


@st.composite
def adaptive_pool(draw, kind):
    return Case(AdaptivePool(kind, (draw(st.integers(1, 5)), 13)), (noise(draw, 2, 3, 13, 14),))


@st.composite
def pointwise(draw):
    text = draw(st.sampled_from(["mul(tanh(x0), x1)", "where(lt(x0, 0.5), x1, neg(x0))"]))
    shape = (2, 5, 13, 11)
    other = noise(draw, *draw(st.sampled_from([shape, (5, 1, 1), (2, 5, 1, 1)])))
    return Case(Pointwise(text), (noise(draw, *shape), other))


WIDE = {
    "adaptive_pool": (partial(adaptive_pool, "max"), partial(adaptive_pool, "avg")),
    "attention": (attention, masked_attention, one_query),
    "conv": (conv, depthwise),
    "cumsum": (cumsum,),
    "embedding": (embedding,),
    "gather": (index,),
    "group_norm": (group_norm,),
    "linear": (linear, blocks),
    "layer_norm": (norm,),
    "pointwise": (pointwise,),
    "pool": (partial(pool, "max"), partial(pool, "avg")),
    "reduce": (reduce, image_reduce),
    "pad": (border,),
    "rotary": (rotary, one_position),
    "softmax": (softmax,),
    "spread": (spread,),
    "upsample": (upsample,),
}
"""By family of ops."""
