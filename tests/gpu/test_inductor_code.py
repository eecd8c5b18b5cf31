"""What Inductor writes for the rest of a model on a GPU, with torch told that there is one."""

from types import SimpleNamespace

import pytest
import torch
import torch._inductor.scheduler
import torch.utils._triton
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from triton.runtime.driver import driver

from sparse_compiler.frontends.host import decompose, host
from tests.gpu.fake_gpu import FakeGpu
from tests.gpu.test_gpu_roads import on_a_gpu

__all__ = ["on_a_gpu"]
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
]

PROPERTIES = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    total_memory=80 << 30,
    L2_cache_size=50 << 20,
    gcnArchName="",
)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Inductor asks of torch and of triton before it prints a kernel."""
    monkeypatch.setattr(driver, "_active", FakeGpu())
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": PROPERTIES,
        "get_device_capability": (9, 0),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    for owner, name, answer in (
        (CudaInterface, "is_available", True),
        (CudaInterface, "get_compute_capability", 90),
        (CudaInterface, "is_triton_capable", True),
        (CudaInterface, "get_device_properties", PROPERTIES),
        (CudaInterface, "raise_if_triton_unavailable", None),
        (CudaInterface.Worker, "get_device_properties", PROPERTIES),
    ):
        monkeypatch.setattr(owner, name, staticmethod(lambda *_, answer=answer: answer))
    for module in (torch._inductor.scheduler, torch.utils._triton):
        monkeypatch.setattr(module, "has_triton", lambda *_: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")


def test_segments_are_calls_between_inductors_triton_kernels(on_a_gpu, h100) -> None:
    deferred, imported, segments, _ = on_a_gpu
    hosted = host(deferred.gm, imported, segments)
    inputs, mode = deferred.fake_inputs, deferred.fake_inputs[0].fake_mode
    with mode:
        graph = decompose(hosted.gm, inputs)
    with (
        V.set_fake_mode(mode),
        V.set_debug_handler(DebugContext()),
        torch.no_grad(),
        config.patch(force_disable_caches=True, compile_threads=1),
    ):
        lowering = GraphLowering(
            graph, shape_env=mode.shape_env, example_inputs=inputs, is_inference=True
        )
        with V.set_graph_handler(lowering):
            lowering.run(*inputs)
            text = lowering.codegen()[0].value
    called = text[text.index("def call(") :]
    operator = "torch.ops.sparse_compiler.run_segment.default("
    assert called.count(operator) == 2
    assert "addmm" not in text and "extern_kernels.mm" not in text, "a layer of ours is Inductor's"
    between = called.split(operator)[1]
    assert "sort" in between and "set_device(0)" in called
