"""A small model, inputs and targets for it, and what a criterion scores."""

import torch
from torch import nn

from sparse_compiler.pruning.layers import find_layers

SMALL = {"min_weights": 0}


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8))


def inputs(count=6, width=16):
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(width, width, generator=generator)
    return [torch.randn(10, width, generator=generator) @ mix for _ in range(count)]


def pairs(count=6):
    generator = torch.Generator().manual_seed(2)
    return [(x, torch.randn(10, 8, generator=generator)) for x in inputs(count)]


def scores(recipe, model, data):
    with torch.no_grad():
        return [m.score for m in recipe.measure(model, list(find_layers(model)), data)]
