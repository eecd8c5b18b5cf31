"""The order of the passes, and the runner that times, verifies, dumps and compares each.

A failure names the pass and those before it, and carries the graph as it stood before: enough to
replay it. With verify=2 the graph is also interpreted after each pass, and the first pass that
changes the numbers is named, with the first value that differs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path

from sparse_compiler.errors import InternalError, OptionError, PassError, VerifyError
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.verify import verify
from sparse_compiler.options import Options, nearest
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.choose_formats import ChooseFormats
from sparse_compiler.passes.choose_layouts import ChooseLayouts
from sparse_compiler.passes.choose_values import ChooseValues
from sparse_compiler.passes.compare import Sample, Trace, difference, trace
from sparse_compiler.passes.compute_in_fp32 import ComputeInFp32
from sparse_compiler.passes.eliminate_dead_channels import EliminateDeadChannels
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from sparse_compiler.passes.fold_batch_norm import FoldBatchNorm
from sparse_compiler.passes.fuse_pointwise import FusePointwise
from sparse_compiler.passes.merge_duplicates import MergeDuplicates
from sparse_compiler.passes.merge_parallel_linears import MergeParallelLinears
from sparse_compiler.passes.recognize_activations import RecognizeActivations
from sparse_compiler.passes.recognize_attention import RecognizeAttention
from sparse_compiler.passes.recognize_bias import RecognizeBias
from sparse_compiler.passes.recognize_layer_norm import RecognizeLayerNorm
from sparse_compiler.passes.recognize_rms_norm import RecognizeRmsNorm
from sparse_compiler.passes.recognize_rotary import RecognizeRotary
from sparse_compiler.passes.simplify_indexing import SimplifyIndexing
from sparse_compiler.passes.simplify_views import SimplifyViews
from sparse_compiler.passes.sink_expands import SinkExpands
from sparse_compiler.passes.unflatten_batches import UnflattenBatches

PASSES: tuple[Pass, ...] = (
    ComputeInFp32(),
    RecognizeRmsNorm(),
    RecognizeLayerNorm(),
    RecognizeActivations(),
    RecognizeRotary(),
    UnflattenBatches(),
    RecognizeAttention(),
    SinkExpands(),
    EliminateDeadNodes(),
    MergeDuplicates(),
    SimplifyIndexing(),
    SimplifyViews(),
    RecognizeBias(),
    FoldBatchNorm(),
    EliminateDeadChannels(),
    MergeParallelLinears(),
    FusePointwise(),
    ChooseFormats(),
    ChooseValues(),
    ChooseLayouts(),
)

logger = logging.getLogger(__name__)

# What a defect of ours may raise. Not wider: an interrupt or a lack of memory is no defect, and
# what the user can mend (`UserError`) must reach the user as it is.
_DEFECTS = (
    InternalError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did; node counts are those of the graph before and after it."""

    name: str
    seconds: float
    changed: bool
    nodes_before: int
    nodes_after: int
    graph: Graph = field(repr=False, compare=False)
    """The graph after it."""

    def __str__(self) -> str:
        change = f"{self.nodes_before} -> {self.nodes_after} nodes" if self.changed else "unchanged"
        return f"{self.name:<24} {self.seconds * 1e3:8.1f} ms  {change}"


