"""The machine's measured roofs, and the share of them that a time reaches.

share of arithmetic = useful operations ÷ (time × peak), share of bandwidth likewise
(Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009). Only non-zeros count as useful.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from ..codegen.cpu.build import cpu_features, cpu_model
from ..errors import ToolchainError
from ..files import replacing
from ..options import Options

FLAGS = ("-O3", "-ffp-contract=fast", "-std=c++17", "-pthread")
PROBE_LIMIT_S = 120
QUIET = 0.95


@dataclass(frozen=True)
class Roofs:
    """Peak float32 operations a second (a multiply-add is two), bytes read a second from memory.

    fma: whether the probe's products and sums were really fused (it checks by their rounding).
    busy: the share of the probe's best run in which its threads had a core.
    """

    flops: float
    bytes_per_s: float
    fma: bool
    vector_bytes: int
    busy: float

    @property
    def disturbed(self) -> bool:
        """Whether something else ran meanwhile, so that the true roofs lie higher."""
        return self.busy < QUIET


def measure_roofs(threads: int, cache: Path, isa: str = "native") -> Roofs:
    """Compile and run probe.cpp, once for each machine, compiler flags and thread count.

    isa: what its code may use, as the option of that name.

    What was measured while something else ran is not kept for the next time.
    Errors: ToolchainError with what the compiler said.
    """
    source = resources.files("sparse_compiler.inspector").joinpath("probe.cpp").read_text()
    flags = (f"-march={isa}", *FLAGS)
    what = "\n".join([source, *flags, cpu_model(), *sorted(cpu_features()), str(threads)])
    folder = cache / "roofs" / hashlib.sha256(what.encode()).hexdigest()[:16]
    stored = folder / "roofs.json"
    if stored.is_file():
        return Roofs(**json.loads(stored.read_text()))
    roofs = Roofs(**json.loads(_run_probe(source, threads, flags, folder)))
    if roofs.disturbed:
        return roofs
    with replacing(stored) as beside:
        beside.write_text(json.dumps(asdict(roofs)))
    return roofs


def _run_probe(source: str, threads: int, flags: tuple[str, ...], folder: Path) -> str:
    found = Options.from_env().compiler
    if found is None:
        raise ToolchainError("no C++ compiler for the roofline probe", fix="install g++")
    folder.mkdir(parents=True, exist_ok=True)
    code, program = folder / "probe.cpp", folder / "probe"
    code.write_text(source)
    try:
        subprocess.run(
            [*shlex.split(found), *flags, str(code), "-o", str(program)],
            check=True,
            capture_output=True,
            text=True,
            timeout=PROBE_LIMIT_S,
        )
        done = subprocess.run(
            [str(program), str(threads)],
            check=True,
            capture_output=True,
            text=True,
            timeout=PROBE_LIMIT_S,
        )
    except subprocess.CalledProcessError as error:
        raise ToolchainError("the roofline probe failed", why=error.stderr[:500]) from error
    except subprocess.TimeoutExpired as error:
        raise ToolchainError("the roofline probe took too long", why=str(error)) from error
    return done.stdout


def shares(work: dict[str, float], milliseconds: float, roofs: Roofs) -> tuple[float, float]:
    """(share of peak arithmetic, share of peak bandwidth) of a call that took so long."""
    seconds = milliseconds / 1e3
    return (
        work["useful_flops"] / (seconds * roofs.flops),
        work["bytes"] / (seconds * roofs.bytes_per_s),
    )
