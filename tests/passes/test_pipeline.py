"""The runner: records, dumps, options, and what it says when a pass is wrong."""

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from sparse_compiler.errors import (
    InternalError,
    OptionError,
    PassError,
    UnsupportedError,
    VerifyError,
)
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.compare import mismatch
from sparse_compiler.passes.pipeline import PASSES, run_passes
from tests.passes.checks import random_sample

TEXT = """
input %x: f32[s0, 4]
param %w: f32[5, 4]
%fc: f32[s0, 5] = linear(%x, %w)
%twice: f32[s0, 5] = pointwise[expr="relu(x0)"](%fc)
%again: f32[s0, 5] = pointwise[expr="relu(x0)"](%fc)
%sum: f32[s0, 5] = pointwise[expr="add(x0, x1)"](%twice, %again)
%dead: f32[s0, 5] = pointwise[expr="exp(x0)"](%fc)
return %sum
"""
NAMES = ("eliminate-dead-nodes", "merge-duplicates", "fuse-pointwise")
BASE = tuple(pass_ for pass_ in PASSES if pass_.name in NAMES)


def run(text=TEXT, *, passes=BASE, sample=None, context=None, **options):
    graph = parse_graph(text) if isinstance(text, str) else text
    context = context or Context()
    return run_passes(graph, context, Options(**options), passes=passes, sample=sample)


@dataclass(frozen=True)
class Halve(Pass):
    """relu(x)  =>  relu(x) / 2: a miscompile."""

    name: ClassVar[str] = "halve"

    def run(self, graph: Graph, context: Context) -> Graph:
        wrong = Pointwise("mul(relu(x0), 0.5)")
        nodes = [
            replace(n, op=wrong) if n.op == Pointwise("relu(x0)") and context.spend() else n
            for n in graph.nodes
        ]
        return graph.with_nodes(nodes)


@dataclass(frozen=True)
class Reverse(Pass):
    """Breaks the order of definition."""

    name: ClassVar[str] = "reverse"

    def run(self, graph: Graph, context: Context) -> Graph:
        return graph.with_nodes(reversed(graph.nodes))


@dataclass(frozen=True)
class Raise(Pass):
    """Raises what it is told to."""

    name: ClassVar[str] = "raise"
    error: Exception

    def run(self, graph: Graph, context: Context) -> Graph:
        raise self.error


def test_records_say_what_each_pass_did(caplog):
    with caplog.at_level(logging.INFO, "sparse_compiler.passes"):
        graph, records = run()
    assert [(r.name, r.changed, r.nodes_before, r.nodes_after) for r in records] == [
        ("eliminate-dead-nodes", True, 5, 4),
        ("merge-duplicates", True, 4, 3),
        ("fuse-pointwise", True, 3, 1),
    ]
    assert all(record.seconds > 0 for record in records)
    assert [m.split()[0] for m in caplog.messages] == list(NAMES)
    assert "5 -> 4 nodes" in caplog.messages[0]
    again, records = run(graph)
    assert again is graph
    assert not any(record.changed for record in records)


def test_the_names_of_all_passes_differ():
    assert len({pass_.name for pass_ in PASSES}) == len(PASSES)
    assert all(type(pass_).__doc__ for pass_ in PASSES)


