"""C++ source -> shared library, by the system's compiler, cached by content.

The key is everything that the machine code depends on: source, headers, flags, the compiler and
the CPU. A library is written beside its place and renamed, under a file lock, so neither a second
process nor an interrupted compile leaves anything half done.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from filelock import FileLock

from sparse_compiler.errors import CodegenError, ToolchainError

log = logging.getLogger(__name__)

FLAGS = (
    "-O3",
    "-std=c++17",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-Wno-psabi",
)

_SEAL = hashlib.sha256().digest_size  # bytes at the end of a library
_running: set[subprocess.Popen[str]] = set()
_NO_SPACE = ("No space left", "File too large", "Disk quota exceeded")


@dataclass(frozen=True)
class Toolchain:
    """compiler: command and arguments; width: floats per vector; arch: the instruction set flag."""

    compiler: tuple[str, ...]
    cache: Path
    width: int
    arch: str = "-march=native"

    @property
    def command(self) -> tuple[str, ...]:
        """The compiler call up to sources and output."""
        arch = () if not self.arch else (self.arch,)
        return (*self.compiler, *FLAGS, *arch, f"-DSC_WIDTH={self.width}")


@lru_cache(maxsize=8)
def compiler_version(compiler: tuple[str, ...]) -> str:
    """First line of `--version`. Raises `ToolchainError` where it cannot be run."""
    try:
        done = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(
            f"the C++ compiler {' '.join(compiler)} cannot be run",
            why=str(error),
            fix="install g++ or clang++, or name one in SPARSE_COMPILER_CXX",
        ) from error
    return done.stdout.splitlines()[0] if done.stdout else ""


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """Instruction set extensions of this CPU, as the kernel names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset((platform.machine(),))
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset((platform.machine(),))


def cpu_vendor() -> str:
    """`AuthenticAMD`, `GenuineIntel`, or empty where the system does not say."""
    return _cpu_fact("vendor_id")


def cpu_model() -> str:
    """The processor's name, or empty where the system does not say."""
    return _cpu_fact("model name")


