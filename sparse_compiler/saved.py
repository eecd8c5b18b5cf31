"""Models in files: `export_graph` writes one, `load_compiled` makes a compiled model of it.

The file holds the graph as its front end made it, the parameters by their non-zeros, and how the
model is called. Loading runs the passes and kernels of the machine that loads, so one file serves
every instruction set and a weight may change afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .codegen.cpu.source import print_segment
from .compiled import Compiled
from .errors import (
    ArtifactError,
    InternalError,
    OptionError,
    SparseCompilerError,
    UnsupportedError,
)
from .formats.gpu_arch import Arch
from .frontends.export import CallSpec, ExportedModel
from .frontends.saved_call import read_call, store_call
from .frontends.untrusted import is_pure, parse_untrusted
from .inspector.report import report_of
from .ir.graph import Graph
from .ops.torch_call import TorchCall
from .ops.tvm_call import TvmCall
from .options import Options
from .runtime.artifact import (
    BINARIES,
    GRAPH,
    MANIFEST,
    PROGRAM,
    REPORT,
    SOURCES,
    WEIGHTS,
    Members,
    open_members,
    refused,
    write_members,
)
from .runtime.parametrized import fold_parametrized
from .runtime.pipeline import Pipeline, lower_graph
from .runtime.plain import PlainModule
from .runtime.stored_weights import read_weights, store_weights
from .runtime.weights import LiveWeights

_OPTIONS = ("mode", "weights", "target")
"""Options that a file carries: what was asked of the model, not how this machine compiles."""


def export_graph(
    exported: ExportedModel,
    options: Options,
    hints: Mapping[str, int],
    path: Path,
    arch: Arch | None = None,
) -> Path:
    """Writes the file; with an arch, kernels for that GPU beside what every file has.

    Raises `UnsupportedError` for what no file can carry, `ArtifactError`.
    """
    graph, params = fold_parametrized(exported.imported.graph, exported.imported.params)
    params = LiveWeights(params).on_cpu().tensors
    _check_savable(graph)
    lowered = lower_graph(graph, LiveWeights(params), options, hints)
    entries, weights = store_weights(params)
    sources = {
        f"{SOURCES}{i}.cpp": print_segment(segment).encode()
        for i, segment in enumerate(lowered.program.segments)
    }
    manifest = {
        "versions": {name: version(name) for name in ("sparse_compiler", "torch")},
        "options": {name: getattr(options, name) for name in _OPTIONS},
        "isa": options.isa,
        "sizes": {name: size for name, size in hints.items() if name in graph.symbols},
        "call": store_call(exported.call),
        "parameters": entries,
    }
    members = {
        GRAPH: str(graph).encode(),
        WEIGHTS: weights,
        REPORT: json.dumps(report_of(lowered).json(), indent=1, default=str).encode(),
        PROGRAM: str(lowered.program).encode(),
        **sources,
    }
    if arch is not None:
        manifest["gpu"], code = _code_for(arch, graph, params, options, hints)
        members |= code
    write_members(path, manifest, members)
    return path


def _code_for(
    arch: Arch,
    graph: Graph,
    params: Mapping[str, torch.Tensor],
    options: Options,
    hints: Mapping[str, int],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the manifest says of a GPU's kernels; their sources, their binaries and its ledger."""
    from .codegen.gpu.prebuilt import members
    from .codegen.gpu.static import require_triton
    from .runtime.gpu_offline import code_for

    triton = require_triton()
    found = code_for(arch, graph, params, replace(options, target=arch.name), hints)
    built = members(one.compiled for one in found.kernels)
    report = json.dumps(report_of(found.lowered).json(), indent=1, default=str).encode()
    code = {f"{BINARIES}{name}": data for name, data in built.items()}
    code |= {f"{SOURCES}gpu_{i}.py": text.encode() for i, text in enumerate(found.sources)}
    code[f"{SOURCES}gpu_report.json"] = report
    told = {
        "target": arch.name,
        "dtype": found.dtype,
        "triton": triton.__version__,
        "kernels": [one.json() for one in found.kernels],
    }
    return told, code


