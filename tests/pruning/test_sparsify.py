"""sparsify on models: what is zero afterwards, what stays as it was, what is refused."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning import Magnitude, Mask, sparsify
from sparse_compiler.pruning.layers import find_layers


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.Linear(64, 4)).eval()


class Conv1D(nn.Module):
    """The layout of transformers.pytorch_utils.Conv1D: weight [input, output]."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.body = nn.Linear(64, 64)
        self.head = nn.Linear(64, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.body(self.embed(ids)))


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Linear(64, 64))


def zeros(module):
    return int((module.weight == 0).sum())


@pytest.mark.parametrize("sparsity", [0.0, 0.3337, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_uniform_unstructured_is_exact_and_drops_the_smallest(sparsity, dtype):
    model = mlp().to(dtype)
    masked = sparsify(model, Magnitude(sparsity))
    for before, after in zip(model[:3:2], masked[:3:2], strict=True):
        mask = after.parametrizations.weight[0].mask
        assert int((~mask).sum()) == round(sparsity * mask.numel())
        assert torch.equal(after.weight, torch.where(mask, before.weight, 0))
        assert after.weight.dtype == dtype
        if not mask.all():
            assert before.weight[~mask].abs().max() <= before.weight[mask].abs().min()
    assert not parametrize.is_parametrized(masked[3])  # 256 weights: too small
    assert not parametrize.is_parametrized(model)


@pytest.mark.parametrize(
    "pattern, sparsity, name",
    [
        ("unstructured", 0.8, "unstructured"),
        ("2:4", None, "2:4"),
        ("1:4", 0.75, "1:4"),
        ("4:8", None, "4:8"),
        ("4x1", 0.8, "4x1 block"),
        ("16x1", 0.8, "16x1 block"),
        ("1x8", 0.8, "1x8 block"),
        ("8x8", 0.8, "8x8 block"),
        ("channel", 0.5, "channel (48 of 96 rows zero)"),
    ],
)
def test_facts_name_the_pattern_that_was_asked_for(pattern, sparsity, name):
    masked = sparsify(mlp(), Magnitude(sparsity, pattern))
    assert sparsity_facts(masked[0].weight).pattern == name


def test_global_scope_spreads_by_magnitude():
    model = mlp()
    with torch.no_grad():
        model[0].weight *= 10
    masked = sparsify(model, Magnitude(0.5, scope="global"))
    total = model[0].weight.numel() + model[2].weight.numel()
    assert zeros(masked[0]) + zeros(masked[2]) == round(0.5 * total)
    assert zeros(masked[2]) > 4 * zeros(masked[0])


def test_same_model_same_masks():
    one, two = (sparsify(mlp(), Magnitude(0.7, scope="global")) for _ in range(2))
    assert torch.equal(one[0].weight, two[0].weight)


def convs():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 7),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.ConvTranspose2d(64, 32, 3, groups=4),
        nn.Conv1d(64, 64, 3),
        nn.Conv3d(16, 16, 3),
    )


def test_the_first_convolution_stays_dense_unless_asked():
    masked = sparsify(convs(), Magnitude(0.5))
    assert [parametrize.is_parametrized(m) for m in masked] == [False, True, True, True, True]
    masked = sparsify(convs(), Magnitude(0.5, keep_first_conv=False))
    assert zeros(masked[0]) == round(0.5 * 64 * 3 * 49)


def test_channels_are_outputs_in_transposed_convolutions_and_conv1d():
    masked = sparsify(convs(), Magnitude(0.5, "channel", keep_first_conv=False))
    images = torch.randn(1, 64, 5, 5)
    for module in (masked[1], masked[2]):
        with torch.no_grad():
            module.bias.zero_()
        silent = (module(images) == 0).all(dim=(0, 2, 3)).sum()
        assert silent == module.out_channels // 2
    layer = sparsify(Conv1D(128, 64), Magnitude(0.25, "channel"))
    assert (layer(torch.randn(3, 64)) == 0).all(dim=0).sum() == 32


def test_n_of_m_and_blocks_run_along_the_inputs_of_conv1d():
    layer = sparsify(Conv1D(128, 64), Magnitude(pattern="2:4"))
    assert sparsity_facts(layer.weight.t()).pattern == "2:4"
    layer = sparsify(Conv1D(128, 64), Magnitude(0.8, "4x1"))
    assert sparsity_facts(layer.weight.t()).pattern == "4x1 block"


