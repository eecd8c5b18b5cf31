"""`sc.tvm.SparseLinear`: a module of TVM's gives the same numbers, its sparse layers from us."""

import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import UnsupportedError

tvm = pytest.importorskip("tvm")
import tvm_ffi  # noqa: E402
from tvm import relax  # noqa: E402
from tvm.relax.frontend.torch import from_exported_program  # noqa: E402
from tvm.runtime import from_dlpack  # noqa: E402

ACTIVATIONS = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
}


def pruned(module, density=0.05):
    """`module` in eval mode with that share of its weights left."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.weight.mul_(torch.rand_like(part.weight) < density)
    return module.eval().requires_grad_(False)


def imported(module, x, dynamic=False):
    shapes = ({0: torch.export.Dim("n", min=1, max=4096)},) if dynamic else None
    return from_exported_program(torch.export.export(module, (x,), dynamic_shapes=shapes))


def run(module, *inputs):
    """The first result of `main` in TVM's virtual machine."""
    machine = relax.VirtualMachine(relax.build(module, "llvm"), tvm.cpu())
    return [torch.from_dlpack(machine["main"](from_dlpack(x))[0]) for x in inputs]


def kernels(module):
    """Names of our kernels in a module."""
    text = module.script()
    return [part.split('"')[1] for part in text.split("call_dps_packed(")[1:]]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.system
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    bias=st.booleans(),
    dynamic=st.booleans(),
    leading=st.sampled_from([(1,), (33,), (3, 5)]),
)
def test_any_linear_gives_the_same_numbers(activation, bias, dynamic, leading):
    torch.manual_seed(0)
    layers = nn.Linear(96, 128, bias=bias), ACTIVATIONS[activation], nn.Linear(128, 40)
    model = pruned(nn.Sequential(*layers))
    x = torch.randn(*leading, 96)
    example = torch.randn(7, *leading[1:], 96) if dynamic else x
    module = imported(model, example, dynamic)
    sparse = sc.tvm.SparseLinear(hints={"n": 64})
    changed = sparse(module)
    assert len(sparse.report.layers) == 2
    assert len(kernels(changed)) == sum(layer.native for layer in sparse.report.layers)
    (found,) = run(changed, x)
    assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.system
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_give_the_same_numbers(dtype):
    weight = torch.randn(256, 128) * (torch.rand(256, 128) < 0.05)
    x = torch.randn(64, 256).to(getattr(torch, dtype))
    data = relax.Var("x", relax.TensorType((64, 256), dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [data]):
        with builder.dataflow():
            constant = relax.const(weight.to(x.dtype).numpy(), dtype)
            product = builder.emit(relax.op.matmul(data, constant, out_dtype=dtype))
            result = builder.emit_output(relax.Tuple([product]))
        builder.emit_func_output(result)
    sparse = sc.tvm.SparseLinear()
    (found,) = run(sparse(builder.get()), x)
    assert len(sparse.report.layers) == 1
    assert torch.allclose(found.float(), x.float() @ weight, atol=5e-2, rtol=1e-2)


@pytest.mark.system
def test_sparse_layers_call_us_and_dense_ones_stay():
    model = nn.Sequential(pruned(nn.Linear(256, 256)), nn.ReLU(), nn.Linear(256, 64)).eval()
    module = imported(model, torch.randn(64, 256))
    before = module.script()
    sparse = sc.tvm.SparseLinear()
    changed = sparse(module)
    first, second = sparse.report.layers
    assert (first.native, first.format) == (True, "csr")
    assert "relu" in first.fused
    assert (second.native, second.kernel) == (False, "tvm")
    assert second.reason
    assert len(kernels(changed)) == 1
    assert "1 of 2 layers call our kernels" in str(sparse.report)
    assert module.script() == before, "the module given is not changed"
    assert changed.script().count("R.matmul") == 1, "the dense layer is TVM's own, unchanged"


@pytest.mark.system
def test_a_module_without_zeros_comes_back_as_it_is():
    module = imported(nn.Linear(64, 64).eval(), torch.randn(4, 64))
    sparse = sc.tvm.SparseLinear()
    assert tvm_ffi.structural_equal(sparse(module), module)
    assert not any(layer.native for layer in sparse.report.layers)


@pytest.mark.system
def test_several_symbolic_sizes_before_the_features():
    """torch.export flattens them to rows of `n * m`, whose factors no input of a layer gives."""
    model = pruned(nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)))
    sizes = {0: torch.export.Dim("n", min=1, max=64), 1: torch.export.Dim("m", min=1, max=64)}
    example = torch.randn(4, 16, 256)
    module = from_exported_program(torch.export.export(model, (example,), dynamic_shapes=(sizes,)))
    changed = sc.tvm.SparseLinear()(module)
    assert len(kernels(changed)) == 2
    inputs = [torch.randn(n, m, 256) for n, m in ((1, 1), (4, 16), (9, 5))]
    for x, found in zip(inputs, run(changed, *inputs), strict=True):
        assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.system
