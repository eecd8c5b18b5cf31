"""Channel masks end to end: the masked model, the compiled one and the shrunk one agree.

Relative error max|a-b| / max|b| of at most 1e-5, or four times the distance of eager's own result
from float64 where that is larger. The oracle tries every channel: constant over random inputs, or
read by no result.
"""

import io

import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

import sparse_compiler as sc
from sparse_compiler.analysis.channels.flow import analyse
from sparse_compiler.analysis.channels.groups import writes
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.frontends.export import export_module
from sparse_compiler.ir.interpret import interpret, run_node
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.eliminate_dead_channels import EliminateDeadChannels
from tests.structure_zoo import (
    MODES,
    SHARES,
    ZOO,
    assert_close,
    cases,
    compiled_distances,
    floats,
    masked,
    masked_channels,
)
from tests.zoo.base import settled

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning")]


def eliminated(name, share):
    """The numbers before and after the pass, by the interpreter; and the pass's context."""
    model, args, kwargs = masked(name, share)
    exported = export_module(model, args, kwargs)
    graph, params = exported.imported.graph, dict(exported.imported.params)
    context = Context(params={n: t.detach() for n, t in params.items()})
    result = EliminateDeadChannels().run(graph, context)
    inputs = exported.call.flatten(args, kwargs)
    before, after = interpret(graph, inputs, params), interpret(result, inputs, params)
    assert_close(after, before, model, args, kwargs) if len(after) == 1 else None
    for a, b in zip(floats(after), floats(before), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    return context


@pytest.mark.parametrize(
    "name", ["mlp", "bert", "mobilenet_v3", pytest.param("resnet", marks=pytest.mark.system)]
)
def test_elimination_keeps_the_numbers(name):
    context = eliminated(name, 0.5)
    assert context.structure is not None
    removed = sum(layer.nonzero - layer.effective for layer in context.structure.layers)
    assert removed > 0


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", ZOO)
def test_elimination_keeps_the_numbers_of_the_zoo(name, share):
    eliminated(name, share)


COMPILED = [(name, *case) for name in ZOO for case in cases(name)]


@pytest.mark.slow
@pytest.mark.usefixtures("cached_kernels")
@pytest.mark.parametrize(("name", "share", "kind", "mode"), COMPILED)
def test_compiled_equals_masked(name, share, kind, mode):
    for error, allowed in compiled_distances(name, share, kind, mode):
        assert error <= allowed


@pytest.mark.system
@pytest.mark.usefixtures("cached_kernels")
@pytest.mark.parametrize(("name", "kind"), [("bert", "groups"), ("resnet18", "layers")])
def test_compiled_equals_masked_in_a_sample(name, kind):
    for error, allowed in compiled_distances(name, 0.5, kind):
        assert error <= allowed


def check_shrunk(name, share):
    model, args, kwargs = masked(name, share)
    with torch.no_grad():
        small = sc.shrink(model, args, kwargs)
        got, expected = small(*args, **kwargs), model(*args, **kwargs)
    assert pytree.tree_structure(got) == pytree.tree_structure(expected)
    assert_close(got, expected, model, args, kwargs)
    return small


@pytest.mark.system
@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_shrunk_equals_masked(name):
    small = check_shrunk(name, 0.5)
    kinds = {type(module) for module in small.modules()}
    assert nn.Linear in kinds
    assert not any("sparse_compiler" in kind.__module__ for kind in kinds)


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", ZOO)
def test_shrunk_zoo_equals_masked(name, share):
    check_shrunk(name, share)


class Padded(nn.Module):
    """Convolutions with one padding mode, a batch norm with constants behind dead filters."""

    def __init__(self, mode):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode=mode)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode=mode, bias=False)
        self.last = nn.Conv2d(8, 4, 3, stride=2)

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.norm(self.first(x))))))


def padded(mode):
    torch.manual_seed(0)
    model = settled(Padded(mode)).eval().requires_grad_(False)
    model.first.weight[[0, 3, 5]] = 0.0
    model.second.weight[[1, 2]] = 0.0
    return model, torch.randn(2, 3, 12, 12)


@pytest.mark.system
@pytest.mark.parametrize("mode", MODES)
def test_padding_modes(mode):
    model, x = padded(mode)
    small = sc.shrink(model, (x,))
    with torch.no_grad():
        assert_close(small(x), model(x), model, (x,), {})
    assert small.get_submodule("first").weight.shape[0] == 5
    assert small.get_submodule("second").weight.shape[:2] == (6, 5)
    maps = [name for name in small.state_dict() if name.startswith("constants.")]
    assert bool(maps) == (mode == "zeros")


