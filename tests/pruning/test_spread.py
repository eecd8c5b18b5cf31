"""Scopes, sparsities per layer, recipes as YAML, masks from elsewhere."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning import (
    CRITERIA,
    Magnitude,
    Taylor,
    Wanda,
    insert_masks,
    load_recipe,
    sparsify,
)
from sparse_compiler.pruning.recipe_file import LOSSES
from sparse_compiler.pruning.scopes import by_row, erdos_renyi_kernel


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.Linear(64, 64))


def zeros(module):
    return int((module.weight == 0).sum())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400), st.integers(1, 5)), min_size=1),
    st.floats(0.0, 0.99),
)
def test_erk_meets_the_sparsity_and_favours_small_layers(shapes, sparsity):
    shares = erdos_renyi_kernel(shapes, sparsity)
    sizes = [math.prod(shape) for shape in shapes]
    dropped = sum(share * size for share, size in zip(shares, sizes, strict=True))
    assert dropped == pytest.approx(sparsity * sum(sizes), rel=1e-6, abs=1e-6)
    assert all(0 <= share < 1 for share in shares)
    densities = [
        (sum(shape) / size, 1 - share)
        for shape, size, share in zip(shapes, sizes, shares, strict=True)
    ]
    densities.sort()
    for (_, low), (_, high) in itertools.pairwise(densities):
        assert low <= high + 1e-9


def test_erk_by_hand():
    # raw densities (64 + 16) / 1024 and (16 + 4) / 64; ε = 1.1 gives half of all weights
    first, second = erdos_renyi_kernel([(64, 16), (16, 4)], 1 - 110 / 1088)
    assert (first, second) == (pytest.approx(1 - 1.1 * 80 / 1024), pytest.approx(1 - 1.1 * 20 / 64))


def test_scope_erk_on_a_model():
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 32))
    masked = sparsify(model, Magnitude(0.8, scope="erk"))
    shares = [zeros(layer) / layer.weight.numel() for layer in masked]
    assert shares[0] > 0.8 > shares[1]
    total = sum(layer.weight.numel() for layer in masked)
    assert sum(map(zeros, masked)) == pytest.approx(0.8 * total, abs=2)


def test_by_row_drops_as_many_of_each_row():
    scores = torch.rand(5, 8)
    (mask,) = by_row([scores], [0.5])
    assert (mask.sum(1) == 4).all()
    for row, keep in zip(scores, mask, strict=True):
        assert row[keep].min() > row[~keep].max()
    (channels,) = by_row([torch.rand(6)], [0.5])
    assert channels.sum() == 3


def test_a_sparsity_for_each_layer_by_the_first_glob_that_matches():
    recipe = Magnitude({"2": 0.25, "[02]": 0.75})
    masked = sparsify(mlp(), recipe)
    assert (zeros(masked[0]), zeros(masked[2])) == (4608, 1536)
    assert not parametrize.is_parametrized(masked[3])  # matched by none
    assert recipe == Magnitude({"2": 0.25, "[02]": 0.75}) and hash(recipe)
    assert sparsify(mlp(), Magnitude({"*": 0.5}, scope="global"))[0].weight.count_nonzero() < 6144
    with pytest.raises(UnsupportedError, match="sparsity='fc1' matches no"):
        sparsify(mlp(), Magnitude({"fc1": 0.5}))


@pytest.mark.parametrize("name", list(CRITERIA))
def test_every_criterion_comes_out_of_yaml(name):
    recipe = load_recipe(f"criterion: {name}\nsparsity: 0.5\nexclude: [head]\n")
    assert recipe == CRITERIA[name](0.5, exclude="head")


def test_yaml_from_a_file_with_all_kinds_of_fields(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "# comment\ncriterion: taylor\nsparsity: {'0': 0.9, '*': 0.5}\nloss: mse\n"
        "min_weights: 100\nkeep_first_conv: false\ninclude: ['0', '2']\n"
    )
    want = Taylor(
        {"0": 0.9, "*": 0.5},
        loss=LOSSES["mse"],
        min_weights=100,
        keep_first_conv=False,
        include=("0", "2"),
    )
    assert load_recipe(path) == load_recipe(str(path)) == want
    masked = sparsify(mlp(), "criterion: magnitude\nsparsity: 0.5")
    assert zeros(masked[0]) == 3072


@pytest.mark.parametrize(
    "text, message",
    [
        ("criterion: wnda\nsparsity: 0.7", "line 1: no criterion is named 'wnda'.*\n.*wanda"),
        ("sparsity: 0.7\n", "no criterion\n"),
        ("criterion: wanda\nsparsty: 0.7", "line 2: no field is named 'sparsty'.*\n.*sparsity"),
        ("criterion: wanda\n\nmin_weights: x", "line 3: min_weights is 'x'.*\n.*a whole number"),
        ("criterion: wanda\nsparsity: true", "line 2: sparsity is True"),
        ("criterion: taylor\nsparsity: 1\nloss: mee", "line 3: loss is 'mee'"),
        ("criterion: wanda\nsparsity: 1.5", "sparsity 1.5 is outside"),
        ("criterion: wanda\nsparsity: 0.5\nscope: rows", 'unknown scope .rows.\n.*"row"'),
        ("a\n", "line 1: a recipe is a mapping"),
        ("\n", "a recipe is a mapping"),
        ("criterion: [\n", "line 2: this is no YAML"),
        ("criterion: wanda\ncriterion: taylor", "line 2: 'criterion' stands twice"),
        ("? [a]\n: 1\ncriterion: wanda", "no YAML|no field"),
        ("criterion: !!python/object/apply:os.getcwd []", "line 1: this is no YAML"),
        ("no such file", "cannot read a recipe from no such file"),
    ],
)
def test_bad_recipes_name_their_line(text, message):
    with pytest.raises(UnsupportedError, match=message):
        load_recipe(text)


def pruned_by_torch():
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.3)
    prune.random_structured(model[2], "weight", 0.5, dim=0)
    model(torch.randn(2, 64))
    return model


def test_masks_of_torch_prune_become_ours():
    model = pruned_by_torch()
    x, before = torch.randn(3, 64), [model[0].weight_mask.bool(), model[2].weight_mask.bool()]
    masked = sparsify(model, Magnitude(0.0))
    assert torch.equal(masked(x), model(x))
    assert prune.is_pruned(model) and not prune.is_pruned(masked)
    assert torch.equal(masked[0].parametrizations.weight[0].mask, before[0])
    assert torch.equal(masked[0].parametrizations.weight.original, model[0].weight_orig)
    more = sparsify(model, Magnitude(0.5))
    assert (more[0].weight[~before[0]] == 0).all() and zeros(more[0]) == 3072
    assert set(masked.state_dict()) == set(sparsify(mlp(), Magnitude(0.5)).state_dict())


def test_masks_of_torch_prune_in_place_keep_the_parameter():
    model = pruned_by_torch()
    original = model[0].weight_orig
    sparsify(model, Magnitude(0.5), inplace=True)
    assert model[0].parametrizations.weight.original is original
    copy.deepcopy(model)(torch.randn(2, 64)).sum().backward()


def test_a_scaling_mask_of_torch_prune_is_refused_and_left_alone():
    model = mlp()
    prune.custom_from_mask(model[0], "weight", torch.full((96, 64), 0.5))
    with pytest.raises(UnsupportedError, match="values other than 0 and 1"):
        sparsify(model, Magnitude(0.5), inplace=True)
    assert prune.is_pruned(model)


def test_masks_that_one_has():
    mask = torch.rand(96, 64) > 0.5
    masked = insert_masks(mlp(), {"0": mask, "2.weight": torch.ones(64, 96)})
    assert torch.equal(masked[0].weight != 0, mask) and zeros(masked[2]) == 0
    within = insert_masks(masked, {"0": ~mask | (torch.rand(96, 64) > 0.5)}, inplace=True)
    assert within is masked and (masked[0].weight[~mask] == 0).all()
    one = insert_masks(nn.Linear(4, 4), {"weight": torch.eye(4)})
    assert zeros(one) == 12


def test_masks_that_do_not_fit_are_named_all_at_once():
    model = mlp()
    with pytest.raises(UnsupportedError) as caught:
        insert_masks(
            model,
            {
                "0": torch.ones(64, 96),
                "2": torch.zeros(64, 96),
                "3": torch.rand(64, 64),
                "fc": torch.ones(2),
                "1": torch.ones(2),
                "3.weight": "ones",
            },
            inplace=True,
        )
    text = str(caught.value)
    assert "6 mask(s)" in text
    assert "0: the mask's shape is (64, 96), the weight's (96, 64)" in text
    assert "2: nothing of the layer is left" in text
    assert "3: the mask holds values other than 0 and 1" in text
    assert "'fc' is no linear or convolution layer" in text
    assert "3.weight: the mask is a str" in text
    assert not any(parametrize.is_parametrized(m) for m in model)


def test_a_recipe_of_ones_own_with_scores_of_the_wrong_shape():
    class Wrong(Wanda):
        def measure(self, model, layers, data):
            from sparse_compiler.pruning.recipe import Measure

            for layer in layers:
                yield Measure(layer.values.t())

    with pytest.raises(UnsupportedError, match=r"0: Wrong gives scores of shape \(64, 96\)"):
        sparsify(mlp(), Wrong(0.5))
