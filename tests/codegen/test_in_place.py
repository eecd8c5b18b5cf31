"""A linear adds onto its residual where that lies, if nothing reads the residual afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparse_compiler as sc
from sparse_compiler.codegen.operands import Functor, Written
from sparse_compiler.codegen.program import Call


class Net(nn.Module):
    """Layers a, b, c and a function of them and of one input."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor], kernel: int | None = None) -> None:
        super().__init__()
        self.run = run

        def layer() -> nn.Module:
            if kernel is None:
                return nn.Linear(24, 24)
            return nn.Conv2d(24, 24, kernel, padding=kernel // 2)

        self.a, self.b, self.c = layer(), layer(), layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def blocks(net: Net, x: Tensor) -> Tensor:
    x = torch.tanh(x)
    x = torch.relu(x + net.b(torch.relu(net.a(x))))
    return torch.exp(net.c(torch.relu(net.a(x))) + x)


def read_later(net: Net, x: Tensor) -> Tensor:
    x = torch.tanh(x)
    return net.c(net.b(torch.relu(net.a(x))) + x) * x


def of_itself(net: Net, x: Tensor) -> Tensor:
    x = torch.tanh(x)
    return torch.exp(net.a(x) + x)


def times(net: Net, x: Tensor) -> Tensor:
    x = torch.tanh(x)
    return torch.exp(net.b(torch.relu(net.a(x))) * x)


def read_twice(net: Net, x: Tensor) -> Tensor:
    x = torch.tanh(x)
    return torch.exp(net.b(torch.relu(net.a(x))) + x) * torch.sigmoid(x)


def one_of_two(net: Net, x: Tensor) -> Tensor:
    x = torch.tanh(x)
    y = torch.relu(net.a(x))
    return torch.exp(net.c(torch.relu(net.b(y))) + x + y)


def compiled(net: Net, x: Tensor, **options: object) -> sc.CompiledModel:
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.data *= torch.rand_like(parameter) < 0.4
    net.eval().requires_grad_(False)
    return sc.compile(net, (x,), options={"force_native": True, **options})


def products(model: sc.CompiledModel) -> list[Call]:
    (segment,) = model.pipeline.lowered.program.segments
    return [c for c in segment.calls if c.kernel.startswith(("linear", "conv"))]


def onto(call: Call) -> bool:
    """Whether the call's sums begin with what lies where it writes; then it reads that there."""
    (functor,) = (a for a in call.args if isinstance(a, Functor))
    (to,) = (a.planes for a in call.args if isinstance(a, Written))
    if functor.onto is None:
        assert all(getattr(o, "planes", None) != to for o in functor.operands)
        return False
    assert getattr(functor.operands[functor.onto - 1], "planes", None) == to
    return True


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (blocks, [False, True, False, True]),
        (read_later, [False, False, False]),
        (of_itself, [False]),  # the product reads all of what it would overwrite
        (times, [False, False]),
        (read_twice, [False, False]),
        (one_of_two, [False, False, True]),
    ],
)
@pytest.mark.parametrize("kernel", [None, 1])
def test_where_a_product_adds_onto_its_residual(
    run: Callable[[Net, Tensor], Tensor], expected: list[bool], kernel: int | None
) -> None:
    x = torch.randn(1, 40, 24) if kernel is None else torch.randn(1, 24, 7, 7)
    net = Net(run, kernel)
    model = compiled(net, x)
    assert [onto(call) for call in products(model)] == expected
    for _ in range(2):  # nothing of the first call is left
        torch.testing.assert_close(model(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_residual_stays_in_one_place_through_all_blocks() -> None:
    model = compiled(Net(blocks), torch.randn(1, 40, 24))
    written = [a.planes.buffer for c in products(model) for a in c.args if isinstance(a, Written)]
    assert written[1] == written[3] != written[0]


def test_windows_that_overlap_do_not_write_over_what_they_add() -> None:
    x = torch.randn(1, 24, 7, 7)
    net = Net(blocks, 3)
    model = compiled(net, x)
    assert not any(onto(call) for call in products(model))
    torch.testing.assert_close(model(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fmt", "samples", "tokens"),
    [("csr", 1, 197), ("block_4x1", 1, 40), ("csr", 5, 33), ("csr", 1, 3), ("dense", 1, 197)],
)
def test_every_way_to_share(fmt: str, samples: int, tokens: int) -> None:
    """A rest behind each thread's own tokens, one thread for a sample, few columns."""
    x = torch.randn(samples, tokens, 24)
    net = Net(blocks)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = compiled(net, x, format=fmt)
        assert [onto(call) for call in products(model)] == [False, True, False, True]
        for _ in range(2):
            torch.testing.assert_close(model(x), net(x), rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(threads)
