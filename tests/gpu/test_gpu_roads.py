"""Where target "cuda" runs, what it refuses, and torch.compile's partition of a model on a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sparse_compiler as sc
from sparse_compiler.backend import _refuse_elsewhere
from sparse_compiler.errors import InputError, OptionError, UnsupportedError
from sparse_compiler.formats.gpu_arch import ARCHES, H100
from sparse_compiler.frontends import dynamo
from sparse_compiler.frontends.host import decompose, host
from sparse_compiler.inspector.report import report_of
from sparse_compiler.options import Options
from sparse_compiler.runtime.gpu_place import Place, dtype_of, place_of, placed
from sparse_compiler.runtime.hosted import build_segments

FILE = Path(__file__).with_name("interpreted_roads.py")
CUDA = torch.device("cuda", 0)
HALF = torch.zeros(2, 2, dtype=torch.float16)


@pytest.mark.system
@pytest.mark.parametrize(
    "chosen", ["not profile and not bfloat16", pytest.param("", marks=pytest.mark.slow)]
)
def test_roads_by_the_interpreter(chosen: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--show-capture=no"]
    command += ["-p", "no:cacheprovider", "-n0", str(FILE), "-k", chosen]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]


# --- places ---------------------------------------------------------------------------------------


def on_cuda(*shape: int, index: int = 0) -> torch.Tensor:
    """A tensor that says it lies on a GPU."""
    with FakeTensorMode():
        return torch.empty(shape, device=torch.device("cuda", index))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """torch.cuda as it is where there are GPUs; the function gives them their capabilities."""

    def give(*capabilities: tuple[int, int]) -> None:
        properties = [
            SimpleNamespace(major=a, minor=b, name=f"GPU {a}.{b}") for a, b in capabilities
        ]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda device: properties[device.index]
        )

    return give


def test_a_target_is_the_gpu_of_the_model_else_the_current_one(gpu) -> None:
    gpu((9, 0), (8, 6))
    assert place_of("cuda", {"w": torch.zeros(2)}) == Place(CUDA, H100)
    other = place_of("cuda", {"w": on_cuda(2, 2, index=1)})
    assert other.device == torch.device("cuda", 1) and other.arch.name == "cuda:86"
    assert place_of("cuda:90", {}) == Place(CUDA, H100)


def test_a_gpu_that_is_another_one_than_named_is_refused(gpu) -> None:
    gpu((8, 6))
    with pytest.raises(OptionError, match='"cuda:90", and the GPU at hand is cuda:86'):
        place_of("cuda:90", {})


def test_a_gpu_that_triton_does_not_know_is_refused(gpu) -> None:
    gpu((7, 5))
    with pytest.raises(OptionError, match=r"GPU 7.5, is none that we compile for(.|\n)*cpu"):
        place_of("cuda", {})


def test_a_model_on_two_gpus_is_refused(gpu) -> None:
    gpu((9, 0), (9, 0))
    params = {"a": on_cuda(2, 2), "b": on_cuda(2, 2, index=1)}
    with pytest.raises(UnsupportedError, match=r"several devices(.|\n)*cuda:0, cuda:1"):
        place_of("cuda", params)


def test_the_target_follows_the_model() -> None:
    options = Options.from_dict({})
    assert placed(options, [torch.zeros(2, 2)], named=False).target == "cpu"
    assert placed(options, [on_cuda(2, 2)], named=False).target == "cuda"
    named = Options.from_dict({"target": "cuda:80"})
    assert placed(named, [on_cuda(2, 2)], named=True).target == "cuda:80"
    with pytest.raises(OptionError, match=r'target is "cpu"(.|\n)*lies on cuda:0'):
        placed(options, [on_cuda(2, 2)], named=True)
    with pytest.raises(UnsupportedError, match="several devices"):
        placed(options, [on_cuda(2, 2), torch.zeros(2, 2)], named=False)


def test_every_gpu_with_figures_is_a_target() -> None:
    for name in ARCHES:
        assert Options.from_dict({"target": name}).target == name
    with pytest.raises(OptionError, match="option target is 'cuda:77'"):
        Options.from_dict({"target": "cuda:77"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_named_gpu_that_is_elsewhere_is_compiled_for_and_not_run() -> None:
    model, x = nn.Linear(64, 64).eval().requires_grad_(False), torch.randn(4, 64)
    fast = sc.compile(model, (x,), target="cuda:80", options={"force_native": True})
    (segment,) = fast.pipeline.segments
    assert segment.place.arch.name == "cuda:80" and segment.module.launches
    with pytest.raises(OptionError, match="compiled for cuda:80, and there is no GPU to run it"):
        fast(x)


def test_a_tensor_on_another_device_is_told() -> None:
    with pytest.raises(InputError, match=r"x lies on cpu(.|\n)*compiled for cuda:0(.|\n)*x.to"):
        Place(CUDA, H100).check(torch.zeros(2), "x")


@pytest.mark.parametrize(
    ("weights", "params", "dtype"),
    [("fp32", [HALF], "fp16"), ("fp32", [HALF, HALF.float()], "fp32"), ("bf16", [HALF], "bf16")],
)
def test_products_have_the_dtype_of_the_model_unless_asked(weights, params, dtype) -> None:
    options = Options.from_dict({"weights": weights})
    assert dtype_of(options, dict(enumerate(params))) == dtype


# --- torch.compile --------------------------------------------------------------------------------


class Model(nn.Module):
    """Two layers around what no segment takes; a constant is made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 24)

    def forward(self, x):
        scale = torch.arange(48, device=x.device, dtype=x.dtype)
        y = torch.relu(self.first(x)) * scale
        return self.second(y.sort(0).values)