def run_passes(
    graph: Graph,
    context: Context,
    options: Options,
    *,
    passes: Sequence[Pass] = PASSES,
    sample: Sample | None = None,
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The graph after `passes`, and a record of each that ran.

    sample: inputs and parameters for verify=2, which compares nothing without them.
    Raises `PassError` on a defect of a pass, `VerifyError` on a graph that was wrong before the
    first, `OptionError` on an unknown pass name or a dump folder that cannot be written.
    """
    chosen = _chosen(passes, options)
    if context.fuel is None:
        context.fuel = options.fuel
    if options.verify:
        verify(graph)
    dump = Dump(options.dump)
    dump.stage("input", graph)
    values = trace(graph, sample) if sample is not None and options.verify >= 2 else None
    records: list[PassRecord] = []
    for pass_ in chosen:
        began = time.perf_counter()
        after = _run(pass_, graph, context, records)
        seconds = time.perf_counter() - began
        dump.stage(pass_.name, after)
        if options.verify and after is not graph:
            _verify(pass_, graph, after, records)
            if values is not None and sample is not None:
                check = _translated if pass_.exact else _traced
                values = check(pass_, graph, after, values, sample, records)
        counts = len(graph.nodes), len(after.nodes)
        records.append(PassRecord(pass_.name, seconds, after is not graph, *counts, after))
        logger.info("%s", records[-1])
        if after is not graph:
            logger.debug("after %s:\n%s", pass_.name, after)
        graph = after
    return graph, tuple(records)


def _chosen(passes: Sequence[Pass], options: Options) -> list[Pass]:
    names = tuple(pass_.name for pass_ in passes)
    stop = (options.stop_after,) if options.stop_after is not None else ()
    for name in (*options.disable, *stop):
        if name not in names:
            raise OptionError(f"no pass is named {name!r}", fix=nearest(name, names))
    last = names.index(stop[0]) + 1 if stop else len(names)
    return [pass_ for pass_ in passes[:last] if pass_.name not in options.disable]


def _run(pass_: Pass, graph: Graph, context: Context, records: Sequence[PassRecord]) -> Graph:
    try:
        return pass_.run(graph, context)
    except PassError:
        raise
    except _DEFECTS as error:
        raise _failure(pass_, "failed", graph, records, _reason(error)) from error


def _verify(pass_: Pass, before: Graph, after: Graph, records: Sequence[PassRecord]) -> None:
    try:
        verify(after)
    except VerifyError as error:
        raise _failure(pass_, "gave a wrong graph", before, records, error.why) from error


def _translated(
    pass_: Pass,
    before: Graph,
    after: Graph,
    values: Trace,
    sample: Sample,
    records: Sequence[PassRecord],
) -> Trace:
    """Translation validation: the numbers after the pass, which must be those before it."""
    try:
        new = trace(after, sample)
    except _DEFECTS as error:
        raise _failure(pass_, "gave a graph that fails", before, records, _reason(error)) from error
    problem = difference(before, after, values, new)
    if problem is not None:
        raise _failure(pass_, "changes the numbers", before, records, problem)
    return new


def _traced(
    pass_: Pass,
    before: Graph,
    after: Graph,
    values: Trace,
    sample: Sample,
    records: Sequence[PassRecord],
) -> Trace:
    """The numbers after a pass that computes more exactly than what it was given."""
    return trace(after, sample)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _failure(
    pass_: Pass, what: str, graph: Graph, records: Sequence[PassRecord], why: str
) -> PassError:
    ran = ", ".join(record.name for record in records) or "none"
    return PassError(
        f"the pass {pass_.name} {what}; before it ran: {ran}", graph=str(graph), why=why
    )


class Dump:
    """Writes `00-input.ir`, then `NN-name.ir` and `NN-name.diff` for each pass into one folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._count = 0
        self._before = ""

    def stage(self, name: str, graph: Graph) -> None:
        """Writes one stage. Raises `OptionError` where the folder cannot be written."""
        if self.folder is None:
            return
        stem, text = f"{self._count:02d}-{name}", str(graph)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{stem}.ir").write_text(text)
            if self._count:
                (self.folder / f"{stem}.diff").write_text(self._diff(text, stem))
        except OSError as error:
            raise OptionError(
                f"option dump is {str(self.folder)!r}, which cannot be written",
                why=str(error),
                fix="name a folder that you may write to",
            ) from error
        self._count, self._before = self._count + 1, text

    def _diff(self, text: str, stem: str) -> str:
        lines = (self._before.splitlines(keepends=True), text.splitlines(keepends=True))
        return "".join(unified_diff(*lines, "before", stem))
