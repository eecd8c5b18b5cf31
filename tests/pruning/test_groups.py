"""Which rows and columns are one unit, and what pruning units does to a model."""

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.pruning import Magnitude, Wanda, sparsify
from sparse_compiler.pruning.coupling import FINDERS, couple
from sparse_compiler.pruning.groups import Group, Member
from tests.passes.checks import random_sample

SMALL = {"min_weights": 0, "keep_first_conv": False}


def groups(text, pattern):
    """Lines such as "8 units: 8 rows of a"."""
    graph = parse_graph(text)
    coupling = couple(graph, random_sample(graph).params)
    return [str(group) for group in FINDERS[pattern](coupling)]


CONV = "conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1)]"
RESIDUAL = f"""
    input %x: f32[1, 3, 8, 8]
    param %stem.weight: f32[6, 3, 3, 3]
    param %a.weight: f32[4, 6, 3, 3]
    param %b.weight: f32[6, 4, 3, 3]
    param %head.weight: f32[5, 6]
    %stem: f32[1, 6, 8, 8] = {CONV}(%x, %stem.weight)
    %a: f32[1, 4, 8, 8] = {CONV}(%stem, %a.weight)
    %relu: f32[1, 4, 8, 8] = pointwise[expr="relu(x0)"](%a)
    %b: f32[1, 6, 8, 8] = {CONV}(%relu, %b.weight)
    %sum: f32[1, 6, 8, 8] = pointwise[expr="add(x0, x1)"](%stem, %b)
    %mean: f32[1, 6] = reduce[fn="mean", dims=(2, 3)](%sum)
    %y: f32[1, 5] = linear(%mean, %head.weight)
    return %y
    """


def test_a_residual_sum_couples_its_layers_and_results_stay():
    assert groups(RESIDUAL, "channel") == [
        "6 units: 6 rows of stem, 6 rows of b",
        "4 units: 4 rows of a",
    ]


GATED = """
    input %x: f32[7, 8]
    param %gate.weight: f32[12, 8]
    param %up.weight: f32[12, 8]
    param %down.parametrizations.weight.original: f32[8, 12]
    param %down.parametrizations.weight.0.mask: bool[8, 12]
    %down.weight: f32[8, 12] = pointwise[expr="where(x1, x0, 0.0)"](%down.parametrizations.weight.original, %down.parametrizations.weight.0.mask)
    %gate: f32[7, 12] = linear(%x, %gate.weight)
    %act: f32[7, 12] = pointwise[expr="silu(x0)"](%gate)
    %up: f32[7, 12] = linear(%x, %up.weight)
    %h: f32[7, 12] = pointwise[expr="mul(x0, x1)"](%act, %up)
    %y: f32[7, 8] = linear(%h, %down.weight)
    return %y
    """  # noqa: E501


def test_gated_neurons_are_rows_of_two_layers_also_behind_a_mask():
    want = ["12 units: 12 rows of gate, 12 rows of up, 12 columns of down"]
    assert groups(GATED, "neuron") == want


@pytest.mark.parametrize(
    "what, line",
    [
        ("normed", "%h: f32[7, 12] = softmax[dim=1](%act)"),
        ("summed over", "%h: f32[7, 12] = cumsum[dim=1](%act)"),
    ],
)
def test_no_neurons_where_more_than_elementwise_ops_lie_between(what, line):
    text = "\n".join(
        line if "%h:" in row else row
        for row in GATED.splitlines()
        if "%up" not in row or "%h:" in row
    )
    assert groups(text, "neuron") == []


def test_no_neurons_where_another_layer_reads_them_or_the_model_gives_them_out():
    assert groups(GATED.replace("return %y", "return %y, %h"), "neuron") == []
    more = "    %z: f32[7, 8] = linear(%h, %other.weight)\n    return %y, %z"
    text = GATED.replace("    return %y", more)
    first = "    param %gate.weight: f32[12, 8]\n"
    assert (
        groups(text.replace(first, f"{first}    param %other.weight: f32[8, 12]\n"), "neuron") == []
    )


def test_a_layer_that_is_called_twice_has_one_set_of_units():
    more = "    %z: f32[7, 8] = linear(%h, %down.weight)\n    return %y, %z"
    assert groups(GATED.replace("    return %y", more), "neuron") == groups(GATED, "neuron") != []


