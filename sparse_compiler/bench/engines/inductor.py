"""torch.compile with its default compiler, as most people use it."""

from __future__ import annotations

import torch

from sparse_compiler.bench.engine import ENGINES, Engine, EngineRunner, Job

from .eager import TorchRunner, parameter_bytes


@ENGINES.register("inductor")
class Inductor(Engine):
    """torch.compile(model), weights free to change."""

    name = "inductor"
    dense = True
    disk_cache = True

    def load(self) -> None:
        import torch._dynamo
        import torch._inductor.compile_fx  # noqa: F401

    def prepare(self, job: Job) -> EngineRunner:
        assert job.module is not None
        return TorchRunner(torch.compile(job.module), job.inputs, parameter_bytes(job.module))
