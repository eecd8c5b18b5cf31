"""One model through torch.export, TVM's Relax and ONNX: the same layers, choices and speed?

    python benchmarks/roads.py                     # seven models in full size, 90 % zeros
    python benchmarks/roads.py --small bert vit    # narrow and shallow ones
    python benchmarks/roads.py --no-speed

Counts are of the graph after the passes that normalise it; choices are each layer's op and format
in the report; the error is the largest difference to eager over eager's largest number. Times are
medians of runs in turn, one road after the other, as a ratio to the road of torch.export.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tvm.relax.frontend.onnx import from_onnx
from tvm.relax.frontend.torch import from_exported_program

import sparse_compiler as sc
from sparse_compiler.bench.case import Case
from sparse_compiler.bench.models import calibrate_batch_norms, model_named
from sparse_compiler.bench.reference import prune
from sparse_compiler.bench.small import SMALL
from sparse_compiler.compiled import Compiled
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.inspector.report import Report
from sparse_compiler.ir.graph import Graph
from sparse_compiler.runtime.pipeline import Lowered

NAMES = ("bert", "minilm", "vit", "resnet50", "mobilenetv2", "efficientnet", "gpt2")
LAYERS = ("linear", "conv", "attention")
NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm")
NORMALISED = "fold-batch-norm"  # the last pass that gives a graph its common form
LIMIT = 1e-4
SLOWER = 1.05


@dataclass(frozen=True)
class Look:
    """What a road made of a model."""

    counts: Mapping[str, int]
    choices: Sequence[tuple[str, str, bool]]
    error: float
    calls: int

    @property
    def form(self) -> tuple[Any, ...]:
        """What must be the same on every road."""
        return tuple(sorted(self.counts.items())), tuple(self.choices)


def small_model(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A narrow model of 90 % zeros, and its arguments. MiniLM is a BERT: it has BERT's sizes."""
    spec = SMALL["bert" if name == "minilm" else name]
    return _pruned(spec, Case(name, 0.9, tokens=spec.tokens))


def full_model(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The model in full size, of 90 % zeros, and its arguments."""
    spec = model_named(name)
    return _pruned(spec, Case(name, 0.9, tokens=spec.tokens))


def _pruned(spec: Any, case: Case) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(case.seed)
    module = (spec.real_weights or spec.build)(case).eval().requires_grad_(False)
    inputs = spec.inputs(case)
    prune(module, case)
    calibrate_batch_norms(module, inputs)
    with torch.no_grad():  # zeros that a model begins with would be left out by torch.onnx
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1 and name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return module, tuple(inputs.values())


def roads(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> dict[str, Callable[[], Any]]:
    """What each road hands to `sc.compile`, made when it is called."""
    program = torch.export.export(module, args, strict=False)

    def onnx() -> Any:
        exported = torch.onnx.export(module, args, dynamo=True, verbose=False)
        if exported is None:
            raise UnsupportedError("torch.onnx.export gave no program")
        return from_onnx(exported.model_proto, keep_params_in_input=True)

    return {
        "torch": lambda: program,
        "relax": lambda: from_exported_program(program, keep_params_as_input=True),
        "onnx": onnx,
    }


def look(lowered: Lowered, report: Report, result: Any, expected: torch.Tensor) -> Look:
    """Counts, choices and error of what a model was lowered to."""
    graph = normalised(lowered)
    ops = Counter(node.op.name for node in graph.nodes)
    counts = {name: ops[name] for name in LAYERS}
    counts["norm"] = sum(ops[name] for name in NORMS)
    found = report.json()
    choices = sorted((x["op"], x["format"], x["native"]) for x in found["layers"])
    error = float((result - expected).abs().max() / expected.abs().max())
    return Look(counts, choices, error, int(found["fallback_calls"]))


def normalised(lowered: Lowered) -> Graph:
    """The graph in the form that all roads share."""
    return next(record.graph for record in lowered.records if record.name == NORMALISED)


def compiled_roads(
    module: torch.nn.Module, args: tuple[torch.Tensor, ...]
) -> dict[str, tuple[Compiled, Look]]:
    """The model compiled on every road, with what became of it."""
    found = {}
    with torch.no_grad():
        expected = module(*args)
        for road, source in roads(module, args).items():
            compiled = sc.compile(source(), args)
            seen = look(compiled.pipeline.lowered, compiled.inspect(), compiled(*args), expected)
            found[road] = compiled, seen
    return found


def times(
    models: Mapping[str, Compiled], args: tuple[torch.Tensor, ...], runs: int
) -> dict[str, float]:
    """Median milliseconds of each, run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for turn in range(runs + 3):
            for name, model in models.items():
                began = time.perf_counter()
                model(*args)
                if turn >= 3:
                    taken[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def _row(name: str, road: str, seen: Look, ms: Mapping[str, float], same: bool) -> str:
    counts = " ".join(f"{seen.counts[k]:4}" for k in (*LAYERS, "norm"))
    speed = f"{ms[road]:8.2f} {ms[road] / ms['torch']:6.2f}" if ms else f"{'-':>8} {'-':>6}"
    return (
        f"{name:13} {road:6} {counts} {seen.calls:6} {'yes' if same else 'NO':>5} "
        f"{seen.error:9.1e} {speed}"
    )


def main() -> int:
    """Prints the table; 1 where a road differs, is wrong or slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(NAMES))
    parser.add_argument("--small", action="store_true", help="narrow and shallow models")
    parser.add_argument("--no-speed", action="store_true", help="counts and errors alone")
    parser.add_argument("--runs", type=int, default=50, help="calls of each road")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(
        f"{'model':13} {'road':6} {'lin':>4} conv attn norm  calls  same     error       ms  ratio"
    )
    failed = False
    for name in options.models:
        module, args = (small_model if options.small else full_model)(name)
        found = compiled_roads(module, args)
        ms = {}
        if not options.no_speed:
            ms = times({road: pair[0] for road, pair in found.items()}, args, options.runs)
        first = found["torch"][1]
        for road, (_, seen) in found.items():
            same = seen.form == first.form
            print(_row(name, road, seen, ms, same), flush=True)
            slow = bool(ms) and ms[road] > SLOWER * ms["torch"]
            failed = failed or not same or seen.error > LIMIT or slow
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
