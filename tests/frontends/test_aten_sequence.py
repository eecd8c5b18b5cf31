"""ATen operators one by one: none is left to torch, and the graph gives torch's own numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree

from sparse_compiler.frontends.export import export_module
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.verify import verify
from sparse_compiler.ops.torch_call import TorchCall


class Call(torch.nn.Module):
    """A function as a module, with a parameter of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.table = torch.nn.Parameter(torch.linspace(-2, 3, 60).reshape(12, 5))

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args, *([self.table] if "table" in self._names() else []))

    def _names(self) -> tuple[str, ...]:
        return self.function.__code__.co_varnames[: self.function.__code__.co_argcount]


X = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1)) * 3
Y = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(2)) * 3
N = torch.arange(-12, 12).reshape(4, 6)
M = torch.tensor([[3, -2, 5, 1, 7, 2]]).expand(4, 6).contiguous()
IDS = torch.arange(24).reshape(4, 6) * 7 % 12
ROWS = torch.arange(24).reshape(4, 6, 1) * 5 % 6
BOOLS = X > 0

# name -> (function, inputs); the first dimension of every input is also tried as a symbol
ELEMENTWISE: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    **{
        f"compare_{op}": (
            lambda x, y, n, op=op: (getattr(torch, op)(x, y), getattr(torch, op)(n, 2)),
            (X, Y, N),
        )
        for op in ("eq", "ne", "lt", "le", "gt", "ge")
    },
    "compare mixed": (lambda x, n: n[:, :, None] < x, (X, N)),
    "compare 0.5": (lambda n: n > 0.5, (N,)),
    "compare bool": (lambda b: b == True, (BOOLS,)),  # noqa: E712
    "logic": (lambda x, b: (~b | (x > 1), b & (x < 2), b ^ (x > 0), b.logical_not()), (X, BOOLS)),
    "logic of numbers": (lambda x, n: torch.logical_and(x, n[:, :, None]), (X, N)),
    "bits": (lambda n, m: (n & m, n | m, n ^ 5, ~n, n << 2, n >> 1), (N, M)),
    "integers": (
        lambda n, m: (n + m, n - 3, 7 - n, n * m, -n, n.abs(), n // m, n % m, n.fmod(m), n**2),
        (N, M),
    ),
    "integer division": (lambda n, m: n / m, (N, M)),
    "division by mode": (
        lambda x, y: (
            torch.div(x, y, rounding_mode="floor"),
            torch.div(x, y, rounding_mode="trunc"),
        ),
        (X, Y),
    ),
    "add of integers and floats": (lambda x, n: x + n[:, :, None], (X, N)),
    "add of half and float": (lambda x, n: x.half() + x, (X, N)),
    "add of bools": (lambda x, b: x + b + True, (X, BOOLS)),
    "alpha": (lambda x, y: (torch.add(x, y, alpha=2), torch.sub(x, y, alpha=0.5)), (X, Y)),
    "rsub": (lambda x, n: (1.0 - x, torch.rsub(n, n, alpha=3), 1 - n), (X, N)),
    "where": (lambda x, y, b: (torch.where(b, x, y), torch.where(b, x, 0.0)), (X, Y, BOOLS)),
    "where of numbers": (
        lambda b: (torch.where(b, 1.5, -torch.inf), torch.where(b, 1, 0)),
        (BOOLS,),
    ),
    "where mixed": (lambda x, n: torch.where(x > 0, n[:, :, None], x), (X, N)),
    "masked_fill": (
        lambda x, b, n: (x.masked_fill(b, -1e9), n.masked_fill(n > 3, 0)),
        (X, BOOLS, N),
    ),
    "casts": (
        lambda x, n: (x.long(), n.float(), x.bool(), n.int(), x.double(), n.type_as(x), x.half()),
        (X, N),
    ),
    "nan_to_num": (lambda x: ((x / x.relu()).nan_to_num(), x.log().nan_to_num(1.5)), (X,)),
    "rounding": (lambda x: (x.floor(), x.ceil(), x.round(), x.trunc(), x.frac()), (X,)),
    "functions": (
        lambda x: (x.sin(), x.cos(), x.exp2(), x.expm1(), x.abs().log1p(), x.abs().log2()),
        (X,),
    ),
    "tests": (lambda x: (x.isnan(), x.isinf(), x.isfinite(), x.sign()), (X,)),
    "clamp": (
        lambda x, y, n: (x.clamp(-1, 1), x.clamp(min=0.5), x.clamp(max=y), n.clamp(-3, 4)),
        (X, Y, N),
    ),
    "clamp_min": (lambda x, y: (x.clamp_min(0.1), x.clamp_max(y)), (X, Y)),
    "extremes of two": (lambda x, y, n, m: (x.maximum(y), torch.min(n, m)), (X, Y, N, M)),
    "activations": (
        lambda x: (
            F.softplus(x, 2, 3),
            F.softplus(x),
            F.elu(x, 0.7),
            F.celu(x, 0.6),
            F.selu(x),
            F.glu(x, 1),
            F.logsigmoid(x),
            F.softsign(x),
            F.hardtanh(x),
        ),
        (X,),
    ),
    "shrinks": (
        lambda x: (F.hardshrink(x), F.softshrink(x, 0.3), F.threshold(x, 0.1, 20), F.tanhshrink(x)),
        (X,),
    ),
    "prelu": (lambda x, table: F.prelu(x.transpose(1, 2), table[0].abs()), (X,)),
    "addcmul": (lambda x, y: (torch.addcmul(x, x, y, value=0.5), torch.addcdiv(x, y, y)), (X, Y)),
    "lerp": (lambda x, y: (torch.lerp(x, y, 0.3), x.square(), x.lerp(y, y)), (X, Y)),
    "pow": (lambda x, y: (x.abs() ** y, x**2, 2.0**x, x.abs() ** 0.5), (X, Y)),
    "sizes": (lambda x: x * x.shape[0] + torch.full((), x.shape[0]), (X,)),
}

