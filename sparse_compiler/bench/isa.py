"""Every engine held to one instruction set: figures of an AVX2 machine, measured on a wider one.

Most engines read a variable of the environment. ONNX Runtime has none: what it asks the processor
(XGETBV: does the system save the registers of AVX-512?) is answered with no in a copy of it.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock

from sparse_compiler.bench.host import WorkerError
from sparse_compiler.errors import OptionError
from sparse_compiler.options import nearest

NATIVE = "native"
AVX2 = "x86-64-v3"

HELD: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        NATIVE: MappingProxyType({}),
        AVX2: MappingProxyType(
            {
                "SPARSE_COMPILER_ISA": AVX2,
                "ATEN_CPU_CAPABILITY": "avx2",  # torch's kernels and Inductor's code
                "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's and OpenVINO's
                "MKL_ENABLE_INSTRUCTIONS": "AVX2",
                "NM_ARCH": "avx2",  # DeepSparse
            }
        ),
    }
)
"""By what `--isa` may say: the environment in which every engine runs."""

_ASKS = bytes.fromhex("31c9 0f01d0")  # xor ecx, ecx; xgetbv
_AVX_ONLY = bytes.fromhex(
    "31c9 6a0758"
)  # xor ecx, ecx; push 7; pop rax: x87, SSE and AVX are saved


def check_isa(name: str) -> str:
    """`name` if engines can be held to it; OptionError with the nearest otherwise."""
    if name not in HELD:
        raise OptionError(
            f"--isa {name}: engines cannot be held to that", fix=nearest(name, tuple(HELD))
        )
    return name


def onnxruntime_without_avx512(cache: Path) -> Path:
    """The folder to import ONNX Runtime from that takes this processor for one without AVX-512.

    Made once for each version under `cache`. WorkerError "unsupported" where its library does not
    ask in the way that is known.
    """
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise WorkerError("missing", "not installed: pip install onnxruntime")
    package = Path(found.origin).parent
    (library,) = package.glob("capi/onnxruntime_pybind11_state*")
    stat = library.stat()
    home = cache / f"onnxruntime-avx2-{stat.st_size}-{stat.st_mtime_ns}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not (home / "complete").is_file():
            code = library.read_bytes()
            if _ASKS not in code:
                raise WorkerError("unsupported", "cannot be held to AVX2: no XGETBV in its library")
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(package, home / "onnxruntime")
            copied = home / "onnxruntime" / library.relative_to(package)
            copied.write_bytes(code.replace(_ASKS, _AVX_ONLY))
            (home / "complete").write_text("made by sparse-compiler bench --isa\n")
    return home