def test_names_follow_from_the_weights_alone():
    """Equal modules ask for equal names, and other weights for others."""
    module = imported(pruned(nn.Linear(256, 256)), torch.randn(64, 256))
    other = imported(pruned(nn.Linear(256, 256)), torch.randn(64, 256))
    once, twice = (kernels(sc.tvm.SparseLinear()(module)) for _ in range(2))
    assert once == twice
    assert len(once) == 1
    assert kernels(sc.tvm.SparseLinear()(other)) != once


@pytest.mark.system
def test_a_weight_of_two_layers_serves_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = pruned(nn.Linear(256, 256))

        def forward(self, x):
            return torch.relu(self.layer(torch.relu(self.layer(x)) + x))

    model, x = Tied().eval(), torch.randn(64, 256)
    changed = sc.tvm.SparseLinear()(imported(model, x))
    assert len(kernels(changed)) == 2
    (found,) = run(changed, x)
    assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.system
def test_a_product_that_is_read_twice_keeps_both_readers():
    """Its bias must not disappear into a kernel whose result nobody else can see."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = pruned(nn.Linear(256, 256))

        def forward(self, x):
            y = self.layer(x)
            return torch.relu(y) + torch.sigmoid(y)

    model, x = Twice().eval(), torch.randn(64, 256)
    changed = sc.tvm.SparseLinear()(imported(model, x))
    assert len(kernels(changed)) == 1
    (found,) = run(changed, x)
    assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.system
def test_without_a_compiler_all_stays_with_tvm(monkeypatch):
    module = imported(pruned(nn.Linear(256, 256)), torch.randn(64, 256))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("SPARSE_COMPILER_CXX", raising=False)
    sparse = sc.tvm.SparseLinear()
    assert not kernels(sparse(module))
    assert "no_compiler" in sparse.report.layers[0].reason


@pytest.mark.system
def test_convolutions():
    model = pruned(nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 1)))
    x = torch.randn(1, 32, 16, 16)
    sparse = sc.tvm.SparseConv2d()
    changed = sparse(imported(model, x))
    assert len(sparse.report.layers) == 2
    assert sparse.report.layers[0].native
    (found,) = run(changed, x)
    assert torch.allclose(found, model(x), atol=1e-5)


HIDDEN = """
import sys
sys.modules["tvm"] = None
import sparse_compiler as sc
assert "SparseLinear" in sc.tvm.__all__
try:
    sc.tvm.SparseLinear()
except sc.errors.UnsupportedError as error:
    print(error)
"""


def test_without_tvm_the_error_names_the_extra():
    found = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True)
    assert "sparse-compiler[tvm]" in found.stdout, found.stderr


def test_importing_the_package_imports_no_tvm():
    code = "import sys, sparse_compiler as sc; sc.tvm; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unknown_options_are_refused():
    with pytest.raises((sc.errors.OptionError, UnsupportedError), match="colour"):
        sc.tvm.SparseLinear(options={"colour": "red"})
