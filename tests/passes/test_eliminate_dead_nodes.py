"""Nodes nobody reads go; whatever leaves the graph stays, with all it needs."""

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from tests.passes.checks import check_pass, check_untouched

PASS = EliminateDeadNodes()
CHAIN = """
    input %x: f32[s0, 4]
    param %w: f32[2, 4]
    %live: f32[s0, 4] = pointwise[expr="relu(x0)"](%x)
    %dead.a: f32[s0, 4] = pointwise[expr="exp(x0)"](%live)
    %dead.b: f32[s0, 2] = linear(%dead.a, %w)
    return %live
"""


def test_a_dead_chain_goes_from_its_end():
    check_pass(
        CHAIN,
        PASS,
        """
        input %x: f32[s0, 4]
        param %w: f32[2, 4]
        %live: f32[s0, 4] = pointwise[expr="relu(x0)"](%x)
        return %live
        """,
    )


def test_updates_outputs_and_what_they_read_stay():
    check_untouched(
        """
        input %x: f32[4]
        param %count: f32[4]
        %sum: f32[4] = pointwise[expr="add(x0, x1)"](%x, %count)
        %new: f32[4] = pointwise[expr="mul(x0, 0.5)"](%sum)
        %y: f32[4] = pointwise[expr="exp(x0)"](%x)
        return %y
        update %count = %new
        """,
        PASS,
    )


def test_unused_inputs_and_parameters_stay_in_the_signature():
    check_untouched(
        """
        input %x: f32[4]
        input %unused: f32[4]
        param %w: f32[4]
        return %x
        """,
        PASS,
    )


def test_fuel_bounds_the_removals():
    graph = PASS.run(parse_graph(CHAIN), Context(fuel=1))
    assert [node.name for node in graph.nodes] == ["live", "dead.a"]
