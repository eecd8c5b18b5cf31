"""One case of `never_slower`, in a process of its own: all ways of running it, timed in turn."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import sparse_compiler as sc
import sparse_compiler.tuned as tuned_module
from sparse_compiler.frontends.frozen import Frozen, freeze
from sparse_compiler.runtime.measure import machine_to_itself

from .case import Case
from .models import MODELS, Model, calibrate_batch_norms
from .never_slower import ATTEMPTS, DEFAULT_BOUND, TUNED_BOUND
from .reference import prune
from .small import SMALL
from .stats import paired_ratio

ROUNDS, FEWEST = 25, 9
ROUNDS_S = 20.0
"""No further round begins after so many seconds, once there are the fewest."""
SLICE_S = 0.002
"""A timed turn makes as many calls as fit in here, at least one."""
TOLERANCE = 1e-3

Run = Callable[[], Any]


def prepare(case: Case, small: bool) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The pruned model, and its inputs."""
    spec: Model = SMALL[case.model] if small else MODELS[case.model]
    case = replace(case, tokens=spec.tokens)
    torch.manual_seed(case.seed)
    module = spec.build(case).eval()
    inputs = spec.inputs(case)
    prune(module, case)
    calibrate_batch_norms(module, inputs)
    return module.requires_grad_(False), tuple(inputs.values())


@contextmanager
def frozen_kept() -> Iterator[list[Frozen | None]]:
    """What `max-autotune` has Inductor compile, so that it need not be compiled once more."""
    kept: list[Frozen | None] = []

    def freeze_and_keep(gm: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Frozen | None:
        kept.append(freeze(gm, inputs))
        return kept[-1]

    with patch.object(tuned_module, "freeze", freeze_and_keep):
        yield kept


def frozen(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Run:
    """`torch.compile` at its best for inference: as the engine inductor-frozen has it."""
    import torch._inductor.config as config

    compiled = torch.compile(module, mode="max-autotune")
    with config.patch(freezing=True):
        compiled(*inputs)
    return lambda: compiled(*inputs)


def interleaved(runs: Mapping[str, Run]) -> dict[str, list[float]]:
    """Milliseconds of a call in each round, by way of running."""
    counts = {}
    for name, run in runs.items():
        run()
        began = time.perf_counter()
        run()
        counts[name] = max(1, int(SLICE_S / (time.perf_counter() - began)))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    started = time.monotonic()
    for number in range(ROUNDS):
        if number >= FEWEST and time.monotonic() - started > ROUNDS_S:
            break
        for name, run in runs.items():
            run()  # caches and threads are its own again
            began = time.perf_counter()
            for _ in range(counts[name]):
                run()
            taken[name].append((time.perf_counter() - began) / counts[name] * 1e3)
    return taken


def leaves(result: Any) -> list[torch.Tensor]:
    """The tensors of a result."""
    found = torch.utils._pytree.tree_leaves(result)
    return [x for x in found if isinstance(x, torch.Tensor)]


def check(name: str, run: Run, wanted: list[torch.Tensor]) -> None:
    """Raises `ValueError` where results differ from eager's."""
    for got, want in zip(leaves(run()), wanted, strict=True):
        error = float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))
        if not error <= TOLERANCE:
            raise ValueError(f"{name} is wrong: relative error {error:.1e}")


def measure(case: Case, small: bool, lock: Path) -> dict[str, Any]:
    """The figures of `Result`. The lock is held while something is timed, and never longer."""
    torch.set_num_threads(case.threads)
    torch.set_grad_enabled(False)
    module, inputs = prepare(case, small)
    began = time.monotonic()
    with frozen_kept() as kept:
        tuned = sc.compile(module, inputs, mode="max-autotune", options={"timing_lock": lock})
    tuning_s = time.monotonic() - began
    default = sc.compile(module, inputs)
    rival = next((f for f in kept if f is not None), None)
    inductor = frozen(module, inputs) if rival is None else partial(rival.run, *inputs)
    runs: dict[str, Run] = {"eager": lambda: module(*inputs), "inductor": inductor}
    runs |= {"default": lambda: default(*inputs), "tuned": lambda: tuned(*inputs)}
    wanted = leaves(runs["eager"]())
    for name in ("default", "tuned"):
        check(name, runs[name], wanted)
    found: dict[str, list[tuple[float, float, float]]] = {"tuned": [], "default": []}
    ms: dict[str, float] = {}
    for _ in range(ATTEMPTS):
        with machine_to_itself(lock):
            taken = interleaved(runs)
        ms = {name: statistics.median(values) for name, values in taken.items()}
        dense = min(("eager", "inductor"), key=lambda name: ms[name])
        for mode, ratios in found.items():
            ratio = paired_ratio(taken[dense], taken[mode])
            ratios.append((ratio.median, ratio.low, ratio.high))
        if found["tuned"][-1][2] >= TUNED_BOUND and found["default"][-1][2] >= DEFAULT_BOUND:
            break
    whole = tuned.inspect().json()["whole_model"]
    winner = whole["runs"] if whole else "sparse_compiler"
    return {"ms": ms, **found, "winner": winner, "tuning_s": tuning_s}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    figures = measure(Case(**request["case"]), request["small"], Path(request["lock"]))
    print(json.dumps(figures))
