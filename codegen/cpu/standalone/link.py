"""The units of a standalone library -> one shared library, for this machine or another.

Kernels are built for the target's instruction set; the functions that a program calls for the
plainest CPU of its kind, and linked first, so that of any function in both that one is taken.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sparse_compiler.codegen.cpu.build import (
    Toolchain,
    interruptible,
    kernel_folder,
    native_width,
    run_compiler,
)
from sparse_compiler.errors import OptionError, ToolchainError

FOLDER = Path("standalone")
TARGETS = ("native", "x86-64-v3", "x86-64-v4", "aarch64")
"""What a library may be built for; native: a machine like this one."""

_X86 = {"x86-64-v3": 8, "x86-64-v4": 16}
_MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}
_HIDDEN = ("-fvisibility=hidden", "-ffunction-sections", "-fdata-sections")
_LINKED = ("-Wl,--gc-sections", "-Wl,--no-undefined", "-s")
_EXPORTED = """{
  global: sc_abi; sc_last_error; sc_inputs; sc_outputs; sc_create; sc_set_sizes; sc_output_shape;
          sc_run; sc_destroy;
  local: *;
};
"""


@dataclass(frozen=True)
class Target:
    """name: as the library and its weights say it; kernels: the compiler and flags of the kernels;
    packers: those that pack weights here, at the same vector width."""

    name: str
    kernels: Toolchain
    packers: Toolchain


def target_for(name: str, host: Toolchain) -> Target:
    """The target of that name. host: the compiler here.

    Raises `OptionError` on an unknown name, `ToolchainError` where its compiler is missing.
    """
    if name not in TARGETS:
        raise OptionError(f"target is {name!r}", fix=f"one of {', '.join(TARGETS)}")
    here = _MACHINES.get(platform.machine(), platform.machine())
    if name == "native":
        width = native_width()
        kernels = replace(host, width=width, arch="-march=native" if here == "x86_64" else "")
        return Target(f"{here}-native-{width}", kernels, kernels)
    machine, width = ("x86_64", _X86[name]) if name in _X86 else (name, 4)
    arch = f"-march={name}" if name in _X86 else ""
    compiler = host.compiler if machine == here else (f"{machine}-linux-gnu-g++",)
    if machine != here and shutil.which(compiler[0]) is None:
        raise ToolchainError(
            f"there is no compiler for {name}",
            why=f"{compiler[0]} is not installed",
            fix=f"install the package g++-{machine.replace('_', '-')}-linux-gnu",
        )
    kernels = Toolchain(compiler, host.cache, width, arch)
    return Target(name, kernels, replace(host, width=width))


@dataclass(frozen=True)
class Unit:
    """A source to compile. kernels: with the target's instruction set; defines: macros."""

    name: str
    text: str
    kernels: bool
    defines: tuple[str, ...] = ()


def library_units(tables: str, segments: Sequence[str], *, few: bool) -> list[Unit]:
    """The units of a library, in the order in which they are linked.

    few: some weight is packed for few columns of activations.
    """
    here = kernel_folder() / FOLDER
    units = [
        Unit("library", (here / "library.cpp").read_text(), kernels=False),
        Unit("tables", tables, kernels=False),
        Unit("needs", (here / "needs.cpp").read_text(), kernels=True),
    ]
    for i, text in enumerate(segments):
        names = (f"-Dsc_run=sc_segment{i}_run", f"-Dsc_scratch_floats=sc_segment{i}_scratch")
        units.append(Unit(f"segment{i}", text, True, names))
    if few:
        units.append(Unit("few", (kernel_folder() / "pack_decode.cpp").read_text(), kernels=True))
    return units


def link_library(units: Sequence[Unit], target: Target, out: Path) -> None:
    """Compiles and links to `out`. Raises as `run_compiler`."""
    with tempfile.TemporaryDirectory(prefix="sparse_compiler-") as folder:
        places = [Path(folder) / f"{unit.name}.cpp" for unit in units]
        with ThreadPoolExecutor(os.cpu_count()) as pool, interruptible():
            made = list(pool.map(_compile, units, places, [target.kernels] * len(units)))
        exported = Path(folder) / "exported.map"
        exported.write_text(_EXPORTED)
        flags = ("-shared", "-fopenmp", *_LINKED, f"-Wl,--version-script={exported}")
        command = [*target.kernels.compiler, *flags, *map(str, made), "-o", str(out)]
        run_compiler(command, target.kernels, places[0], out)


def _compile(unit: Unit, source: Path, toolchain: Toolchain) -> Path:
    source.write_text(unit.text)
    out = source.with_suffix(".o")
    mine = toolchain if unit.kernels else replace(toolchain, arch="")
    flags = [flag for flag in mine.command if flag != "-shared"]
    folders = [f"-iquote{kernel_folder()}", f"-iquote{kernel_folder() / FOLDER}"]
    command = [*flags, *_HIDDEN, *unit.defines, *folders, "-c", str(source), "-o", str(out)]
    run_compiler(command, toolchain, source, out)
    return out