def _check_savable(graph: Graph) -> None:
    by_tvm = [(n.name, n.op) for n in graph.nodes if isinstance(n.op, TvmCall)]
    held = {getattr(op.function, "name", "") for _, op in by_tvm}
    problems = [f"the object {o}, which has no text form" for o in sorted({*graph.objects} - held)]
    problems += [f"{op.target} at %{name}, which TVM runs" for name, op in by_tvm]
    for node in graph.nodes:
        if isinstance(node.op, TorchCall) and not is_pure(node.op.target):
            problems.append(f"{node.op.target} at {node.loc or node.name}")
    if problems:
        raise UnsupportedError(
            f"the model cannot be saved: it needs {', '.join(dict.fromkeys(problems))}",
            why="a file may only ask for operators that are known to do nothing but compute",
            fix="compile it in process with sc.compile",
        )


@dataclass(frozen=True)
class _Parts:
    """What a file says, checked."""

    graph: Graph
    params: dict[str, torch.Tensor]
    call: CallSpec
    sizes: dict[str, int]


def load_compiled(path: Path, overrides: Mapping[str, Any], *, prebuilt: bool = False) -> Compiled:
    """The compiled model of a file. overrides: options of this machine, see `Options`.

    prebuilt: kernels for a GPU that the file carries are used where they fit, instead of built.
    Raises `ArtifactError` on a file that is not whole, not ours, or asks for what none may.
    """
    members = open_members(path)
    if prebuilt:
        _use_binaries(members)
    parts = _parts(members)
    options = Options.from_dict({**_options(members), **overrides})
    options.configure_logging()
    try:
        pipeline = Pipeline(parts.graph, LiveWeights(parts.params), options, parts.sizes)
    except (
        InternalError,
        UnsupportedError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, OptionError):
            raise
        raise refused(members.path, GRAPH, f"it cannot be compiled: {error}") from error
    return Compiled(pipeline, parts.call, PlainModule(parts.graph, parts.params, parts.call))


def _use_binaries(members: Members) -> None:
    found = {
        name.removeprefix(BINARIES): bytes(data)
        for name, data in members.bytes.items()
        if name.startswith(BINARIES)
    }
    if not found and "gpu" in members.manifest:
        return  # nothing in the model pays on that GPU
    if not found:
        raise refused(
            members.path,
            "prebuilt=True",
            "it carries no code: only a model exported for a GPU does",
            "leave prebuilt at False: kernels are built here and cached",
        )
    from .codegen.gpu.prebuilt import read_members, use

    try:
        kernels = read_members(found)
    except ArtifactError as error:
        raise refused(members.path, BINARIES, str(error)) from error
    use(kernels)


def _parts(members: Members) -> _Parts:
    manifest, path = members.manifest, members.path
    try:
        graph = parse_untrusted(members.text(GRAPH))
    except ArtifactError as error:
        raise refused(path, GRAPH, str(error)) from error
    try:
        params = read_weights(manifest.get("parameters"), members.bytes[WEIGHTS], graph.params)
    except ArtifactError as error:
        raise refused(path, WEIGHTS, str(error)) from error
    types = tuple(value.type for value in graph.inputs)
    try:
        call = read_call(manifest.get("call"), types, len(graph.outputs))
        sizes = _sizes(graph, manifest.get("sizes"))
    except SparseCompilerError as error:
        raise refused(path, MANIFEST, error.what) from error
    return _Parts(graph, params, call, sizes)


def _sizes(graph: Graph, stored: Any) -> dict[str, int]:
    if not isinstance(stored, dict) or not set(stored) <= set(graph.symbols):
        raise ArtifactError("it gives sizes that the graph does not have")
    for name, size in stored.items():
        limits = graph.symbols[name]
        if type(size) is not int or not limits.low <= size <= (limits.high or size):
            raise ArtifactError(f"the size {name} is {str(size)[:40]}, outside its range")
    return dict(stored)


def _options(members: Members) -> dict[str, Any]:
    stored = members.manifest.get("options")
    if not isinstance(stored, dict) or set(stored) != set(_OPTIONS):
        raise refused(members.path, MANIFEST, "its options are not those of a model")
    try:
        Options.from_dict(stored)
    except OptionError as error:
        raise refused(members.path, MANIFEST, error.what) from error
    return stored