def test_shrunk_module_is_saved_and_takes_another_batch(tmp_path):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval().requires_grad_(False)
    model[0].weight[[1, 4]] = 0.0
    model[0].bias[[1, 4]] = 0.5  # constants that go into the next layer's bias
    small = sc.shrink(model, (torch.randn(2, 6),))
    assert small.get_submodule("0").weight.shape == (6, 6)
    assert small.plan["0.weight"]["from"] == "0.weight"
    assert small.plan["0.weight"]["kept"] == {"0": [[0, 1], [2, 4], [5, 8]]}
    assert small.plan["2.bias"] == {"shape": [3], "computed": True}
    x = torch.randn(5, 6)
    buffer = io.BytesIO()
    torch.save(small, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    again.load_state_dict(small.state_dict())
    program = torch.export.export(small, (x,))
    for module in (small, again, program.module()):
        assert torch.allclose(module(x), model(x), atol=1e-6)


def test_shrink_refuses_what_it_cannot_do():
    with pytest.raises(UnsupportedError, match="training mode"):
        sc.shrink(nn.Linear(2, 2), (torch.randn(2, 2),))
    with pytest.raises(UnsupportedError, match="cannot shrink a int"):
        sc.shrink(3, ())


def disconnected():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval().requires_grad_(False)
    model[0].weight.zero_()
    return model, torch.randn(4, 6)


def test_a_mask_that_disconnects_the_output():
    """Every filter of a layer is dead: the result is the constant that it was."""
    model, x = disconnected()
    assert torch.allclose(sc.shrink(model, (x,))(x), model(x), atol=1e-6)


@pytest.mark.system
@pytest.mark.usefixtures("cached_kernels")
def test_a_mask_that_disconnects_the_output_compiled():
    model, x = disconnected()
    assert torch.allclose(sc.compile(model, (x,))(x), model(x), atol=1e-6)


@pytest.mark.system
@pytest.mark.usefixtures("cached_kernels")
def test_revived_weights_are_seen():
    """A channel that was dead and is written to comes back."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval().requires_grad_(False)
    model[0].weight[:4] = 0.0
    x = torch.randn(4, 6)
    fast = sc.compile(model, (x,), options={"force_native": True})
    assert torch.allclose(fast(x), model(x), atol=1e-6)
    model[0].weight[2] = 1.0
    assert torch.allclose(fast(x), model(x), atol=1e-6)


def run_from(graph, values, target, value):
    """The results with one value replaced; values: of a run before."""
    own, changed = {**values, target: value}, {target}
    for node in graph.nodes:
        if node.name != target and changed & set(node.inputs):
            own[node.name] = run_node(node, [own[i] for i in node.inputs], {}, graph.objects)
            changed.add(node.name)
    return [own[name] for name in graph.outputs]


def oracle(name, share):
    """(channels the oracle can do without, those of them that are gone) of all layers' results."""
    model, args, kwargs = ZOO[name](2)
    settled(model)
    masked_channels(model, args, kwargs, share)
    exported = export_module(model, args, kwargs)
    graph, params = exported.imported.graph, dict(exported.imported.params)
    channels = analyse(graph, {n: t.detach() for n, t in params.items()})
    runs = []
    for _ in range(3):
        inputs = [
            t.roll(1, 0) if not t.is_floating_point() else torch.randn_like(t)
            for t in exported.call.flatten(args, kwargs)
        ]
        values = dict(zip([v.name for v in graph.inputs], inputs, strict=True)) | params
        interpret(graph, inputs, params, values.__setitem__)
        runs.append(values)
    found = gone = 0
    for layer, site in channels.sites.items():
        if not writes(site.node) or layer in graph.results:
            continue
        dim = site.node.op.channel_dim % site.result.rank
        alive = channels.alive[layer].amax([d for d in range(site.result.rank) if d != dim])
        for c in range(site.result.shape[dim]):
            if removable(graph, runs, layer, dim, c):
                found += 1
                gone += not bool(alive[c if len(alive) > 1 else 0])
    return found, gone


def removable(graph, runs, layer, dim, c):
    """Constant over inputs and places away from borders; or without effect on any result."""
    inner = torch.stack(
        [
            run[layer].select(dim, c).reshape(-1)[:4] * 0 + run[layer].select(dim, c).mean()
            for run in runs
        ]
    )
    spread = max(float(run[layer].select(dim, c).std(unbiased=False)) for run in runs)
    if spread < 1e-6 and float(inner.std(unbiased=False)) < 1e-6:
        return True
    values = runs[0]
    moved = values[layer].clone()
    moved.select(dim, c).add_(torch.randn_like(moved.select(dim, c)))
    before = [values[name] for name in graph.outputs]
    after = run_from(graph, values, layer, moved)
    return all(
        torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(after, before, strict=True)
    )


@pytest.mark.system
@pytest.mark.parametrize("name", ["mlp", "resnet18", "bert", "llama"])
def test_the_oracle_finds_little_more(name):
    found, gone = oracle(name, 0.5)
    assert found > 10
    assert gone >= 0.95 * found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet", "mobilenet_v2", "densenet", "unet", "vgg", "gpt2", "vit", "distilbert"]
)
def test_the_oracle_finds_little_more_in_the_zoo(name):
    found, gone = oracle(name, 0.5)
    assert gone >= 0.95 * found
