"""The surroundings of a measurement: processor, ISA, threads, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from sparse_compiler.runtime.artifact import memory_bytes

PACKAGES = ("torch", "numpy", "transformers", "onnx", "onnxruntime", "openvino", "triton")
_ISA_FLAGS = {
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "avx2": "AVX2",
    "fma": "FMA",
    "avx": "AVX",
    "sve": "SVE",
    "asimd": "NEON",
}


def cpu_info() -> dict[str, str]:
    """{"model", "flags"} from /proc/cpuinfo, or what `platform` knows."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:
        return {"model": platform.processor() or platform.machine(), "flags": ""}
    pairs = [line.partition(":") for line in text.splitlines() if ":" in line]
    found = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
    return {
        "model": found.get("model name", platform.machine()),
        "flags": found.get("flags", found.get("Features", "")),
    }


def isa_names() -> list[str]:
    """The vector extensions of this processor, widest first."""
    flags = set(cpu_info()["flags"].split())
    return [name for flag, name in _ISA_FLAGS.items() if flag in flags]


def package_versions() -> dict[str, str]:
    """Installed version of each package that bears on a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def busy_jiffies() -> tuple[int, int]:
    """(busy, all) processor ticks since boot, over all processors; zeros where /proc has none."""
    try:
        with open("/proc/stat") as stat:
            ticks = [int(v) for v in stat.readline().split()[1:9]]
    except FileNotFoundError:
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle and iowait are not busy


def git_commit(folder: Path) -> str:
    """The commit of the tree that `folder` lies in, with "+changes" where it was edited."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def describe_machine() -> dict[str, Any]:
    """What stands above a table of figures."""
    return {
        "cpu": cpu_info()["model"],
        "isa": isa_names(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": package_versions(),
        "commit": git_commit(Path(__file__).parent),
        "load_at_start": os.getloadavg()[0],
    }
