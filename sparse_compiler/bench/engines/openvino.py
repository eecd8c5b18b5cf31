"""OpenVINO's CPU plug-in in latency mode, arithmetic held to float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparse_compiler.bench.engine import ENGINES, Array, Engine, EngineRunner, Job


class OpenVinoRunner(EngineRunner):
    """request: an infer request with its inputs set."""

    def __init__(self, request: Any, feed: dict[str, Array], count: int) -> None:
        self._request, self._feed, self._count = request, feed, count

    def run(self) -> None:
        self._request.infer(self._feed, share_inputs=True, share_outputs=True)

    def outputs(self, result: None) -> Sequence[Array]:
        return [self._request.get_output_tensor(i).data.copy() for i in range(self._count)]


@ENGINES.register("openvino")
class OpenVino(Engine):
    """compile_model(..., "CPU") with INFERENCE_NUM_THREADS and a cache folder."""

    name = "openvino"
    takes = "onnx"
    dense = True
    disk_cache = True
    packages = ("openvino",)
    told_by_copy = True

    def prepare(self, job: Job) -> EngineRunner:
        import openvino as ov

        settings = {
            "INFERENCE_NUM_THREADS": job.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "CACHE_DIR": str(job.cache / "openvino"),
        }
        compiled = ov.Core().compile_model(str(job.onnx), "CPU", settings)
        request = compiled.create_infer_request()
        names = [i.get_any_name() for i in compiled.inputs]
        return OpenVinoRunner(request, {n: job.feed[n] for n in names}, len(compiled.outputs))
