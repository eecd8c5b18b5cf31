"""The ledger: an entry for every layer, under its module's path, with every candidate's fate."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import sparse_compiler as sc
from tests.runtime.nets import compiled, mlp

pytestmark = pytest.mark.usefixtures("cached_kernels")

X = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
KEYS = {
    "name",
    "op",
    "pattern",
    "density",
    "format",
    "kernel",
    "native",
    "fused",
    "reason",
    "candidates",
}


class Named(nn.Module):
    """Layers of several kinds, one inside a module called weight_part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_part = nn.Sequential(nn.Linear(24, 24, bias=False))
        self.lstm = nn.LSTM(24, 8, batch_first=True)
        self.embed = nn.Embedding(10, 24)
        self.conv = nn.Conv1d(24, 24, 1)
        self.matrix = nn.Parameter(torch.randn(24, 24))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.weight_part(x) + self.embed(ids)
        return self.lstm(y)[0], self.conv(y[..., None]), x @ self.matrix.T


def named() -> sc.Compiled:
    model = Named().eval().requires_grad_(False)
    return compiled(model, X, torch.randint(0, 10, (9,)))


@pytest.mark.system
def test_entries_carry_module_paths() -> None:
    layers = {layer.name: layer for layer in named().inspect().layers}
    assert set(layers) == {"weight_part.0", "lstm", "embed", "conv", "matrix"}
    assert layers["weight_part.0"].native
    assert "add" in layers["weight_part.0"].fused
    assert layers["lstm"].op.startswith("aten.lstm")
    assert not layers["lstm"].native
    assert layers["lstm"].kernel == "torch"
    assert str(layers["lstm"].reason).startswith("op_unsupported: ")
    assert (layers["embed"].op, layers["embed"].kernel) == ("embedding", "embedding")
    assert str(layers["embed"].reason).startswith("table: ")
    assert (layers["conv"].op, layers["conv"].native) == ("conv", True)


@pytest.mark.parametrize("how", ["prune", "sparsify"])
def test_masks_do_not_change_the_name(how: str) -> None:
    model = mlp()
    if how == "prune":
        prune.l1_unstructured(model[0], "weight", 0.5)
        model.requires_grad_(False)
    else:
        model = sc.sparsify(model, sc.Magnitude(0.5, min_weights=10))
    first, second = compiled(model, X).inspect().layers
    assert (first.name, second.name) == ("0", "2")
    assert first.pattern == "unstructured"
    assert first.density < 0.51
    assert set(first.fused) == {"bias", "gelu"}


def test_json_is_plain_and_complete() -> None:
    report = named().inspect()
    data = report.json()
    assert json.loads(json.dumps(data)) == data
    assert set(data) == {"layers", "fallback_calls", "summary", "whole_model"}
    assert data["fallback_calls"] == report.fallback_calls > 0
    for layer in data["layers"]:
        assert set(layer) >= KEYS
        for candidate in layer["candidates"]:
            assert set(candidate) == {"format", "predicted_ms", "measured_ms", "reason"}
    (native, *_) = [layer for layer in data["layers"] if layer["native"] and layer["candidates"]]
    formats = {c["format"] for c in native["candidates"]}
    assert formats >= {"dense", "torch"}
    chosen = [c for c in native["candidates"] if c["reason"] is None]
    assert [c["format"] for c in chosen] == [native["format"]], "the others say why not"


def test_text_has_a_line_for_each_layer_and_each_reason() -> None:
    report = named().inspect()
    lines = report.text().splitlines()
    for layer in report.layers:
        assert any(line.split()[:1] == [layer.name] for line in lines)
        if layer.reason:
            assert f"{layer.name}: {layer.reason}" in lines
    assert lines[-1] == report.summary()


def test_whatever_is_not_sparse_has_a_reason() -> None:
    model = mlp()
    for options in ({}, {"disable": ("choose-formats",)}, {"disable": ("choose-layouts",)}):
        report = compiled(model, X, options={"force_native": False, **options}).inspect()
        for layer in report.layers:
            sparse = layer.native and layer.format != "dense"
            assert sparse or layer.reason, f"{layer} under {options}"


def test_inspecting_a_model_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SPARSE_COMPILER_CXX", "/no/such/compiler")
    report = sc.inspect(mlp(), (X,))
    assert [layer.name for layer in report.layers] == ["0", "2"]


def test_report_is_that_of_the_compiled_model() -> None:
    fast = compiled(mlp(), X)
    assert sc.inspect(fast) == fast.inspect()
    assert fast.inspect().fallback_calls == 0
    assert "segment" in fast.inspect().program


def test_a_new_pattern_shows() -> None:
    model = mlp()
    fast = compiled(model, X)
    before = fast.inspect().layers[0].density
    with torch.no_grad():
        model[0].weight[:20] = 0
    fast(X)
    assert fast.inspect().layers[0].density < before


class Attending(nn.Module):
    """Queries, keys and values of one input; a convolution with its norm before them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(24, 32, 3, padding=1)
        self.norm = nn.BatchNorm1d(32)
        self.q, self.k, self.v = (nn.Linear(32, 32, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.conv(x)).transpose(1, 2)
        heads = [
            layer(tokens).unflatten(-1, (2, 16)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        ]
        return nn.functional.scaled_dot_product_attention(*heads)


def test_layers_that_were_merged_or_folded_have_entries_of_their_own() -> None:
    model = Attending().eval().requires_grad_(False)
    for i, layer in enumerate((model.q, model.k, model.v)):
        kept = torch.rand(32, 32) < 0.05 * (i + 1)
        kept[torch.arange(32), 16 + torch.arange(32) % 16] = True  # each row reads what varies
        layer.weight.mul_(kept)
    model.conv.weight[:16] = 0
    report = sc.inspect(model, (torch.randn(2, 24, 40),))
    layers = {layer.name: layer for layer in report.layers}
    assert set(layers) == {"conv", "q", "k", "v"}
    assert "cat(%q." in report.graph
    assert layers["conv"].density == pytest.approx(0.5)
    for i, name in enumerate("qkv"):
        weight = getattr(model, name).weight
        assert layers[name].density == pytest.approx(float((weight != 0).float().mean())), i
    times = [{c.format: c.predicted_ms for c in layers[n].candidates} for n in "qkv"]
    assert times[0] == pytest.approx(times[1]), "a third of the whole for each"
    assert "= batch_norm" not in report.graph