SHAPES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "expand": (lambda x: x[:, :1].expand(-1, 3, 5) + x[:, :1].expand_as(x).sum(), (X,)),
    "repeat": (lambda x: (x.repeat(1, 2, 1), x.repeat(2, 1, 1, 3), x.tile(2)), (X,)),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, 1), (X,)),
    "cat": (lambda x, y: (torch.cat([x, y], 1), torch.cat([x, y, x], -1)), (X, Y)),
    "cat of batches": (lambda x, y: torch.cat([x, y, y]), (X, Y)),
    "cat with a token": (
        lambda x, table: torch.cat([table[:1].expand(x.shape[0], 1, 5), x], 1),
        (X,),
    ),
    "stack": (lambda x, y: (torch.stack([x, y]), torch.stack([x, y], -1)), (X, Y)),
    "split": (
        lambda x: (x.split(2, 1), x.chunk(3, 1), x.split([1, 4], 2), x.tensor_split(4, 2)),
        (X,),
    ),
    "unbind": (lambda x: x.unbind(1), (X,)),
    "select": (lambda x: (x[:, 2], x[:, -1], x.select(2, 1)), (X,)),
    "slices": (
        lambda x: (x[:, 1:4], x[:, ::2], x[:, 1:-1:3], x[..., -2:], x.narrow(1, 2, 3)),
        (X,),
    ),
    "slices of batches": (lambda x: (x[1:], x[:-1], x[:2], x[-2:], x[-1]), (X,)),
    "steps in a batch": (lambda x: (x[::2], x[1::2]), (X,)),
    "roll": (lambda x: (x.roll(2, 1), x.roll((1, -2), (1, 2)), x.roll(3)), (X,)),
    "flip": (lambda x: x.flip(1, 2), (X,)),
    "movedim": (lambda x: (x.movedim(1, -1), x.movedim((1, 2), (2, 1)), x.swapaxes(1, 2)), (X,)),
    "triangles": (lambda x: (x.tril(), x.triu(1), (x > 0).tril(-1)), (X,)),
    "iota": (
        lambda x: x.sum() + torch.arange(x.shape[0]) + torch.arange(0, x.shape[0] * 2, 2),
        (X,),
    ),
    "iota of floats": (lambda x: x + torch.arange(0, 2.5, 0.5), (X,)),
    "linear mask": (
        lambda x: torch.arange(x.shape[0])[:, None] <= torch.arange(x.shape[0] + 2)[None],
        (X,),
    ),
    "constants": (
        lambda x, n: (
            torch.zeros_like(x),
            torch.ones_like(n, dtype=torch.bool),
            torch.full_like(x, 3),
            x.new_ones(2, 3),
            x.new_zeros(x.shape[0], 2),
            torch.full((x.shape[0], 2), -1.5),
            torch.tensor(2.5) * x,
        ),
        (X, N),
    ),
}

