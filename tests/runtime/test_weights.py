"""Weights that change after compiling: the next call is right, whatever was done to them."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sparse_compiler.errors import InputError
from tests.runtime.nets import agrees, check, compiled, mlp

pytestmark = pytest.mark.usefixtures("cached_kernels")

X = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))


def density(fast) -> float:
    return fast.pipeline.lowered.context.facts["0.weight"].density


def test_multiplied_in_place() -> None:
    model = mlp()
    fast = compiled(model, X)
    assert len(fast.pipeline.segments) == 1
    agrees(fast, model, X)
    with torch.no_grad():
        model[0].weight.mul_(3)
        model[2].bias.add_(1)
    agrees(fast, model, X)


def test_zeros_that_move_give_a_new_pattern() -> None:
    model = mlp()
    fast = compiled(model, X)
    before = density(fast)
    with torch.no_grad():
        model[0].weight[:20] = 0
    agrees(fast, model, X)
    assert density(fast) < before
    with torch.no_grad():
        model[0].weight.normal_()
    agrees(fast, model, X)
    assert density(fast) == 1
    with torch.no_grad():
        model[0].weight.zero_()
    agrees(fast, model, X)
    assert density(fast) == 0


def test_replaced_parameter() -> None:
    model = mlp()
    fast = compiled(model, X)
    model[0].weight = nn.Parameter(torch.randn(33, 24), requires_grad=False)
    agrees(fast, model, X)
    with torch.no_grad():
        model[0].weight.mul_(2)  # the new one is watched too
    agrees(fast, model, X)


def test_replaced_submodule() -> None:
    model = mlp()
    fast = compiled(model, X)
    old = model[0]
    model[0] = nn.Linear(24, 33).requires_grad_(False)
    agrees(fast, model, X)
    with torch.no_grad():
        model[0].bias.add_(1)
    agrees(fast, model, X)
    model[0] = old
    agrees(fast, model, X)


@pytest.mark.parametrize("width", [1, 5, 40])
def test_replaced_by_another_shape(width: int) -> None:
    model = mlp()
    fast = compiled(model, X)
    old = model[2]
    model[2] = nn.Linear(33, width).requires_grad_(False)
    if width == 5:
        agrees(fast, model, X)
        return
    for _ in range(2):
        with pytest.raises(InputError, match=rf"2.weight is now torch.float32 \[{width}, 33\]"):
            fast(X)
    model[2] = old
    agrees(fast, model, X)


def test_load_state_dict() -> None:
    model = mlp()
    fast = compiled(model, X)
    model.load_state_dict(mlp(seed=5).state_dict())
    agrees(fast, model, X)
    model.load_state_dict(mlp(seed=6).state_dict(), assign=True)
    agrees(fast, model, X)


def test_data_write_needs_refit() -> None:
    """Documented: a write through `.data` bypasses torch's version counter."""
    model = mlp()
    fast = compiled(model, X)
    old = fast(X)
    model[0].weight.data.mul_(2)
    check(fast(X), old)
    fast.refit()
    agrees(fast, model, X)


def test_refit_with_a_state_dict() -> None:
    model = mlp()
    fast = compiled(model, X)
    other = mlp(seed=3)
    fast.refit(other.state_dict())
    check(fast(X), other(X))
    check(model(X), other(X))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("0.wait", torch.zeros(1), "0.wait"),
        ("2.weight", torch.zeros(5, 34), r"\(5, 34\)\n  why: here: \(5, 33\)"),
        ("0.bias", [0.0] * 33, "list"),
    ],
)
def test_refit_refuses_and_changes_nothing(name: str, value: object, said: str) -> None:
    model = mlp()
    fast = compiled(model, X)
    before = fast(X)
    with pytest.raises(InputError, match=said):
        fast.refit({"0.bias": torch.full((33,), 7.0), name: value})
    check(fast(X), before)
    check(model(X), before)


def test_parameters_made_in_inference_mode() -> None:
    """They have no version counter, so changes cannot be seen: torch runs them, and it is said."""
    with torch.inference_mode():
        model = mlp()
    fast = compiled(model, X)
    assert not fast.pipeline.segments
    assert "untracked_weights" in {
        reason.code
        for reasons in fast.pipeline.lowered.context.refusals.values()
        for reason in reasons
    }
    agrees(fast, model, X)
    with torch.inference_mode():
        model[0].weight.mul_(2)
    agrees(fast, model, X)


class Tied(nn.Module):
    """One Parameter under two names, and one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 24), nn.Linear(24, 24)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(self.first(x))))


def test_tied_weights_and_layers_used_twice() -> None:
    model = Tied().eval().requires_grad_(False)
    fast = compiled(model, X)
    agrees(fast, model, X)
    with torch.no_grad():
        model.second.weight.mul_(0.5)
    agrees(fast, model, X)
    model.first.weight = nn.Parameter(torch.randn(24, 24) / 5, requires_grad=False)
    for _ in range(2):  # only one name is replaced: they are tied no more
        with pytest.raises(InputError, match=r"second\.weight and first\.weight are two now"):
            fast(X)
    model.second.weight = model.first.weight
    agrees(fast, model, X)


def test_buffers_and_masks_change_too() -> None:
    model = mlp()
    mask = torch.ones(33, 24)
    prune.custom_from_mask(model[0], "weight", mask)
    model.requires_grad_(False)(X)
    fast = compiled(model, X)
    agrees(fast, model, X)
    with torch.no_grad():
        model[0].weight_mask[::2] = 0
    agrees(fast, model, X)


def test_training_and_gradients_run_the_model_itself(caplog: pytest.LogCaptureFixture) -> None:
    model = mlp().requires_grad_(True)
    with torch.no_grad():
        fast = compiled(model, X)
    with caplog.at_level(logging.WARNING, "sparse_compiler"):
        fast(X).sum().backward()
        fast(X)
    ours = [
        r
        for r in caplog.records
        if r.name.startswith("sparse_compiler") and r.levelname == "WARNING"
    ]
    assert len(ours) == 1, "it warns once"
    assert "torch.no_grad()" in caplog.text
    expected = copy.deepcopy(model)
    expected.zero_grad()
    expected(X).sum().backward()
    check(model[0].weight.grad, expected[0].weight.grad)
    agrees(fast, model, X)  # without gradients: natively again


def test_dropout_acts_while_training() -> None:
    model = nn.Sequential(nn.Linear(24, 33), nn.Dropout(0.5), nn.Linear(33, 5))
    model.eval().requires_grad_(False)
    fast = compiled(model, X)
    check(fast(X), fast(X))
    model.train()
    assert not torch.equal(fast(X), fast(X))
    model.eval()
    check(fast(X), fast(X))


def test_gradients_for_inputs() -> None:
    model = mlp()
    fast = compiled(model, X)
    x = X.clone().requires_grad_()
    fast(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
