"""A model as a library for C: `model.so`, `model.weights` and `model.h` in a folder.

The same passes, program and kernels as in this process; what Python does when it binds sizes is in
`codegen/cpu/standalone/`. Nothing may be left to torch.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch.utils import _pytree as pytree

from .codegen.cpu.build import Toolchain, kernel_folder
from .codegen.cpu.source import print_segment
from .codegen.cpu.standalone.link import FOLDER, Target, library_units, link_library, target_for
from .codegen.cpu.standalone.tables import Model, print_tables
from .codegen.program import Program, TorchStep
from .errors import ToolchainError, UnsupportedError
from .formats.cost import Machine
from .frontends.export import CallSpec, ExportedModel
from .ir.graph import Graph
from .ir.text import print_node
from .options import Options
from .runtime.machine import assumed_machine, machine_for
from .runtime.parametrized import fold_parametrized
from .runtime.pipeline import Lowered, lower_graph, program_values
from .runtime.standalone import Replacing, bytes_of, store_constants, write_weights
from .runtime.tables import with_tables
from .runtime.weights import LiveWeights

NAMES = ("model.weights", "model.h", "model.so")


def export_library(
    exported: ExportedModel,
    options: Options,
    hints: Mapping[str, int],
    folder: Path,
    target_name: str,
) -> Path:
    """Writes the three files into a folder, all or none.

    Raises `UnsupportedError` for what cannot run without torch, `ToolchainError`, `ArtifactError`.
    """
    if options.compiler is None:
        raise ToolchainError("there is no C++ compiler", fix="install g++ or clang++")
    host = Toolchain(tuple(shlex.split(options.compiler)), options.cache_dir, 4)
    target = target_for(target_name, host)
    graph, params = fold_parametrized(exported.imported.graph, exported.imported.params)
    given = len(graph.inputs)
    graph, tables = with_tables(graph, params)
    lowered = _lowered(graph, LiveWeights(params), options, hints, target)
    program = lowered.program
    _check_native(lowered)
    values = program_values(program, graph, params, in_place=False)
    constants, blobs = store_constants(program, values, lowered.context.hints, target.packers)
    inputs, results = [name for name, _ in program.inputs[:given]], _results(exported.call, program)
    made = {name for segment in program.segments for name, _ in segment.outputs}
    handed = [name for s in program.segments for name, _ in s.inputs] + list(results)
    fixed = {
        name: blobs.add(bytes_of(tables[name] if name in tables else values.kept[name]))
        for name in dict.fromkeys(handed)
        if name not in {*inputs, *made}
    }
    model = Model(
        program,
        target.name,
        tuple(inputs),
        _result_names(exported.call),
        results,
        constants,
        fixed,
        len(blobs.parts),
    )
    segments = [print_segment(segment) for segment in program.segments]
    identity = _identity(program, [print_tables(model, 0), *segments])
    few = any(c.few >= 0 for of_segment in constants for c in of_segment)
    units = library_units(print_tables(model, identity), segments, few=few)
    with Replacing(folder, NAMES) as place:
        link_library(units, target, place["model.so"])
        write_weights(place["model.weights"], blobs, target.name, identity)
        header = (kernel_folder() / FOLDER / "model.h").read_text()
        place["model.h"].write_text(header)
    return folder


def _lowered(
    graph: Graph,
    weights: LiveWeights,
    options: Options,
    hints: Mapping[str, int],
    target: Target,
) -> Lowered:
    """The program for the target, with nothing left to torch for its speed, or to be bound."""
    options = replace(options, force_native=True)
    machine = machine_for(options)
    if target.kernels.width != machine.vector or target.kernels is not target.packers:
        machine = _assumed(options, target)
    return lower_graph(graph, weights, options, hints, machine=machine)


def _assumed(options: Options, target: Target) -> Machine:
    """Public figures of a core of another width."""
    width, here = target.kernels.width, assumed_machine(options)
    return replace(
        here,
        vector=width,
        flops_per_ns=here.flops_per_ns / here.vector * width,
        torch_vector=width,
        torch=(),
    )


def _check_native(lowered: Lowered) -> None:
    """Raises `UnsupportedError` that names every node without a kernel."""
    problems = []
    for step in lowered.program.steps:
        if isinstance(step, TorchStep):
            node = step.node
            reasons = lowered.context.refusals.get(node.name, [])
            why = "; ".join(reason.why for reason in reasons)
            where = f" at {node.loc}" if node.loc else ""
            problems.append(f"{print_node(node)}{where}{': ' * bool(why)}{why}")
    if problems:
        raise UnsupportedError(
            f"a library cannot be made: torch would run {len(problems)} nodes of the model",
            why="\n".join(problems),
            fix="use operators that docs/limits.md lists as native, or sc.export without library",
        )
    if lowered.program.updates:
        names = ", ".join(target for _, target in lowered.program.updates)
        raise UnsupportedError(
            f"a library cannot be made: the model writes to {names}",
            why="a library's weights never change",
            fix="return the new values as results",
        )


def _results(call: CallSpec, program: Program) -> tuple[str, ...]:
    """The value of each result that is a tensor; sizes and constants are the caller's to know."""
    return tuple(program.outputs[o] for o in call.outputs if isinstance(o, int))


def _result_names(call: CallSpec) -> tuple[str, ...]:
    """Names from the structure of results: "logits", "0", or "output" for a lone tensor."""
    example = pytree.tree_unflatten(list(range(call.out_spec.num_leaves)), call.out_spec)
    paths = pytree.tree_flatten_with_path(example)[0]
    names = [".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in p)
             for p, _ in paths]  # fmt: skip
    return tuple(
        name or "output" for name, o in zip(names, call.outputs, strict=True) if isinstance(o, int)
    )


def _identity(program: Program, texts: Sequence[str]) -> int:
    """What a file of weights must fit: the code, and the shapes of all constants."""
    digest = hashlib.sha256("\0".join([str(program), *texts]).encode()).digest()
    return int.from_bytes(digest[:8], "little")