REDUCTIONS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "sum": (
        lambda x, n, b: (x.sum(1), x.sum((1, 2), keepdim=True), n.sum(1), b.sum(-1)),
        (X, N, BOOLS),
    ),
    "sum of all": (lambda x, n: (x.sum(), n.sum(), x.mean()), (X, N)),
    "sum to a dtype": (
        lambda n, b: (n.sum(1, dtype=torch.float32), b.sum((1, 2)).float()),
        (N, BOOLS),
    ),
    "mean": (lambda x, n: (x.mean(-1), x.mean((1, 2), True), n.float().mean(1)), (X, N)),
    "extremes": (
        lambda x, n: (x.amax(1), x.amin((1, 2)), x.max(), n.min(), n.amax(-1, True)),
        (X, N),
    ),
    "extremes with places": (lambda x: (*x.max(1), *x.min(2, keepdim=True)), (X,)),
    "places": (lambda x: (x.argmax(1), x.argmin(-1, keepdim=True)), (X,)),
    "any and all": (lambda b, n: (b.any(1), b.all(2), b.any(), n.all(1)), (BOOLS, N)),
    "prod": (lambda x: (x.prod(1), x.prod(2, keepdim=True)), (X,)),
    "var": (
        lambda x: (x.var(1), x.var((1, 2), correction=0), x.std(-1, keepdim=True), x.std(1, False)),
        (X,),
    ),
    "var and mean": (lambda x: torch.var_mean(x, 1), (X,)),
    "norm": (
        lambda x: (
            torch.linalg.vector_norm(x, dim=-1),
            x.norm(dim=1),
            F.normalize(x),
            x.norm(1, 2),
        ),
        (X,),
    ),
    "logsumexp": (lambda x: (x.logsumexp(1), x.logsumexp((1, 2), keepdim=True)), (X,)),
    "softmax": (
        lambda x: (x.softmax(1), x.log_softmax(-1), x.half().softmax(1, torch.float32)),
        (X,),
    ),
    "cumsum": (lambda x, n, b: (x.cumsum(1), n.cumsum(-1), b.cumsum(1)), (X, N, BOOLS)),
    "diff": (lambda n: (n.diff(), n.diff(dim=1, prepend=n[:, :1])), (N,)),
}

LOOKUPS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "embedding": (lambda i, table: (F.embedding(i, table), F.embedding(i, table, 0)), (IDS,)),
    "index": (lambda x, r: (x[:, r[0, :, 0]], x[:, :, r[0, :3, 0] - 5]), (X, ROWS)),
    "index by two": (lambda x, r: x[:, r[0, :, 0][:, None], torch.tensor([0, 4])], (X, ROWS)),
    "index with a gap": (lambda x, r: x[torch.tensor([0, 1]), :, torch.tensor([2, 3])], (X, ROWS)),
    "index of a batch": (lambda x, i: x[torch.arange(x.shape[0]), i[:, 0] % 6], (X, IDS)),
    "index_select": (lambda x: x.index_select(1, torch.tensor([5, 0, 0])), (X,)),
    "gather": (lambda x, r: (x.gather(1, r), x.gather(1, r.expand(-1, -1, 5))), (X, ROWS)),
    "outer": (lambda x, y: torch.outer(x[0, 0], y[0, 1]), (X, Y)),
    "take_along_dim": (lambda x, r: x.take_along_dim(r, 1), (X, ROWS)),
    "one_hot": (lambda i: F.one_hot(i, 12), (IDS,)),
    "matmul": (lambda x, y: (x @ y.transpose(1, 2), torch.bmm(x, y.mT), x[:, 0] @ y[0, 0]), (X, Y)),
    "broadcast matmul": (lambda x, y: x[:, None] @ y.mT, (X, Y)),
    "einsum": (
        lambda x, y: (
            torch.einsum("bik,bjk->bij", x, y),
            torch.einsum("bik,bjk->jbi", x, y),
            torch.einsum("bik,bik->bi", x, y),
        ),
        (X, Y),
    ),
    "addmm": (
        lambda x, y: (
            torch.baddbmm(x[:, :, :1], x, y.mT),
            torch.baddbmm(x[:, :, :1], x, y.mT, alpha=0.5, beta=2),
            torch.addmm(x[0], x[1], y[0, :5]),
        ),
        (X, Y),
    ),
    "products of vectors": (lambda x, y: (x[0] @ y[0, 0], x[0, 0].dot(y[0, 0])), (X, Y)),
}

