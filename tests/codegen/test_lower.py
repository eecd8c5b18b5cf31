"""Lowering: waits stand where threads could meet, and no two values share memory while in use."""

from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.codegen.lower import lower
from sparse_compiler.codegen.operands import Elements, Planes
from sparse_compiler.codegen.plan import Sharing, arrange, buffer_of, share
from sparse_compiler.codegen.program import Buffer, Call, Segment, Space
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.interpret import run_node
from sparse_compiler.ir.types import evaluate
from sparse_compiler.ir.verify import verify
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.pipeline import run_passes
from tests.codegen.random_graphs import RandomGraph, random_graphs
from tests.codegen.random_images import random_images

SETTINGS = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


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


def own_columns(call: Call, place: Planes | Elements, mode: str) -> bool:
    """True where threads that hold columns each touch only their own."""
    return mode != "foreign" and isinstance(place, Planes) and place.space == call.tokens


def meets(segment: Segment, i: int, j: int, *, split: bool, rest: bool = False) -> bool:
    """True if all threads wait after call i and before call j ends its start."""
    waits = segment.waits.items()
    return any(i < k <= j and wait.stands(split=split, rest=rest) for k, wait in waits)


def rows(place: Planes | Elements) -> set[int] | None:
    """The rows touched; None for all."""
    if isinstance(place, Planes) and isinstance(place.first, int) and isinstance(place.rows, int):
        return set(range(place.first, place.first + place.rows))
    return None


def conflicts(first: Call, second: Call) -> list[tuple[bool, bool]]:
    """Per conflicting pair of accesses, whether both keep to columns of the same space, and whether
    neither writes what another thread has too, its rest."""
    found = []
    for a, mode_a in first.places:
        for b, mode_b in second.places:
            if buffer_of(a) is None or buffer_of(a) != buffer_of(b):
                continue
            if "write" not in (mode_a, mode_b):
                continue
            if first.label == second.label and mode_a == mode_b == "write":
                continue  # pieces of one concatenation
            rows_a, rows_b = rows(a), rows(b)
            if rows_a is not None and rows_b is not None and not rows_a & rows_b:
                continue
            same = first.tokens is not None and first.tokens == second.tokens
            own = same and own_columns(first, a, mode_a) and own_columns(second, b, mode_b)
            given = (first.gives and mode_a == "write") or (second.gives and mode_b == "write")
            found.append((own, own and not given))
    return found


def check_waits(segment: Segment) -> None:
    """Whatever two threads may do to the same memory has a wait between."""
    for (i, first), (j, second) in combinations(enumerate(segment.calls), 2):
        for own, kept in conflicts(first, second):
            message = f"{i}: {first}\n{j}: {second}\n{segment}"
            assert meets(segment, i, j, split=False), message
            assert own or meets(segment, i, j, split=True), message
            assert kept or meets(segment, i, j, split=True, rest=True), message


def check_memory(segment: Segment, hints: dict[str, int], threads: int) -> None:
    """Buffers that overlap in memory are in use one after the other, with a wait between."""
    columns = [max(1, evaluate(space.columns, hints)) for space in segment.spaces]
    sharing = share(segment, max(1, evaluate(segment.samples, hints)), columns, threads)
    known = dict(hints) | {f"ld.{i}": ld for i, ld in enumerate(sharing.ld)}
    floats = []
    for buffer in segment.buffers:
        size = evaluate(buffer.size, known)
        wide = sharing.ld[buffer.space] if buffer.space is not None else sharing.per * 2
        floats.append(size * wide)
    arena = arrange(segment, sharing, floats)
    for a, b in combinations(range(len(floats)), 2):
        first, second = sorted((segment.buffers[a], segment.buffers[b]), key=lambda x: x.first)
        if arena.local[a] != arena.local[b]:
            continue
        low, high = (
            max(arena.offsets[a], arena.offsets[b]),
            min(arena.offsets[a] + floats[a], arena.offsets[b] + floats[b]),
        )
        if low >= high:
            continue
        assert not first.shared and not second.shared
        assert first.last < second.first, f"b{a} and b{b}\n{segment}"
        split, rest = any(sharing.part), any(sharing.rest)
        if sharing.alone or (arena.local[a] and not first.foreign and not rest):
            continue
        met = meets(segment, first.last, second.first, split=split, rest=rest)
        assert met, f"b{a}, b{b}\n{segment}"


def check_program(case: RandomGraph) -> None:
    """The waits and the memory of all segments, and that lowering gives the same again."""
    program = lower(laid_out(case))
    for segment in program.segments:
        check_waits(segment)
        for threads in (1, 2, 3):
            check_memory(segment, dict(case.hints), threads)
    assert str(lower(laid_out(case))) == str(program)


@settings(SETTINGS, max_examples=30)
@given(random_graphs())
def test_waits_and_memory_of_random_graphs(case: RandomGraph) -> None:
    check_program(case)


@settings(SETTINGS, max_examples=20)
@given(random_images())
def test_waits_and_memory_of_random_images(case: RandomGraph) -> None:
    check_program(case)


@pytest.mark.slow
@settings(SETTINGS, max_examples=200)
@given(st.one_of(random_graphs(16), random_images(16)))
def test_waits_and_memory_of_more_graphs(case: RandomGraph) -> None:
    check_program(case)


@pytest.mark.parametrize("tokens", [32, 64, 100, 128, 197])
@pytest.mark.parametrize("samples", [1, 2, 3, 8])
def test_threads_share_an_encoder_in_every_way(tokens: int, samples: int) -> None:
    from tests.codegen.test_source import segment_of

    segment = segment_of("encoder")
    check_waits(segment)
    for threads in (1, 2, 4):
        sharing = share(segment, samples, [tokens], threads)
        assert sharing.per >= 1
        if sharing.part[0]:
            assert sharing.part[0] % 16 == 0
            divided = tokens - sharing.rest[0]
            assert sharing.part[0] * (threads - 1) < divided <= sharing.part[0] * threads
            assert not sharing.rest[0] or divided == sharing.part[0] * threads
        if sharing.alone:
            assert not any(sharing.part)


def sharing_of(samples: int, *values: tuple[int, int]) -> Sharing:
    """How one thread shares images that have values of (rows, columns)."""
    spaces = tuple(Space(columns, False) for _, columns in values)
    buffers = tuple(Buffer(rows, at) for at, (rows, _) in enumerate(values))
    nothing = frozenset[str]()
    segment = Segment("x", (), (), (nothing, nothing), (), spaces, buffers, (), samples, {}, ())
    return share(segment, samples, [columns for _, columns in values], 1)


@pytest.mark.parametrize(
    "values, samples, per",
    [
        (((32, 1024), (512, 4)), 16, 4),  # 4 of 16 lanes, were a chunk one sample
        (((32, 1024), (512, 4)), 3, 2),
        (((32, 1024), (512, 48)), 16, 1),  # full vectors
        (((256, 2048), (4096, 4)), 16, 2),  # a chunk's largest value fits the cache
    ],
)
def test_small_planes_fill_their_vectors(
    values: tuple[tuple[int, int], ...], samples: int, per: int
) -> None:
    assert sharing_of(samples, *values).per == per
