"""Our kernels as packed functions in destination-passing style, which TVM's machine calls by name.

A name is a hash of the region and its weights: the same module always asks for the same names, and
a name never stands for other numbers. A registered function lives as long as the process.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack
from tvm_ffi import register_global_func

from ..codegen.program import Segment
from ..runtime.pipeline import Pipeline

_ALIGNMENT = 64  # bytes, of results that kernels write with aligned stores
_KERNELS: dict[str, Kernel] = {}


class Kernel:
    """A compiled region: takes the region's inputs, then the tensor that the result goes to."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._executor = pipeline.executor
        steps = pipeline.lowered.program.steps
        inputs = [name for name, _ in pipeline.lowered.program.inputs]
        single = len(steps) == 1 and isinstance(steps[0], Segment)
        self._segment = pipeline.segments[0] if single else None
        self._places: list[int] = []
        if self._segment is not None:
            if self._segment.outputs == pipeline.lowered.program.outputs:
                self._places = [inputs.index(name) for name in self._segment.inputs]
            else:
                self._segment = None

    def __call__(self, *arguments: Any) -> None:
        """Called by TVM with its tensors, whose memory is used as it is."""
        *inputs, result = map(from_dlpack, arguments)
        if self._segment is None or result.data_ptr() % _ALIGNMENT:
            with torch.no_grad():
                result.copy_(self._executor(inputs)[0])
            return
        self._segment.run_into([inputs[i] for i in self._places], [result])


def registered(pipeline: Pipeline) -> str:
    """The name by which TVM finds the pipeline's kernel."""
    digest = hashlib.sha256(str(pipeline.graph).encode())
    digest.update(repr(pipeline.options).encode())
    for name, tensor in sorted(pipeline.weights.tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().data)
    name = f"sparse_compiler.{digest.hexdigest()[:24]}"
    if name not in _KERNELS:
        _KERNELS[name] = Kernel(pipeline)
        register_global_func(name, _KERNELS[name].__call__, override=True)
    return name
