"""Random uses of the ops on images; `cases.py` collects them."""

import math

from hypothesis import strategies as st

from sparse_compiler.ops.batch_norm import BatchNorm
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.group_norm import GroupNorm
from sparse_compiler.ops.pad import MODES, Pad
from sparse_compiler.ops.pool import AdaptivePool, Pool
from sparse_compiler.ops.upsample import Upsample
from tests.ops.cases import SHAPE, Case, broadcastable, noise

SMALL = st.integers(1, 3)


def per_dim(draw, dims, values):
    return tuple(draw(values) for _ in range(dims))


def image(draw, dims, *, low=1, high=7):
    """Batch, channels and `dims` sizes."""
    return (draw(SMALL), draw(SMALL), *per_dim(draw, dims, st.integers(low, high)))


@st.composite
def conv(draw):
    dims, groups = draw(SMALL), draw(st.integers(1, 2))
    batch, inputs, outputs = draw(SMALL), draw(SMALL), draw(SMALL)
    kernel, stride, dilation = (per_dim(draw, dims, SMALL) for _ in range(3))
    padding = per_dim(draw, dims, st.integers(0, 2))
    transposed = draw(st.booleans())
    extra = ()
    if transposed:
        limits = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        extra = tuple(draw(st.integers(0, limit)) for limit in limits)
    least = max(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    sizes = per_dim(draw, dims, st.integers(least, least + 4))
    if transposed:  # padding takes away from the result here
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple(min(p, r // 2) for p, r in zip(padding, reach, strict=True))
    weight = noise(draw, outputs * groups, inputs, *kernel)
    bias = [noise(draw, outputs * groups)] if draw(st.booleans()) else []
    epilogue, count = draw(st.sampled_from([("x0", 0), ("add(relu(x0), mul(x1, x2))", 2)]))
    op = Conv(stride, padding, dilation, groups, transposed, extra, bool(bias), epilogue)
    tensors = [noise(draw, batch, inputs * groups, *sizes), weight, *bias]
    plain = Conv(stride, padding, dilation, groups, transposed, extra, bool(bias))
    shape = tuple(plain.reference(*tensors).shape)
    operands = [noise(draw, *broadcastable(draw, shape)) for _ in range(count)]
    return Case(op, (*tensors, *operands))


@st.composite
def batch_norm(draw):
    shape = image(draw, draw(st.integers(0, 3)), high=4)
    scale, shift = draw(st.booleans()), draw(st.booleans())
    mean, *vectors = (noise(draw, shape[1]) for _ in range(1 + scale + shift))
    var = noise(draw, shape[1]).abs() + 0.1
    return Case(BatchNorm(1e-3, scale, shift), (noise(draw, *shape), mean, var, *vectors))


@st.composite
def pool(draw):
    dims, kind = draw(SMALL), draw(st.sampled_from(["max", "avg"]))
    kernel, stride = per_dim(draw, dims, SMALL), per_dim(draw, dims, SMALL)
    dilation = per_dim(draw, dims, SMALL) if kind == "max" else (1,) * dims
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    shape = image(draw, dims, low=7, high=9)
    divisor = None
    if kind == "avg" and dims > 1:
        divisor = draw(st.sampled_from([None, 3, -2]))
    include, ceil = draw(st.booleans()), draw(st.booleans())
    op = Pool(kind, kernel, stride, padding, dilation, ceil, include, divisor)
    return Case(op, (noise(draw, *shape),))


@st.composite
def adaptive_pool(draw):
    dims = draw(SMALL)
    size = per_dim(draw, dims, st.integers(1, 6))
    op = AdaptivePool(draw(st.sampled_from(["max", "avg"])), size)
    return Case(op, (noise(draw, *image(draw, dims)),))


@st.composite
def group_norm(draw):
    shape = list(image(draw, draw(st.integers(0, 3)), high=4))
    groups = draw(SMALL)
    shape[1] *= groups
    scale, shift = draw(st.booleans()), draw(st.booleans())
    vectors = [noise(draw, shape[1]) for _ in range(scale + shift)]
    epilogue, count = draw(st.sampled_from([("x0", 0), ("add(silu(x0), x1)", 1)]))
    operands = [noise(draw, *broadcastable(draw, tuple(shape))) for _ in range(count)]
    op = GroupNorm(groups, 1e-3, scale, shift, epilogue)
    return Case(op, (noise(draw, *shape), *vectors, *operands))


@st.composite
def upsample(draw):
    dims, mode = draw(SMALL), draw(st.sampled_from(["nearest", "nearest-exact", "linear"]))
    shape = image(draw, dims)
    factors = per_dim(draw, dims, st.sampled_from([1.0, 0.5, 1.3, 2.0, 2.7]))
    size = tuple(max(1, int(n * f)) for n, f in zip(shape[2:], factors, strict=True))
    corners = mode == "linear" and draw(st.booleans())
    scales = factors if draw(st.booleans()) else ()
    return Case(Upsample(mode, size, corners, scales), (noise(draw, *shape),))


@st.composite
def pad(draw):
    shape, mode = draw(SHAPE), draw(st.sampled_from(MODES))
    limits = [{"reflect": n - 1, "circular": n}.get(mode, 3) for n in shape]
    before, after = (tuple(draw(st.integers(0, limit)) for limit in limits) for _ in range(2))
    if mode == "constant":
        before = tuple(-draw(st.integers(0, n)) if draw(st.booleans()) else 1 for n in shape)
    op = Pad(mode, before, after, draw(st.sampled_from([0.0, 2.5, -math.inf])))
    return Case(op, (noise(draw, *shape),))


CASES = {
    "adaptive_pool": adaptive_pool,
    "batch_norm": batch_norm,
    "conv": conv,
    "group_norm": group_norm,
    "pad": pad,
    "pool": pool,
    "upsample": upsample,
}