EVERYTHING = ELEMENTWISE | SHAPES | REDUCTIONS | LOOKUPS
SPECIALIZED = {"take_along_dim"}  # torch's own tracing fixes the batch


def check(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...], dynamic: bool) -> None:
    model = Call(function).eval()
    batch = torch.export.Dim("batch", min=4, max=64)
    shapes = (tuple({0: batch} for _ in inputs),) if dynamic else None
    exported = export_module(model, inputs, dynamic_shapes=shapes)
    graph = exported.imported.graph
    verify(graph)
    assert str(parse_graph(str(graph))) == str(graph)
    assert [n.op.target for n in graph.nodes if isinstance(n.op, TorchCall)] == []
    sizes = (4, 5, 7) if dynamic else (4,)
    for size in sizes:
        given = tuple(torch.cat([t, t])[:size].clone() for t in inputs)
        with torch.no_grad():
            expected = pytree.tree_leaves(model(*given))
        found = interpret(graph, exported.call.flatten(given, {}), exported.imported.params)
        leaves = pytree.tree_leaves(exported.call.unflatten(found, given))
        for a, b in zip(leaves, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", sorted(EVERYTHING.keys() - SPECIALIZED))
def test_nothing_is_left_to_torch(name: str) -> None:
    check(*EVERYTHING[name], dynamic=True)


@pytest.mark.parametrize(
    "name",
    [
        name if name in SPECIALIZED else pytest.param(name, marks=pytest.mark.slow)
        for name in EVERYTHING
    ],
)
def test_with_a_fixed_batch(name: str) -> None:
    check(*EVERYTHING[name], dynamic=False)


REFUSED: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...], str]] = {
    "index by truth": (lambda x: x[x > 0], (X,), "aten.index.Tensor"),
    "a product of complex numbers": (
        lambda x: torch.view_as_complex(x.reshape(4, 3, 5, 2)) * 2,
        (X,),
        "aten.mul.Tensor",
    ),
    "a trace": (lambda x: torch.einsum("bii->b", x[:, :5]), (X,), "aten.einsum.default"),
    "random numbers": (lambda x: torch.rand_like(x), (X,), "aten.rand_like.default"),
    "a large integer": (lambda n: n + (2**60 + 1), (N,), "aten.add.Tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_op_stays_with_torch(name: str) -> None:
    function, inputs, target = REFUSED[name]
    graph = export_module(Call(function).eval(), inputs).imported.graph
    assert target in [n.op.target for n in graph.nodes if isinstance(n.op, TorchCall)]


def test_positions_of_a_symbolic_length_are_known_when_shapes_are() -> None:
    def function(x: torch.Tensor) -> Any:
        places = torch.arange(x.shape[0])
        return x + places[:, None, None], places[:, None] >= places[None]

    shapes = (({0: torch.export.Dim("batch", min=2)},),)
    graph = export_module(Call(function), (X,), dynamic_shapes=shapes).imported.graph
    assert graph.outputs[1] in graph.bind_time - graph.weight_time
    assert graph.outputs[0] not in graph.bind_time
    fixed = export_module(Call(function), (X,)).imported.graph
    assert fixed.outputs[1] in fixed.weight_time


def test_a_slice_that_depends_on_a_size_is_not_weight_time() -> None:
    """Its type has no symbol, but its place has one."""

    def function(x: torch.Tensor, table: torch.Tensor) -> Any:
        return x + table[x.shape[0] : x.shape[0] + 1]

    shapes = (({0: torch.export.Dim("batch", min=2, max=8)},),)
    exported = export_module(Call(function), (X,), dynamic_shapes=shapes)
    graph = exported.imported.graph
    cut = next(n for n in graph.nodes if n.op.name == "slice")
    assert cut.name not in graph.weight_time
    assert cut.name in graph.bind_time
    found = interpret(graph, (X[:3],), exported.imported.params)
    assert torch.equal(found[0], X[:3] + exported.imported.params["table"][3:4])
