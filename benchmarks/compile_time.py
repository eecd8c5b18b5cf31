"""Time from a loaded model to its first result, and memory at the peak: ours, Inductor, eager.

Each engine runs in a process of its own, cold (empty caches), then warm (the caches it left). The
results are kept line by line in a file; a line that is there is not measured again.

    python benchmarks/compile_time.py bert:0.9 resnet50:0.9 --keep figures.jsonl
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLD = ("calibrated", "ours", "inductor", "frozen")
"""`calibrated` is ours on first use, when the machine is measured; `ours` without."""
CACHES = ("SPARSE_COMPILER_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", help="model:zeros")
    parser.add_argument("--keep", type=Path, default=Path("compile_time.jsonl"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--engine", help="of a process that measures")
    parser.add_argument("--state", default="", help="cold or warm, for the record")
    args = parser.parse_args()
    if args.engine:
        print(json.dumps(measure(args.cases[0], args.engine, args.threads) | {"state": args.state}))
        return
    lines = args.keep.read_text().splitlines() if args.keep.exists() else []
    known = {tuple(json.loads(line)[k] for k in ("case", "engine", "threads")) for line in lines}
    for case in args.cases:
        for engine in ("eager", *COLD):
            if (case, engine, args.threads) not in known:
                found = in_processes(case, engine, args.threads)
                with args.keep.open("a") as kept:
                    kept.writelines(found)
    for row in map(json.loads, args.keep.read_text().splitlines()):
        print("{case:14} {engine:11} {state:5} {seconds:7.2f} s  {cpu:7.2f} s CPU".format(**row))
        print("  peak {peak:.0f} MB".format(**row))


def in_processes(case: str, engine: str, threads: int) -> list[str]:
    """One line for the cold run, one for the warm run after it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {name: f"{folder}/{name}" for name in CACHES}
        environment["SPARSE_COMPILER_CALIBRATE"] = str(int(engine == "calibrated"))
        command = [sys.executable, __file__, case, "--engine", engine, "--threads", str(threads)]
        found = []
        for state in ("cold", "warm"):
            run = [*command, "--state", state]
            done = subprocess.run(run, env=environment, stdout=subprocess.PIPE, text=True)
            done.check_returncode()
            found.append(done.stdout.splitlines()[-1] + "\n")
        return found


def measure(case: str, engine: str, threads: int) -> dict[str, Any]:
    """Seconds on the clock and of processors, with children's, to the first result; MB."""
    import torch

    from sparse_compiler.bench.case import Case
    from sparse_compiler.bench.models import build_model, model_named

    torch.set_num_threads(threads)
    name, zeros = case.split(":")
    found = Case(name, batch=1, tokens=model_named(name).tokens, threads=threads)
    model, inputs = build_model(found).eval(), model_named(name).inputs(found)
    weights = [w for w in model.parameters() if w.dim() > 1 and w.numel() >= 4096]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(torch.rand(weight.shape) >= float(zeros))
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        began, before = time.perf_counter(), processor_seconds()
        run = ENGINES[engine](model, tuple(inputs.values()))
        run(*inputs.values())
        seconds, cpu = time.perf_counter() - began, processor_seconds() - before
        for _ in range(3):
            run(*inputs.values())
    peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    figures = {"seconds": seconds, "cpu": cpu, "peak": int(peak.split()[1]) / 1024}
    return {"case": case, "engine": engine, "threads": threads, **figures}


def processor_seconds() -> float:
    """Of this process and of those it started and waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(u.ru_utime + u.ru_stime for u in used)


def ours(model: Any, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    import sparse_compiler

    return sparse_compiler.compile(model, inputs)


def inductor(model: Any, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    import torch

    compiled: Callable[..., Any] = torch.compile(model)
    return compiled


def frozen(model: Any, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    import torch._inductor.config as settings

    settings.freezing = True
    return inductor(model, inputs)


def eager(model: Any, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    found: Callable[..., Any] = model
    return found


ENGINES = {
    "eager": eager,
    "ours": ours,
    "calibrated": ours,
    "inductor": inductor,
    "frozen": frozen,
}


if __name__ == "__main__":
    main()