def test_a_tied_weight_has_one_mask_and_stays_tied():
    model = Tied()
    masked = sparsify(model, Magnitude(0.9))
    embed, head = masked.embed.parametrizations.weight, masked.head.parametrizations.weight
    assert embed[0] is head[0] and embed.original is head.original
    assert torch.equal(masked.embed.weight, masked.head.weight)
    assert zeros(masked.head) == 5760
    restored = pickle.loads(pickle.dumps(masked))
    embed, head = restored.embed.parametrizations.weight, restored.head.parametrizations.weight
    assert embed[0] is head[0] and embed.original is head.original
    for exclude in ("embed", "head"):
        kept = sparsify(model, Magnitude(0.9, exclude=exclude))
        assert zeros(kept.head) == 0 and kept.head.weight is kept.embed.weight
        assert zeros(kept.body) > 0


def test_a_module_used_twice_is_pruned_once():
    layer = nn.Linear(64, 64)
    masked = sparsify(nn.Sequential(layer, layer), Magnitude(0.5))
    assert masked[0] is masked[1] and len(masked[0].parametrizations.weight) == 1
    assert zeros(masked[0]) == 2048


def test_include_and_exclude():
    masked = sparsify(mlp(), Magnitude(0.5, include=["0", "2"], exclude="2"))
    assert (zeros(masked[0]), zeros(masked[2])) == (3072, 0)
    masked = sparsify(mlp(), Magnitude(0.5, include="3", min_weights=0))
    assert (zeros(masked[0]), zeros(masked[3])) == (0, 128)
    masked = sparsify(nn.Linear(64, 64), Magnitude(0.5))  # the model itself is the layer
    assert zeros(masked) == 2048


def test_inplace_keeps_parameters():
    model = mlp()
    weight = model[0].weight
    assert sparsify(model, Magnitude(0.5), inplace=True) is model
    assert model[0].parametrizations.weight.original is weight


def test_again_intersects_and_does_not_stack():
    model = mlp()
    half = sparsify(model, Magnitude(0.5))
    with torch.no_grad():
        half[0].parametrizations.weight.original[half[0].weight == 0] = 100.0  # invisible
    more = sparsify(half, Magnitude(0.9))
    assert len(more[0].parametrizations.weight) == 1
    assert zeros(more[0]) == round(0.9 * 6144)
    assert (more[0].weight[half[0].weight == 0] == 0).all()
    assert torch.equal(sparsify(more, Magnitude(0.5))[0].weight, more[0].weight)
    assert torch.equal(more[0].weight, sparsify(model, Magnitude(0.9))[0].weight)
    assert zeros(half[0]) == 3072  # the copy was changed, not this one


def test_after_another_parametrization():
    model = parametrizations.weight_norm(nn.Linear(64, 64))
    before = model.weight.detach().clone()
    masked = sparsify(model, Magnitude(0.5))
    assert zeros(masked) == 2048
    assert torch.equal(masked.weight, torch.where(masked.weight != 0, before, 0))
    again = sparsify(masked, Magnitude(0.75))
    assert zeros(again) == 3072 and len(again.parametrizations.weight) == 2
    with pytest.raises(RuntimeError, match="state_dict"):  # torch's refusal, not a wrong pickle
        pickle.dumps(masked)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_training_keeps_every_zero_and_moves_the_rest(optimizer):
    torch.manual_seed(0)
    masked = sparsify(mlp(), Magnitude(0.9))
    dead = masked[0].weight == 0
    before = masked[0].weight.detach().clone()
    steps = optimizer(masked.parameters(), lr=0.01, weight_decay=0.1)
    x, y = torch.randn(64, 64), torch.randn(64, 4)
    losses = []
    for _ in range(10):
        steps.zero_grad()
        loss = (masked(x) - y).square().mean()
        loss.backward()
        gradient = masked[0].parametrizations.weight.original.grad
        assert (gradient[dead] == 0).all() and (gradient[~dead] != 0).any()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (masked[0].weight[dead] == 0).all()
    assert (masked[0].weight[~dead] != before[~dead]).all()


def test_nan_under_a_zero_of_the_mask_does_not_show():
    masked = sparsify(mlp(), Magnitude(0.5))
    dead = masked[0].weight == 0
    with torch.no_grad():
        masked[0].parametrizations.weight.original[dead] = float("nan")
    assert (masked[0].weight[dead] == 0).all()
    masked(torch.randn(2, 64)).sum().backward()
    assert (masked[0].parametrizations.weight.original.grad[dead] == 0).all()


def test_deepcopy_pickle_torch_save_and_state_dict():
    masked, x = sparsify(mlp(), Magnitude(0.9, "4x1")), torch.randn(2, 64)
    want = masked(x)
    stream = io.BytesIO()
    torch.save(masked, stream)
    stream.seek(0)
    copies = [
        copy.deepcopy(masked),
        pickle.loads(pickle.dumps(masked)),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(masked)))),
        torch.load(stream, weights_only=False),
    ]
    for other in copies:
        assert torch.equal(other(x), want)
        assert other.state_dict().keys() == masked.state_dict().keys()
        with torch.no_grad():
            other[0].parametrizations.weight.original.mul_(2.0)
        assert torch.equal(masked(x), want)
    torch.manual_seed(1)
    fresh = sparsify(nn.Sequential(*mlp()), Magnitude(0.5))  # other masks, same keys
    fresh.load_state_dict(masked.state_dict())
    assert torch.equal(fresh(x), want)