CALLED_TWICE = """
    input %x: f32[7, 8]
    param %a.weight: f32[8, 8]
    param %b.weight: f32[8, 8]
    %h: f32[7, 8] = linear(%x, %a.weight)
    %r: f32[7, 8] = pointwise[expr="relu(x0)"](%h)
    %y: f32[7, 8] = linear(%r, %SECOND.weight)
    return %y
    """


@pytest.mark.parametrize("second, found", [("a", []), ("b", ["8 units: 8 rows of a"])])
def test_channels_that_a_second_call_gives_out_stay(second, found):
    assert groups(CALLED_TWICE.replace("SECOND", second), "channel") == found


TWO_BEFORE_ONE = """
    input %x: f32[7, 8]
    param %a.weight: f32[16, 8]
    param %b.weight: f32[16, 8]
    param %down.weight: f32[8, 16]
    param %other.weight: f32[8, 16]
    %h: f32[7, 16] = linear(%x, %a.weight)
    %g: f32[7, 16] = linear(%x, %b.weight)
    %y: f32[7, 8] = linear(%h, %down.weight)
    %z: f32[7, 8] = linear(%g, %SECOND.weight)
    return %y, %z
    """


@pytest.mark.parametrize("second, count", [("down", 0), ("other", 2)])
def test_neurons_of_two_layers_stay_where_both_end_in_one(second, count):
    assert len(groups(TWO_BEFORE_ONE.replace("SECOND", second), "neuron")) == count


ATTENTION = """
    input %x: f32[1, 7, 8]
    param %q.weight: f32[16, 8]
    param %k.weight: f32[8, 8]
    param %v.weight: f32[8, 8]
    param %out.weight: f32[8, 16]
    %q: f32[1, 7, 16] = linear(%x, %q.weight)
    %k: f32[1, 7, 8] = linear(%x, %k.weight)
    %v: f32[1, 7, 8] = linear(%x, %v.weight)
    %qs: f32[1, 7, 4, 4] = reshape[shape=(1, 7, 4, 4)](%q)
    %ks: f32[1, 7, 2, 4] = reshape[shape=(1, 7, 2, 4)](%k)
    %vs: f32[1, 7, 2, 4] = reshape[shape=(1, 7, 2, 4)](%v)
    %qh: f32[1, 4, 7, 4] = permute[dims=(0, 2, 1, 3)](%qs)
    %kh: f32[1, 2, 7, 4] = permute[dims=(0, 2, 1, 3)](%ks)
    %vh: f32[1, 2, 7, 4] = permute[dims=(0, 2, 1, 3)](%vs)
    %o: f32[1, 4, 7, 4] = attention(%qh, %kh, %vh)
    %os: f32[1, 7, 4, 4] = permute[dims=(0, 2, 1, 3)](%o)
    %merged: f32[1, 7, 16] = reshape[shape=(1, 7, 16)](%os)
    %y: f32[1, 7, 8] = linear(%merged, %out.weight)
    return %y
    """


def test_query_heads_are_one_unit_with_the_key_head_they_read():
    assert groups(ATTENTION, "head") == [
        "2 units: 16 rows of q, 8 rows of k, 8 rows of v, 16 columns of out"
    ]
    graph = parse_graph(ATTENTION)
    (group,) = FINDERS["head"](couple(graph, random_sample(graph).params))
    units = {(m.layer, m.axis): m.units.tolist() for m in group.members}
    assert units["q", 0] == [0] * 8 + [1] * 8
    assert units["v", 0] == [0] * 4 + [1] * 4
    assert units["out", 1] == [0] * 8 + [1] * 8


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


NEURONS = Group(12, (Member("up", 0, torch.arange(12)), Member("down", 1, torch.arange(12))))


def test_a_unit_scores_the_norm_of_all_its_weights():
    model = Pair()
    norms = model.up.weight.square().sum(1) + model.down.weight.square().sum(0)
    masked = sparsify(model, Magnitude(0.5, "neuron", **SMALL), groups=[NEURONS])
    gone = sorted(norms.argsort()[:6].tolist())
    assert (masked.up.weight == 0).all(1).nonzero().flatten().tolist() == gone
    assert (masked.down.weight == 0).all(0).nonzero().flatten().tolist() == gone
    again = sparsify(masked, Magnitude(0.75, "neuron", **SMALL), groups=[NEURONS])
    assert set(gone) < set((again.up.weight == 0).all(1).nonzero().flatten().tolist())
    assert int((again.up.weight == 0).all(1).sum()) == 9


