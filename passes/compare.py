"""Translation validation: do two graphs give the same numbers on a sample?

Relative error is max|a-b| / max|b| per tensor; shape, dtype and the places of non-finite values
must agree. Values of one name mean the same thing in both graphs, so the first that differs is
where to look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.interpret import interpret

Trace: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True)
class Sample:
    """Real tensors to run a graph on: its inputs in order, its parameters by name."""

    inputs: Sequence[torch.Tensor]
    params: Mapping[str, torch.Tensor]


def trace(graph: Graph, sample: Sample) -> Trace:
    """Every value of `graph` on the sample. The sample and the random state stay as they were."""
    values: Trace = {v.name: t for v, t in zip(graph.inputs, sample.inputs, strict=True)}
    values |= {p.name: sample.params[p.name] for p in graph.params}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        interpret(graph, sample.inputs, sample.params, values.__setitem__)
    return values


def difference(before: Graph, after: Graph, old: Trace, new: Trace) -> str | None:
    """What differs, in words, or None: outputs and updates decide, values of one name explain."""
    if len(before.outputs) != len(after.outputs):
        return f"{len(before.outputs)} outputs became {len(after.outputs)}"
    written = {target: value for value, target in after.updates}
    if written.keys() != {target for _, target in before.updates}:
        return f"the updates went to {[t for _, t in before.updates]}, now to {list(written)}"
    pairs = [
        (f"output {i}", was, now)
        for i, (was, now) in enumerate(zip(before.outputs, after.outputs, strict=True))
    ]
    pairs += [(f"the update of %{t}", value, written[t]) for value, t in before.updates]
    for label, was, now in pairs:
        problem = mismatch(new[now], old[was])
        if problem is not None:
            return f"{label}, %{now}: {problem}{_first_shared(after, old, new)}"
    return None


def _first_shared(after: Graph, old: Trace, new: Trace) -> str:
    """The first value of both graphs that differs, in the order of execution."""
    for node in after.nodes:
        problem = mismatch(new[node.name], old[node.name]) if node.name in old else None
        if problem is not None:
            return f"; the first value that differs is %{node.name}: {problem}"
    return ""


def mismatch(got: Any, expected: Any) -> str | None:
    """How `got` differs from `expected`, or None where they agree within the tolerance."""
    if isinstance(expected, (tuple, list)) and isinstance(got, (tuple, list)):
        if len(got) != len(expected):
            return f"{len(expected)} results became {len(got)}"
        parts = (mismatch(g, e) for g, e in zip(got, expected, strict=True))
        return next((part for part in parts if part is not None), None)
    if not isinstance(got, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return (
            None if type(got) is type(expected) and got == expected else f"{expected} became {got}"
        )
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{_kind(expected)} became {_kind(got)}"
    if not expected.is_floating_point():
        wrong = int((got != expected).sum())
        return f"{wrong} of {expected.numel()} elements differ" if wrong else None
    finite = expected.isfinite()
    if not torch.equal(got.isfinite(), finite) or not _same_nonfinite(got, expected):
        return "non-finite values stand in other places"
    error = relative_error(got, expected)
    limit = tolerance(expected.dtype)
    return f"relative error {error:.2e} exceeds {limit:.0e}" if error > limit else None


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """max|got - expected| / max|expected| over the finite elements; 0 where both are 0."""
    finite = expected.isfinite() & got.isfinite()
    a, b = got[finite].double(), expected[finite].double()
    gap = float((a - b).abs().max()) if a.numel() else 0.0
    return gap / max(float(b.abs().max()), 1e-300) if gap else 0.0


def tolerance(dtype: torch.dtype) -> float:
    """1e-5, or a few units in the last place where the dtype is coarser than that."""
    return max(1e-5, 8 * torch.finfo(dtype).eps)


def _same_nonfinite(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(got.isnan(), expected.isnan()) and torch.equal(
        got[got.isinf()], expected[expected.isinf()]
    )


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")
