"""The cost model against measured kernels: fits its coefficients, and reports its error.

    python benchmarks/cost_model.py --fit        measures, rewrites formats/coefficients.py
    python benchmarks/cost_model.py              the table for docs/choice.md, on suite `layers`

Times are those of a kernel inside a program, the least of several runs. The fit uses chains of
layers with random zeros in shapes of its own; the error is reported on the benchmarks' layers.
Both want the machine to themselves, and go on where they were left with --keep FILE. With --lock
FILE they hold a lock on that file while they time, and compile without.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparse_compiler.bench.case import Case
from sparse_compiler.bench.layers import parse_layer
from sparse_compiler.bench.models import build_model
from sparse_compiler.bench.reference import prune
from sparse_compiler.bench.suites import suite_cases
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.coefficients import COEFFICIENTS, ON_REFERENCE_CORE
from sparse_compiler.formats.cost import Cost, Machine, Shape
from sparse_compiler.ir.graph import Graph
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.options import Options
from sparse_compiler.passes.choose_formats import layer_shape, stored_shape
from sparse_compiler.passes.provenance import weight_facts
from sparse_compiler.runtime.calibrate import calibrated_machine, non_negative
from sparse_compiler.runtime.calibration_layers import measure
from sparse_compiler.runtime.measure import layer_times, timed_executor
from sparse_compiler.runtime.pipeline import Lowered, lower_graph
from sparse_compiler.runtime.tune import example_inputs
from sparse_compiler.runtime.weights import LiveWeights

TABLE = Path(__file__).parents[1] / "sparse_compiler" / "formats" / "coefficients.py"
ON_CORE = (
    "# Measured over predicted time of the layers of calibration_layers.py, on the reference core."
)
WIDTH_OF = {"native": 16, "x86-64-v3": 8}

LINEARS = (768, 768, 3072, 768, 384, 384, 1536, 384, 256, 1024, 2048, 512, 96, 768)
COLUMNS = (16, 49, 128, 197, 512)
SMALL_COLUMNS = (1, 2, 4, 8)
# rows, kernel, stride, groups of a chain that begins with 64 channels of 56 x 56
CONVS = (
    *((64, 3, 1, 1), (256, 1, 1, 1), (128, 1, 1, 1), (128, 3, 2, 1), (512, 1, 1, 1)),
    *((128, 3, 1, 32), (256, 3, 2, 1), (256, 3, 1, 1), (1024, 1, 1, 1), (512, 1, 1, 1)),
    *((512, 3, 2, 1), (512, 3, 1, 1), (2048, 1, 1, 1), (512, 1, 1, 1)),
)
SIZES = (56, 40)
GROUPED = (
    *((64, 7, 1, 8), (128, 3, 1, 4), (256, 1, 1, 1), (256, 3, 1, 16), (512, 3, 2, 8)),
    (512, 3, 1, 8),
    *((512, 5, 1, 32), (1024, 3, 1, 16)),
)
DENSITIES = (0.7, 0.5, 0.2, 0.1, 0.05)
RUNS = 7


@dataclass(frozen=True)
class Sample:
    """One layer in one format as it ran: its kernel, the values of that cost's terms, its time."""

    kernel: str
    terms: tuple[float, ...]
    ns: float


@contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Holds a lock on the file, if there is one."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def linear_chain(columns: int) -> Graph:
    """Linears one after the other on `columns` columns."""
    lines = [f"input %x: f32[{columns}, {LINEARS[0]}]"]
    body, last = [], "x"
    for i, (k, m) in enumerate(pairwise(LINEARS)):
        lines.append(f"param %w{i}: f32[{m}, {k}]")
        body.append(f"%y{i}: f32[{columns}, {m}] = linear(%{last}, %w{i})")
        last = f"y{i}"
    return parse_graph("\n".join([*lines, *body, f"return %{last}"]))


def conv_chain(size: int, convs: Sequence[tuple[int, int, int, int]] = CONVS) -> Graph:
    """Convolutions one after the other from 64 channels of size x size."""
    lines = [f"input %x: f32[1, 64, {size}, {size}]"]
    body, last, channels = [], "x", 64
    for i, (rows, kernel, stride, groups) in enumerate(convs):
        pad, size = kernel // 2, (size - 1) // stride + 1
        lines.append(f"param %w{i}: f32[{rows}, {channels // groups}, {kernel}, {kernel}]")
        said = f"stride=({stride}, {stride}), padding=({pad}, {pad}), dilation=(1, 1)"
        said += f", groups={groups}" if groups > 1 else ""
        body.append(f"%y{i}: f32[1, {rows}, {size}, {size}] = conv[{said}](%{last}, %w{i})")
        last, channels = f"y{i}", rows
    return parse_graph("\n".join([*lines, *body, f"return %{last}"]))


