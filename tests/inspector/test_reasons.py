"""Every reason that the compiler may give is documented, and every documented one may be given."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import sparse_compiler
from sparse_compiler.inspector.reasons import REASONS

PACKAGE = Path(sparse_compiler.__file__).parent
DOCS = PACKAGE.parent / "docs" / "choice.md"
WINNERS = {"inductor_faster", "eager_faster"}  # put together from the winner's name


def codes() -> Iterator[tuple[str, str]]:
    """(code, file) of every `No(...)` in the sources."""
    for folder in (PACKAGE, PACKAGE.parent / "passes", PACKAGE.parent / "codegen"):
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "No":
                    for constant in ast.walk(node.args[0]):
                        if isinstance(constant, ast.Constant) and constant.value != "_faster":
                            yield str(constant.value), path.name


def test_every_code_in_use_has_its_sentence() -> None:
    unknown = {f"{code} in {file}" for code, file in codes() if code not in REASONS}
    assert not unknown, "enter them in inspector/reasons.py and docs/choice.md"


def test_every_sentence_is_in_use() -> None:
    said = set()
    for folder in (PACKAGE, PACKAGE.parent / "passes", PACKAGE.parent / "codegen"):
        for path in folder.rglob("*.py"):
            if path.name != "reasons.py":
                tree = ast.walk(ast.parse(path.read_text()))
                said |= {n.value for n in tree if isinstance(n, ast.Constant)}
    assert set(REASONS) - WINNERS <= said


def test_sentences_are_sentences() -> None:
    for code, sentence in REASONS.items():
        assert code.islower()
        assert sentence[0].isupper()
        assert sentence.endswith(".")


def test_the_table_in_the_documentation_is_this_one() -> None:
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    table = {}
    for line in lines:
        code, sentence = (part.strip() for part in line.strip("|").split("|", 1))
        table[code.strip("`")] = sentence.strip()
    assert {code: table.get(code) for code in REASONS} == REASONS


def test_every_code_is_given_by_a_test() -> None:
    tests = Path(__file__).parents[1]
    said = "\n".join(
        str(node.value)
        for path in tests.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    words = set(re.findall(r"\b\w+\b", said))
    assert not set(REASONS) - words, "write a test in which it is given"