@lru_cache(maxsize=2)
def _cpu_fact(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def native_width() -> int:
    """Floats per vector of this CPU: 16 with AVX-512, 8 with AVX2, 4 elsewhere."""
    features = cpu_features()
    if {"avx512f", "avx512vl", "avx512dq"} <= features:
        return 16
    return 8 if {"avx2", "fma"} <= features else 4


@lru_cache(maxsize=1)
def kernel_folder() -> Path:
    """Where the kernel headers lie."""
    return Path(str(resources.files("sparse_compiler.codegen.cpu")))


@lru_cache(maxsize=1)
def _headers_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted([*kernel_folder().glob("*.h"), *kernel_folder().glob("*.cpp")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def kernel_version() -> str:
    """Changes with every change of a kernel."""
    return _headers_digest()[:16]


def cache_key(source: str, toolchain: Toolchain) -> str:
    """Hash of all that decides the machine code."""
    parts = (
        source,
        _headers_digest(),
        " ".join(toolchain.command),
        compiler_version(toolchain.compiler),
        ",".join(sorted(cpu_features())),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def build(source: str, toolchain: Toolchain) -> Path:
    """Path of the library for `source`, compiled now or found in the cache.

    Raises `ToolchainError` for a compiler or cache folder that cannot be used, `CodegenError` for
    source that does not compile.
    """
    key = cache_key(source, toolchain)
    folder = _usable_folder(toolchain.cache)
    library = folder / f"{key}.so"
    if _intact(library):
        log.debug("found %s", library)
        return library
    try:
        with FileLock(folder / f"{key}.lock", timeout=600):
            if not _intact(library):
                _compile(source, toolchain, library)
    except OSError as error:
        raise ToolchainError(
            f"cannot write to the cache folder {folder}",
            why=str(error),
            fix="free space there, or name another folder in SPARSE_COMPILER_CACHE",
        ) from error
    return library


def _intact(library: Path) -> bool:
    """True for a library that ends in the hash of what stands before it.

    A file cut short by a full disk or a crash would kill the process that opens it.
    """
    try:
        content = library.read_bytes()
    except OSError:
        return False
    if hashlib.sha256(content[:-_SEAL]).digest() == content[-_SEAL:]:
        return True
    log.warning("%s is damaged; compiling it again", library)
    return False


def _seal(partial: Path) -> None:
    """Appends the hash that `_intact` looks for; loaders ignore what follows an ELF file."""
    with partial.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)


def _usable_folder(wanted: Path) -> Path:
    """The cache folder, or a private one for this process where that cannot be written."""
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError as error:
        folder = _private_folder()
        log.warning("cache folder %s: %s; compiling into %s instead", wanted, error, folder)
        return folder


@lru_cache(maxsize=1)
def _private_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="sparse_compiler-"))
    except OSError as error:
        raise ToolchainError(
            "there is no folder in which to compile",
            why=str(error),
            fix="free space, or name a writable folder in SPARSE_COMPILER_CACHE",
        ) from error


def _compile(source: str, toolchain: Toolchain, library: Path) -> None:
    """Writes the source beside the library and compiles it under a temporary name."""
    path = library.with_suffix(".cpp")
    partial = library.with_suffix(f".{os.getpid()}.part")
    command = [*toolchain.command, f"-I{kernel_folder()}", str(path), "-o", str(partial)]
    log.debug("%s", shlex.join(command))
    began = time.perf_counter()
    try:
        path.write_text(source)
        run_compiler(command, toolchain, path, partial)
        _seal(partial)
        partial.replace(library)
    finally:
        partial.unlink(missing_ok=True)
    log.info("compiled %s in %.1f s", library, time.perf_counter() - began)


def run_compiler(command: list[str], toolchain: Toolchain, source: Path, out: Path) -> None:
    """Runs a command that makes `out` of `source`.

    Raises `ToolchainError` for a compiler that cannot work, `CodegenError` where it refuses the
    source, `OSError` where there is no room.
    """
    done = _run(command)
    if done.returncode != 0 or not out.exists():
        raise _failure(done, command, toolchain, source)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`; `interruptible` in another thread may end it."""
    pipe = subprocess.PIPE  # a session of its own: a compiler is several processes
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        _running.add(process)
        try:
            out, err = process.communicate()
        except KeyboardInterrupt:
            _kill(process)
            raise
        finally:
            _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the compilers that other threads wait for, where an interrupt reaches this one."""
    try:
        yield
    except KeyboardInterrupt:
        for process in tuple(_running):
            _kill(process)
        raise


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGKILL)


def _failure(
    done: subprocess.CompletedProcess[str], command: list[str], toolchain: Toolchain, source: Path
) -> Exception:
    """The error that tells what the compiler met: the machine, the user's set-up, or our source."""
    compiler, said = " ".join(toolchain.compiler), done.stderr.strip()
    if any(words in said for words in _NO_SPACE):
        return OSError(said.splitlines()[-1])
    if done.returncode < 0 or "Killed signal" in said:
        number = -done.returncode if done.returncode < 0 else signal.SIGKILL
        return ToolchainError(
            f"the C++ compiler {compiler} was killed by {signal.Signals(number).name}",
            why=f"{' '.join(command)}\n{said[:4000]}",
            fix="it usually lacked memory: free some, or compile fewer models at once",
        )
    if done.returncode == 0:
        return ToolchainError(
            f"the C++ compiler {compiler} wrote no library",
            why=" ".join(command),
            fix="name another compiler in SPARSE_COMPILER_CXX",
        )
    return CodegenError(
        f"{compiler} refused generated source",
        why=f"{' '.join(command)}\n{said[:4000]}",
        fix=f"report it with {source}",
    )


@lru_cache(maxsize=256)
def load_library(path: Path) -> ctypes.CDLL:
    """Opens a library once per process. Raises `ToolchainError` where it cannot be loaded."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ToolchainError(
            f"cannot load {path}",
            why=str(error),
            fix="remove it from the cache; it will be compiled anew",
        ) from error


def support_source() -> str:
    """The library of packers: compiled like any unit, the same for every model."""
    return (kernel_folder() / "pack.cpp").read_text()