def pruned(shape: Sequence[int], format_: str, density: float, seed: int) -> torch.Tensor:
    """Normal numbers whose zeros fit a format: whole blocks, N of M, or anywhere."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(list(shape), generator=generator)
    matrix = value.view(value.shape[0], -1)
    p, q = FORMATS[format_].parameters
    if format_ == "dense":
        return value
    if FORMATS[format_].family == "block":
        grid = [-(-size // side) for size, side in zip(matrix.shape, (p, q), strict=True)]
        kept = torch.rand(grid, generator=generator) < density
        kept = kept.repeat_interleave(p, 0).repeat_interleave(q, 1)
        matrix *= kept[: matrix.shape[0], : matrix.shape[1]]
    elif FORMATS[format_].family == "nm":
        score = torch.rand(matrix.shape[0], matrix.shape[1] // q, q, generator=generator)
        matrix *= (score.argsort(-1).argsort(-1) < p).view_as(matrix)
    else:
        matrix *= torch.rand(matrix.shape, generator=generator) < density
    return value


def samples_of(
    graph: Graph, format_: str, density: float, options: Options, threads: int, lock: Path | None
) -> Iterator[Sample]:
    """Every layer of the graph with its weights in that format, as measured."""
    shapes = {p.name: [int(s) for s in p.type.shape] for p in graph.params}
    weights = LiveWeights(
        {n: pruned(s, format_, density, i) for i, (n, s) in enumerate(shapes.items())}
    )
    torch.set_num_threads(threads)
    lowered = lower_graph(
        graph, weights, options, {}, formats={"": format_}, machine=Machine(vector=8)
    )
    executor = timed_executor(lowered, weights, options)
    with alone(lock):
        times = layer_times(executor, example_inputs(graph, {}), RUNS)
    for name, ns in times.items():
        vector = WIDTH_OF[options.isa]
        cost, shape = cost_and_shape(lowered, name, format_, vector)
        if cost is not None and _chosen(lowered, name) == format_:
            values = cost.values(shape, vector, threads)
            yield Sample(cost.kernel, tuple(values[:-1]), ns)


def _chosen(lowered: Lowered, name: str) -> str | None:
    found = lowered.context.candidates.get(name, ())
    return next((c.format for c in found if c.refused is None), None)


def cost_and_shape(
    lowered: Lowered, name: str, format_: str, vector: int
) -> tuple[Cost | None, Shape]:
    """The cost that speaks of a layer in that format, and the shape that it is asked about."""
    graph, context = lowered.graph, lowered.context
    node = graph.producers[name]
    facts = weight_facts(graph, node.inputs[node.op.weight_input or 0], context.facts)
    shape = stored_shape(layer_shape(graph, node, context), FORMATS[format_], facts)
    return FORMATS[format_].cost_of(shape, vector), shape


def chains(format_: str, only: str) -> dict[str, Graph]:
    """Programs in which a format is measured, by name; only: part of it."""
    columns = [*COLUMNS, *(SMALL_COLUMNS if FORMATS[format_].decode is not None else ())]
    found = {f"linear {n}": linear_chain(n) for n in columns}
    if FORMATS[format_].conv is not None:
        found |= {f"conv {n}": conv_chain(n) for n in SIZES}
        found["conv grouped"] = conv_chain(28, GROUPED)
    return {name: graph for name, graph in found.items() if only in name}


def measured(
    options: Options, formats: Sequence[str], counts: Sequence[int], chosen: argparse.Namespace
) -> list[Sample]:
    """All samples; those in the file `keep` are not measured again."""
    keep: Path | None = chosen.keep
    known = json.loads(keep.read_text()) if keep and keep.is_file() else {}
    for format_ in formats:
        began = time.monotonic()
        fixed = FORMATS[format_].family in ("dense", "nm")
        for name, graph in chains(format_, chosen.only).items():
            for density in (1.0,) if fixed else DENSITIES:
                for threads in counts:
                    key = f"{options.isa} {format_} {name} {density} {threads}"
                    if key not in known:
                        made = samples_of(graph, format_, density, options, threads, chosen.lock)
                        known[key] = [(s.kernel, s.terms, s.ns) for s in made]
                        if keep:
                            keep.write_text(json.dumps(known))
        print(f"{format_}: {time.monotonic() - began:.0f} s", flush=True)
    rows = [row for key, found in known.items() if key.startswith(options.isa) for row in found]
    return [Sample(kernel, tuple(terms), ns) for kernel, terms, ns in rows]


def fit(options: Options, samples: Sequence[Sample], lock: Path | None) -> None:
    """Writes the table of coefficients, with those of the kernels measured renewed."""
    width = WIDTH_OF[options.isa]
    by_kernel: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kernel.setdefault(sample.kernel, []).append(sample)
    found = {kernel: dict(table) for kernel, table in COEFFICIENTS.items()}
    for kernel, own in sorted(by_kernel.items()):
        rows = np.array([s.terms for s in own])
        times = np.array([s.ns for s in own])
        coefficients = non_negative(rows, times)
        errors = np.abs(rows @ np.array(coefficients) / times - 1)
        print(f"{kernel:<16} {len(own):4} samples, median error {np.median(errors):.1%}, "
              f"90 % below {np.quantile(errors, 0.9):.1%}", flush=True)  # fmt: skip
        found.setdefault(kernel, {})[width] = tuple(float(f"{c:.4g}") for c in coefficients)
        COEFFICIENTS.setdefault(kernel, {})[width] = found[kernel][width]
    torch.set_num_threads(1)
    with alone(lock):
        ratios = measure(options, Machine(width)).ratios
    reference = {**ON_REFERENCE_CORE, width: {n: float(f"{r:.3g}") for n, r in ratios.items()}}
    write_table(found, reference)


def write_table(
    found: dict[str, dict[int, tuple[float, ...]]], reference: dict[int, dict[str, float]]
) -> None:
    """The tables as source, sorted."""
    head = TABLE.read_text().split("COEFFICIENTS:")[0]
    lines = ["COEFFICIENTS: dict[str, dict[int, tuple[float, ...]]] = {"]
    for kernel, table in sorted(found.items()):
        lines.append(f'    "{kernel}": {{')
        lines += [f"        {width}: {values}," for width, values in sorted(table.items())]
        lines.append("    },")
    lines += ["}", "", ON_CORE, "ON_REFERENCE_CORE: dict[int, dict[str, float]] = {"]
    for width, ratios in sorted(reference.items()):
        lines.append(f"    {width}: {{")
        lines += [f'        "{name}": {ratio},' for name, ratio in ratios.items()]
        lines.append("    },")
    TABLE.write_text(head + "\n".join([*lines, "}"]) + "\n")


@dataclass(frozen=True)
class Verdict:
    """One layer of the suite: (format, predicted, measured nanoseconds) of each candidate."""

    case: Case
    times: tuple[tuple[str, float, float], ...]

    @property
    def loss(self) -> float:
        """Measured time of the format predicted best over that of the best, less one."""
        best = min(measured for _, _, measured in self.times)
        return min(self.times, key=lambda t: t[1])[2] / best - 1


def judge(
    case: Case, options: Options, machine: Machine, within: float, lock: Path | None
) -> Verdict | None:
    """Predicts and measures all candidates of a case within a factor of the best predicted."""
    layer = parse_layer(case.model)
    if layer is None:
        return None
    torch.set_num_threads(case.threads)
    module = build_model(case)
    prune(module, case)
    weight = next(p for p in module.parameters() if p.dim() > 1).detach()
    graph = parse_graph(_text(layer, case, weight))
    weights = LiveWeights({"w": weight})
    first = lower_graph(graph, weights, options, {}, machine=machine)
    times = {c.format: c.predicted_ns for c in first.context.candidates["y"]}
    limit = within * min(ns for name, ns in times.items() if name != "torch")
    found = []
    for name, predicted in times.items():
        if name == "torch" or not predicted <= max(limit, times["dense"] * (name == "dense")):
            continue
        lowered = lower_graph(graph, weights, options, {}, formats={"": name}, machine=machine)
        executor = timed_executor(lowered, weights, options)
        with alone(lock):
            taken = layer_times(executor, example_inputs(graph, {}), 15)["y"]
        found.append((name, predicted, taken))
    return Verdict(case, tuple(found))


def _text(layer: Any, case: Case, weight: torch.Tensor) -> str:
    shape = ", ".join(map(str, weight.shape))
    if not layer.is_convolution:
        n = case.tokens or 1
        return (
            f"input %x: f32[1, {n}, {layer.into}]\nparam %w: f32[{shape}]\n"
            f"%y: f32[1, {n}, {layer.out}] = linear(%x, %w)\nreturn %y"
        )
    pad, stride, size = layer.kernel // 2, layer.stride, layer.size
    out = (size - 1) // stride + 1
    return (
        f"input %x: f32[1, {layer.into}, {size}, {size}]\nparam %w: f32[{shape}]\n"
        f"%y: f32[1, {layer.out}, {out}, {out}] = conv[stride=({stride}, {stride}), "
        f"padding=({pad}, {pad}), dilation=(1, 1), groups={layer.groups}](%x, %w)\nreturn %y"
    )


def report(verdicts: Sequence[Verdict]) -> str:
    """A line for each layer, and the two figures."""
    lines = ["| layer | zeros | chosen | predicted, us | measured, us | fastest | loss |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for v in verdicts:
        chosen = min(v.times, key=lambda t: t[1])
        best = min(v.times, key=lambda t: t[2])
        zeros = f"{v.case.sparsity:.0%} {v.case.pattern}" if v.case.sparsity else "none"
        cells = (f"`{v.case.model}`", zeros, chosen[0], f"{chosen[1] / 1e3:.0f}",
                 f"{chosen[2] / 1e3:.0f}", best[0], f"{v.loss:.0%}")  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    errors = [abs(p / m - 1) for v in verdicts for _, p, m in v.times]
    near = statistics.mean(v.loss <= 0.1 for v in verdicts)
    said = (
        f"{len(errors)} times of {len(verdicts)} cases: the median error is "
        f"{statistics.median(errors):.1%}; the format predicted best is the fastest, or within "
        f"10 % of it, in {near:.0%} of the cases."
    )
    return "\n".join([said, "", *lines])


def write_page(page: Path, text: str) -> None:
    """Renews what stands between the marks of docs/choice.md."""
    head, mark, rest = page.read_text().partition("<!-- cost model -->")
    end = "<!-- end of cost model -->"
    page.write_text(f"{head}{mark}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--isa", default="native", choices=sorted(WIDTH_OF))
    parser.add_argument("--formats", default="")
    parser.add_argument("--only", default="", help="part of a layer's or a chain's name")
    parser.add_argument("--threads", default="1,2", help="1 or 2, or 1,2 for a fit")
    parser.add_argument("--within", type=float, default=1.6)
    parser.add_argument("--write", type=Path, help="docs/choice.md")
    parser.add_argument("--keep", type=Path, help="JSON of what was measured, to go on from")
    parser.add_argument("--lock", type=Path, help="file to lock while timing")
    chosen = parser.parse_args()
    options = replace(Options.from_env(isa=chosen.isa), force_native=True, verify=0)
    with torch.no_grad():
        if chosen.fit:
            counts = [int(n) for n in chosen.threads.split(",")]
            formats = chosen.formats.split(",") if chosen.formats else list(FORMATS)
            fit(options, measured(options, formats, counts, chosen), chosen.lock)
            return
        threads = int(chosen.threads.split(",")[-1])
        machine = calibrated_machine(options, threads)
        cases = [c for c in suite_cases("layers", threads) if chosen.only in c.model]
        text = report(judged(cases, options, machine, chosen))
    print(text)
    if chosen.write:
        write_page(chosen.write, text)


def judged(
    cases: Sequence[Case], options: Options, machine: Machine, chosen: argparse.Namespace
) -> list[Verdict]:
    """All verdicts; those in the file `keep` are not measured again."""
    keep: Path | None = chosen.keep
    known = json.loads(keep.read_text()) if keep and keep.is_file() else {}
    found = []
    for case in cases:
        if case.key not in known:
            verdict = judge(case, options, machine, chosen.within, chosen.lock)
            known[case.key] = verdict.times if verdict is not None else ()
            if keep:
                keep.write_text(json.dumps(known))
            print(case.key, file=sys.stderr, flush=True)
        if known[case.key]:
            found.append(Verdict(case, tuple(map(tuple, known[case.key]))))
    return found


if __name__ == "__main__":
    main()
