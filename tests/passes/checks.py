"""`check_pass`: the text before and after is the specification of a pass.

Besides comparing the text it verifies both graphs, runs the pass on its own result (which must be
the same object) and interprets both graphs on random inputs.
"""

from collections.abc import Mapping

import torch

from sparse_compiler.analysis.sparsity import SparsityFacts
from sparse_compiler.ir.graph import Graph, Value
from sparse_compiler.ir.text import parse_graph, print_graph
from sparse_compiler.ir.types import evaluate, torch_dtype
from sparse_compiler.ir.verify import verify
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.compare import Sample, difference, trace

SIZE = 3  # of every symbol: no other dimension of the tests' graphs, so nothing fits by accident


def random_tensor(value: Value, generator: torch.Generator) -> torch.Tensor:
    """Normal numbers for floats, 0 to 3 for integers, coins for booleans."""
    names = {s.name for d in value.type.shape if not isinstance(d, int) for s in d.free_symbols}
    shape = [evaluate(dim, dict.fromkeys(names, SIZE)) for dim in value.type.shape]
    dtype = torch_dtype(value.type.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2 if dtype is torch.bool else 4, shape, generator=generator).to(dtype)


def random_sample(
    graph: Graph, params: Mapping[str, torch.Tensor] | None = None, seed: int = 0
) -> Sample:
    """Inputs and parameters for `graph`; `params` replaces some of them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [random_tensor(value, generator) for value in graph.inputs]
    drawn = {value.name: random_tensor(value, generator) for value in graph.params}
    return Sample(inputs, drawn | dict(params or {}))


def canonical(text: str) -> str:
    """The text as the printer would write it."""
    return print_graph(parse_graph(text))


def check_pass(
    before: str,
    pass_: Pass,
    after: str,
    *,
    params: Mapping[str, torch.Tensor] | None = None,
    facts: Mapping[str, SparsityFacts] | None = None,
    context: Context | None = None,
) -> Context:
    """Asserts that `pass_` turns `before` into `after`; returns the context with its refusals."""
    graph = parse_graph(before)
    verify(graph)
    context = context if context is not None else Context(facts=facts or {})
    result = pass_.run(graph, context)
    verify(result)
    assert print_graph(result) == canonical(after)
    if print_graph(graph) == print_graph(result):
        assert result is graph, "the pass changed nothing and gave another object"
    again = Context(facts=context.facts, threads=context.threads, fuel=context.fuel)
    assert pass_.run(result, again) is result, "the pass is not idempotent"
    sample = random_sample(graph, params)
    problem = difference(graph, result, trace(graph, sample), trace(result, sample))
    assert problem is None, problem
    return context


def check_untouched(
    text: str, pass_: Pass, *refusals: str, facts: Mapping[str, SparsityFacts] | None = None
) -> None:
    """Asserts that the pass leaves the graph alone, for exactly the reasons in `refusals`."""
    context = check_pass(text, pass_, text, facts=facts)
    codes = {reason.code for reasons in context.refusals.values() for reason in reasons}
    assert codes == set(refusals)


__all__ = ["canonical", "check_pass", "check_untouched", "random_sample"]
