"""`tvm_call`: what we have no op for is run by TVM, on torch's memory, with any sizes."""

import pytest
import torch

import sparse_compiler as sc
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.attrs import Object
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ops.tvm_call import TvmCall

tvm = pytest.importorskip("tvm")
from tvm.script import ir as I  # noqa: E402
from tvm.script import relax as R  # noqa: E402
from tvm.script import tirx as T  # noqa: E402

from sparse_compiler.frontends.relax_call import region, to_tvm  # noqa: E402


@I.ir_module
class Module:
    @T.prim_func(private=True, s_tir=True)
    def reversed_rows(a: T.handle, b: T.handle):  # noqa: N805
        n = T.int64()
        A = T.match_buffer(a, (n, T.int64(4)))
        B = T.match_buffer(b, (n, T.int64(4)))
        for i, j in T.grid(n, T.int64(4)):
            with T.sblock("b"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[n - T.int64(1) - vi, vj]

    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), y: R.Tensor(("m", "n"), "float32")):  # noqa: N805
        n = T.int64()
        m = T.int64()
        cls = Module
        with R.dataflow():
            a = R.call_tir(cls.reversed_rows, (x,), R.Tensor((n, 4), dtype="float32"))
            b = R.broadcast_to(R.sum(a, axis=[0]), R.shape([m, 4]))
            c = R.topk(b, k=2, axis=1, ret_type="both")
            g = (a, c[0], R.matmul(y, a))
            R.output(g)
        return g


def values():
    """The bound expressions of the module by the name of their variable."""
    return {b.var.name: b.value for block in Module["main"].body.blocks for b in block.bindings}


def test_a_region_is_called_with_torch_tensors():
    found = region(Module, values()["a"], str)
    assert (found.target, found.sizes) == ("call_tir reversed_rows", ())
    x = torch.randn(3, 4)
    assert torch.equal(found.function([x]), x.flip(0))
    x = torch.randn(5, 4)
    assert torch.equal(found.function([x]), x.flip(0)), "one build for all sizes"


def test_sizes_that_no_input_has_are_passed():
    found = region(Module, values()["b"], lambda var: {"n": 3, "m": 6}[var.name])
    x = torch.randn(4)
    assert found.sizes == (6,)
    assert torch.equal(found.function([x], found.sizes), x.expand(6, 4))


def test_several_results_are_a_tuple():
    found = region(Module, values()["c"], str)
    numbers, places = found.function([torch.tensor([[1.0, 3.0, 2.0, 0.0]])], [1] * len(found.sizes))
    assert numbers.tolist() == [[3.0, 2.0]]
    assert places.tolist() == [[1, 2]]


def test_tensors_are_copied_only_where_tvm_could_not_read_them():
    x = torch.randn(64, 64)
    assert torch.from_dlpack(to_tvm(x)).data_ptr() == x.data_ptr()
    for other in (x.T, x[:, 1:], x.view(-1)[1:]):
        assert torch.equal(torch.from_dlpack(to_tvm(other)), other)


def test_the_ledger_names_the_step_and_the_file_is_refused(tmp_path):
    args = torch.randn(3, 4), torch.randn(2, 3)
    compiled = sc.compile(Module, args)
    first, second = (e for e in compiled.inspect().layers if e.kernel == "tvm")
    assert {first.op, second.op} == {"call_tir reversed_rows", "relax.topk"}
    assert first.name == "a"
    assert "op_unsupported" in first.reason
    x, y = torch.randn(7, 4), torch.randn(5, 7)
    flipped, top, product = compiled(x, y)
    assert torch.equal(flipped, x.flip(0))
    assert torch.allclose(top, x.sum(0).topk(2).values.expand(5, 2), atol=1e-5)
    assert torch.allclose(product, y @ x.flip(0), atol=1e-5)
    with pytest.raises(UnsupportedError, match=r"relax.topk at %c, which TVM runs"):
        sc.export(Module, args, tmp_path / "model.scz")
    assert not list(tmp_path.iterdir())


def test_a_step_read_from_text_says_that_its_function_is_gone():
    text = 'object %f\ninput %x: f32[2]\n%y: f32[2] = tvm_call[target="relax.erf", function='
    graph = parse_graph(text + 'object("f")](%x)\nreturn %y')
    assert graph.nodes[0].op == TvmCall("relax.erf", Object("f"))
    with pytest.raises(UnsupportedError, match="has no function"):
        graph.nodes[0].op.bind({}, graph.objects).reference(torch.zeros(2))
