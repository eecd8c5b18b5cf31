"""This compiler, by its two roads: `sc.compile` and the torch.compile backend."""

from __future__ import annotations

import torch

import sparse_compiler as sc
from sparse_compiler.bench.engine import ENGINES, Engine, EngineRunner, Job

from .eager import TorchRunner


class _Ours(Engine):
    disk_cache = True
    packages = ("torch",)

    def versions(self) -> dict[str, str]:
        return {"sparse_compiler": sc.__version__, "torch": torch.__version__}


@ENGINES.register("sparse_compiler")
class SparseCompiler(_Ours):
    """sc.compile(model, inputs): the whole graph in one native program."""

    name = "sparse_compiler"

    def load(self) -> None:
        import sparse_compiler.api  # noqa: F401

    def prepare(self, job: Job) -> EngineRunner:
        assert job.module is not None
        compiled = sc.compile(job.module, job.inputs)
        return TorchRunner(compiled, job.inputs, getattr(compiled, "weight_bytes", None))


@ENGINES.register("sparse_compiler-jit")
class SparseCompilerJit(_Ours):
    """torch.compile(model, backend="sparse_compiler"): through Dynamo."""

    name = "sparse_compiler-jit"

    def load(self) -> None:

        import sparse_compiler.backend  # noqa: F401

    def prepare(self, job: Job) -> EngineRunner:
        assert job.module is not None
        from torch._dynamo.backends.registry import list_backends, register_backend

        if "sparse_compiler" not in list_backends(exclude_tags=()):  # run from a source tree
            from sparse_compiler.backend import sparse_compiler

            register_backend(sparse_compiler, name="sparse_compiler")
        compiled = torch.compile(job.module, backend="sparse_compiler")
        return TorchRunner(compiled, job.inputs, None)
