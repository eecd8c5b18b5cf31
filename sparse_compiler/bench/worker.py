"""The worker process of an engine that runs in this environment: `python -m ...bench.worker`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .case import Case
from .engine import Engine, Job, load_engine
from .guest.serve import Refusal, Runner, reset_peak, resident_bytes, serve
from .models import load_module


def _job(request: dict[str, Any], engine: Engine) -> Job:
    folder = Path(request["folder"])
    case = Case(**request["case"])
    with np.load(folder / "inputs.npz") as stored:
        feed = {name: stored[name] for name in stored.files}
    module = load_module(case, folder) if engine.takes == "module" else None
    floats = getattr(torch, case.dtype)
    inputs = tuple(torch.from_numpy(a) for a in feed.values())
    return Job(
        case=case,
        threads=case.threads,
        cache=Path(request["cache"]),
        feed=feed,
        module=module,
        inputs=tuple(t.to(floats) if t.is_floating_point() else t for t in inputs),
        onnx=folder / "model.onnx" if engine.takes == "onnx" else None,
    )


def _prepare(request: dict[str, Any]) -> tuple[Runner, dict[str, Any]]:
    engine = load_engine(request["engine"])
    case = Case(**request["case"])
    if reason := engine.missing():
        raise Refusal("missing", reason)
    if reason := engine.supports(case):
        raise Refusal("unsupported", reason)
    versions = engine.versions()
    engine.load()
    torch.set_num_threads(case.threads)
    torch.set_grad_enabled(False)
    reset_peak()
    memory_before = resident_bytes("VmRSS")
    job = _job(request, engine)
    started = time.perf_counter()
    runner = engine.prepare(job)
    elapsed = time.perf_counter() - started
    return runner, {
        "compile_s": elapsed,
        "memory_before": memory_before,
        "versions": versions,
    }


if __name__ == "__main__":
    serve(_prepare)
