"""What `sparse-compiler compile`, `inspect`, `run` and `cache` do; `cli_models.py` declares them.

Each returns plain values for `--json` and prints the same to a console.
"""

from __future__ import annotations

import difflib
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from . import api, terminal
from .analysis.cost import Sizes
from .compiled import Compiled
from .errors import UnsupportedError
from .inspector.channels import structure_of
from .inspector.report import LayerEntry, Report
from .ir.text import parse_graph
from .options import Options, nearest
from .passes.pipeline import PASSES
from .runtime.artifact import GRAPH, REPORT, Members, open_members
from .sources import Source, is_saved, read_source

_ROUNDS_BEFORE = 3


@dataclass(frozen=True)
class Example:
    """Sizes of example inputs, for what brings none. given: `NAME=VALUE`, see `example_for`."""

    batch: int = 1
    tokens: int = 128
    given: tuple[str, ...] = ()


def compile_library(
    model: str, output: Path, example: Example, console: Console, target: str
) -> dict[str, Any]:
    """Makes a library for C programs of a model, in a folder."""
    if is_saved(model):
        raise UnsupportedError(f"{model} is compiled already", fix="give what it was made of")
    with terminal.progress() as progress:
        task = progress.add_task("reading the model")
        source = _source(model, example)
        progress.update(task, description="tracing, choosing formats, compiling kernels")
        folder = api.export(
            source.model,
            source.args,
            output,
            source.kwargs,
            dynamic_shapes=source.dynamic_shapes,
            library=True,
            target=target,
        )
    files = {path.name: path.stat().st_size for path in sorted(folder.glob("model.*"))}
    for name, size in files.items():
        console.print(f"{folder / name}: {_bytes(size)}")
    return {"path": str(folder), "target": target, "bytes": files}


def compile_model(model: str, output: Path, example: Example, console: Console) -> dict[str, Any]:
    """Saves a model ahead of time, and says what became of it."""
    if is_saved(model):
        raise UnsupportedError(
            f"{model} is compiled already", fix="give what it was made of, or use inspect or run"
        )
    with terminal.progress() as progress:
        task = progress.add_task("reading the model")
        source = _source(model, example)
        progress.update(task, description="tracing, choosing formats, compressing")
        path = api.export(
            source.model,
            source.args,
            output,
            source.kwargs,
            dynamic_shapes=source.dynamic_shapes,
        )
    members, size = open_members(path), path.stat().st_size
    dense, report = _dense_bytes(members), json.loads(members.text(REPORT))
    console.print(report["summary"])
    console.print(f"{path}: {_bytes(size)}, {size / max(dense, 1):.0%} of the dense parameters")
    return {
        "path": str(path),
        "bytes": size,
        "dense_bytes": dense,
        "summary": report["summary"],
        "fallback_calls": report["fallback_calls"],
    }


@dataclass(frozen=True)
class Inspection:
    """What to show: the graph after a pass, or what that changed; one layer; the groups of
    channels; else the ledger.

    html, explorer: files for the page and for Model Explorer's graphs.
    """

    after: str = ""
    diff: bool = False
    why: str = ""
    html: Path | None = None
    explorer: Path | None = None
    groups: bool = False


def inspect_model(
    model: str, example: Example, console: Console, request: Inspection
) -> dict[str, Any]:
    """Prints what `request` asks for; without a wish, the ledger."""
    if request.after:
        return _graph_after(model, example, console, request.after, request.diff)
    if request.groups:
        return _groups(model, example, console)
    report = _report(model, example)
    if request.html is not None:
        terminal.write_text(request.html, report.html())
    if request.explorer is not None:
        terminal.write_text(request.explorer, json.dumps(report.model_explorer()))
    if request.why:
        entry = _layer(report, request.why)
        _print_entry(entry, console)
        return dict(next(e for e in report.json()["layers"] if e["name"] == entry.name))
    console.out(report.text(), end="", highlight=False)
    return report.json()


def run_model(
    model: str, example: Example, console: Console, *, rounds: int, threads: int
) -> dict[str, Any]:
    """Runs a model on example inputs: what comes out, and how long a call takes."""
    if threads:
        torch.set_num_threads(threads)
    with terminal.progress() as progress:
        task = progress.add_task("loading")
        compiled, args, kwargs = _compiled(model, example)
        progress.update(task, description="running")
        with torch.no_grad():
            result = compiled(*args, **kwargs)
            times = _times(compiled, args, kwargs, rounds)
    outputs = [
        {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch."), **_range(t)}
        for t in torch.utils._pytree.tree_leaves(result)
        if isinstance(t, torch.Tensor)
    ]
    table = Table("output", "shape", "dtype", "least", "mean", "largest")
    for i, out in enumerate(outputs):
        figures = (f"{out[key]:.4g}" for key in ("least", "mean", "largest"))
        table.add_row(str(i), str(out["shape"]), str(out["dtype"]), *figures)
    console.print(table)
    found = {
        "median_ms": statistics.median(times) * 1e3,
        "least_ms": min(times) * 1e3,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "outputs": outputs,
    }
    console.print(
        f"{found['median_ms']:.3f} ms a call (median of {rounds}, {found['threads']} threads)"
    )
    return found


def cached_kernels(folder: Path) -> list[dict[str, Any]]:
    """Files of the cache of compiled kernels, newest first."""
    if not folder.is_dir():
        return []
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda item: item[1].st_mtime, reverse=True)
    return [
        {"name": str(path.relative_to(folder)), "bytes": stat.st_size, "modified": stat.st_mtime}
        for path, stat in files
    ]


