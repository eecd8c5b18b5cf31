"""The worker of DeepSparse, run by path inside the environment made for it.

Argument: nothing. The case's folder holds model.onnx and inputs.npz as for every other engine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

os.environ["NM_DISABLE_ANALYTICS"] = "True"  # before deepsparse is imported: it reports home
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

if TYPE_CHECKING:
    from .serve import Refusal, reset_peak, resident_bytes, serve
else:
    from serve import Refusal, reset_peak, resident_bytes, serve


class DeepSparseRunner:
    """engine: a deepsparse.Engine; inputs: arrays in the order of its inputs."""

    def __init__(self, engine: Any, inputs: list[np.ndarray[Any, Any]]) -> None:
        self._engine, self._inputs = engine, inputs

    def run(self) -> Any:
        return self._engine.run(self._inputs)

    def outputs(self, result: Any) -> Sequence[np.ndarray[Any, Any]]:
        return list(result)

    def weight_bytes(self) -> int | None:
        return None


def prepare(job: dict[str, Any]) -> tuple[DeepSparseRunner, dict[str, Any]]:
    """Compile model.onnx; refuses what DeepSparse cannot do."""
    import deepsparse  # type: ignore[import-not-found]

    case = job["case"]
    if case["dtype"] != "float32":
        raise Refusal("unsupported", "float32 only")
    with np.load(os.path.join(job["folder"], "inputs.npz")) as stored:
        feed = {name: stored[name] for name in stored.files}
    reset_peak()
    memory_before = resident_bytes("VmRSS")
    started = time.perf_counter()
    engine = deepsparse.Engine(
        model=os.path.join(job["folder"], "model.onnx"),
        batch_size=case["batch"],
        num_cores=case["threads"],
    )
    inputs = [np.ascontiguousarray(feed[name]) for name in engine.input_names]
    return DeepSparseRunner(engine, inputs), {
        "compile_s": time.perf_counter() - started,
        "memory_before": memory_before,
        "versions": {"deepsparse": deepsparse.__version__, "numpy": np.__version__},
    }


if __name__ == "__main__":
    serve(prepare)
