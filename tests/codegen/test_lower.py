"""Lowering: random graphs keep their numbers; waits stand where threads could meet."""

from hypothesis import HealthCheck, given, settings

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.codegen.lower import lower
from sparse_compiler.codegen.plan import accesses, overlaps
from sparse_compiler.codegen.program import Program, Segment
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.interpret import interpret, run_node
from sparse_compiler.ir.verify import verify
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.compare import mismatch
from sparse_compiler.passes.pipeline import run_passes
from tests.codegen.random_graphs import RandomGraph, random_graphs
from tests.codegen.replay import replay


def laid_out(case: RandomGraph) -> Graph:
    """The graph after all passes, native wherever it can be."""
    values = dict(case.params)
    for node in case.graph.nodes:
        if node.name in case.graph.weight_time:
            values[node.name] = run_node(node, [values[i] for i in node.inputs], {}, {})
    facts = {n: sparsity_facts(v) for n, v in values.items() if v.dim() >= 2}
    context = Context(facts=facts, threads=2, hints=case.hints, force_native=True)
    graph, _ = run_passes(case.graph, context, Options())
    verify(graph)
    return graph


def check_waits(segment: Segment) -> None:
    """Every pair of calls that touch the same rows, one of them writing, has a wait between."""
    for j, later in enumerate(segment.calls):
        for i, earlier in enumerate(segment.calls[:j]):
            reads, writes = accesses(earlier)
            reads_later, writes_later = accesses(later)
            meet = [(w, o) for w in writes for o in reads_later + writes_later]
            meet += [(r, w) for r in reads for w in writes_later]
            if any(overlaps(a, b) for a, b in meet):
                assert any(i < k <= j for k in segment.sync), f"{earlier}\n{later}\n{segment}"


def check_program(case: RandomGraph, graph: Graph, program: Program) -> None:
    for segment in program.segments:
        check_waits(segment)
    for inputs in case.inputs:
        expected = interpret(case.graph, inputs, case.params)
        got = replay(graph, program, inputs, case.params)
        for a, b in zip(got, expected, strict=True):
            assert mismatch(a, b) is None, f"{mismatch(a, b)}\n{program}"


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(random_graphs())
def test_programs_mean_what_their_graphs_mean(case: RandomGraph) -> None:
    graph = laid_out(case)
    program = lower(graph)
    check_program(case, graph, program)
    assert str(lower(laid_out(case))) == str(program)
