"""torch as it comes, no compiler: also the reference that all outputs are checked against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sparse_compiler.bench.engine import ENGINES, Array, Engine, EngineRunner, Job


class TorchRunner(EngineRunner):
    """Calls `function(*inputs)`, any callable on tensors. held: bytes of weights, if known."""

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: tuple[torch.Tensor, ...],
        held: int | None,
    ) -> None:
        self._function, self._inputs, self._held = function, inputs, held

    def run(self) -> Any:
        return self._function(*self._inputs)

    def outputs(self, result: Any) -> Sequence[Array]:
        return [t.float().numpy() for t in torch.utils._pytree.tree_leaves(result)]

    def weight_bytes(self) -> int | None:
        return self._held


def parameter_bytes(module: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once, sparse ones as they are stored."""
    tensors = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return sum(tensor_bytes(t) for t in tensors.values())


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes stored: of a compressed tensor its values and both indices."""
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.values(), tensor.col_indices(), tensor.crow_indices()]
        return sum(p.numel() * p.element_size() for p in parts)
    return tensor.numel() * tensor.element_size()


@ENGINES.register("eager")
class Eager(Engine):
    """PyTorch eager mode."""

    name = "eager"
    dense = True

    def prepare(self, job: Job) -> EngineRunner:
        assert job.module is not None
        return TorchRunner(job.module, job.inputs, parameter_bytes(job.module))
