"""Generated C++: golden units, equal bytes for equal segments, no bad access under sanitizers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_compiler.codegen.cpu import build
from sparse_compiler.codegen.cpu.source import print_segment
from sparse_compiler.codegen.lower import lower
from sparse_compiler.codegen.program import Segment
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.types import TensorType, evaluate
from sparse_compiler.options import Options, find_compiler
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_layouts import ChooseLayouts
from sparse_compiler.passes.fuse_pointwise import FusePointwise
from sparse_compiler.runtime.pipeline import Pipeline
from sparse_compiler.runtime.weights import LiveWeights

GOLDEN = Path(__file__).with_name("golden")
GRAPHS = {
    "mlp": """
        symbol B in [1, 64]
        input %x: f32[B, 24]
        param %fc1.weight: f32[33, 24]
        param %fc1.bias: f32[33]
        param %fc2.weight: f32[24, 33]
        %w1: f32[33, 24] = pack[format="dense"](%fc1.weight)
        %w2: f32[24, 33]{csr} = pack[format="csr"](%fc2.weight)
        %h: f32[B, 33] = linear[bias=true](%x, %w1, %fc1.bias)
        %a: f32[B, 33] = pointwise[expr="gelu(x0)"](%h)
        %y: f32[B, 24] = linear(%a, %w2)
        %r: f32[B, 24] = pointwise[expr="add(x0, x1)"](%x, %y)
        return %r
        """,
    "encoder": """
        input %x: f32[3, 7, 16]
        input %mask: bool[3, 1, 1, 7]
        param %q.weight: f32[16, 16]
        param %k.weight: f32[16, 16]
        param %v.weight: f32[16, 16]
        param %norm.weight: f32[16]
        param %norm.bias: f32[16]
        %wq: f32[16, 16]{csr} = pack[format="csr"](%q.weight)
        %wk: f32[16, 16]{csr} = pack[format="csr"](%k.weight)
        %wv: f32[16, 16] = pack[format="dense"](%v.weight)
        %q: f32[3, 7, 16] = linear(%x, %wq)
        %k: f32[3, 7, 16] = linear(%x, %wk)
        %v: f32[3, 7, 16] = linear(%x, %wv)
        %q4: f32[3, 7, 2, 8] = reshape[shape=(3, 7, 2, 8)](%q)
        %k4: f32[3, 7, 2, 8] = reshape[shape=(3, 7, 2, 8)](%k)
        %v4: f32[3, 7, 2, 8] = reshape[shape=(3, 7, 2, 8)](%v)
        %qh: f32[3, 2, 7, 8] = permute[dims=(0, 2, 1, 3)](%q4)
        %kh: f32[3, 2, 7, 8] = permute[dims=(0, 2, 1, 3)](%k4)
        %vh: f32[3, 2, 7, 8] = permute[dims=(0, 2, 1, 3)](%v4)
        %a: f32[3, 2, 7, 8] = attention[mask=true](%qh, %kh, %vh, %mask)
        %at: f32[3, 7, 2, 8] = permute[dims=(0, 2, 1, 3)](%a)
        %aj: f32[3, 7, 16] = reshape[shape=(3, 7, 16)](%at)
        %n: f32[3, 7, 16] = layer_norm[eps=1e-05](%aj, %norm.weight, %norm.bias)
        return %n
        """,
    "cnn": """
        symbol B in [1, 64]
        input %x: f32[B, 3, 10, 9]
        param %stem.weight: f32[8, 3, 3, 3]
        param %stem.bias: f32[8]
        param %deep.weight: f32[8, 1, 3, 3]
        param %point.weight: f32[12, 8, 1, 1]
        param %head.weight: f32[5, 20]
        %ws: f32[8, 3, 3, 3] = pack[format="dense"](%stem.weight)
        %wp: f32[12, 8, 1, 1]{csr} = pack[format="csr"](%point.weight)
        %wh: f32[5, 20] = pack[format="dense"](%head.weight)
        %s: f32[B, 8, 5, 5] = conv[stride=(2, 2), padding=(1, 1), dilation=(1, 1), bias=true](%x, %ws, %stem.bias)
        %r: f32[B, 8, 5, 5] = pointwise[expr="relu(x0)"](%s)
        %d: f32[B, 8, 5, 5] = conv[stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=8](%r, %deep.weight)
        %p: f32[B, 12, 5, 5] = conv[stride=(1, 1), padding=(0, 0), dilation=(1, 1)](%d, %wp)
        %m: f32[B, 8, 2, 2] = pool[kernel=(3, 3), stride=(2, 2), padding=(0, 0), dilation=(1, 1)](%r)
        %u: f32[B, 8, 5, 5] = upsample[size=(5, 5)](%m)
        %c: f32[B, 20, 5, 5] = cat[dim=1](%p, %u)
        %g: f32[B, 20] = reduce[fn="mean", dims=(2, 3)](%c)
        %y: f32[B, 5] = linear(%g, %wh)
        return %y
        """,
}
SIZES = {"mlp": (1, 3, 50, 64), "encoder": (1,), "cnn": (1, 3)}


def segment_of(name: str) -> Segment:
    """The one segment of a graph, whose formats stand in its text."""
    graph = parse_graph(GRAPHS[name])
    graph = FusePointwise().run(graph, Context())
    graph = ChooseLayouts().run(graph, Context(hints={"B": 8}, force_native=True))
    (segment,) = lower(graph).segments
    return segment


@pytest.mark.parametrize("name", GRAPHS)
def test_source_is_the_golden_one(name: str, update_golden: bool) -> None:
    segment = segment_of(name)
    for suffix, text in ((".txt", f"{segment}\n"), (".cpp", print_segment(segment))):
        path = GOLDEN / f"{name}{suffix}"
        if update_golden:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"{path} differs: look, then pytest --update-golden"
        assert text == text.encode("ascii").decode(), "sources are plain ASCII"


@pytest.mark.parametrize("name", GRAPHS)
def test_two_builds_are_equal(name: str) -> None:
    assert print_segment(segment_of(name)) == print_segment(segment_of(name))


SANITIZED = """
import sys, torch
from tests.codegen.test_source import run_under_sanitizers
run_under_sanitizers(sys.argv[1], sys.argv[2])
print("clean")
"""


def run_under_sanitizers(name: str, cache: str) -> None:
    """Compiles a graph with sanitizers and runs it at several sizes and numbers of threads."""
    # Optimised, a unit takes ten seconds to compile, and accesses go before they are checked. This
    # process ends with the test.
    build.FLAGS = tuple(f.replace("-O3", "-O0") for f in build.FLAGS)
    compiler = f"{find_compiler()} -fsanitize=address,undefined -fno-sanitize-recover=all"
    graph = parse_graph(GRAPHS[name])
    options = Options.from_dict({"force_native": True, "cache_dir": cache, "compiler": compiler})
    generator = torch.Generator().manual_seed(0)
    params = {
        p.name: torch.randn([int(d) for d in p.type.shape], generator=generator)
        for p in graph.params
    }
    pipeline = Pipeline(graph, LiveWeights(params), options, {"B": 8})
    for samples in SIZES[name]:
        inputs = [_input(v.type, {"B": samples}, generator) for v in graph.inputs]
        expected = interpret(graph, inputs, params)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            (got,) = pipeline.executor(inputs)
            torch.testing.assert_close(got, expected[0], rtol=1e-4, atol=1e-4)


def _input(type_: TensorType, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [evaluate(d, sizes) for d in type_.shape]
    if type_.dtype == "bool":
        return torch.rand(shape, generator=generator) < 0.8
    return torch.randn(shape, generator=generator)


@pytest.mark.system
@pytest.mark.parametrize("name", GRAPHS)
def test_no_access_out_of_bounds(name: str, kernel_cache: Path) -> None:
    compiler = find_compiler()
    assert compiler is not None
    library = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, name, str(kernel_cache)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "LD_PRELOAD": library.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0",
            "OMP_NUM_THREADS": "3",
        },
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0 and "clean" in done.stdout, done.stderr[-4000:]