def test_dump_holds_each_stage_and_its_diff(tmp_path):
    graph, _ = run(dump=tmp_path / "deep" / "dump")
    folder = tmp_path / "deep" / "dump"
    stems = ["00-input", *(f"{i:02d}-{name}" for i, name in enumerate(NAMES, 1))]
    expected = {f"{stem}.ir" for stem in stems} | {f"{stem}.diff" for stem in stems[1:]}
    assert {path.name for path in folder.iterdir()} == expected
    assert (folder / f"{stems[-1]}.ir").read_text() == str(graph)
    removed = [
        line
        for line in (folder / f"{stems[1]}.diff").read_text().splitlines()
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert removed == ['-%dead: f32[s0, 5] = pointwise[expr="exp(x0)"](%fc)']
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(dump=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_dump_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        run(dump=tmp_path / "file")


def test_stop_after_and_disable():
    _, records = run(stop_after="merge-duplicates", disable=("eliminate-dead-nodes",))
    assert [record.name for record in records] == ["merge-duplicates"]
    with pytest.raises(OptionError, match="did you mean fuse-pointwise"):
        run(stop_after="fuse-pointwize")
    with pytest.raises(OptionError, match="no pass is named 'zzz'"):
        run(disable=("zzz",))


def test_fuel_is_shared_by_the_passes():
    sizes = [len(run(fuel=fuel)[0].nodes) for fuel in range(6)]
    assert sizes == [5, 4, 3, 2, 1, 1]
    context = Context(fuel=1)
    assert len(run(context=context, fuel=5)[0].nodes) == 4, "the context's fuel goes first"


def test_a_wrong_graph_names_the_pass_and_those_before():
    with pytest.raises(PassError, match="used before it is defined") as caught:
        run(passes=(*BASE[:2], Reverse()))
    assert "the pass reverse gave a wrong graph" in caught.value.what
    assert "eliminate-dead-nodes, merge-duplicates" in caught.value.what
    assert len(parse_graph(caught.value.graph).nodes) == 3, "the graph before the pass"
    graph, _ = run(passes=(Reverse(),), verify=0)
    assert graph.nodes[0].name == "dead"


def test_the_wrong_graph_is_dumped_before_it_is_refused(tmp_path):
    with pytest.raises(PassError):
        run(passes=(Reverse(),), dump=tmp_path)
    assert (tmp_path / "01-reverse.ir").exists()


@pytest.mark.parametrize("error", [InternalError("no"), KeyError("no"), AttributeError("no")])
def test_a_pass_that_fails_is_named(error):
    with pytest.raises(PassError, match=f"the pass raise failed.*\n.*{type(error).__name__}: "):
        run(passes=(Raise(error),))


def test_what_the_user_can_mend_arrives_as_it_is():
    with pytest.raises(UnsupportedError):
        run(passes=(Raise(UnsupportedError("too large")),))


def test_a_graph_that_was_wrong_before_blames_no_pass():
    with pytest.raises(VerifyError):
        run("input %x: f32[4]\nreturn %y")


def test_translation_validation_names_pass_output_and_value():
    sample = random_sample(parse_graph(TEXT))
    run(verify=2, sample=sample)
    with pytest.raises(PassError, match="the pass halve changes the numbers") as caught:
        run(passes=(BASE[0], Halve(), BASE[1]), verify=2, sample=sample)
    assert "before it ran: eliminate-dead-nodes" in caught.value.what
    assert "output 0, %sum: relative error 5.00e-01" in str(caught.value)
    assert "first value that differs is %twice" in str(caught.value)
    run(passes=(Halve(),), verify=1, sample=sample)


def test_fuel_finds_the_rewrite_that_miscompiles():
    sample = random_sample(parse_graph(TEXT))
    passes = (BASE[0], Halve())

    def wrong(fuel):
        try:
            run(passes=passes, verify=2, sample=sample, fuel=fuel)
        except PassError:
            return True
        return False

    assert [wrong(fuel) for fuel in range(4)] == [False, False, True, True]


def test_translation_validation_sees_updates():
    text = """
    input %x: f32[4]
    param %m: f32[4]
    %y: f32[4] = pointwise[expr="exp(x0)"](%x)
    %new: f32[4] = pointwise[expr="relu(x0)"](%x)
    return %y
    update %m = %new
    """
    with pytest.raises(PassError, match=r"the update of %m, %new: relative error 5.00e-01"):
        run(text, passes=(Halve(),), verify=2, sample=random_sample(parse_graph(text)))


def test_random_draws_are_the_same_before_and_after():
    text = """
    input %x: f32[64]
    %r: f32[64] = torch_call[target="aten.rand_like.default", args=(_0,)](%x)
    %a: f32[64] = pointwise[expr="add(x0, x1)"](%x, %r)
    %b: f32[64] = pointwise[expr="exp(x0)"](%a)
    return %b
    """
    state = torch.get_rng_state()
    _, records = run(text, verify=2, sample=random_sample(parse_graph(text)))
    assert records[-1].changed
    assert torch.equal(torch.get_rng_state(), state)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("got", "expected", "problem"),
    [
        ([1.0, 2.0], [1.0, 2.0], None),
        ([1.0, 2.00001], [1.0, 2.0], None),
        ([1.0, 2.0001], [1.0, 2.0], "relative error"),
        ([0.0, 1e-30], [0.0, 0.0], "relative error"),
        ([NAN, INF], [NAN, INF], None),
        ([NAN, 1.0], [1.0, 1.0], "non-finite"),
        ([INF], [-INF], "non-finite"),
        ([INF], [NAN], "non-finite"),
        ([], [], None),
        ([1.0], [1.0, 2.0], "became"),
    ],
)
def test_mismatch(got, expected, problem):
    found = mismatch(torch.tensor(got), torch.tensor(expected))
    assert found is None if problem is None else problem in found


def test_mismatch_of_other_kinds():
    assert mismatch(torch.tensor([1]), torch.tensor([1])) is None
    assert "1 of 2" in mismatch(torch.tensor([1, 3]), torch.tensor([1, 2]))
    assert "became" in mismatch(torch.tensor([1.0]), torch.tensor([1.0]).double())
    assert mismatch((torch.ones(1), 3), (torch.ones(1), 3)) is None
    assert mismatch((torch.ones(1), 3), (torch.ones(1), 4)) == "4 became 3"
