"""Counts, arithmetic and bytes by hand; training under masks, and the compiler behind it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparse_compiler as sc
from sparse_compiler.backend import last_reports
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning import insert_masks, metrics, parameter_slack


def convs():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Flatten(1),
        nn.Linear(8 * 16, 10),
        nn.LayerNorm(10),
    )


def half(shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape) % 2 == 0


def test_counts_arithmetic_and_bytes_by_hand():
    model = insert_masks(convs(), {"0": half((8, 3, 3, 3)), "2": half((10, 128))})
    found = metrics(model, torch.randn(4, 3, 8, 8))
    conv, linear = found.layers
    assert (conv.weights, conv.nonzeros, conv.positions) == (216, 108, 4 * 16)
    assert (linear.weights, linear.nonzeros, linear.positions) == (1280, 640, 4)
    assert found.sparsity == conv.sparsity == 0.5 and found.effective_sparsity is None
    assert found.flops == 2 * (108 * 64 + 640 * 4) and found.dense_flops == 2 * found.flops
    others = 8 + 10 + 20  # biases, and the norm with its 10 zeros
    assert found.nonzeros == 108 + 640 + others - 10 and found.other_bytes == 4 * others
    assert found.dense_bytes == 4 * (216 + 1280 + others)
    assert found.bytes < found.dense_bytes
    assert found.accuracy_density(0.9) == pytest.approx(0.9e6 / found.nonzeros)
    assert found.json()["layers"][1]["nonzeros"] == 640


def test_csr_where_nothing_smaller_fits():
    mask = torch.zeros(64, 64).bool()
    mask[torch.arange(64), (torch.arange(64) * 37 + 11) % 64] = True
    mask[torch.arange(64), (torch.arange(64) * 29 + 3) % 64] = True
    (layer,) = metrics(insert_masks(nn.Linear(64, 64), {"weight": mask})).layers
    nonzeros = int(mask.sum())
    assert layer.bytes <= (nonzeros * (32 + 6) + 64 * 7 + 7) // 8  # values, columns, row starts
    assert layer.dense_bytes == 64 * 64 * 4


def test_a_tied_weight_counts_once_and_a_layer_used_twice_twice():
    layer = nn.Linear(8, 8, bias=False)
    model = nn.Sequential(layer, layer)
    found = metrics(model, torch.randn(5, 8))
    assert len(found.layers) == 1 and found.layers[0].positions == 10 and found.nonzeros == 64


def test_the_table_has_a_line_for_each_layer():
    lines = metrics(convs(), torch.randn(1, 3, 8, 8)).text().splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "0", "2", "all,"]
    assert "MFLOP" in lines[0]
    assert metrics(nn.Linear(8, 8, bias=False)).text().splitlines()[-1].split()[:2] == [
        "all",
        "0.0%",
    ]


def test_without_an_example_nothing_is_run():
    found = metrics(convs())
    assert found.flops is None and found.layers[0].positions is None


@pytest.mark.parametrize(
    "points, drop, want",
    [
        ([(50, 0.9), (20, 0.895), (5, 0.5)], 0.01, 0.8),
        ([(50, 0.9), (20, 0.895), (5, 0.5)], 0.0, 0.5),
        ([(50, 0.89)], 0.001, 0.0),
        ([(50, 0.95), (10, 0.1)], 1.0, 0.9),
        ([], 0.5, 0.0),
    ],
)
def test_parameter_slack(points, drop, want):
    assert parameter_slack(points, (100, 0.9), drop) == pytest.approx(want)


def test_bad_requests():
    with pytest.raises(UnsupportedError, match="no linear or convolution layer"):
        metrics(nn.ReLU())
    with pytest.raises(UnsupportedError, match="fails on calibration input 0"):
        metrics(convs(), torch.randn(3))
    with pytest.raises(UnsupportedError, match="accuracy drop of -1"):
        parameter_slack([], (1, 1), -1)


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "recipe", [sc.Magnitude(0.8), sc.SecondOrder(0.8), sc.Magnitude(0.5, "channel")]
)
def test_three_epochs_keep_every_zero(recipe, optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 64))
    x, y = torch.randn(128, 64), torch.randn(128, 64)
    steps = OPTIMIZERS[optimizer](model.parameters())
    F.mse_loss(model(x), y).backward()
    steps.step()  # there is momentum before there are masks
    sc.sparsify(model, recipe, [x], inplace=True)
    zeros = [model[0].weight == 0, model[3].weight == 0]
    before = model[0].weight.detach().clone()
    losses = []
    for _ in range(3):
        for part in torch.randperm(128).split(32):
            steps.zero_grad()
            loss = F.mse_loss(model(x[part]), y[part])
            loss.backward()
            steps.step()
            losses.append(loss.item())
    assert all(bool((model[i].weight[z] == 0).all()) for i, z in zip((0, 3), zeros, strict=True))
    assert zeros[0].any() and (model[0].weight != before)[~zeros[0]].all()
    assert min(losses[-4:]) < losses[0]


@pytest.mark.system
def test_pruned_trained_and_compiled(cached_kernels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))
    x = torch.randn(64, 256)
    masked = sc.sparsify(model, sc.SecondOrder(0.9), [x])
    steps = torch.optim.AdamW(masked.parameters(), lr=1e-3)
    for _ in range(3):
        steps.zero_grad()
        F.mse_loss(masked(x), x).backward()
        steps.step()
    masked.eval()
    last_reports.clear()
    fast = torch.compile(masked, backend="sparse_compiler")
    with torch.no_grad():
        want, got = masked(x), fast(x)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        (report,) = [r.report for r in last_reports if r.segments]
        assert {layer.format for layer in report.layers} != {"dense"}
        steps.zero_grad()
        for parameter in masked.parameters():
            parameter.mul_(1.5)
        torch.testing.assert_close(fast(x), masked(x), rtol=1e-4, atol=1e-5)