def test_layers_that_the_recipe_leaves_out_keep_their_part():
    recipe = Magnitude(0.5, "neuron", exclude="down", **SMALL)
    masked = sparsify(Pair(), recipe, groups=[NEURONS])
    assert (masked.up.weight == 0).any() and (masked.down.weight != 0).all()


def test_criteria_with_data_prune_groups():
    masked = sparsify(Pair(), Wanda(0.5, "neuron", **SMALL), [torch.randn(4, 8)], groups=[NEURONS])
    assert int((masked.up.weight == 0).all(1).sum()) == 6


@pytest.mark.parametrize(
    "recipe, given, message",
    [
        (Magnitude(0.5, "head", **SMALL), None, "needs the groups of the model"),
        (Magnitude(0.5, "neuron", **SMALL), [], 'no layer to prune by pattern "neuron"'),
        (Magnitude(0.5, "neuron", include="up", **SMALL), None, "needs the groups"),
    ],
)
def test_patterns_without_groups(recipe, given, message):
    with pytest.raises(UnsupportedError, match=message):
        sparsify(Pair(), recipe, groups=given)


def test_rows_and_columns_of_different_groups_may_not_empty_a_layer():
    model, mask = nn.Linear(3, 3), torch.ones(3, 3).bool()
    mask[0, 0] = False
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 5, 5], [6, 0, 0], [6, 0, 0]]))
    model = sc.insert_masks(model, {"weight": mask})
    both = [Group(3, (Member("", axis, torch.arange(3)),)) for axis in (0, 1)]
    with pytest.raises(UnsupportedError, match="nothing of the layer would be left"):
        sparsify(model, Magnitude(2 / 3, "neuron", **SMALL), groups=both)  # row 0 and column 0


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (4, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5, -1) @ v
        x = x + self.o(y.transpose(1, 2).flatten(-2))
        return x + self.down(torch.relu(self.up(x)))


@pytest.mark.system
def test_heads_and_neurons_of_a_model_written_with_plain_operators():
    model, args = Layer().eval(), (torch.randn(1, 6, 32),)
    model.attention = None
    assert [str(g) for g in sc.find_groups(model, "head", args)] == [
        "4 units: 32 rows of q, 32 rows of k, 32 rows of v, 32 columns of o"
    ]
    halves = sc.sparsify(model, sc.Magnitude(0.5, "head", **SMALL), args=args)
    halves = sc.sparsify(halves, sc.Magnitude(0.5, "neuron", **SMALL), args=args)
    found = sc.metrics(halves, args)
    assert found.sparsity == pytest.approx(0.5) == found.effective_sparsity
    assert [layer.name for layer in found.layers] == ["q", "k", "v", "o", "up", "down"]
    assert found.flops * 2 == found.dense_flops == 2 * 6 * (4 * 32 * 32 + 2 * 32 * 64)
    with pytest.raises(UnsupportedError, match='pattern "2:4" has no groups'):
        sc.find_groups(model, "2:4", args)


@pytest.mark.system
def test_effective_sparsity_counts_what_reads_a_dead_channel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    mask = torch.ones(16, 8).bool()
    mask[:4] = False
    masked = sc.insert_masks(model, {"0": mask})
    found = sc.metrics(masked, (torch.randn(2, 8),))
    assert [layer.sparsity for layer in found.layers] == [0.25, 0.0]
    assert [layer.effective_sparsity for layer in found.layers] == [0.25, 0.25]


@pytest.mark.system
def test_heads_of_torchs_own_attention_are_columns_of_what_reads_them():
    """Its query, key and value are one parameter, which no layer holds: shrunk all the same."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True).eval()
    args = (torch.randn(1, 5, 48),)
    (found,) = sc.find_groups(model, "head", args)
    assert str(found) == "4 units: 48 columns of self_attn.out_proj"
    masked = sc.sparsify(model, Magnitude(0.5, "head", **SMALL), args=args)
    small = sc.shrink(masked, args)
    sizes = [sum(t.numel() for t in m.state_dict().values()) for m in (model, small)]
    assert sizes[0] - sizes[1] == 24 * (3 * (48 + 1) + 48)  # rows, biases, columns
    with torch.no_grad():
        torch.testing.assert_close(small(*args), masked(*args), rtol=1e-5, atol=1e-5)