def clear_cache(folder: Path) -> dict[str, Any]:
    """Removes every file of the cache; a running program keeps the kernels that it has loaded."""
    removed = cached_kernels(folder)
    for entry in removed:
        (folder / str(entry["name"])).unlink(missing_ok=True)
    return {"removed": len(removed), "bytes": sum(entry["bytes"] for entry in removed)}


def print_cache(folder: Path, entries: list[dict[str, Any]], console: Console) -> None:
    """A line for each file, and their sum."""
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["modified"]))
        console.out(f"{when}  {_bytes(entry['bytes']):>10}  {entry['name']}", highlight=False)
    total = _bytes(sum(entry["bytes"] for entry in entries))
    console.out(f"{len(entries)} files, {total}, in {folder}", highlight=False)


def _groups(model: str, example: Example, console: Console) -> dict[str, Any]:
    """Prints which channels go together, and what keeps those that are constant."""
    if is_saved(model):
        raise UnsupportedError(
            f"{model} is compiled already: its dead channels are gone",
            fix="give what it was made of",
        )
    source = _source(model, example)
    structure = structure_of(source.model, source.args, source.kwargs, source.dynamic_shapes)
    console.out(structure.text(), end="", highlight=False)
    return structure.json()


def _source(model: str, example: Example) -> Source:
    return read_source(model, batch=example.batch, tokens=example.tokens, given=example.given)


def _inspected(source: Source, options: Mapping[str, Any]) -> Report:
    return api.inspect(
        source.model,
        source.args,
        source.kwargs,
        dynamic_shapes=source.dynamic_shapes,
        options=options,
    )


def _report(model: str, example: Example) -> Report:
    if is_saved(model):
        return api.load(model).inspect()
    source = _source(model, example)
    return _inspected(source, {})


def _compiled(model: str, example: Example) -> tuple[Compiled, tuple[Any, ...], dict[str, Any]]:
    if is_saved(model):
        compiled = api.load(model)
        return compiled, *compiled.example_arguments()
    source = _source(model, example)
    compiled = api.compile(
        source.model, source.args, source.kwargs, dynamic_shapes=source.dynamic_shapes
    )
    return compiled, source.args, source.kwargs


def _times(
    compiled: Compiled, args: tuple[Any, ...], kwargs: Mapping[str, Any], rounds: int
) -> list[float]:
    times = []
    for _ in range(rounds + _ROUNDS_BEFORE):
        began = time.perf_counter()
        compiled(*args, **kwargs)
        times.append(time.perf_counter() - began)
    return times[_ROUNDS_BEFORE:]


def _range(tensor: torch.Tensor) -> dict[str, float]:
    if tensor.numel() == 0:
        return dict.fromkeys(("least", "mean", "largest"), 0.0)
    numbers = tensor.abs() if tensor.is_complex() else tensor
    numbers = numbers.double()
    found = {"least": numbers.min(), "mean": numbers.mean(), "largest": numbers.max()}
    return {name: float(value) for name, value in found.items()}


def _graph_after(
    model: str, example: Example, console: Console, name: str, diff: bool
) -> dict[str, Any]:
    """The graph's text after a pass, or how it differs from that before it."""
    names = [pass_.name for pass_ in PASSES]
    if name not in names:
        raise UnsupportedError(f"no pass is named {name!r}", fix=nearest(name, tuple(names)))
    with tempfile.TemporaryDirectory() as folder:
        _dump(model, example, Path(folder))
        stages = {path.stem.split("-", 1)[1]: path for path in sorted(Path(folder).glob("*.ir"))}
        texts = {stage: path.read_text() for stage, path in stages.items()}
    order = list(texts)
    before, text = texts[order[order.index(name) - 1]], texts[name]
    if diff:
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), "before", f"after {name}", lineterm=""
        )
        text = "\n".join(lines) or f"{name} changes nothing"
    if console.is_terminal:
        console.print(Syntax(text, "diff" if diff else "text", background_color="default"))
    else:
        console.out(text.rstrip("\n"), highlight=False)
    return {"pass": name, "graph": text}


def _dump(model: str, example: Example, folder: Path) -> None:
    options = {"dump": folder}
    if is_saved(model):
        api.load(model, options=options)
        return
    source = _source(model, example)
    _inspected(source, options)


def _layer(report: Report, name: str) -> LayerEntry:
    known = {layer.name: layer for layer in report.layers}
    if name not in known:
        raise UnsupportedError(f"no layer is named {name!r}", fix=nearest(name, known))
    return known[name]


def _print_entry(entry: LayerEntry, console: Console) -> None:
    share = f"{entry.density:.1%} of its weights are not zero ({entry.pattern})"
    where = f"runs as {entry.format} in {entry.kernel}" if entry.native else "is run by torch"
    console.print(f"{entry.name}, a {entry.op}: {share}; it {where}.", highlight=False)
    if entry.reason:
        console.print(entry.reason, highlight=False)
    table = Table("candidate", "predicted ms", "measured ms", "why not")
    for candidate in entry.candidates:
        table.add_row(
            candidate.format,
            "-" if candidate.predicted_ms is None else f"{candidate.predicted_ms:.4f}",
            "-" if candidate.measured_ms is None else f"{candidate.measured_ms:.4f}",
            candidate.reason or "taken",
        )
    if entry.candidates:
        console.print(table)


def _dense_bytes(members: Members) -> int:
    """Bytes of all parameters in a saved model if they were stored dense."""
    tied = {name for name, entry in members.manifest["parameters"].items() if "tied_to" in entry}
    sizes = Sizes({})
    params = parse_graph(members.text(GRAPH)).params
    return sum(sizes.nbytes(param.type) for param in params if param.name not in tied)


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def cache_folder() -> Path:
    """The folder of compiled kernels that the options name."""
    return Options.from_env().cache_dir
