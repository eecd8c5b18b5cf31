"""Each criterion against its formula, and with every pattern."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning import (
    CRITERIA,
    BatchNormScale,
    Magnitude,
    Movement,
    Random,
    SecondOrder,
    Taylor,
    Wanda,
    WoodFisher,
    sparsify,
)
from sparse_compiler.pruning.activations import samples
from sparse_compiler.pruning.criteria.second_order import damped, least_squares
from sparse_compiler.pruning.layers import find_layers
from tests.pruning.small import SMALL, inputs, mlp, pairs, scores

DATA_FREE = {"magnitude", "random"}
WITH_LOSS = {"taylor", "movement", "wood_fisher"}


def recipe_and_data(name, sparsity=0.5, pattern="unstructured", **settings):
    if name in WITH_LOSS:
        settings |= {"loss": F.mse_loss}
    data = None if name in DATA_FREE else pairs() if name in WITH_LOSS else inputs()
    return CRITERIA[name](sparsity, pattern, **SMALL, **settings), data


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2, bias=False),
        nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular", bias=False),
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, (1, 0), groups=2, dilation=(2, 1), bias=False),
        nn.ConvTranspose1d(4, 6, 2, stride=1, padding=1, bias=False),
        nn.Conv3d(4, 6, 2, bias=False),
        nn.Linear(9, 6, bias=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_the_product_of_its_samples_and_its_matrix(conv):
    dims = len(getattr(conv, "kernel_size", ()))
    x = torch.randn(2, 4, *([9] * dims)) if dims else torch.randn(2, 4, 9)
    windows = samples(conv, x)
    (layer,) = find_layers(conv)
    matrix = layer.view.matrix(conv.weight).unflatten(0, (windows.shape[0], -1))
    got = torch.einsum("gnk,grk->ngr", windows, matrix).flatten(1)
    want = conv(x).movedim(1, -1) if dims else conv(x)
    torch.testing.assert_close(got, want.reshape(-1, 6), rtol=1e-4, atol=1e-5)


def test_wanda_is_magnitude_times_the_inputs_norm_within_each_row():
    model, data = mlp(), inputs()
    x = torch.cat(data)
    first, second = scores(Wanda(0.5), model, data)
    torch.testing.assert_close(first, model[0].weight.abs() * x.square().mean(0).sqrt())
    hidden = model[1](model[0](x))
    torch.testing.assert_close(second, model[2].weight.abs() * hidden.square().mean(0).sqrt())
    masked = sparsify(model, Wanda(0.5, **SMALL), data)
    assert ((masked[0].weight == 0).sum(1) == 8).all()


def test_taylor_against_gradients_batch_by_batch():
    model, data = mlp(), pairs()
    want = torch.zeros_like(model[0].weight)
    for x, y in data:
        model.zero_grad()
        F.mse_loss(model(x), y).backward()
        want += (model[0].weight.grad * model[0].weight.detach()).square()
    model.zero_grad()
    got, _ = scores(Taylor(0.5, loss=F.mse_loss), model, data)
    torch.testing.assert_close(got, (want / len(data)).sqrt())
    assert all(p.grad is None for p in model.parameters())


def test_movement_sums_along_the_steps_and_leaves_the_weights():
    model, data, rate = mlp(), pairs(), 0.05
    before = [p.clone() for p in model.parameters()]
    got, _ = scores(Movement(0.5, loss=F.mse_loss, rate=rate), model, data)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    weights = [model[0].weight, model[2].weight]
    total = torch.zeros_like(weights[0])
    for x, y in data:
        gradients = torch.autograd.grad(F.mse_loss(model(x), y), weights)
        with torch.no_grad():
            total -= gradients[0] * weights[0]
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= rate * gradient
    torch.testing.assert_close(got - got.min(), total - total.min(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keep_share", [0.2, 0.6])
def test_least_squares_against_a_solver_row_by_row(keep_share):
    torch.manual_seed(0)
    x, w = torch.randn(50, 12).double(), torch.randn(7, 12).double()
    hessian = damped((x.T @ x / 50)[None], 0.01)[0]
    keep = torch.rand(7, 12) < keep_share
    keep[0], keep[1] = True, False
    got = least_squares(w, keep, hessian)
    root = torch.linalg.cholesky(hessian).T
    for row in range(2, 7):
        mask = keep[row]
        want = torch.linalg.lstsq(root[:, mask], root @ w[row]).solution
        torch.testing.assert_close(got[row, mask], want)
        assert torch.equal(got[row, ~mask], w[row, ~mask])
    assert torch.equal(got[:2], w[:2])


def test_second_order_scores_are_the_least_error_of_removing_one():
    model, data = nn.Linear(16, 5), inputs()
    (got,) = scores(SecondOrder(0.5), model, data)
    x = torch.cat(data).double()
    hessian = damped((x.T @ x / len(x))[None], 0.01)[0]
    weight = model.weight.detach().double()
    for column in (0, 7, 15):
        keep = torch.ones(5, 16, dtype=torch.bool)
        keep[:, column] = False
        change = torch.where(keep, least_squares(weight, keep, hessian), 0.0) - weight
        rise = (change @ hessian * change).sum(1)
        torch.testing.assert_close(got[:, column].double().square(), rise, rtol=1e-3, atol=1e-6)


def test_second_order_refits_layers_one_after_the_other():
    """The second layer is fitted to what comes through the first as pruned; Wanda has no refit."""
    model, data = mlp(), inputs(20)
    x = torch.cat(data)
    errors = {}
    for recipe in (SecondOrder(0.5, **SMALL), Wanda(0.5, **SMALL), Magnitude(0.5, **SMALL)):
        masked = sparsify(model, recipe, data if not isinstance(recipe, Magnitude) else None)
        errors[type(recipe).__name__] = (masked(x) - model(x)).square().mean().item()
    assert errors["SecondOrder"] < 0.5 * errors["Wanda"]
    assert errors["SecondOrder"] < 0.5 * errors["Magnitude"]


def test_query_key_and_value_share_one_pass_and_one_matrix():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.out(self.q(x) * self.k(x) + self.v(x))

    model, data = Three(), inputs()
    masked = sparsify(model, SecondOrder(0.5, **SMALL), data)
    assert masked.calls == 2 * len(data)  # q, k and v together, then out


def test_wood_fisher_against_the_whole_matrix():
    model, data = nn.Linear(6, 2, bias=False), [(x[:, :6], y[:, :2]) for x, y in pairs()]
    recipe = WoodFisher(0.5, loss=F.mse_loss, block=6, damping=0.1, **SMALL)
    (layer,) = find_layers(model)
    with torch.no_grad():
        (measure,) = recipe.measure(model, [layer], data)
    gradients = torch.stack(
        [torch.autograd.grad(F.mse_loss(model(x), y), [model.weight])[0] for x, y in data]
    )
    weight, mask = model.weight.detach(), torch.tensor([[1, 0, 1, 1, 0, 0]] * 2).bool()
    for row in range(2):
        g = gradients[:, row]
        fisher = g.T @ g / len(g) + 0.1 * gradients.square().mean() * torch.eye(6)
        inverse = torch.linalg.inv(fisher)
        torch.testing.assert_close(
            measure.score[row], weight[row].abs() / inverse.diagonal().sqrt(), rtol=1e-3, atol=1e-5
        )
        gone = ~mask[row]
        step = inverse[:, gone] @ torch.linalg.solve(inverse[gone][:, gone], weight[row, gone])
        want = torch.where(gone, weight[row], weight[row] - step)
        torch.testing.assert_close(measure.refit(mask)[row], want, rtol=1e-3, atol=1e-5)


def test_wood_fisher_blocks_with_ragged_ends():
    masked = sparsify(mlp(), WoodFisher(0.5, loss=F.mse_loss, block=7, **SMALL), pairs())
    assert (masked[0].weight == 0).sum() == 192


def norms():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([3, -0.1, 2, 0.2, -4, 1, 0.3, 5]))
        model[4].weight.copy_(torch.tensor([0.15, 6, 7, 8]))
    return model


def test_batch_norm_scale_drops_the_channels_with_the_smallest_scale():
    settings = {"keep_first_conv": False, **SMALL}
    data = [torch.randn(1, 3, 8, 8)]
    masked = sparsify(norms(), BatchNormScale(0.5, scope="global", **settings), data)
    assert (masked[0].weight == 0).all((1, 2, 3)).nonzero().flatten().tolist() == [1, 2, 3, 5, 6]
    assert (masked[3].weight == 0).all((1, 2, 3)).nonzero().flatten().tolist() == [0]
    model = norms()
    model[4] = nn.Identity()
    with pytest.raises(UnsupportedError, match=r"reads 1 layer\(s\): 3"):
        sparsify(model, BatchNormScale(0.5, **settings), data)


def test_random_follows_its_seed():
    first, again, other = (
        sparsify(mlp(), Random(0.5, seed=seed, **SMALL))[0].weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1", "channel"])
@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"batch_norm_scale"}))
def test_every_criterion_with_every_pattern(name, pattern):
    model = mlp()
    recipe, data = recipe_and_data(name, None if pattern == "2:4" else 0.5, pattern)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    masked = sparsify(model, recipe, data)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for layer in (masked[0], masked[2]):
        mask = layer.parametrizations.weight[0].mask
        assert int((~mask).sum()) == mask.numel() // 2
        assert (layer.weight[~mask] == 0).all()
    stored = masked[0].parametrizations.weight.original
    dropped = ~masked[0].parametrizations.weight[0].mask
    assert torch.equal(stored[dropped], before["0.weight"][dropped])  # under the mask, as it was
    assert torch.equal(stored, before["0.weight"]) == (not recipe.refits or pattern == "channel")


def test_inplace_refits_the_same_parameter():
    model = mlp()
    weight, values = model[0].weight, model[0].weight.detach().clone()
    assert sparsify(model, SecondOrder(0.5, **SMALL), inputs(), inplace=True) is model
    assert model[0].parametrizations.weight.original is weight
    assert not torch.equal(weight, values)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SecondOrder(0.5, damping=0.0), "damping 0.0 is not above 0"),
        (lambda: WoodFisher(0.5, block=0, damping=-1), "damping -1.*block 0"),
        (lambda: Movement(0.5, rate=0), "rate 0 is not above 0"),
        (lambda: Random({}), "no sparsity given"),
        (lambda: Random({"*": 1.5}), "'\\*': sparsity 1.5 is outside"),
        (lambda: Random({"*": 0.5}, "2:4"), "contradicts"),
        (lambda: Random({"*": 0.5}, scope="erk"), 'scope "erk" chooses'),
    ],
)
def test_recipes_refused_without_a_model(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make()
