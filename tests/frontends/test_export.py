"""torch.export -> graph: the interpreter gives eager's numbers, whatever the model is made of."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.utils import parametrize, prune
from torch.utils._pytree import tree_flatten

import sparse_compiler as sc
from sparse_compiler.errors import InputError, UnsupportedError
from sparse_compiler.frontends.export import ExportedModel, export_module
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph, print_graph
from sparse_compiler.ir.types import symbols_of
from sparse_compiler.ir.verify import verify
from sparse_compiler.passes.compare import relative_error
from tests.models import models

LIMIT = 1e-6


def run(exported: ExportedModel, args=(), kwargs=None):
    """The model's own structure of results, by the interpreter."""
    imported = exported.imported
    inputs = exported.call.flatten(tuple(args), kwargs or {})
    results = interpret(imported.graph, inputs, imported.params)
    return exported.call.unflatten(results[: len(imported.graph.outputs)], inputs)


def assert_same(got, expected):
    flat, spec = tree_flatten(got)
    wanted, wanted_spec = tree_flatten(expected)
    assert spec == wanted_spec
    for a, b in zip(flat, wanted, strict=True):
        if isinstance(b, torch.Tensor):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert torch.equal(a.isfinite(), b.isfinite())
            assert relative_error(a, b) <= LIMIT
        else:
            assert a == b and type(a) is type(b)


def check(model, args=(), kwargs=None, **options):
    """Exports, verifies, reads the text back and compares with eager; returns the export."""
    model = model.eval()
    exported = export_module(model, args, kwargs, **options)
    graph = exported.imported.graph
    verify(graph)
    assert print_graph(parse_graph(str(graph))) == str(graph)
    with torch.no_grad():
        assert_same(run(exported, args, kwargs), model(*args, **(kwargs or {})))
    return exported


@cache
def exported_model(name):
    return export_module(*models()[name]())


@pytest.mark.parametrize("name", models())
def test_models(name):
    model, args, kwargs = models()[name]()
    exported = exported_model(name)
    graph = exported.imported.graph
    verify(graph)
    assert print_graph(parse_graph(str(graph))) == str(graph)
    with torch.no_grad():
        assert_same(run(exported, args, kwargs), model(*args, **kwargs))
    parameters = dict(model.named_parameters())
    assert {p.name for p in graph.params} >= {
        node.inputs[1] for node in graph.nodes if node.op.name == "linear"
    } & set(parameters)


@pytest.mark.parametrize("name", ["bert", "mixer", "resnet"])
def test_two_builds_give_the_same_bytes(name):
    again = export_module(*models()[name]())
    assert str(again.imported.graph) == str(exported_model(name).imported.graph)


@pytest.mark.parametrize(
    ("name", "linears", "attentions"),
    [("bert", 13, 2), ("vit", 7, 1), ("llama", 8, 1), ("gpt2", 5, 1), ("mixer", 9, 0)],
)
def test_layers_arrive_whole(name, linears, attentions):
    ops = [node.op.name for node in exported_model(name).imported.graph.nodes]
    assert (ops.count("linear"), ops.count("attention")) == (linears, attentions)


def test_parameters_are_the_modules_own():
    model, args, _ = models()["mlp"]()
    exported = export_module(model, args)
    for name, tensor in exported.imported.params.items():
        assert tensor is model.get_parameter(name)
    before = run(exported, args)
    model[0].weight.mul_(2)
    assert not torch.equal(run(exported, args), before)


def test_dynamic_batch_and_tokens_stay_symbolic():
    model, args, _ = models()["bert"]()
    batch, tokens = torch.export.Dim("batch", max=64), torch.export.Dim("tokens", min=2, max=32)
    shapes = {"input_ids": {0: batch, 1: tokens}, "attention_mask": {0: batch, 1: tokens}}
    exported = check(model, args, dynamic_shapes=shapes)
    graph = exported.imported.graph
    names = symbols_of(graph.inputs[0].type.shape)
    assert len(names) == 2 and names == set(graph.symbols)
    assert {(r.low, r.high) for r in graph.symbols.values()} >= {(2, 32)}
    for node in graph.nodes:
        if node.op.name == "linear" and "encoder" in node.name:
            assert symbols_of(node.type.shape) == names
    for shape in ((1, 5), (3, 17)):
        ids = torch.randint(1, 90, shape)
        mask = torch.ones(shape, dtype=torch.long)
        with torch.no_grad():
            assert_same(run(exported, (ids, mask)), model(ids, mask))
    with pytest.raises(InputError, match="lies outside"):
        ids = torch.ones(2, 33, dtype=torch.long)
        run(exported, (ids, ids))


