"""`torch.compile(model, backend="sparse_compiler")` end to end, with the real pipeline.

The backend is found by name, through its entry point. One model by default; all architectures at
all sparsities under `slow`.
"""

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import sparse_compiler as sc
from sparse_compiler.backend import last_reports
from tests.models import models
from tests.test_numbers import NATIVE_EVERYWHERE, SPARSITIES, agree

MODELS = models()
# Dynamo leaves a module that holds an nn.LSTM to eager, for every backend.
SEEN_BY_DYNAMO = NATIVE_EVERYWHERE - {"lstm"}

pytestmark = [
    pytest.mark.usefixtures("cached_kernels", "fresh_dynamo"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    last_reports.clear()
    yield
    torch._dynamo.reset()


def compiled(model: nn.Module, **kwargs: Any) -> Any:
    options = {"force_native": True}
    return torch.compile(model, backend="sparse_compiler", options=options, **kwargs)


def check(name: str, sparsity: float) -> None:
    model, args, kwargs = MODELS[name]()
    if sparsity:
        model = sc.sparsify(model, sc.Magnitude(sparsity, min_weights=64))
    fast = compiled(model)
    with torch.no_grad():
        expected = model(*args, **kwargs)
        agree(fast(*args, **kwargs), expected)
        agree(fast(*args, **kwargs), expected)
    if name in SEEN_BY_DYNAMO:
        assert any(report.segments for report in last_reports)


@pytest.mark.parametrize(
    ("name", "sparsity"), [("mlp", 0.9), pytest.param("bert", 0.5, marks=pytest.mark.system)]
)
def test_numbers(name: str, sparsity: float) -> None:
    check(name, sparsity)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", MODELS)
def test_all(name: str, sparsity: float) -> None:
    check(name, sparsity)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


def pruned_net() -> nn.Module:
    torch.manual_seed(0)
    return sc.sparsify(Net().eval(), sc.Magnitude(0.8, min_weights=1))


@pytest.mark.system
def test_batch_1_then_7_then_3_compiles_no_more_often_than_inductor() -> None:
    compiles = {}
    for backend in ("sparse_compiler", "inductor"):
        torch._dynamo.reset()
        model, counter = pruned_net(), torch._dynamo.testing.CompileCounterWithBackend(backend)
        fast = torch.compile(model, backend=counter, dynamic=True)
        with torch.no_grad():
            for batch in (1, 7, 3):
                x = torch.randn(batch, 16, 64)
                agree(fast(x), model(x))
        compiles[backend] = counter.frame_count
    assert compiles["sparse_compiler"] <= compiles["inductor"]


def test_changed_weights_are_seen_at_the_next_call() -> None:
    model = Net().eval()
    fast, x = compiled(model), torch.randn(5, 64)
    with torch.no_grad():
        agree(fast(x), model(x))
        model.up.weight.mul_(2)
        agree(fast(x), model(x))
        model.up.weight[::2] = 0
        agree(fast(x), model(x))
        model.down.weight = nn.Parameter(torch.randn(64, 128))
        agree(fast(x), model(x))
        model.load_state_dict({k: torch.randn_like(v) for k, v in model.state_dict().items()})
        agree(fast(x), model(x))


def test_the_ledger_of_a_graph_is_kept() -> None:
    model = pruned_net()
    with torch.no_grad():
        compiled(model)(torch.randn(5, 64))
    (report,) = (r.report for r in last_reports)
    assert [layer.name for layer in report.layers] == ["up", "down"]
    assert all(layer.native and layer.format == "csr" for layer in report.layers)
