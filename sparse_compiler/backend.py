"""`torch.compile(model, backend="sparse_compiler")`: the entry point that Dynamo finds by name.

Dynamo's graph -> functional ATen graph -> ours -> native segments, hosted in a graph that Inductor
compiles. Where nothing runs natively Inductor gets Dynamo's graph untouched, and `last_reports`
says why.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from .errors import UnsupportedError
from .frontends.importer import Imported
from .inspector.profile import print_at_exit, profile_of_segments
from .inspector.report import Report, report_of
from .ir.refusal import No
from .options import Options
from .runtime.gpu_place import placed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileReport:
    """What became of one graph.

    reason: why Inductor has all of it, or None; segments: how many parts run natively; report: the
    ledger, None where the graph was not looked into.
    """

    reason: No | None
    segments: int = 0
    report: Report | None = None


# Of the last graphs compiled in this process, the newest last.
last_reports: deque[CompileReport] = deque(maxlen=64)


def sparse_compiler(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compiles one graph of Dynamo's. options: fields of `Options`; mode: the field `mode`.

    Raises `OptionError` for an option that does not exist or an impossible value.
    """
    values = dict(options or {})
    if mode is not None:
        values["mode"] = mode
    chosen = Options.from_dict(values)
    chosen.configure_logging()
    from .frontends.dynamo import refuse_training

    refusal = refuse_training(gm, example_inputs)
    if refusal is not None:
        return _with_inductor(gm, example_inputs, CompileReport(refusal))
    tensors = [x for x in example_inputs if isinstance(x, torch.Tensor)]
    try:
        chosen = placed(chosen, tensors, named="target" in values)
        return _compile(gm, example_inputs, chosen)
    except UnsupportedError as error:
        refusal = No("unsupported", str(error))
        return _with_inductor(gm, example_inputs, CompileReport(refusal))


def _compile(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options
) -> Callable[..., Any]:
    from torch.utils._python_dispatch import _disable_current_modes

    from .frontends import dynamo, rival
    from .frontends.host import compile_hosted, host
    from .runtime.hosted import build_segments

    statics = dynamo.static_inputs(gm, example_inputs)
    call, deferred = dynamo.capture(gm, example_inputs)
    imported = dynamo.import_aot_graph(deferred.gm, statics)
    with _disable_current_modes():  # it works on real weights
        hints = dynamo.size_hints(deferred.fake_inputs)
        segments, lowered = build_segments(imported.graph, imported.params, options, hints)
        report = report_of(lowered)
    _refuse_elsewhere(imported, segments)
    if not segments:
        # Other weights, with other zeros, are a decision of their own.
        dynamo.guard_identity(s for s in statics.values() if s.tensor.dim() >= 2)
        reason = No("nothing_native", "no part of the graph runs faster natively")
        plain = _with_inductor(gm, example_inputs, CompileReport(reason, 0, report))
        if options.mode == "max-autotune" and not imported.graph.updates:
            return rival.settle(gm, example_inputs, plain, statics, lowered, options.timing_lock)[0]
        return plain
    _guard_weights(imported, segments, statics)
    if options.profile:
        native = [segment.native for segment in segments]
        print_at_exit(segments[0], lambda: profile_of_segments(native, options))
    hosted = host(deferred.gm, imported, segments)
    deferred.target = compile_hosted(hosted, deferred.fake_inputs)
    if options.mode == "max-autotune" and not imported.graph.updates:
        winner, outcome = rival.settle(
            gm, example_inputs, call, statics, lowered, options.timing_lock
        )
        report = report_of(lowered, outcome)
        _note(CompileReport(outcome.reason, len(segments), report))
        return winner
    _note(CompileReport(None, len(segments), report))
    return call


def _refuse_elsewhere(imported: Imported, segments: Sequence[Any]) -> None:
    """Raises `UnsupportedError` for a segment that would read what lies on another device."""
    for segment in segments:
        for name in segment.inputs:
            found = imported.origin[name].meta["val"].device
            if found != segment.device:
                raise UnsupportedError(
                    f"%{name} lies on {found}",
                    why=f"its segment was compiled for {segment.device}",
                    fix="move the model and its inputs to one device",
                )


def _guard_weights(imported: Imported, segments: Sequence[Any], statics: Mapping[int, Any]) -> None:
    """A weight that a segment holds may not be replaced behind its back."""
    from .frontends import dynamo

    captured: set[int] = set()
    for segment in segments:
        names = dynamo.captured_params(imported.graph, segment.inputs, segment.outputs)
        captured |= {id(imported.params[name]) for name in names}
    dynamo.guard_identity(s for s in statics.values() if id(s.tensor) in captured)


def _with_inductor(
    gm: fx.GraphModule, example_inputs: Sequence[Any], report: CompileReport
) -> Callable[..., Any]:
    from torch._inductor.compile_fx import compile_fx

    _note(report)
    return cast(Callable[..., Any], compile_fx(gm, example_inputs))


def _note(report: CompileReport) -> None:
    last_reports.append(report)
    if report.reason is not None:
        log.info("Inductor compiles the whole graph: %s", report.reason)
    else:
        log.info("%d native segments", report.segments)
