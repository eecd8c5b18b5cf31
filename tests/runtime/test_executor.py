"""Programs: shapes that depend on data, symbols in attributes, mutation of inputs and buffers."""

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from tests.runtime.nets import NATIVE, agrees, check, compiled, mlp

pytestmark = pytest.mark.usefixtures("cached_kernels")

X = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
BATCH, TOKENS = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("tokens", min=1, max=64)


class Selected(nn.Module):
    """Applies the net to the rows whose first element is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.nonzero(x[:, 0] > 0)[:, 0]
        return self.net(x[rows])


@pytest.mark.system
def test_shapes_that_depend_on_data() -> None:
    model = Selected().eval()
    fast = compiled(model, X)
    for x in (X, X.abs(), torch.randn(9, 24)):
        agrees(fast, model, x)


def test_no_row_is_selected() -> None:
    model = Selected().eval()
    fast = compiled(model, X)
    assert fast(-X.abs()).shape == (0, 5)


class Positioned(nn.Module):
    """A slice of a table, as long as the input; a mask of that size; sizes in arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.table = nn.Parameter(torch.randn(64, 24), requires_grad=False)
        self.register_buffer("ids", torch.arange(64)[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        x = x + self.table[:tokens] * 2 + self.ids[:, :tokens, None]
        x = x * torch.ones(tokens, tokens).tril().sum(1)[None, :, None]
        return self.net(x.reshape(batch * tokens, width)).view(batch, tokens, 5) / tokens


def test_sizes_stay_symbolic() -> None:
    model = Positioned().eval()
    fast = compiled(model, torch.randn(2, 9, 24), dynamic_shapes=({0: BATCH, 1: TOKENS},))
    assert len(fast.pipeline.segments) >= 1
    for batch, tokens in ((2, 9), (1, 1), (3, 64), (5, 2)):
        agrees(fast, model, torch.randn(batch, tokens, 24))


class Counting(nn.Module):
    """Counts its calls in a buffer, and adds to its second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("total", torch.zeros(5))

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y = self.net(x)
        self.total.copy_(self.total + y.sum(0))
        state.add_(y)
        return y * self.calls


def test_buffers_and_inputs_are_written() -> None:
    model, twin = Counting().eval(), Counting().eval()
    fast = compiled(model, X, torch.zeros(9, 5))
    check(model.calls, torch.zeros(()))
    states = torch.zeros(9, 5), torch.zeros(9, 5)
    for _ in range(3):
        check(fast(X, states[0]), twin(X, states[1]))
        check(states[0], states[1])
        check(model.state_dict(), twin.state_dict())
    segments = fast.pipeline.segments
    fast(X, states[0])
    assert fast.pipeline.segments is segments, "its own writes do not compile again"
    model.calls.zero_()
    twin.load_state_dict(model.state_dict())
    check(fast(X, states[0]), twin(X, states[0].clone()))


class Constant(nn.Module):
    """Results that depend on no input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.weight.exp(), torch.arange(3), x


def test_results_that_depend_on_no_input() -> None:
    model = Constant().eval()
    fast = compiled(model, X)
    agrees(fast, model, X)
    with torch.no_grad():
        model.weight.add_(1)
    agrees(fast, model, X)


class Inplace(nn.Module):
    """In-place ops on its own values."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(x)
        y[:, 0] = 1
        z = y.clone()
        z.relu_().mul_(2)
        return y + z[:, :1]


def test_in_place_ops_inside() -> None:
    model = Inplace().eval()
    agrees(compiled(model, X), model, X)


def test_exported_program_and_file(tmp_path) -> None:
    model = mlp()
    program = torch.export.export(model, (X,))
    check(sc.compile(program, (X,), options=NATIVE)(X), model(X))
    torch.export.save(program, tmp_path / "model.pt2")
    check(sc.compile(tmp_path / "model.pt2", options=NATIVE)(X), model(X))
