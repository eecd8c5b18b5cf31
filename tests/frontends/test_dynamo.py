"""torch.compile with segments that torch itself runs: everything around native code, without it."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from sparse_compiler.backend import last_reports, sparse_compiler
from sparse_compiler.errors import CodegenError
from sparse_compiler.frontends import host
from sparse_compiler.frontends.dynamo import captured_params
from sparse_compiler.frontends.importer import Imported
from sparse_compiler.inspector.report import Report
from tests.frontends.segments import (
    Grouping,
    assert_equal,
    each_linear,
    each_op,
    long_runs,
    native_nodes,
)


class Mlp(nn.Sequential):
    """A class of ours, since Dynamo enters torch's own by another path."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return Mlp(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()


@pytest.mark.parametrize("grouping", [each_linear, each_op, long_runs])
def test_dynamic_batches_are_right_and_compile_as_often_as_inductor(
    install: Any, grouping: Grouping
) -> None:
    pipeline = install(grouping)
    model = mlp()
    ours = CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, backend=ours, dynamic=True)
    for batch in (1, 7, 3):
        compiled(torch.randn(batch, 8))
    torch._dynamo.reset()
    count = 0

    def backend(gm: Any, inputs: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return sparse_compiler(gm, inputs, **options)

    compiled = torch.compile(model, backend=backend, dynamic=True)
    for batch in (1, 7, 3):
        x = torch.randn(batch, 8)
        assert_equal(compiled(x), model(x))
    assert count == ours.frame_count
    assert sum(segment.calls for segment in pipeline.built) > 0
    assert pipeline.hints == [{}, dict.fromkeys(pipeline.graphs[1].symbols, 7)]
    assert last_reports[-1].reason is None
    assert isinstance(last_reports[-1].report, Report)


def test_values_are_named_after_modules(install: Any) -> None:
    pipeline = install(each_linear)
    torch.compile(mlp(), backend=sparse_compiler)(torch.randn(2, 8))
    graph = pipeline.graphs[0]
    assert [p.name for p in graph.params] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [n.op.name for n in graph.nodes] == ["linear", "pointwise", "linear"]
    assert [n.name for n in graph.nodes if n.op.name == "linear"] == ["0.linear", "2.linear"]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        b, s, _ = x.shape
        q, k, v = (t.view(b, s, 4, 4).transpose(1, 2) for t in self.qkv(x).split(16, -1))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        joined = heads.transpose(1, 2).reshape(b, s, 16)
        return self.norm(x + self.out(joined)), heads


@pytest.mark.parametrize("grouping", [each_linear, each_op, long_runs])
def test_composites_arrive_whole_and_strides_survive(install: Any, grouping: Grouping) -> None:
    pipeline = install(grouping)
    model = Attention().eval()
    compiled = torch.compile(model, backend=sparse_compiler, dynamic=True)
    for shape in ((2, 5, 16), (3, 7, 16)):
        x = torch.randn(shape)
        assert_equal(compiled(x), model(x))
    names = {node.op.name for node in pipeline.graphs[0].nodes}
    assert {"linear", "attention", "layer_norm"} <= names
    assert "torch_call" not in names


def test_symbols_that_no_input_gives_are_passed(install: Any) -> None:
    pipeline = install(each_op)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.reshape(-1, 8).cos().cumsum(1)).view(x.shape[0], x.shape[1], 4).relu()

    model = Flat()
    compiled = torch.compile(model, backend=sparse_compiler, dynamic=True)
    for shape in ((2, 5, 8), (3, 7, 8)):
        x = torch.randn(shape)
        assert_equal(compiled(x), model(x))
    assert any(s.inputs and s.calls == 2 for s in pipeline.built)


