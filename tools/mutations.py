"""Ways to damage or forge a saved model, each a function of its members and a random generator.

`DAMAGE` changes the file as a whole, `ZIPPED` its members, with hashes as they were, `FORGED` what
members say, with hashes made to fit. A name of a kind is what the log counts by.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_compiler.runtime.artifact import FORMAT, GRAPH, MANIFEST, WEIGHTS, write_members

Members = dict[str, bytes]
INTRUDER = """#include <fstream>
__attribute__((constructor)) static void intrude() { std::ofstream("intruded"); }
extern "C" void run(...) { intrude(); }
"""
"""Source that leaves a file behind wherever anything builds and loads it."""
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "f64", "f32", "i64", "bool")


def flip(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end missing."""
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A piece removed, repeated or replaced."""
    at, end = sorted(rng.randrange(len(data)) for _ in range(2))
    piece = rng.choice((b"", data[at:end] * 2, rng.randbytes(min(end - at, 4096))))
    return data[:at] + piece + data[end:]


def zipped(members: list[tuple[str, bytes]], **options: Any) -> bytes:
    """A zip of these, which may have one name twice."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return memory.getvalue()


def removed(members: Members, rng: random.Random) -> bytes:
    del members[rng.choice(sorted(members))]
    return zipped([*members.items()])


def truncated(members: Members, rng: random.Random) -> bytes:
    name = rng.choice(sorted(members))
    members[name] = cut(members[name] or b"x", rng)
    return zipped([*members.items()])


def doubled(members: Members, rng: random.Random) -> bytes:
    """A member twice, or the whole file twice."""
    if rng.random() < 0.3:
        return zipped([*members.items()]) * 2
    name = rng.choice(sorted(members))
    other = rng.choice((members[name], flip(members[name] or b"x", rng)))
    order = [*members.items(), (name, other)]
    rng.shuffle(order)
    return zipped(order)


def climbing(members: Members, rng: random.Random) -> bytes:
    """A member whose name leads out of the folder, or is none."""
    names = ("../intruded", "/tmp/intruded-abs", "sources/../../intruded", "a\x00b", "\\x", "C:\\x")
    name = rng.choice((*names, "sources/", "sources/.", "./model.ir"))
    if rng.random() < 0.5:
        members[name] = b"import os"
    else:
        other = rng.choice(sorted(members))
        members[name] = members.pop(other)
    return zipped([*members.items()])


def renamed(members: Members, rng: random.Random) -> bytes:
    name = rng.choice(sorted(members))
    if rng.random() < 0.5:
        members[name + rng.choice("x./ ")] = members.pop(name)
    else:
        other = rng.choice(sorted(members))
        members[name], members[other] = members[other], members[name]
    return zipped([*members.items()])


def bomb(members: Members, rng: random.Random) -> bytes:
    """64 MB of zeros packed into 64 KB, under a known name or a new one; or all members packed."""
    name = rng.choice((*sorted(members), "sources/bomb.cpp", ""))
    if name:
        members[name] = bytes(1 << 26)
    return zipped([*members.items()], compression=zipfile.ZIP_DEFLATED)


def number(rng: random.Random) -> int:
    """A count that somebody forgot to think of."""
    return rng.choice((0, 1, 2, 3, 7, 16, 255, 65536, -1, 2**31, 2**31 - 1, 2**63, 10**18))


def odd_text(text: str, rng: random.Random) -> str:
    """One number, word or line of the graph changed."""
    lines = text.split("\n")
    at = rng.randrange(len(lines) - 1)
    kind = rng.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 2:
        other = rng.randrange(len(lines) - 1)
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = _odd_word(lines[at], text, rng)
    return "\n".join(lines)


def _odd_word(line: str, text: str, rng: random.Random) -> str:
    words = _pieces(line)
    places = [i for i, word in enumerate(words) if word.isalnum()]
    if not places:
        return line
    place = rng.choice(places)
    same = [w for w in _pieces(text) if w.isdigit() == words[place].isdigit()]
    odd = str(number(rng)) if words[place].isdigit() else rng.choice(("f64", "none", "s0"))
    words[place] = rng.choice((odd, *rng.sample(same, min(3, len(same)))))
    return "".join(words)


def _pieces(text: str) -> list[str]:
    """Words and what stands between them."""
    found, word = [], ""
    for character in text:
        if character.isalnum() or character == "_":
            word += character
            continue
        found += [word, character] if word else [character]
        word = ""
    return [*found, word] if word else found


def odd_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        changed = {**value, key: odd_value(value[key], rng)}
        if rng.random() < 0.1:
            del changed[key]
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], odd_value(value[at], rng), *value[at + (rng.random() < 0.9) :]]
    return rng.choice((None, True, "", "f64", [], {}, [0], 0.5, "x" * 1000, number(rng)))


