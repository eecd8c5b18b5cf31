"""Relax modules where a torch module is taken: weights in all their places, sizes, and refusals."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import OptionError, UnsupportedError
from sparse_compiler.frontends.tvm_version import require_tvm
from sparse_compiler.ops.pool import Pool

tvm = pytest.importorskip("tvm")
from tvm import relax, tirx  # noqa: E402
from tvm.relax import op as R  # noqa: E402
from tvm.relax.frontend.torch import from_exported_program  # noqa: E402

from sparse_compiler.frontends.relax import import_relax  # noqa: E402
from sparse_compiler.frontends.relax_names import apart, cleaned, layer_of  # noqa: E402
from sparse_compiler.runtime.plain import PlainModule  # noqa: E402

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def program(mlp):
    batch = torch.export.Dim("b", min=2, max=64)
    return torch.export.export(mlp, (X,), dynamic_shapes=({0: batch},))


def interpreted(module, **options):
    found = import_relax(module, **options)
    return PlainModule(found.imported.graph, found.imported.params, found.call), found


def function_of(build, *inputs):
    """A module of one function in a dataflow block."""
    builder = relax.BlockBuilder()
    with builder.function("main", list(inputs)):
        with builder.dataflow():
            result = builder.emit_output(build(builder))
        builder.emit_func_output(result)
    return builder.get()


def var(name, shape, dtype="float32"):
    return relax.Var(name, relax.TensorType(shape, dtype))


@pytest.mark.system
def test_compiled_as_the_torch_module_is(mlp, program):
    compiled = sc.compile(from_exported_program(program, keep_params_as_input=True), (X,))
    torch.testing.assert_close(compiled(X), mlp(X))
    more = torch.randn(5, 8)
    torch.testing.assert_close(compiled(more), mlp(more))
    assert [x["name"] for x in compiled.inspect().json()["layers"]] == ["0", "2"]


@pytest.mark.parametrize("where", ["constants", "attribute", "bound", "given"])
def test_weights_in_every_place(mlp, program, where):
    module = from_exported_program(program, keep_params_as_input=where != "constants")
    given = {}
    if where in ("bound", "given"):
        module, params = relax.frontend.detach_params(module)
        names = [p.name for p in module["main"].params[1:]]
        given = dict(zip(names, params["main"], strict=True))
    if where == "bound":
        module, given = relax.transform.BindParams("main", given)(module), {}
    model, found = interpreted(module, params={k: torch.from_dlpack(v) for k, v in given.items()})
    torch.testing.assert_close(model(X), mlp(X))
    assert [n.op.name for n in found.imported.graph.nodes].count("linear") == 2
    (limits,) = found.imported.graph.symbols.values()
    assert (limits.low, limits.high) == (2, 64)


def test_a_script_with_its_parameters_beside_it(mlp, program, tmp_path):
    exported = from_exported_program(program, keep_params_as_input=True)
    module, params = relax.frontend.detach_params(exported)
    names = [p.name for p in module["main"].params[1:]]
    path = tmp_path / "model.py"
    path.write_text(module.script())
    with pytest.raises(UnsupportedError, match="p_0_weight of the Relax module has no value"):
        sc.inspect(path, (X,))
    table = dict(zip(names, params["main"], strict=True))
    tvm.runtime.save_param_dict_to_file(table, str(tmp_path / "model.params"))
    assert [x["name"] for x in sc.inspect(path, (X,)).json()["layers"]] == ["0", "2"]


@pytest.mark.system
def test_saved_and_loaded(tmp_path):
    x = var("x", (tirx.Var("batch", "int64"), 8))
    module = function_of(lambda b: b.emit(R.tanh(x)), x)
    path = sc.export(module, (X,), tmp_path / "model.scz")
    for value in (X, torch.randn(5, 8)):
        torch.testing.assert_close(sc.load(path)(value), value.tanh())


def test_several_results_and_tuples():
    x = var("x", (2, 4))

    def build(builder):
        parts = builder.emit(R.split(x, 2, 1))
        left, right = (builder.emit(relax.TupleGetItem(parts, i)) for i in range(2))
        return relax.Tuple([builder.emit(R.add(left, right)), left])

    model, _ = interpreted(function_of(build, x))
    value = torch.randn(2, 4)
    total, left = model(value)
    assert torch.equal(total, value[:, :2] + value[:, 2:]) and torch.equal(left, value[:, :2])


def test_functions_of_the_module_are_taken_in():
    builder, x = relax.BlockBuilder(), var("x", (2, 4))
    y = var("y", (2, 4))
    with builder.function("twice", [y]):
        builder.emit_func_output(builder.emit(R.add(y, y)))
    callee = builder.get().get_global_var("twice")
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.Call(callee, [x])))
    model, _ = interpreted(builder.get())
    value = torch.randn(2, 4)
    assert torch.equal(model(value), 2 * value)


def test_sizes_are_named_as_saved_models_want_and_match_cast_gives_more_names():
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    x = var("x", (n, 4))

    def build(builder):
        cast = builder.match_cast(x, relax.TensorType((m, 4), "float32"))
        return builder.emit(R.reshape(cast, (m * 4,)))

    model, found = interpreted(function_of(build, x))
    assert list(found.imported.graph.symbols) == ["s0"]
    assert model(torch.ones(3, 4)).shape == (12,)


def branch():
    builder, x = relax.BlockBuilder(), var("x", (2,))
    c = var("c", (), "bool")
    with builder.function("main", [x, c]):
        result = builder.emit(relax.If(c, relax.SeqExpr([], x), relax.SeqExpr([], x)))
        builder.emit_func_output(result)
    return builder.get()


def effect():
    builder, x = relax.BlockBuilder(), var("x", (2,))
    with builder.function("main", [x], pure=False):
        builder.emit(relax.op.print(x, format="{}"))
        builder.emit_func_output(x)
    return builder.get()


def unknown_size():
    x, size = var("x", (2, 3)), tirx.Var("k", "int64")

    def build(builder):
        places = builder.emit(R.nonzero(x))
        return builder.match_cast(places, relax.TensorType((2, size), "int64"))

    return function_of(build, x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (branch, "is an if"),
        (effect, "has effects"),
        (unknown_size, "known at run time only|is unknown"),
        (lambda: tvm.IRModule({}), "no function main"),
    ],
)
def test_refusals_name_the_construct_and_what_to_do(make, words):
    with pytest.raises(UnsupportedError, match=words) as caught:
        sc.inspect(make())
    assert "fix:" in str(caught.value)


def test_dynamic_shapes_belong_to_the_module(program):
    with pytest.raises(OptionError, match="dynamic_shapes"):
        sc.compile(from_exported_program(program), (X,), dynamic_shapes=({0: None},))


@pytest.mark.parametrize("name", ["no.json", "list.json", "import.py"])
def test_files_that_are_no_module(tmp_path, name):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "import.py").write_text("import os\n")
    with pytest.raises(UnsupportedError, match="cannot read a Relax module"):
        sc.inspect(tmp_path / name)


def test_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"model\.json needs TVM") as caught:
        sc.inspect(tmp_path / "model.json")
    assert "[tvm]" in str(caught.value)


def test_another_version_of_tvm_is_refused(monkeypatch):
    monkeypatch.setattr(tvm, "__version__", "0.19.0")
    with pytest.raises(UnsupportedError, match=r"this is TVM 0\.19\.0"):
        require_tvm("a module")


def test_importing_the_package_imports_no_tvm():
    code = "import sys, sparse_compiler; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names():
    assert cleaned("p_encoder_0_weight") == "encoder_0.weight"
    assert cleaned("model.fc.weight") == "model.fc.weight"
    assert layer_of("model.fc.weight") == "model.fc"
    assert apart("a.b", ["a.b.c"]) == apart("a.b", ["a"]) == "a_b"
    assert apart("a.b", ["a.c", "a.bc"]) == "a.b"


def test_a_pool_visits_nothing_outside_the_image() -> None:
    pool, x = nn.AvgPool2d(640, ceil_mode=True), torch.randn(1, 5, 3, 2)
    module = from_exported_program(torch.export.export(pool, (x,)))
    graph = import_relax(module).imported.graph
    assert [n.op.kernel for n in graph.nodes if isinstance(n.op, Pool)] == [(3, 2)]
    torch.testing.assert_close(sc.compile(module, (x,))(x), pool(x))