class Writes(nn.Module):
    """Writes to its input, to a buffer, and returns a view of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x.mul_(2)
        y = self.fc(x + self.seen)
        self.seen += y.sum(0)
        return y, x[0]


@pytest.mark.parametrize("grouping", [each_linear, long_runs])
def test_mutated_inputs_and_buffers(install: Any, grouping: Grouping) -> None:
    pipeline = install(grouping)
    model = Writes()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend=sparse_compiler)
    for _ in range(3):
        x = torch.randn(4, 8)
        y = x.clone()
        ours, view = compiled(x)
        assert_equal((ours, view), twin(y))
        assert_equal((x, model.seen), (y, twin.seen))
        assert view.data_ptr() == x.data_ptr()
    graph = pipeline.graphs[0]
    assert [p.name for p in graph.params] == ["fc.weight", "fc.bias"]
    assert len(graph.updates) == 2


def test_aliased_repeated_expanded_and_strided_inputs(install: Any) -> None:
    install(each_op)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * self.fc(y) + y

    model = Two()
    compiled = torch.compile(model, backend=sparse_compiler)
    x = torch.randn(4, 8)
    base = torch.randn(8, 8)
    for pair in (
        (x, x),
        (x.t().contiguous().t(), x),
        (torch.randn(1, 8).expand(4, 8), x),
        (base[::2], base[1::2]),
        (torch.randn(0, 8), torch.randn(0, 8)),
    ):
        assert_equal(compiled(*pair), model(*pair))


def test_tied_weights(install: Any) -> None:
    pipeline = install(each_linear)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    model = Tied()
    compiled = torch.compile(model, backend=sparse_compiler)
    ids = torch.randint(0, 10, (2, 3))
    assert_equal(compiled(ids), model(ids))
    assert len(pipeline.graphs[0].params) == 1
    model.embed.weight.mul_(3)
    assert_equal(compiled(ids), model(ids))
    model.head.weight = nn.Parameter(torch.randn(10, 8))
    assert_equal(compiled(ids), model(ids))


def test_changed_and_replaced_weights(install: Any) -> None:
    pipeline = install(each_linear)
    model = mlp()
    compiled = torch.compile(model, backend=sparse_compiler)
    x = torch.randn(3, 8)
    assert_equal(compiled(x), model(x))
    graphs = len(pipeline.graphs)
    model[0].weight.mul_(2)
    assert_equal(compiled(x), model(x))
    model.load_state_dict(mlp().state_dict())
    assert_equal(compiled(x), model(x))
    assert len(pipeline.graphs) == graphs, "a change in place must not compile again"
    model[2].weight = nn.Parameter(torch.randn(4, 16))
    assert_equal(compiled(x), model(x))
    assert len(pipeline.graphs) == graphs + 1, "a replaced weight must compile again"


def test_weights_outside_segments_are_not_guarded(install: Any) -> None:
    pipeline = install(lambda imported: [native_nodes(imported, ("linear",))[:1]])
    model = mlp()
    compiled = torch.compile(model, backend=sparse_compiler)
    x = torch.randn(3, 8)
    compiled(x)
    model[2].weight = nn.Parameter(torch.randn(4, 16))
    assert_equal(compiled(x), model(x))
    assert len(pipeline.graphs) == 1
    segment = pipeline.built[0]
    names = captured_params(pipeline.graphs[0], segment.inputs, segment.outputs)
    assert names == {"0.weight", "0.bias"}


def test_inference_mode(install: Any) -> None:
    install(each_linear)
    model = mlp()
    compiled = torch.compile(model, backend=sparse_compiler)
    x = torch.randn(3, 8)
    with torch.inference_mode():
        assert_equal(compiled(x), model(x))
    assert last_reports[-1].segments == 2
    assert_equal(compiled(x), model(x))


def test_gradients_go_to_inductor_and_are_right(install: Any) -> None:
    pipeline = install(each_linear)
    model, x = mlp(), torch.randn(3, 8)
    compiled = torch.compile(model, backend=sparse_compiler)
    with torch.enable_grad():
        loss = compiled(x).square().sum()
        loss.backward()
        ours = model[0].weight.grad.clone()
        model.zero_grad()
        model(x).square().sum().backward()
    assert torch.allclose(ours, model[0].weight.grad, rtol=1e-4, atol=1e-6)
    assert last_reports[-1].reason.code == "training"
    assert not pipeline.graphs


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(8)])
def test_training_mode_goes_to_inductor(install: Any, layer: nn.Module) -> None:
    install(each_linear)
    model = nn.Sequential(nn.Linear(8, 8), layer)
    compiled = torch.compile(model, backend=sparse_compiler)
    compiled(torch.randn(4, 8))
    assert last_reports[-1].reason.code == "training"
    model.eval()
    x = torch.randn(4, 8)
    assert_equal(compiled(x), model(x))
    assert last_reports[-1].segments == 1


def test_nothing_native_goes_to_inductor(install: Any) -> None:
    install(lambda imported: [])
    x = torch.randn(3, 8)
    model = mlp()
    assert_equal(torch.compile(model, backend=sparse_compiler)(x), model(x))
    assert last_reports[-1].reason.code == "nothing_native"
    assert isinstance(last_reports[-1].report, Report)


def test_unknown_option_names_the_nearest(install: Any) -> None:
    install(each_linear)
    compiled = torch.compile(mlp(), backend=sparse_compiler, options={"verfy": 1})
    with pytest.raises(Exception, match="verify"):
        compiled(torch.randn(3, 8))


def test_segments_in_a_circle_are_refused(install: Any) -> None:
    def circle(imported: Imported) -> list[tuple[Any, ...]]:
        linears = native_nodes(imported, ("linear",))
        return [(linears[0], linears[1])]  # the op between them needs the first, the second it

    install(circle)
    with pytest.raises(Exception, match="wait for one another") as caught:
        torch.compile(mlp(), backend=sparse_compiler)(torch.randn(3, 8))
    assert isinstance(caught.value.inner_exception, CodegenError)


def test_segments_are_released_with_the_code(install: Any) -> None:
    install(each_linear)
    compiled = torch.compile(mlp(), backend=sparse_compiler)
    compiled(torch.randn(3, 8))
    assert len(host._entries) >= 2
    before = len(host._entries)
    del compiled
    torch._dynamo.reset()
    gc.collect()
    assert len(host._entries) == before - 2


def test_equal_models_in_one_process_keep_their_own_weights(install: Any) -> None:
    """Inductor caches generated code by the graph's text, which is the same for both."""
    install(each_linear)
    first, second = mlp(), mlp()
    second[0].weight.mul_(-1)
    x = torch.randn(3, 8)
    a = torch.compile(first, backend=sparse_compiler)
    b = torch.compile(second, backend=sparse_compiler)
    for _ in range(2):
        assert_equal(a(x), first(x))
        assert_equal(b(x), second(x))