class Forgery:
    """The parts of a file, to be changed before it is written with right hashes."""

    def __init__(self, members: Members) -> None:
        self.manifest = json.loads(members.pop(MANIFEST))
        del self.manifest["members"]
        self.members = members
        weights = members[WEIGHTS]
        length = int.from_bytes(weights[:8], "little")
        self.header = json.loads(weights[8 : 8 + length])
        self.body = weights[8 + length :]

    def write(self, path: Path) -> None:
        header = json.dumps(self.header).encode()
        weights = len(header).to_bytes(8, "little") + header + self.body
        manifest = self.manifest if isinstance(self.manifest, dict) else {"format": self.manifest}
        write_members(path, manifest, {**self.members, WEIGHTS: weights})


def graph(file: Forgery, rng: random.Random) -> None:
    """Another graph."""
    file.members[GRAPH] = odd_text(file.members[GRAPH].decode(), rng).encode()


def manifest(file: Forgery, rng: random.Random) -> None:
    """Another manifest."""
    file.manifest = odd_value(file.manifest, rng)


def weights_header(file: Forgery, rng: random.Random) -> None:
    """Another description of the weights' bytes."""
    file.header = odd_value(file.header, rng)


def weights_bytes(file: Forgery, rng: random.Random) -> None:
    """Other weights, masks and index deltas, some cut off."""
    file.body = rng.choice((flip, flip, flip, splice, cut))(file.body, rng)


def _entry(table: Any, rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = table[rng.choice([name for name in sorted(table) if name[:2] != "__"])]
    return found


def dtypes(file: Forgery, rng: random.Random) -> None:
    """A parameter of another dtype: in the weights' header, the manifest, or both."""
    for table in rng.choice(
        ((file.header,), (file.manifest["parameters"],), (file.header, file.manifest["parameters"]))
    ):
        _entry(table, rng)["dtype"] = rng.choice(DTYPES)


def shapes(file: Forgery, rng: random.Random) -> None:
    """A parameter of another shape: dimensions changed, swapped, added or left out."""
    entry = _entry(rng.choice((file.header, file.manifest["parameters"])), rng)
    shape = list(entry.get("shape", ()))
    kind = rng.randrange(4)
    if kind == 0 or not shape:
        shape.append(number(rng))
    elif kind == 1:
        shape.pop()
    elif kind == 2:
        shape.reverse()
    else:
        shape[rng.randrange(len(shape))] = number(rng)
    entry["shape"] = shape


def offsets(file: Forgery, rng: random.Random) -> None:
    """Bytes of a weight outside the buffer, over another's, or the wrong way round."""
    entry = _entry(file.header, rng)
    begin, end = entry["data_offsets"]
    size, room = end - begin, len(file.body)
    entry["data_offsets"] = rng.choice(
        (
            [room, room + size],
            [begin + room, end + room],
            [begin - room - 1, end],
            [end, begin],
            [begin, 2**63],
            [begin + 1, end + 1],
            [0, size],
            [2**64 - size, 2**64],
            [begin, begin],
        )
    )


def newer(file: Forgery, rng: random.Random) -> None:
    """A later version of the format, or of the packages that wrote it."""
    if rng.random() < 0.7:
        file.manifest["format"] = FORMAT + rng.choice((1, 2, 1000, 2**40))
    else:
        name = rng.choice(sorted(file.manifest["versions"]))
        file.manifest["versions"][name] = rng.choice(("99.0", "", "not a version", 7))


def other_isa(file: Forgery, rng: random.Random) -> None:
    """Made for another instruction set, with code of its own: nothing of that may be used."""
    file.manifest["isa"] = rng.choice(("x86-64-v2", "aarch64", "riscv64", "", 7, None))
    file.members["sources/0.cpp"] = INTRUDER.encode()
    if rng.random() < 0.5:
        elf = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + rng.randbytes(200)
        file.members[rng.choice(("sources/0.so", "model.so", "lib/aarch64.so"))] = elf


Damage = Callable[[bytes, random.Random], bytes]
DAMAGE: tuple[Damage, ...] = (flip, cut, splice)
ZIPPED: tuple[Callable[[Members, random.Random], bytes], ...] = (
    removed, truncated, doubled, climbing, renamed, bomb,
)  # fmt: skip
FORGED: tuple[Callable[[Forgery, random.Random], None], ...] = (
    graph, graph, graph, manifest, weights_header, weights_bytes, dtypes, shapes, offsets, newer,
    other_isa,
)  # fmt: skip


def mutate(source: Path, target: Path, rng: random.Random) -> str:
    """Writes a mutated copy; returns what was done: half of the cases are forged, with hashes."""
    if rng.random() < 0.25:
        damage = rng.choice(DAMAGE)
        target.write_bytes(damage(source.read_bytes(), rng))
        return damage.__name__
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.33:
        change = rng.choice(ZIPPED)
        target.write_bytes(change(members, rng))
        return change.__name__
    file, forge = Forgery(members), rng.choice(FORGED)
    forge(file, rng)
    file.write(target)
    return forge.__name__
