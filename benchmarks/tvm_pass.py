"""MiniLM in TVM's virtual machine: the module as imported against the one after `SparseLinear`.

    python benchmarks/tvm_pass.py

all-MiniLM-L6-v2 with 90 % of its encoder's weights zero, 128 tokens, batch 1. Both modules go
through one pipeline: TVM's for CPUs, and after it a schedule of register tiles for every matrix
product, since TVM's own CPU pipeline schedules nothing (`--unscheduled` leaves it at that). Then
the time of each linear inside the untouched module says what the pass may win at most.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import torch
import tvm
from demo import load
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.s_tir import Schedule, ScheduleError

import sparse_compiler as sc
from sparse_compiler.frontends.relax_call import host_target

LIMIT = 1e-4
PROFILED = 7  # runs whose functions are timed one by one
TILE_ROWS, TILE_COLUMNS = 4, 64


@tvm.transform.module_pass(opt_level=0, name="ScheduleMatmuls")
class ScheduleMatmuls:
    """Every matrix product in tiles that stay in registers, vectorised along its columns."""

    def transform_module(self, module: tvm.IRModule, _: Any) -> tvm.IRModule:
        """Called by TVM."""
        for var, function in list(module.functions.items()):
            if isinstance(function, tvm.tirx.PrimFunc):
                module[var] = scheduled(function)
        return module


def scheduled(function: Any) -> Any:
    """The function with its product tiled; itself where it holds none that can be."""
    schedule = Schedule(function)
    try:
        block = schedule.get_sblock("matmul")
        *_, i, j, k = schedule.get_loops(block)
        i0, i1 = schedule.split(i, [None, TILE_ROWS])
        j0, j1, lanes = schedule.split(j, [None, TILE_COLUMNS // 16, 16])
        schedule.reorder(i0, j0, k, i1, j1, lanes)
        held = schedule.cache_write(block, 0, "local")
        schedule.reverse_compute_at(held, j0)
        schedule.vectorize(lanes)
        schedule.unroll(j1)
        schedule.unroll(i1)
        start = schedule.decompose_reduction(block, k)
        schedule.vectorize(schedule.get_loops(start)[-1])
        *_, copied = schedule.get_loops(held)
        schedule.vectorize(schedule.split(copied, [None, 16])[1])
    except ScheduleError:
        return function
    return schedule.mod["main"]


def pipeline(target: Any, *, schedule: bool) -> Any:
    """TVM's pipeline for CPUs, with the schedule where TVM would put one."""
    from tvm.relax.backend import cpu_generic as cpu
    from tvm.relax.backend.cpu_generic.pipeline import dataflow_lower_passes

    passes = [
        *cpu.library_dispatch_passes(target),
        relax.transform.FoldConstant(),
        *cpu.legalize_passes(target),
        *([ScheduleMatmuls()] if schedule else []),
        *dataflow_lower_passes(target),
        *cpu.finalize_passes(target),
    ]

    @tvm.transform.module_pass(opt_level=0)
    def run(module: tvm.IRModule, _: Any) -> tvm.IRModule:
        with target:
            return tvm.transform.Sequential(passes)(module)

    return run


def machine(module: tvm.IRModule, *, schedule: bool) -> Any:
    """The module in TVM's virtual machine."""
    target = host_target()
    built = relax.build(module, target, relax_pipeline=pipeline(target, schedule=schedule))
    return relax.VirtualMachine(built, tvm.cpu())


def times_of(vm: Any, inputs: list[Any]) -> Counter[str]:
    """Milliseconds of each function that the machine calls in one run: the least of several."""
    runs: list[Counter[str]] = []
    began = [0.0]

    def note(_: Any, name: str, before: bool, *__: Any) -> None:
        if before:
            began[0] = time.perf_counter()
        else:
            runs[-1][name] += 1e3 * (time.perf_counter() - began[0])

    vm.set_instrument(note)
    for _ in range(PROFILED):
        runs.append(Counter())
        vm["main"](*inputs)
    vm.set_instrument(lambda *_: None)
    return Counter({name: min(run[name] for run in runs) for name in runs[0]})


def timed(vms: dict[str, Any], inputs: list[Any], rounds: int) -> dict[str, float]:
    """Milliseconds of each, which take turns: the least, as for the functions."""
    seen: dict[str, list[float]] = {name: [] for name in vms}
    for _ in range(rounds):
        for name, vm in vms.items():
            began = time.perf_counter()
            vm["main"](*inputs)
            seen[name].append(1e3 * (time.perf_counter() - began))
    return {name: min(found) for name, found in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--unscheduled", action="store_true", help="TVM's own pipeline alone")
    settings = parser.parse_args()
    warnings.simplefilter("ignore")
    model, sentences = load(0.9)
    with torch.no_grad():
        wanted = model(*sentences[0])
        module = from_exported_program(torch.export.export(model, sentences[0]))
    sparse = sc.tvm.SparseLinear()
    began = time.perf_counter()
    changed = sparse(module)
    print(f"the pass took {time.perf_counter() - began:.1f} s: {sparse.report.summary()}")
    inputs = [tvm.runtime.from_dlpack(x) for x in sentences[0]]
    vms = {
        "untouched": machine(module, schedule=not settings.unscheduled),
        "SparseLinear": machine(changed, schedule=not settings.unscheduled),
    }
    for name, vm in vms.items():
        error = float((torch.from_dlpack(vm["main"](*inputs)[0]) - wanted).abs().max())
        print(f"{name}: largest difference from eager {error:.1e}")
        if not error <= LIMIT:
            sys.exit(f"{name} differs from eager by more than {LIMIT:g}")
    ms = timed(vms, inputs, settings.rounds)
    spent = {name: times_of(vm, inputs) for name, vm in vms.items()}
    report(ms, spent)


def report(ms: dict[str, float], spent: dict[str, Counter[str]]) -> None:
    """Prints the times, and how far the pass came of what the linears' share allows."""
    linears = sum(t for name, t in spent["untouched"].items() if is_linear(name))
    ours = sum(t for name, t in spent["SparseLinear"].items() if name.startswith("sparse_comp"))
    for name, found in spent.items():
        print(f"\n{name}: {ms[name]:.2f} ms a run")
        for function, each in found.most_common(6):
            print(f"  {each:9.2f} ms  {function}")
    before, after = ms["untouched"], ms["SparseLinear"]
    print(
        f"\nlinears with bias and gelu: {linears:.2f} of {before:.2f} ms untouched "
        f"({linears / before:.0%}), {ours:.2f} ms in our kernels: {linears / ours:.1f} x as fast"
        f"\nthe whole: {before / after:.2f} times as fast; by the linears' share "
        f"{before / (before - linears + ours):.2f}"
    )


def is_linear(function: str) -> bool:
    """By the names that TVM gives: products with bias are linears, those of attention have none."""
    return ("matmul" in function and "_add" in function) or "gelu" in function


if __name__ == "__main__":
    main()
