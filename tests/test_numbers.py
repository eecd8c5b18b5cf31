"""End to end: every architecture of the zoo, at every sparsity, gives the eager model's numbers.

Relative error max|a-b| / max|b| of at most 1e-4 per tensor; shape, dtype and the places of
non-finite values agree. One sparsity of a sample by default; the whole zoo at batch 1, 2 and 3,
with one thread and two, under `slow`.
"""

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree

import sparse_compiler as sc
from sparse_compiler.compiled import Compiled
from sparse_compiler.frontends.export import export_module
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.compare import relative_error
from tests.models import BATCH, models, zoo

TOLERANCE = 1e-4
SPARSITIES = (0.0, 0.7, 0.9)
ZOO = zoo()
DEFAULT = {name: SPARSITIES[i % 3] for i, name in enumerate(models())}
UNIT = ("bert", "mlp")  # 5 s a compile
# Each sparsity meets each batch; the zoo's networks have other sizes, so others are split.
ALL = [(0.0, 1), (0.7, 2), (0.9, 3), (0.9, 1)]
NATIVE_EVERYWHERE = {"bert", "distilbert", "gpt2", "llama", "lstm", "mixer", "mlp", "vit"}

pytestmark = [
    pytest.mark.usefixtures("cached_kernels"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch's thread count inside the block, which is ours too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compile_at(
    name: str, sparsity: float, options: Mapping[str, Any], batch: int = BATCH
) -> tuple[Compiled, torch.nn.Module, tuple, dict]:
    """A model pruned by magnitude, compiled; and the pruned model itself with its arguments."""
    model, args, kwargs = ZOO[name](batch)
    if sparsity:
        model = sc.sparsify(model, sc.Magnitude(sparsity, min_weights=64))
    return sc.compile(model, args, kwargs, options=options), model, args, kwargs


def agree(got: Any, expected: Any) -> None:
    """Same structure and dtypes; numbers within the tolerance."""
    leaves, spec = pytree.tree_flatten(got)
    wanted, wanted_spec = pytree.tree_flatten(expected)
    assert spec == wanted_spec
    for a, b in zip(leaves, wanted, strict=True):
        if not isinstance(b, torch.Tensor):
            assert a == b
            continue
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert torch.equal(a.isfinite(), b.isfinite())
        assert relative_error(a, b) <= TOLERANCE


def check(name: str, sparsity: float, options: Mapping[str, Any], batch: int = BATCH) -> Compiled:
    """Compiles, calls twice with two threads and once with one, and compares."""
    fast, model, args, kwargs = compile_at(name, sparsity, options, batch)
    with torch.no_grad():
        expected = model(*args, **kwargs)
        for count in (2, 2, 1):  # arenas and results are used again
            with threads(count):
                agree(fast(*args, **kwargs), expected)
    return fast


@pytest.mark.parametrize("name", UNIT)
def test_natively(name: str) -> None:
    fast = check(name, DEFAULT[name], {"force_native": True})
    if name in NATIVE_EVERYWHERE:
        assert fast.pipeline.segments
        assert any(layer.native for layer in sc.inspect(fast).layers)


@pytest.mark.parametrize("name", ["mlp", pytest.param("resnet", marks=pytest.mark.system)])
def test_by_the_cost_model(name: str) -> None:
    check(name, DEFAULT[name], {})


@pytest.mark.slow
@pytest.mark.parametrize(("sparsity", "batch"), ALL)
@pytest.mark.parametrize("name", ZOO)
def test_whole_zoo_natively(name: str, sparsity: float, batch: int) -> None:
    check(name, sparsity, {"force_native": True}, batch)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", models())
def test_sample_by_the_cost_model(name: str, sparsity: float) -> None:
    check(name, sparsity, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_whole_zoo_compiled_for_one_thread(name: str) -> None:
    """One thread may be given other splits; two run it afterwards."""
    with threads(1):
        fast, model, args, kwargs = compile_at(name, 0.7, {"force_native": True}, 3)
        expected = model(*args, **kwargs)
        agree(fast(*args, **kwargs), expected)
    with threads(2):
        agree(fast(*args, **kwargs), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_whole_zoo_step_by_step(name: str) -> None:
    """verify=2 interprets the graph after every pass, and names the one that changes numbers."""
    check(name, 0.7, {"force_native": True, "verify": 2})


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("name", ZOO)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 instruction sets")
def test_whole_zoo_on_older_instruction_sets(name: str, isa: str) -> None:
    check(name, 0.7, {"force_native": True, "isa": isa})


@pytest.mark.system
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 instruction sets")
@pytest.mark.parametrize("isa", ["x86-64-v2", "x86-64-v3"])
def test_older_instruction_sets(isa: str) -> None:
    """Vectors of 4 and 8 floats, which every machine of today can run."""
    assert check("mlp", 0.7, {"force_native": True, "isa": isa}).pipeline.segments


def test_a_wide_layer_pays_without_force() -> None:
    """What the cost model lets through is right, and says so."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(768, 3072), torch.nn.GELU()).eval()
    model = sc.sparsify(model.requires_grad_(False), sc.Magnitude(0.95))
    x = torch.randn(128, 768)
    fast = sc.compile(model, (x,))
    (layer,) = sc.inspect(fast).layers
    assert layer.native
    assert layer.format == "csr"
    assert layer.gain is not None
    assert layer.gain > 1
    agree(fast(x), model(x))


@pytest.mark.system
@pytest.mark.parametrize("name", ["bert"])
def test_translation_validation_and_dumps(name: str, tmp_path: Path) -> None:
    """verify=2 compares the numbers after each pass; the dump holds every stage as text."""
    fast = check(name, 0.7, {"force_native": True, "verify": 2, "dump": tmp_path})
    stages = sorted(tmp_path.glob("*.ir"))
    assert next(p.name.split("-", 1)[1] for p in stages) == "input.ir"
    assert len(stages) == 1 + len(fast.pipeline.lowered.records)
    for path in stages:
        assert str(parse_graph(path.read_text())) == path.read_text()
    assert stages[-1].read_text() == str(fast.graph)


@pytest.mark.system
@pytest.mark.parametrize("name", ["bert"])
def test_two_builds_are_equal(name: str) -> None:
    """Equal text of graph and program, and the same libraries, whose names hash the sources."""
    builds = [compile_at(name, 0.7, {"force_native": True})[0] for _ in range(2)]
    first, second = (b.pipeline for b in builds)
    assert str(first.lowered.graph) == str(second.lowered.graph)
    assert str(first.lowered.program) == str(second.lowered.program)
    paths = [[s.library_path for s in p.segments] for p in (first, second)]
    assert paths[0] == paths[1]
    for path in paths[0]:
        assert path.with_suffix(".cpp").read_bytes()


@pytest.mark.parametrize(
    "name", [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in ZOO]
)
def test_text_of_the_graph_parses_back(name: str) -> None:
    model, args, kwargs = ZOO[name]()
    text = str(export_module(model, args, kwargs).imported.graph)
    assert str(parse_graph(text)) == text
