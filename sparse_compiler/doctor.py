"""What this machine offers the compiler: each thing found, missing, or broken, and what to do."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import SparseCompilerError
from .options import Options

PROBE_LIMIT_S = 60
OPENMP_PROBE = """
#include <omp.h>
int main() { int n = 0;
#pragma omp parallel reduction(+ : n)
  n += 1;
  return n > 0 ? 0 : 1; }
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report. needed: nothing works without it; fix: what to do, if anything."""

    name: str
    ok: bool
    what: str
    fix: str = ""
    needed: bool = False

    @property
    def sign(self) -> tuple[str, str]:
        """(word, colour) for what is not in order."""
        return ("missing", "red") if self.needed else ("absent", "yellow")


def examine() -> list[Finding]:
    """Look at everything, in the order in which the compiler needs it."""
    try:
        options = Options.from_env()
    except SparseCompilerError as error:
        return [Finding("options", False, str(error), "mend the variable named", needed=True)]
    return [
        *_compiler(options),
        _isa(options),
        _threads(),
        _cache(options),
        _package("torch", "2.13", "pip install torch==2.13.0", needed=True),
        _dynamo(),
        _package("triton", "3.7", "optional, for GPUs: pip install triton==3.7.1"),
        _package("tvm", "0.27", "optional, for Relax models: pip install apache-tvm", "apache-tvm"),
        *(_package(name, "", f"optional, for bench: pip install {name}") for name in PEERS),
    ]


PEERS = ("transformers", "onnx", "onnxruntime", "openvino", "matplotlib")


def _compiler(options: Options) -> Iterator[Finding]:
    """The compiler answers, and a program with OpenMP builds and runs."""
    install = "install one, as in apt-get install g++; or set CXX"
    if not options.compiler:
        yield Finding("C++ compiler", False, "none found", install, needed=True)
        yield Finding("OpenMP", False, "needs the compiler", needed=True)
        return
    command = shlex.split(options.compiler)
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=PROBE_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("C++ compiler", False, f"{options.compiler}: {error}", install, needed=True)
        yield Finding("OpenMP", False, "needs the compiler", needed=True)
        return
    first = next(iter(done.stdout.splitlines()), f"exit code {done.returncode}")
    works = done.returncode == 0
    fix = "" if works else install
    yield Finding("C++ compiler", works, f"{options.compiler}: {first}", fix, needed=True)
    yield _openmp(command)


def _openmp(command: list[str]) -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.cpp"), Path(folder, "probe")
        source.write_text(OPENMP_PROBE)
        build = [*command, "-fopenmp", str(source), "-o", str(program)]
        try:
            built = subprocess.run(build, capture_output=True, text=True, timeout=PROBE_LIMIT_S)
            ran = built.returncode == 0 and subprocess.run([program], timeout=PROBE_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("OpenMP", False, str(error), "try it by hand", needed=True)
    if ran and ran.returncode == 0:
        return Finding("OpenMP", True, "a parallel program builds and runs", needed=True)
    why = (built.stderr.strip().splitlines() or ["the program failed"])[-1]
    fix = "install the compiler's OpenMP: libgomp comes with g++, libomp-dev with clang"
    return Finding("OpenMP", False, why[:200], fix, needed=True)


def _isa(options: Options) -> Finding:
    from .bench.machine import cpu_info, isa_names

    names = isa_names()
    vectors = [n for n in names if n in ("AVX-512", "AVX2", "NEON", "SVE")]
    what = f"{cpu_info()['model']} ({platform.machine()}): {', '.join(names) or 'none known'}"
    if options.isa != "native":
        what += f"; SPARSE_COMPILER_ISA asks for {options.isa}"
    fix = "" if vectors else "kernels run on plain vectors of 4 floats: right, but slow"
    return Finding("ISA", bool(vectors), what, fix)


def _threads() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    import torch

    asked = torch.get_num_threads()
    what = f"torch uses {asked}, {usable} usable cores of {os.cpu_count()}"
    if asked > (usable or 1):
        return Finding("threads", False, what, f"too many: set OMP_NUM_THREADS={usable}")
    return Finding("threads", True, what)


def _cache(options: Options) -> Finding:
    folder = options.cache_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = "make it writable, or set SPARSE_COMPILER_CACHE to a folder that is"
        return Finding("cache folder", False, str(error), fix, needed=True)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
    return Finding("cache folder", True, f"{folder}, {size / 1e6:.1f} MB", needed=True)


def _package(
    module: str, tested: str, fix: str, project: str = "", *, needed: bool = False
) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(module, False, "not installed", fix, needed)
    try:
        version = metadata.version(project or module)
    except metadata.PackageNotFoundError:
        return Finding(module, True, "installed, version unknown", needed=needed)
    if tested and not version.startswith(tested):
        return Finding(module, False, f"{version}; tested with {tested}", fix, needed=False)
    return Finding(module, True, version, needed=needed)


def _dynamo() -> Finding:
    names = {e.name for e in metadata.entry_points(group="torch_dynamo_backends")}
    if "sparse_compiler" in names:
        return Finding("torch.compile backend", True, 'registered as "sparse_compiler"')
    fix = "install the package (pip install -e .): a source tree on the path has no entry point"
    return Finding("torch.compile backend", False, "not registered", fix)
