"""Generated C++: golden units, equal bytes for equal segments, no bad access under sanitizers."""

import subprocess
from pathlib import Path

import pytest

from sparse_compiler.codegen.cpu.build import FLAGS, kernel_folder
from sparse_compiler.codegen.cpu.source import print_segment
from sparse_compiler.codegen.lower import lower
from sparse_compiler.codegen.program import LinearCall, Segment
from sparse_compiler.ir.text import parse_graph
from sparse_compiler.ir.types import evaluate
from sparse_compiler.options import find_compiler
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_layouts import ChooseLayouts
from sparse_compiler.passes.fuse_pointwise import FusePointwise

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
}


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


DRIVER = """
#include "unit.cpp"
#include "pack.cpp"
#include <cstdio>
#include <cstdlib>

static float* numbers(int64_t n, int zeros) {  // exact sizes, so that a byte too far is seen
  float* p = static_cast<float*>(malloc(n * sizeof(float)));
  for (int64_t i = 0; i < n; i++) p[i] = zeros && i % 7 ? 0.f : 0.01f * float(i % 13 - 6);
  return p;
}
static void* packed(bool csr, int64_t m, int64_t k, int64_t n) {
  float* w = numbers(m * k, csr);
  int a, b, c;
  int64_t nnz = 0;
  for (int64_t i = 0; i < m * k; i++) nnz += w[i] != 0;
  if (csr) sc_csr_default_tiles(m, k, nnz, n, SC_WIDTH, &a, &b, &c);
  else sc_dense_default_tiles(m, k, nnz, n, SC_WIDTH, &a, &b, &c);
  const int64_t bytes = csr ? sc_csr_packed_bytes(w, m, k, k, a, b, c)
                            : sc_dense_packed_bytes(w, m, k, k, a, b, c);
  void* blob = aligned_alloc(64, bytes);
  if (!(csr ? sc_csr_pack(w, m, k, k, a, b, c, blob) : sc_dense_pack(w, m, k, k, a, b, c, blob)))
    abort();
  free(w);
  return blob;
}
int main() {
  for (int threads = 1; threads <= 3; threads++)
    for (int64_t samples : {@SAMPLES@}) {
      const int64_t unit = @UNIT@;
      void* in[] = {@IN@};
      void* out[] = {@OUT@};
      const void* weight[] = {@WEIGHT@};
      const int64_t bytes = sc_arena_floats(weight, samples, unit, threads) * 4;
      float* arena = static_cast<float*>(aligned_alloc(64, (bytes + 63) / 64 * 64));
      sc_run(in, out, weight, arena, samples, unit, threads);
      double sum = 0;
      for (int64_t i = 0; i < samples * unit * @ROWS@; i++) sum += static_cast<float*>(out[0])[i];
      printf("%d %d %.9g\\n", threads, int(samples), sum);
      free(arena);
      for (void* p : in) free(p);
      for (void* p : out) free(p);
      for (const void* p : weight) free(const_cast<void*>(p));
    }
}
"""


def driver(segment: Segment, samples: tuple[int, ...]) -> str:
    """A main() that runs the unit on memory of exactly the right sizes."""
    matrices = {c.weight: c.format for c in segment.calls if isinstance(c, LinearCall)}
    weights = []
    for i, (_, type_) in enumerate(segment.weights):
        sizes = [int(d) for d in type_.shape]
        csr = "true" if matrices.get(i) == "csr" else "false"
        weights.append(
            f"packed({csr}, {sizes[0]}, {sizes[1]}, samples * unit)"
            if i in matrices
            else f"numbers({sizes[0]}, 0)"
        )
    unit = evaluate(segment.unit, {})
    inputs = [
        f"numbers(samples * unit * {int(t.shape[-1])}, 0)"
        if t.dtype == "f32"
        else "calloc(samples, unit)"
        for _, t in segment.inputs
    ]
    rows = int(segment.outputs[0][1].shape[-1])
    holes = {
        "SAMPLES": ", ".join(map(str, samples)),
        "UNIT": str(unit),
        "IN": ", ".join(inputs),
        "OUT": f"numbers(samples * unit * {rows}, 0)",
        "WEIGHT": ", ".join(weights),
        "ROWS": str(rows),
    }
    text = DRIVER
    for key, value in holes.items():
        text = text.replace(f"@{key}@", value)
    return text


@pytest.mark.parametrize("name", GRAPHS)
def test_no_access_out_of_bounds(name: str, tmp_path: Path) -> None:
    compiler = find_compiler()
    assert compiler is not None
    segment = segment_of(name)
    (tmp_path / "unit.cpp").write_text(print_segment(segment))
    (tmp_path / "main.cpp").write_text(driver(segment, (1, 3, 50, 300)))
    program = tmp_path / "main"
    flags = [f for f in FLAGS if f not in ("-O3", "-shared", "-fPIC")]
    includes = [f"-I{tmp_path}", f"-I{kernel_folder()}"]
    checks = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-DSC_WIDTH=8"]
    subprocess.run(
        [compiler, *flags, *checks, *includes, str(tmp_path / "main.cpp"), "-o", str(program)],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sums: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        _, samples, total = line.split()
        sums.setdefault(samples, []).append(float(total))
    for totals in sums.values():  # over 1, 2 and 3 threads, whose panels add in other orders
        assert totals == pytest.approx([totals[0]] * 3, rel=1e-4)
        assert totals[0] != 0
    assert len(sums) == 4
