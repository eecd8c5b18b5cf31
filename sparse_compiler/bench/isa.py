"""Every engine held to one instruction set: figures of an AVX2 machine, measured on a wider one.

Most engines read a variable of the environment. ONNX Runtime has none, and OpenVINO's covers its
convolutions but not its matrix products: what they ask the processor (XGETBV: does the system save
the registers of AVX-512?) is answered with no in a copy of them.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from importlib import metadata
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
                "ONEDNN_MAX_CPU_ISA": "AVX2",  # in torch and OpenVINO
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


def without_avx512(package: str, cache: Path) -> Path:
    """The folder to import a package from whose libraries find no AVX-512 on this processor.

    A copy, made once for each version under `cache`. WorkerError "missing" without the package,
    "unsupported" where none of its libraries asks in the way that is known.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise WorkerError("missing", f"not installed: pip install {package}")
    folder = Path(found.origin).parent
    home = cache / f"{package}-{metadata.version(package)}-avx2"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if (home / "complete").is_file():
            return home
        asking = [path for path in folder.rglob("*.so*") if _ASKS in path.read_bytes()]
        if not asking:
            raise WorkerError("unsupported", "cannot be held to AVX2: no XGETBV in its code")
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(folder, home / package)
        for path in asking:
            copy = home / package / path.relative_to(folder)
            copy.write_bytes(path.read_bytes().replace(_ASKS, _AVX_ONLY))
        (home / "complete").write_text("made by sparse-compiler bench --isa\n")
    return home