def faked(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The model on a GPU that is not there."""
    with mode:
        for module in model.modules():
            for name, old in module._parameters.items():
                empty = torch.empty(old.shape, device="cuda")
                module._parameters[name] = nn.Parameter(empty, requires_grad=False)
    return model


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    """AOTAutograd's graph of `Model` on cuda:0, as ours, with numbers; and its segments."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    torch.manual_seed(0)
    real = {
        name: p.detach() * (torch.rand(p.shape) < 0.1) for name, p in Model().named_parameters()
    }
    mode, found = FakeTensorMode(), []

    def keep(gm, inputs):
        _, deferred = dynamo.capture(gm, inputs)
        statics = dynamo.static_inputs(gm, inputs)
        found.append((deferred, dynamo.import_aot_graph(deferred.gm, statics)))
        return lambda *args: (torch.empty(5, 24, device="cuda"),)

    torch._dynamo.reset()
    model = faked(Model().eval(), mode)
    with torch.no_grad(), mode:
        x = torch.empty(5, 32, device="cuda")
        torch.compile(model, backend=keep, fullgraph=True)(x)
    deferred, imported = found[0]
    imported.params.update(real)
    options = Options.from_dict({"target": "cuda:90", "force_native": True, "format": "csr"})
    segments, lowered = build_segments(imported.graph, imported.params, options)
    yield deferred, imported, segments, lowered
    torch._dynamo.reset()


def targets(gm) -> list[str]:
    return [str(node.target) for node in gm.graph.nodes if node.op == "call_function"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_sparse_regions_are_ours_and_the_rest_inductors(on_a_gpu) -> None:
    deferred, imported, segments, lowered = on_a_gpu
    assert len(segments) == 2 and {n.op.name for n in imported.graph.nodes} >= {"iota", "pointwise"}
    assert {c.name for c in lowered.source.nodes if c.op.name == "torch_call"} == {"sort"}
    hosted = host(deferred.gm, imported, segments)
    left = [name for name in targets(hosted.gm) if "getitem" not in name]
    assert left.count("sparse_compiler.run_segment.default") == 2
    assert "aten.sort.default" in left and not {"aten.linear.default", "aten.relu.default"} & {
        *left
    }
    with deferred.fake_inputs[0].fake_mode:
        whole = decompose(hosted.gm, deferred.fake_inputs)
    devices = {n.meta["val"].device for n in whole.graph.nodes if _is_tensor(n)}
    assert devices == {CUDA}, "Inductor sees the results of segments on the GPU"


def _is_tensor(node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


@pytest.mark.system
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_segments_of_a_model_on_a_gpu_have_kernels_for_it(on_a_gpu) -> None:
    _, _, segments, lowered = on_a_gpu
    assert {layer.format for layer in report_of(lowered).layers} == {"csr"}
    text = segments[0].native.module.text
    assert "import triton.language as tl" in text and "tl.store" in text
    assert all(segment.native.place.arch == H100 for segment in segments)


@pytest.mark.system
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_segment_that_would_read_another_device_is_left_to_inductor(on_a_gpu) -> None:
    _, imported, segments, _ = on_a_gpu
    with pytest.raises(UnsupportedError, match=r"lies on cuda:0(.|\n)*was compiled for cpu"):
        _refuse_elsewhere(imported, segments)
    for segment in segments:
        segment.device = CUDA
    _refuse_elsewhere(imported, segments)
