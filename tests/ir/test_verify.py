"""Each rule of the verifier, broken on purpose; and the builder, which refuses earlier."""

from dataclasses import replace

import pytest

from sparse_compiler.errors import VerifyError
from sparse_compiler.ir.graph import Builder
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.types import TensorType
from sparse_compiler.ir.verify import verify
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.torch_call import TorchCall

HEAD = "input %x: f32[4, 8]\nparam %w: f32[2, 8]\n"
RELU = 'pointwise[expr="relu(x0)"]'


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (f"%y: f32[4, 8] = {RELU}(%z)\nreturn %y", "%z is used before it is defined"),
        (f"%y: f32[4, 8] = {RELU}(%y)\nreturn %y", "%y is used before it is defined"),
        (f"%x: f32[4, 8] = {RELU}(%x)\nreturn %x", "%x is defined twice"),
        (f"%y: f32[4, 8] = {RELU}(%x)\n" * 2 + "return %y", "%y is defined twice"),
        ("return %y", "output %y is not defined"),
        (f"%y: f32[8, 4] = {RELU}(%x)\nreturn %y", "the op infers f32[4, 8]"),
        (f"%y: f16[4, 8] = {RELU}(%x)\nreturn %y", "the op infers f32[4, 8]"),
        ("%y: f32[4, 2] = linear(%w, %x)\nreturn %y", "the op infers f32[2, 4]"),
        ("%y: f32[4, 2] = linear(%x)\nreturn %y", "linear takes 2 to 64 inputs, not 1"),
        ('%y: f32[4, 8] = pointwise[expr="zzz(x0)"](%x)\nreturn %y', "named 'zzz'"),
        ('%y: f32[4, 8] = pointwise[expr="add(x0)"](%x)\nreturn %y', "add takes 2 arguments"),
        ('%y: f32[4, 8] = pointwise[expr="x1"](%x)\nreturn %y', "reads x1 of 1 inputs"),
        ('%y: f32[4, 8] = pointwise[expr="0 +"](%x)\nreturn %y', "cannot read the expression"),
        ('%y: f32[4, 2] = linear[epilogue="x1"](%x, %w)\nreturn %y', "reads x1 of 1 inputs"),
        (f"%y: f32[4, 8] = {RELU}(%x, %w)\nreturn %y", "do not broadcast"),
        ("%y: f32[3, 8] = slice[dim=2, stop=3](%x)\nreturn %y", "slice of dimension 2 of 2"),
        ("%y: f32[5, 8] = slice[stop=5](%x)\nreturn %y", "slice of 0 to 5 of 4"),
        ("%y: f32[-1, 8] = slice[start=3, stop=2](%x)\nreturn %y", "slice of 3 to 2 of 4"),
        ("%y: f32[5, 8] = reshape[shape=(5, 8)](%x)\nreturn %y", "changes the size"),
        ("%y: f32[8, 4] = permute[dims=(1, 1)](%x)\nreturn %y", "permute of 2 dimensions"),
        (
            "%y: f32[4, 8]{0|2} = relayout[order=(0, 2), planes=1](%x)\nreturn %y",
            "no order of its 2",
        ),
        ("%y: f32[4, 8]{0,1|} = relayout[order=(0, 1), planes=3](%x)\nreturn %y", "the op infers"),
        (
            '%y: f32[4, 8] = torch_call[target="aten.relu.default", args=(_1,)](%x)\nreturn %y',
            "reads _1 of 1 inputs",
        ),
        (
            '%t: (f32[4],) = torch_call[target="aten.a.b", args=(_0,)](%x)\n'
            "%y: f32[4] = getitem[index=1](%t)\nreturn %y",
            "getitem of result 1 of 1",
        ),
        (
            '%y: f32[4] = torch_call[target="higher_order.cond", args=(object("a"),)](%x)\nreturn',
            "object %a is not in the graph",
        ),
        ("return %x\nupdate %w = %z", "reads %z, which is not defined"),
        (f"%y: f32[4, 8] = {RELU}(%x)\nreturn\nupdate %y = %x", "neither input nor parameter"),
        ("return\nupdate %w = %x", "update of %w: f32[2, 8], with %x: f32[4, 8]"),
        ("return\nupdate %x = %x\nupdate %x = %x", "two updates go to one target"),
        ("symbol s0 in [1, 2]\ninput %z: f32[s1]\nreturn %z", "undeclared symbol s1"),
    ],
)
def test_each_rule(body, part):
    with pytest.raises(VerifyError) as caught:
        verify(parse_graph(HEAD + body))
    assert part in str(caught.value)


def test_all_violations_are_reported_at_once():
    graph = parse_graph(HEAD + f"%y: f32[1] = {RELU}(%x)\nreturn %a, %b\nupdate %c = %d")
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    for part in ("the op infers", "output %a", "output %b", "%c", "%d"):
        assert part in str(caught.value)


def test_layouts_inside_a_tuple_are_checked():
    call = '%t: (f32[4]{1|0}, none) = torch_call[target="aten.a.b"](%x)\nreturn %t'
    with pytest.raises(VerifyError, match="no order of its 1 dimensions"):
        verify(parse_graph(HEAD + call))


def test_a_valid_graph_passes_and_a_wrong_copy_does_not():
    graph = parse_graph(HEAD + "%y: f32[4, 2] = linear(%x, %w)\nreturn %y\nupdate %w = %w")
    verify(graph)
    with pytest.raises(VerifyError):
        verify(replace(graph, params=()))


class TestBuilder:
    def builder(self):
        builder = Builder()
        builder.input("x", TensorType("f32", (4,)))
        return builder

    def test_refuses_a_name_used_twice(self):
        builder = self.builder()
        with pytest.raises(VerifyError, match="two values are named %x"):
            builder.param("x", TensorType("f32", (4,)))
        with pytest.raises(VerifyError, match="two values are named %x"):
            builder.add(Pointwise("relu(x0)"), ["x"], "x")

    def test_fresh_counts_within_a_name(self):
        builder = self.builder()
        assert [builder.fresh("x"), builder.fresh("y")] == ["x_2", "y"]
        builder.add(Pointwise("relu(x0)"), ["x"], "x_2")
        assert builder.fresh("x") == "x_3"

    def test_infers_types_or_demands_them(self):
        builder = self.builder()
        with pytest.raises(VerifyError, match="needs a type"):
            builder.add(TorchCall("aten.relu.default"), ["x"], "y")
        builder.add(Pointwise("relu(x0)"), ["x"], "y")
        assert builder.types["y"] == TensorType("f32", (4,))
        verify(builder.build(["y"]))
