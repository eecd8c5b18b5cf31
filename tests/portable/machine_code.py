"""Loops of x86 machine code, read from objdump's listing: a jump back closes a loop."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_LINE = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")
_JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)\b")


@dataclass(frozen=True)
class Loop:
    """The instructions of an innermost loop. framed: locals are addressed by %rbp."""

    function: str
    instructions: tuple[str, ...]
    framed: bool

    @property
    def multiply_adds(self) -> tuple[str, ...]:
        """Fused multiply-adds on whole vectors."""
        return tuple(i for i in self.instructions if re.match(r"vf(n?m)(add|sub)\d+ps", i))

    @property
    def registers(self) -> set[str]:
        """Widths of the vector registers that its multiply-adds use."""
        return {r for i in self.multiply_adds for r in re.findall(r"%([xyz])mm", i)}

    @property
    def from_memory(self) -> int:
        """Multiply-adds that read an operand from memory."""
        return sum("(" in i for i in self.multiply_adds)

    @property
    def spills(self) -> tuple[str, ...]:
        """Moves of vectors between registers and the stack."""
        stack = r"\(%rsp[,)]" + (r"|-0x[0-9a-f]+\(%rbp\)" if self.framed else "")
        return tuple(
            i for i in self.instructions if re.search(stack, i) and re.search(r"%[xyz]mm", i)
        )


def innermost_loops(library: Path) -> list[Loop]:
    """All loops of an object file or library that contain no other loop."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "-C", str(library)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found: list[Loop] = []
    name, body = "", list[tuple[int, str]]()
    for line in [*listing.splitlines(), "0 <end>:"]:
        if header := _FUNCTION.match(line):
            found += _loops(name, body)
            name, body = header[1], []
        elif code := _LINE.match(line):
            body.append((int(code[1], 16), code[2].strip()))
    return found


def _loops(name: str, body: list[tuple[int, str]]) -> list[Loop]:
    at = {address: i for i, (address, _) in enumerate(body)}
    spans = []
    for end, (_, text) in enumerate(body):
        jump = _JUMP.match(text)
        start = at.get(int(jump[1], 16), end + 1) if jump else end + 1
        if start <= end:
            spans.append((start, end))
    inner = [
        (s, e)
        for s, e in spans
        if not any((s, e) != (a, b) and s <= a and b <= e for a, b in spans)
    ]
    framed = any(text.startswith("mov    %rsp,%rbp") for _, text in body)
    return [Loop(name, tuple(t for _, t in body[s : e + 1]), framed) for s, e in inner]
