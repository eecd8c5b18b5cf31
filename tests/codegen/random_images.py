"""Random graphs of images: convolutions of all kinds, pools, norms, concatenations, windows, and
operands of every shape that broadcasts, constant or computed. For tests of whole pipelines."""

from hypothesis import strategies as st

from sparse_compiler.errors import VerifyError
from sparse_compiler.ir.graph import Range
from sparse_compiler.ir.types import Dim, TensorType, as_dim, symbol
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.group_norm import GroupNorm
from sparse_compiler.ops.pad import Pad
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.pool import AdaptivePool, Pool
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.roll import Flip, Roll
from sparse_compiler.ops.shape import Permute, Reshape
from sparse_compiler.ops.upsample import Upsample
from tests.codegen.random_graphs import BINARY, RandomGraph, _Grower, _tensor

CHANNELS = (1, 2, 4, 6, 8)


class _ImageGrower(_Grower):
    """Steps on [B, C, H, W] values; what does not fit a shape is left out."""

    def image(self, x: str) -> tuple[Dim, int, int, int] | None:
        shape = self.shape(x)
        return shape if len(shape) == 4 and all(isinstance(d, int) for d in shape[1:]) else None

    def conv(self, x: str) -> str | None:
        found = self.image(x)
        if found is None:
            return None
        _, channels, *sizes = found
        groups = self.draw(
            st.sampled_from([g for g in (1, 1, 1, 2, channels) if channels % g == 0])
        )
        kernel = self.draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (1, 3), (2, 2)]))
        stride = self.draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 1)]))
        dilation = self.draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
        padding = tuple(self.draw(st.integers(0, k // 2)) for k in kernel)
        transposed = self.draw(st.integers(0, 5)) == 0
        if any(
            n + 2 * p <= d * (k - 1)
            for n, p, d, k in zip(sizes, padding, dilation, kernel, strict=True)
        ):
            return None
        each = self.draw(st.sampled_from([1, 2] if groups == channels else [1, 2, 3, 4]))
        weight = self.param(groups * each, channels // groups, *kernel, sparse=True)
        bias = [self.param(groups * each)] if self.draw(st.booleans()) else []
        extra = (0, 0) if transposed else ()
        op = Conv(stride, padding, dilation, groups, transposed, extra, bool(bias))
        return self.add(op, [x, weight, *bias], "conv")

    def pool(self, x: str) -> str | None:
        found = self.image(x)
        if found is None or min(found[2:]) < 2:
            return None
        kind = self.draw(st.sampled_from(["max", "avg"]))
        if self.draw(st.integers(0, 3)) == 0:
            size = tuple(self.draw(st.integers(1, 3)) for _ in range(2))
            return self.add(AdaptivePool(kind, size), [x], "adaptive")
        stride = self.draw(st.sampled_from([(1, 1), (2, 2)]))
        op = Pool(kind, (2, 2), stride, (self.draw(st.integers(0, 1)),) * 2, (1, 1))
        return self.add(op, [x], "pool")

    def upsample(self, x: str) -> str | None:
        found = self.image(x)
        if found is None or max(found[2:]) > 8:
            return None
        size = tuple(self.draw(st.integers(n, 2 * n)) for n in found[2:])
        mode = self.draw(st.sampled_from(["nearest", "linear"]))
        return self.add(Upsample(mode, size), [x], "upsample")

    def group_norm(self, x: str) -> str | None:
        found = self.image(x)
        if found is None:
            return None
        groups = self.draw(st.sampled_from([g for g in (1, 2, found[1]) if found[1] % g == 0]))
        vectors = [self.param(found[1]) for _ in range(2)] if self.draw(st.booleans()) else []
        return self.add(
            GroupNorm(groups, 1e-3, bool(vectors), bool(vectors)), [x, *vectors], "norm"
        )

    def cat(self, x: str) -> str | None:
        shape = self.shape(x)
        dim = self.draw(st.integers(1, len(shape) - 1))
        rest = shape[:dim] + shape[dim + 1 :]
        others = [
            n
            for n, t in self.builder.types.items()
            if len(t.shape) == len(shape) and t.shape[:dim] + t.shape[dim + 1 :] == rest
        ]
        pieces = [
            x,
            *(self.draw(st.sampled_from(others)) for _ in range(self.draw(st.integers(1, 2)))),
        ]
        if len(shape) > 3 and all(isinstance(d, int) for d in shape) and self.draw(st.booleans()):
            pieces.append(self.param(*shape))
        return self.add(Cat(dim), self.draw(st.permutations(pieces)), "cat")

    def squeeze(self, x: str) -> str | None:
        """A gate of one number per sample and channel, or per place."""
        shape = self.shape(x)
        dims = (
            tuple(
                sorted(self.draw(st.lists(st.integers(1, len(shape) - 1), min_size=1, unique=True)))
            )
            if len(shape) > 1
            else ()
        )
        if not dims:
            return None
        fn = self.draw(st.sampled_from(["mean", "amax", "sum"]))
        gate = self.add(Reduce(fn, dims, True), [x], "squeezed")
        gate = (
            self.add(Pointwise("sigmoid(x0)"), [gate], "gate") if self.draw(st.booleans()) else gate
        )
        op = Pointwise(self.draw(st.sampled_from(BINARY)))
        return self.add(op, self.draw(st.permutations([x, gate])), "gated")

    def constant(self, x: str) -> str | None:
        """An operand of any shape that broadcasts: leading dimensions dropped, others 1."""
        shape = self.shape(x)
        kept = shape[self.draw(st.integers(0, len(shape) - 1)) :]
        sizes = [d if isinstance(d, int) and self.draw(st.booleans()) else 1 for d in kept]
        op = Pointwise(self.draw(st.sampled_from(BINARY)))
        return self.add(op, self.draw(st.permutations([x, self.param(*sizes)])), "shifted")

    def broadcast(self, x: str) -> str | None:
        """Another value that broadcasts to this one, or to which this one does."""
        others = [n for n in self.builder.types if n not in self.params and n != x]
        if not others:
            return None
        other = self.draw(st.sampled_from(others))
        try:
            return self.add(Pointwise(self.draw(st.sampled_from(BINARY))), [x, other], "spread")
        except VerifyError:
            return None

    def windows(self, x: str) -> str | None:
        """[B, C, H, W] -> windows of 2 x 2 as samples, a step on them, and back; perhaps rolled."""
        found = self.image(x)
        if found is None or found[2] % 2 or found[3] % 2:
            return None
        b, c, h, w = found
        rolled = self.draw(st.booleans())
        if rolled:
            x = self.add(Roll((1, 1), (2, 3)), [x], "rolled")
        x = self.add(Reshape((b, c, h // 2, 2, w // 2, 2)), [x], "cut")
        x = self.add(Permute((0, 2, 4, 1, 3, 5)), [x], "turned")
        x = self.add(Reshape((as_dim(b * (h // 2) * (w // 2)), c, 2, 2)), [x], "windows")
        step = self.draw(st.sampled_from(["pointwise", "constant", "squeeze", "conv", "norm"]))
        y = getattr(self, step)(x)
        y = y if y is not None and self.shape(y) == self.shape(x) else x
        y = self.add(Reshape((b, h // 2, w // 2, c, 2, 2)), [y], "parts")
        y = self.add(Permute((0, 3, 1, 4, 2, 5)), [y], "back")
        return self.add(Reshape((b, c, h, w)), [y], "joined")

    def pad(self, x: str) -> str | None:
        shape = self.shape(x)
        before = tuple(0 if d < 2 else self.draw(st.integers(0, 1)) for d in range(len(shape)))
        mode = self.draw(st.sampled_from(["constant", "replicate", "circular"]))
        return self.add(Pad(mode, before, before), [x], "pad")

    def turn(self, x: str) -> str | None:
        dim = len(self.shape(x)) - 1
        op = Flip((dim,)) if self.draw(st.booleans()) else Roll((-1,), (dim,))
        return self.add(op, [x], "turned")

    def tokens(self, x: str) -> str | None:
        """[B, C, H, W] -> [B, H W, C], as a vision transformer's patches."""
        found = self.image(x)
        if found is None:
            return None
        b, c, h, w = found
        x = self.add(Reshape((b, c, h * w)), [x], "flat")
        return self.add(Permute((0, 2, 1)), [x], "tokens")


STEPS = (
    *("conv",) * 5,
    *("pool", "upsample", "group_norm", "cat", "cat", "squeeze", "squeeze"),
    *("constant", "constant", "broadcast", "broadcast", "windows", "pad", "turn"),
    *("tokens", "attention", "linear", "norm", "pointwise", "combine", "slice", "torch_step"),
)


@st.composite
def random_images(draw: st.DrawFn, steps: int = 10) -> RandomGraph:
    """Batch 1 to 5, static or symbolic, images of 1 to 20 places across; often a second input."""
    grower = _ImageGrower(draw)
    symbolic = draw(st.booleans())
    batches = [draw(st.integers(1, 5)) for _ in range(2 if symbolic else 1)]
    batch: Dim = symbol("B") if symbolic else batches[0]
    height, width = (draw(st.one_of(st.sampled_from([4, 8]), st.integers(1, 20))) for _ in range(2))
    shape = (batch, draw(st.sampled_from(CHANNELS)), height, width)
    grower.builder.input("x", TensorType("f32", shape))
    if draw(st.booleans()):
        other = tuple(d if draw(st.booleans()) else 1 for d in shape)
        grower.builder.input("side", TensorType("f32", (batch, *other[1:])))
    for _ in range(draw(st.integers(steps // 2, steps))):
        getattr(grower, draw(st.sampled_from(STEPS)))(grower.pick())
    outputs = list(dict.fromkeys([grower.pick() for _ in range(draw(st.integers(1, 3)))]))
    graph = grower.builder.build(outputs, (), {"B": Range(1, 64)} if symbolic else {})
    inputs = tuple(
        tuple(_tensor(v.type, {"B": b}, grower.generator) for v in graph.inputs) for b in batches
    )
    return RandomGraph(graph, grower.params, inputs, {"B": batches[0]} if symbolic else {})