def test_weight_can_be_assigned_and_parametrization_removed():
    masked = sparsify(mlp(), Magnitude(0.9))
    dead = masked[0].weight == 0
    masked[0].weight = torch.ones(96, 64)
    assert torch.equal(masked[0].weight == 0, dead)
    want = masked[0].weight.detach().clone()
    parametrize.remove_parametrizations(masked[0], "weight")
    assert type(masked[0]) is nn.Linear and isinstance(masked[0].weight, nn.Parameter)
    assert torch.equal(masked[0].weight, want)
    pickle.loads(pickle.dumps(masked[0]))


def test_exports_and_compiles_without_a_graph_break():
    masked, x = sparsify(mlp(), Magnitude(0.9)), torch.randn(2, 64)
    want = masked(x)
    exported = torch.export.export(masked, (x,), strict=False)
    assert torch.equal(exported.module()(x), want)
    compiled = torch.compile(masked, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want)


def test_layers_are_listed_once_with_their_paths():
    layers = list(find_layers(Tied()))
    assert [layer.name for layer in layers] == ["body", "head"]
    assert [h.name for h in layers[1].holders] == ["embed.weight", "head.weight"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sparsity": 1.0}, r"outside \[0, 1\)"),
        ({"sparsity": -0.1}, r"outside \[0, 1\)"),
        ({"sparsity": float("nan")}, r"outside \[0, 1\)"),
        ({"sparsity": 90}, r"outside \[0, 1\)"),
        ({}, "no sparsity given"),
        ({"sparsity": "0.9"}, "is no number"),
        ({"sparsity": 0.9, "pattern": "2:4"}, "contradicts NofM.n=2, m=4."),
        ({"sparsity": 0.9, "pattern": "chanels"}, '"channel"'),
        ({"sparsity": 0.9, "scope": "globl"}, 'use "global"'),
        ({"sparsity": 2.0, "scope": "x", "pattern": "channel"}, r"(?s)scope.*outside"),
    ],
)
def test_bad_recipes_are_refused_when_made(arguments, message):
    with pytest.raises(UnsupportedError, match=message):
        Magnitude(**arguments)


def quantized():
    layer = nn.Linear(64, 64)
    layer.weight = nn.Parameter(torch.ones(64, 64, dtype=torch.int8), requires_grad=False)
    return layer


@pytest.mark.parametrize(
    "layer, why",
    [
        (nn.LazyLinear(64), "lazy"),
        (nn.Linear(64, 64, device="meta"), "meta"),
        (quantized(), "int8"),
        (old_weight_norm(), "remove_weight_norm"),
        (nn.Linear(66, 64), "rows of 66 are no multiple of 4"),
    ],
)
def test_layers_that_cannot_be_pruned_are_named_all_at_once(layer, why):
    model = nn.ModuleDict({"good": nn.Linear(64, 64), "bad": layer, "odd": nn.Linear(65, 64)})
    with pytest.raises(UnsupportedError) as caught:
        sparsify(model, Magnitude(pattern="2:4"), inplace=True)
    assert "2 layer(s)" in str(caught.value)
    assert f"bad: {'its ' if why.startswith('rows') else ''}" in str(caught.value)
    assert why in str(caught.value) and "odd: its rows of 65" in str(caught.value)
    assert not parametrize.is_parametrized(model["good"])  # nothing changed
    sparsify(model["good"], Magnitude(pattern="2:4"))


@pytest.mark.parametrize(
    "model, recipe, message",
    [
        (nn.ReLU(), Magnitude(0.5), "no layer to prune"),
        (nn.Linear(8, 8), Magnitude(0.5), "min_weights"),
        (nn.Conv2d(64, 64, 3), Magnitude(0.5), "keep_first_conv"),
        (mlp(), Magnitude(0.5, include="fc1"), "include='fc1' matches no"),
        (mlp(), 0.9, "0.9 is no recipe"),
        (mlp(), Magnitude, "is no recipe"),
        (torch.relu, Magnitude(0.5), "cannot insert masks into"),
    ],
)
def test_bad_requests(model, recipe, message):
    with pytest.raises(UnsupportedError, match=message):
        sparsify(model, recipe)


def test_mask_prints_its_zeros():
    assert "zeros=2" in repr(Mask(torch.tensor([True, False, False])))
