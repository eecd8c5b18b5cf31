"""The short way through a call skips no check, and sees every change of a weight."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sparse_compiler as sc
from sparse_compiler.errors import InputError
from tests.runtime.nets import NATIVE, agrees, check, compiled, mlp

pytestmark = pytest.mark.usefixtures("cached_kernels")

X = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))


class Named(nn.Module):
    """Tensors by position and by name, and a switch."""

    def __init__(self, give: Callable[..., object]) -> None:
        super().__init__()
        self.net, self.give = mlp(), give

    def forward(
        self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, twice: bool = False
    ) -> object:
        y = (self.net(x) + shift) * scale
        return self.give(2 * y if twice else y, y - 1)


@pytest.mark.system
@pytest.mark.parametrize(
    "give",
    [lambda y, z: y, lambda y, z: (y, z), lambda y, z: [z, y], lambda y, z: {"y": y, "z": (z,)}],
    ids=["one", "tuple", "list", "nested"],
)
def test_arguments_by_name_and_results_of_any_structure(give: Callable[..., object]) -> None:
    model = Named(give).eval().requires_grad_(False)
    shift, scale = torch.randn(5), torch.randn(5)
    fast = sc.compile(model, (X, shift), {"scale": scale, "twice": True}, options=NATIVE)
    agrees(fast, model, X, shift, scale=scale, twice=True)
    agrees(fast, model, X + 1, shift, twice=True, scale=scale + 1)
    with pytest.raises(InputError, match="is False\n  why: the model was compiled for True"):
        fast(X, shift, scale=scale, twice=False)
    with pytest.raises(InputError, match="another structure"):
        fast(X, shift, scale=scale, thrice=True)
    with pytest.raises(InputError, match="another structure"):
        fast(X, [shift], scale=scale, twice=True)
    with pytest.raises(InputError, match="is a str, no tensor"):
        fast(X, "shift", scale=scale, twice=True)


def test_results_held_are_never_overwritten() -> None:
    model = mlp()
    fast = compiled(model, X)
    inputs = [X + i for i in range(20)]
    results = [fast(x) for x in inputs]
    assert len({r.data_ptr() for r in results}) == len(results)
    for x, result in zip(inputs, results, strict=True):
        check(result, model(x))


def test_every_change_of_a_weight_is_seen() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(24, 8), nn.ReLU()), nn.Linear(8, 5)).eval()
    model.requires_grad_(False)
    fast = compiled(model, X)
    agrees(fast, model, X)
    changes: list[Callable[[], object]] = [
        lambda: model[1].weight.mul_(2),
        lambda: model[1].bias.zero_(),
        lambda: setattr(model[0][0], "weight", nn.Parameter(torch.randn(8, 24), False)),
        lambda: (
            model[0]._parameters.clear()
            or model[0][0]._parameters.update(bias=nn.Parameter(torch.randn(8), False))
        ),
        lambda: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
        lambda: setattr(
            model, "0", nn.Sequential(nn.Linear(24, 8), nn.ReLU()).requires_grad_(False)
        ),
    ]
    for change in changes:
        change()
        agrees(fast, model, X)


class Counts(nn.Module):
    """Writes a buffer in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.register_buffer("calls", torch.zeros(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.net(x) + self.calls


def test_a_buffer_written_by_the_model_is_no_change_from_outside() -> None:
    model, other = Counts().eval(), Counts().eval()
    fast = compiled(model, X)
    model.calls.zero_()
    before = fast.pipeline.executor
    for _ in range(3):
        check(fast(X), other(X))
    before = fast.pipeline.executor
    check(fast(X), other(X))
    assert fast.pipeline.executor is before
    for changed in (model, other):
        changed.net[0].weight.data = changed.net[0].weight + 1
        changed.net[0].weight.add_(1)
        changed.calls.add_(10)
    check(fast(X), other(X))
    check(model.calls, other.calls)


def test_gradients_run_the_model_itself() -> None:
    model = mlp()
    fast = compiled(model, X)
    assert fast(X.clone().requires_grad_()).requires_grad
    with torch.no_grad():
        assert not fast(X.clone().requires_grad_()).requires_grad
    assert not fast(X).requires_grad
    model[0].bias.requires_grad_()
    assert fast(X).requires_grad
    model.requires_grad_(False).train()
    agrees(fast, model, X)


def test_the_default_device_is_not_asked() -> None:
    """Whatever it is, results and what is bound to new shapes lie on the CPU."""
    model = mlp()
    fast = compiled(model, X, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    want = model(X)
    with torch.device("meta"):
        check(fast(X), want)


@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, torch.Tensor.to_mkldnn])
def test_inputs_that_no_pointer_reaches(make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    fast = compiled(mlp(), X)
    with pytest.raises(InputError, match="stored as torch"):
        fast(make(X))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer:FutureWarning")
def test_tensors_without_memory() -> None:
    fast = compiled(mlp(), X)
    with FakeTensorMode() as mode, pytest.raises(InputError, match="has no memory"):
        fast(mode.from_tensor(X))
    agrees(fast, mlp(), X)