def test_a_dense_model_does_not_decide_for_a_later_one_of_its_class(install: Any) -> None:
    pipeline = install(lambda imported: [])
    x, first, second = torch.randn(3, 8), mlp(), mlp()
    torch.compile(first, backend=sparse_compiler)(x)
    pipeline.grouping = each_linear
    assert_equal(torch.compile(second, backend=sparse_compiler)(x), second(x))
    assert last_reports[-1].segments == 2


def test_many_blocks_of_one_class_stay_compiled(install: Any) -> None:
    pipeline = install(each_linear)
    models = [mlp() for _ in range(torch._dynamo.config.recompile_limit + 3)]
    x = torch.randn(3, 8)
    for model in models:
        model[0].weight.copy_(torch.randn(16, 8))
        compiled = torch.compile(model, backend=sparse_compiler)
        assert_equal(compiled(x), model(x))
    assert len(pipeline.graphs) == len(models)


def test_constants_and_control_flow(install: Any) -> None:
    install(each_op)

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(x) + torch.tensor([1.0, 2.0] * 4)
            return torch.cond(x.sum() > 0, lambda t: t.relu() + 1, lambda t: t - 1, (x,)).tanh()

    model = Branch()
    compiled = torch.compile(model, backend=sparse_compiler)
    for sign in (1, -1):
        x = sign * 9 * torch.ones(3, 8)
        assert_equal(compiled(x), model(x))
