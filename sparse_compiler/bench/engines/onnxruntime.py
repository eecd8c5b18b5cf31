"""ONNX Runtime's CPU provider, all graph optimisations on, its threads told to stop spinning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparse_compiler.bench.engine import ENGINES, Array, Engine, EngineRunner, Job


class OrtRunner(EngineRunner):
    """session: an onnxruntime.InferenceSession; feed: its inputs by name."""

    def __init__(self, session: Any, feed: dict[str, Array]) -> None:
        self._session, self._feed = session, feed

    def run(self) -> Sequence[Array]:
        found: Sequence[Array] = self._session.run(None, self._feed)
        return found


@ENGINES.register("onnxruntime")
class OnnxRuntime(Engine):
    """InferenceSession with intra_op_num_threads set and force_spinning_stop."""

    name = "onnxruntime"
    takes = "onnx"
    dense = True
    packages = ("onnxruntime",)
    told_by_copy = True

    def prepare(self, job: Job) -> EngineRunner:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(str(job.onnx), options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        return OrtRunner(session, {name: job.feed[name] for name in names})
