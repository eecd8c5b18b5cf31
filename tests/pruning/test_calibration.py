"""Calibration data: which kinds a model is called with, what comes back, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning import (
    BatchNormScale,
    Movement,
    SecondOrder,
    Taylor,
    Wanda,
    WoodFisher,
    sparsify,
)
from tests.pruning.small import SMALL, inputs, mlp, pairs, scores


class Model(nn.Module):
    """Takes what it is called with in many ways; dropout and batch norm show the mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.fc = nn.Linear(16, 8)

    def forward(self, x, scale=1.0):
        return self.fc(self.drop(self.norm(x))) * scale


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x, 2.0],
        lambda x: {"x": x, "scale": 2.0},
    ],
    ids=["tensor", "tuple", "list", "dict"],
)
def test_kinds_of_inputs_give_the_same_and_modes_come_back(wrap):
    model = Model().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    want = scores(Wanda(0.5), model, inputs())
    got = scores(Wanda(0.5), model, (wrap(x) for x in inputs()))  # a generator
    assert torch.equal(want[0], got[0])
    assert model.training and model.drop.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_generator_serves_a_criterion_that_reads_data_often():
    recipe = SecondOrder(0.5, **SMALL)
    one, other = sparsify(mlp(), recipe, inputs()), sparsify(mlp(), recipe, iter(inputs()))
    assert torch.equal(one[2].weight, other[2].weight)


def test_a_model_may_give_its_loss_itself_and_be_frozen():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 8).requires_grad_(False)

        def forward(self, x, labels):
            return {"loss": F.mse_loss(self.fc(x), labels)}["loss"]

    model = Loss()
    sparsify(model, Taylor(0.5, **SMALL), pairs(), inplace=True)
    assert not any(p.requires_grad for p in model.parameters())
    assert (model.fc.weight == 0).sum() == 64


def test_attention_is_called_through_its_modules():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    recipe = Wanda(0.5, exclude="self_attn*", **SMALL)
    assert (sparsify(layer, recipe, [torch.randn(2, 5, 16)]).linear1.weight == 0).any()
    with pytest.raises(UnsupportedError, match="no calibration input reaches 1"):
        sparsify(layer, Wanda(0.5, **SMALL), [torch.randn(2, 5, 16)])


def poisoned(at):
    data = inputs()
    data[at][0, 3] = math.nan
    return data


@pytest.mark.parametrize(
    "recipe, data, message",
    [
        (Wanda(0.5, **SMALL), None, "Wanda needs calibration data"),
        (Wanda(0.5, **SMALL), [], "data of Wanda is empty"),
        (Wanda(0.5, **SMALL), iter(()), "data of Wanda is empty"),
        (SecondOrder(0.5, **SMALL), iter(()), "is empty"),
        (Wanda(0.5, **SMALL), torch.ones(2, 16), "data of Wanda is a Tensor"),
        (Wanda(0.5, **SMALL), {"x": 1}, "data of Wanda is a dict"),
        (Wanda(0.5, **SMALL), 3, "data of Wanda is a int"),
        (Wanda(0.5, **SMALL), [torch.ones(2, 15)], "fails on calibration input 0"),
        (Wanda(0.5, **SMALL), [*inputs(2), (1, 2, 3)], "fails on calibration input 2"),
        (Wanda(0.5, **SMALL), poisoned(4), "input 4 gives activations that are not finite"),
        (SecondOrder(0.5, **SMALL), poisoned(1), "input 1 gives activations"),
        (Taylor(0.5, **SMALL), None, "Taylor needs calibration data"),
        (Taylor(0.5, **SMALL), inputs(), "gives no scalar loss but a tensor of shape"),
        (Taylor(0.5, loss=F.mse_loss, **SMALL), inputs(), r"is no pair \(inputs, target\)"),
        (
            Taylor(0.5, loss=F.mse_loss, **SMALL),
            [(poisoned(0)[0], torch.zeros(10, 8))],
            "the loss of calibration input 0 is nan",
        ),
        (
            WoodFisher(0.5, loss=F.mse_loss, **SMALL),
            [(x, y * math.nan) for x, y in pairs()],
            "the loss of calibration input 0 is nan",
        ),
        (Movement(0.5, loss=lambda o, y: y.mean(), **SMALL), pairs(), "depends on no weight"),
        (BatchNormScale(0.5, **SMALL), None, "BatchNormScale needs calibration data"),
    ],
)
def test_bad_data_changes_nothing(recipe, data, message):
    model = mlp()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UnsupportedError, match=message):
        sparsify(model, recipe, data, inplace=True)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_gradient_of_nan_is_refused():
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.nan

    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 8)

        def forward(self, x):
            return Root.apply(self.fc(x))

    with pytest.raises(UnsupportedError, match="gradients that are not finite"):
        sparsify(Bad(), Taylor(0.5, loss=F.mse_loss, **SMALL), pairs())