@pytest.mark.parametrize("size", [33, 36])
def test_sizes_that_halve_stay_symbolic(size):
    class Halving(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

        def forward(self, x):
            y = self.conv(x)
            return y.flatten(2), y[:, :, 1:]

    model = Halving().eval()
    edge = torch.export.Dim.DYNAMIC
    exported = check(model, (torch.randn(2, 3, 20, 24),), dynamic_shapes=({2: edge, 3: edge},))
    x = torch.randn(2, 3, size, 17)
    with torch.no_grad():
        assert_same(run(exported, (x,)), model(x))


def weight_time_nodes(exported):
    graph = exported.imported.graph
    return [node for node in graph.nodes if node.name in graph.weight_time]


def test_pruning_masks_are_computed_from_weights_alone():
    model, args, _ = models()["mlp"]()
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", 0.8)
    exported = check(model, args)
    assert {"0.weight_orig", "0.weight_mask"} <= set(exported.imported.params)
    nodes = weight_time_nodes(exported)
    assert [node.op.name for node in nodes] == ["pointwise", "pointwise"]
    assert [node.name.startswith(p) for node, p in zip(nodes, "02", strict=True)] == [True, True]
    graph = exported.imported.graph
    weights = [node.inputs[1] for node in graph.nodes if node.op.name == "linear"]
    assert weights[:2] == [node.name for node in nodes]


class Masked(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", (torch.rand(weight.shape) > 0.7).to(weight.dtype))

    def forward(self, weight):
        return weight * self.mask


def test_parametrizations_are_computed_from_weights_alone():
    model, args, _ = models()["mlp"]()
    parametrize.register_parametrization(model[2], "weight", Masked(model[2].weight))
    exported = check(model, args)
    nodes = weight_time_nodes(exported)
    assert len(nodes) == 1
    assert nodes[0].name.startswith("2.")
    assert exported.imported.graph.users[nodes[0].name][0].op.name == "linear"


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.calls += 1
        self.mean.mul_(0.5).add_(x.mean(0))
        return x + self.mean


def test_buffers_that_the_model_writes_are_updates():
    model, x = Counting(), torch.randn(3, 4)
    exported = export_module(model, (x,))
    graph = exported.imported.graph
    verify(graph)
    assert {target for _, target in graph.updates} == {"calls", "mean"}
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    results = interpret(graph, [x], exported.imported.params)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    expected = model(x)
    assert_same(results[0], expected)
    new = dict(zip((t for _, t in graph.updates), results[1:], strict=True))
    assert_same(new, dict(model.named_buffers()))


class Confusing(nn.Module):
    """A parameter, a buffer and an input of one name, and keys that are no identifiers."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.randn(4))
        self.parts = nn.ParameterDict({"a b": torch.randn(4), "c:d": torch.randn(4)})
        self.inner = nn.Module()
        self.inner.register_buffer("state (old)", torch.zeros(4))

    def forward(self, x):
        self.inner.get_buffer("state (old)").add_(x)
        return x * self.x + self.parts["a b"] * self.parts["c:d"]


def test_names_that_collide_or_that_text_cannot_carry():
    model, x = Confusing(), torch.randn(4)
    graph = check(model, (x,)).imported.graph
    assert len({value.name for value in (*graph.inputs, *graph.params)}) == 5
    ((_, target),) = graph.updates
    assert target in {param.name for param in graph.params}
    assert graph.tensor(target).shape == (4,) and "state" in target


def test_an_input_that_the_model_writes_is_an_update():
    class Writing(nn.Module):
        def forward(self, x):
            return x.add_(1) * 2

    x = torch.randn(3)
    graph = export_module(Writing(), (x.clone(),)).imported.graph
    assert [target for _, target in graph.updates] == [graph.inputs[0].name]


class Nested(nn.Module):
    def forward(self, x, *, scale, parts):
        left, (right,) = parts["left"], parts["right"]
        return {"sum": left + right, "rest": [x * scale, (None, 3, "text")], "x": x}


def test_nested_arguments_results_and_constants():
    x, y, z = torch.randn(3), torch.randn(3), torch.randn(3)
    kwargs = {"scale": 2.0, "parts": {"left": y, "right": (z,)}}
    exported = check(Nested(), (x,), kwargs)
    reordered = {"parts": kwargs["parts"], "scale": 2.0}
    assert_same(run(exported, (x,), reordered), Nested()(x, **kwargs))
    with pytest.raises(InputError, match=r"compiled for 2\.0"):
        run(exported, (x,), kwargs | {"scale": 3.0})
    with pytest.raises(InputError, match="another structure"):
        run(exported, (x,), {"scale": 2.0, "parts": {"left": y}})


def test_results_that_are_a_parameter_or_the_same_twice():
    class Passing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x):
            y = x * self.weight
            return self.weight, y, y

    check(Passing(), (torch.randn(3),))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.yes, self.no = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda t: self.yes(t), lambda t: self.no(t), (x,))


def test_control_flow_is_kept_as_an_object():
    exported = check(Branching(), (torch.ones(2, 4),))
    assert len(exported.imported.graph.objects) == 2
    with torch.no_grad():
        model = Branching().eval()
        exported = export_module(model, (torch.ones(2, 4),))
        for x in (torch.ones(2, 4), -torch.ones(2, 4)):
            assert_same(run(exported, (x,)), model(x))


def test_sizes_that_depend_on_data():
    class Picking(nn.Module):
        def forward(self, x):
            rows = x[x[:, 0] > 0]
            return rows * 2, rows.sum(0)

    x = torch.tensor([[1.0, 2.0], [-1.0, 3.0], [4.0, 5.0]])
    exported = check(Picking(), (x,))
    for other in (-x, x * x):
        assert_same(run(exported, (other,)), Picking()(other))


def test_shared_weights_are_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    graph = check(Tied(), (torch.randn(2, 4),)).imported.graph
    weights = {node.inputs[1] for node in graph.nodes if node.op.name == "linear"}
    assert len(weights) == 1


def test_a_result_may_be_a_size():
    class Measuring(nn.Module):
        def forward(self, x):
            return x * 2, x.shape[0], {"half": x.shape[0] // 2 + 1}

    x = torch.randn(4, 4)
    check(Measuring(), (x,))
    fast = sc.compile(Measuring(), (x,), dynamic_shapes=({0: Dim("rows", min=2, max=64)},))
    for rows in (4, 2, 9):
        y, size, rest = fast(torch.ones(rows, 4))
        assert (tuple(y.shape), size, rest) == ((rows, 4), rows, {"half": rows // 2 + 1})


def test_a_size_that_depends_on_numbers_is_refused():
    class Counting(nn.Module):
        def forward(self, x):
            return x * 2, x.nonzero().shape[0]

    with pytest.raises(UnsupportedError, match="depends on numbers inside tensors"):
        export_module(Counting(), (torch.ones(3, 4),))


def test_a_number_out_of_a_tensor_decides_nothing():
    class Picking(nn.Module):
        def forward(self, x, i):
            return (x * 2)[i]

    with pytest.raises(UnsupportedError, match="depends on numbers inside tensors") as caught:
        export_module(Picking(), (torch.ones(3, 4), torch.tensor(1)))
    assert "test_export.py" in str(caught.value.node) and "index_select" in caught.value.fix


def test_how_many_were_found_is_no_number_out_of_a_tensor():
    class Finding(nn.Module):
        def forward(self, x):
            rows = x[:, 0].nonzero()
            return x[rows.reshape(-1)].reshape(rows.shape[0], 2, 2)

    graph = export_module(Finding(), (torch.ones(3, 4),)).imported.graph
    (found,) = [node for node in graph.nodes if node.op.name == "torch_call"]
    assert found.name.startswith("nonzero")
    (taken,) = [node for node in graph.nodes if node.op.name == "index"]
    assert taken.type.shape[0] == found.type.shape[0]


def test_what_cannot_be_traced_is_named():
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedError, match="cannot trace Deciding") as caught:
        export_module(Deciding(), (torch.ones(2),))
    assert caught.value.why and "torch.compile" in caught.value.fix


def test_other_dtypes_and_integers_keep_their_numbers():
    class Mixed(nn.Module):
        def forward(self, x, n):
            return x.half() * 3, (n + 1) * 2, n / 2, x + n, (x > 0) & (n > 0), x.double().sum()

    check(Mixed(), (torch.randn(3), torch.arange(3)))
