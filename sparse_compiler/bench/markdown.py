"""docs/benchmarks.md, written by the tool: figures, plots, surroundings, method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sparse_compiler.errors import UnsupportedError

from ..inspector.roofline import QUIET
from .isa import NATIVE
from .plot import file_stem, plot_results
from .results import Results, Row
from .table import COLUMNS, number, refusals

METHOD = """\
Every engine runs in a process of its own, at the same priority, with the same number of threads,
the same weights (one safetensors file; for ONNX Runtime, OpenVINO and DeepSparse one ONNX file
made from it) and the same inputs. Before a time counts, the engine's outputs are compared with
eager mode's, and again after the last round; an engine that is off by more than the tolerance
gets no time. Rounds are interleaved: in each round every engine, in shuffled order, rests
{rest_ms:g} ms, makes one untimed call and one timed one. ONNX Runtime's threads are told to stop
spinning (`session.force_spinning_stop`), Intel's OpenMP to sleep after 1 ms (`KMP_BLOCKTIME`). A
call whose threads waited for a core for more than {disturbed_share:.0%} of its time, because
another program ran there, is made again, up to {retries} times; a round that stays disturbed is
left out as long as five clean ones are there.

- **ms**: median of {rounds} rounds.
- **speed-up**: baseline's time ÷ this engine's, round by round; median and its 95 % bootstrap
  interval. The baseline is: {baseline}.
- **compile s**: making the model ready and the first call, after imports; cold with empty caches,
  warm in a new process with the caches of the first ("–": the engine keeps none on disk).
- **peak MB**: the most resident memory of the process since before it loaded the model.
- **call µs**: one call of an 8×8 linear layer, which is nearly all overhead.
- **weights MB**: what the engine says it holds ("–": it does not say).
- **max rel. error**: max|a−b| ÷ max|b| against eager.
- **% peak**: useful operations (two for each non-zero weight and position, plus attention's
  products) and compulsory bytes (each non-zero value, inputs, outputs), as shares of what this
  machine was measured to do: {roofs}.

Pruning is by magnitude, the same share in every linear and convolution of 4096 weights or more
but the first convolution. MiniLM has its real weights, the others seeded random ones. Only
unquantised results stand in these tables.
"""


def write_page(results: Results, folder: Path) -> Path:
    """Rewrite `folder`/benchmarks.md and its figures in `folder`/benchmarks/."""
    figures: set[str] = set()
    note = ""
    try:
        figures = {path.stem for path in plot_results(results, folder / "benchmarks")}
    except UnsupportedError as error:
        note = f"(No figures: {error.what}.)"
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "benchmarks.md"
    page.write_text("\n".join(_page(results, figures, note)).rstrip() + "\n")
    return page


def _page(results: Results, figures: set[str], note: str) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield f"Written by `{results.command}` on {results.started}; do not edit by hand."
    yield ""
    if results.partial:
        yield "**Interrupted: these results are partial.**"
        yield ""
    yield from _surroundings(results)
    for setting in dict.fromkeys(row.case.setting for row in results.rows):
        yield f"## {setting}"
        yield ""
        if file_stem(setting) in figures:
            yield f"![speed-up against sparsity](benchmarks/{file_stem(setting)}.svg)"
            yield ""
        yield from _table([row for row in results.rows if row.case.setting == setting])
    yield "## Method"
    yield ""
    yield METHOD.format(**{**results.method, "roofs": _roofs_text(results)})
    if note:
        yield note


def _surroundings(results: Results) -> Iterator[str]:
    m = results.machine
    threads = sorted({row.case.threads for row in results.rows})
    versions = {**m["versions"]}
    for row in results.rows:
        versions |= {k: v for k, v in row.versions.items() if k not in versions and k != "numpy"}
    yield "| | |"
    yield "| --- | --- |"
    yield f"| processor | {m['cpu']}, {m['usable_cores']} of {m['cores']} cores usable |"
    only = "" if results.isa == NATIVE else f"; every engine held to {results.isa}"
    yield f"| ISA | {', '.join(m['isa'])}{only} |"
    yield f"| threads | {', '.join(map(str, threads))} |"
    yield f"| memory | {m['memory_bytes'] / 2**30:.0f} GiB |"
    yield f"| system | {m['system']}, Python {m['python']} |"
    yield f"| versions | {', '.join(f'{k} {v}' for k, v in sorted(versions.items()))} |"
    yield f"| commit | {m['commit']} |"
    busy = [c["busy_share"] for c in results.cases.values() if c["busy_share"] is not None]
    kept = [row.disturbed_share for row in results.rows if row.disturbed_share is not None]
    if busy:
        yield f"| others' load while timing | up to {100 * max(busy):.0f} % of the cores |"
    if kept:
        yield f"| disturbed calls kept | {sum(kept) / len(kept):.0%} |"
    yield ""


def _roofs_text(results: Results) -> str:
    roofs = results.method.get("roofs")
    if not roofs:
        return "not measured"
    fused = "" if roofs["fma"] else ", without fused multiply-add"
    if roofs["busy"] < QUIET:
        fused += ", measured while other programs ran"
    return (
        f"{number(roofs['flops'], 1e-9)} GFLOP/s of float32 on vectors of "
        f"{roofs['vector_bytes']} bytes{fused}, {number(roofs['bytes_per_s'], 1e-9)} GB/s read"
    )


def _table(rows: list[Row]) -> Iterator[str]:
    yield "| zeros | engine | " + " | ".join(title for title, _ in COLUMNS) + " |"
    yield "| --: | --- |" + " --: |" * len(COLUMNS)
    for before, row in zip([None, *rows], rows, strict=False):
        first = before is None or before.case != row.case
        zeros = f"{100 * row.case.sparsity:g} %" if first else ""
        if row.status == "ok":
            cells = [get(row) for _, get in COLUMNS]
        else:
            cells = [f"*{row.status}*", *[""] * (len(COLUMNS) - 1)]
        yield f"| {zeros} | {row.engine} | " + " | ".join(cells) + " |"
    yield ""
    for line in refusals(rows):
        yield f"- {line}"
    yield ""
