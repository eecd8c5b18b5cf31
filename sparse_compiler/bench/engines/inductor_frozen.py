"""Inductor at its best for inference: weights frozen and prepacked, max-autotune."""

from __future__ import annotations

import torch

from sparse_compiler.bench.engine import ENGINES, EngineRunner, Job

from .eager import TorchRunner
from .inductor import Inductor


@ENGINES.register("inductor-frozen")
class InductorFrozen(Inductor):
    """torch.compile(model, mode="max-autotune") under freezing=True."""

    name = "inductor-frozen"

    def prepare(self, job: Job) -> EngineRunner:
        assert job.module is not None
        import torch._inductor.config as config

        config.freezing = True
        return TorchRunner(torch.compile(job.module, mode="max-autotune"), job.inputs, None)
