"""The documentation is true: its code runs, its links resolve, its tables are current.

Blocks of one page share a namespace and run in order. A block that cannot run stands under a
comment `<!-- not run: why -->`. Lines under `<!-- output -->` are printed by the page's code, `...`
standing for what is left out. `python -m tests.test_docs` writes the generated tables anew.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_compiler.options import Options
from sparse_compiler.passes.pipeline import PASSES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
TABLE = re.compile(r"(?<=<!-- options -->\n).*?(?=<!-- /options -->)", re.DOTALL)
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n)?^```python\n(?P<code>.*?)^```", re.M | re.S
)
OUTPUT = re.compile(r"^<!-- output -->\n```text\n(.*?)^```", re.M | re.S)
FENCED = re.compile(r"^```.*?^```|`[^`\n]*`", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """(line of its first statement, code) of each block that is to run."""
    for found in BLOCK.finditer(text):
        if not found["skip"]:
            yield text.count("\n", 0, found.start("code")) + 1, found["code"]


def missing_output(text: str, printed: str) -> list[str]:
    """Lines of `text` shown as output, of which the code printed no such line."""
    shown = [line for found in OUTPUT.finditer(text) for line in found[1].splitlines()]
    patterns = {line: ".*".join(map(re.escape, line.split("..."))) for line in shown}
    return [line for line in shown if not re.search(f"^{patterns[line]}", printed, re.M)]


def anchors(text: str) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """Links to files or headings of this repository that are not there."""
    broken = []
    for link in LINK.findall(FENCED.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        there = target.exists() and target.is_relative_to(ROOT)
        if there and anchor:
            there = target.suffix == ".md" and anchor in anchors(target.read_text())
        if not there:
            broken.append(link)
    return broken


def options_table() -> str:
    """All options as a table of Markdown."""
    lines = [
        "| option | values | default | environment | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in Options.docs():
        variables = ", ".join(f"`{name}`" for name in row.env.split(", ") if name) or "–"
        values = row.values.replace(" | ", ", ")
        lines.append(f"| `{row.name}` | {values} | {row.default} | {variables} | {row.doc} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """A page with its table of options made anew."""
    return TABLE.sub(lambda _: options_table(), text)


RUNNABLE = [name for name, page in zip(NAMES, PAGES, strict=True) if list(blocks(page.read_text()))]


@pytest.mark.system
@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.usefixtures("cached_kernels")
def test_code_runs(name: str, tmp_path: Path) -> None:
    """In a process and a folder of its own, as a reader runs it; the page's blocks in order."""
    text = (ROOT / name).read_text()
    parts = list(blocks(text))
    code = f"import torch\npage = {name!r}\nspace = {{'__name__': '__main__'}}\n"
    for line, block in parts:
        code += f"exec(compile({chr(10) * (line - 1) + block!r}, page, 'exec'), space)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert missing_output(text, done.stdout) == []


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    page = ROOT / name
    assert broken_links(page, page.read_text()) == []


def test_options_are_current() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    assert TABLE.search(text), "the page has lost the marks around its table"
    assert with_table(text) == text, "run: python -m tests.test_docs"


def test_passes_are_listed_in_their_order() -> None:
    text = (ROOT / "docs" / "how_it_works.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.M)
    assert listed == [pass_.name for pass_ in PASSES]


def test_every_page_is_reached_from_the_overview() -> None:
    overview = (ROOT / "docs" / "index.md").read_text()
    linked = set(LINK.findall(overview))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= linked


def test_the_checks_can_fail() -> None:
    text = "[x](#try-it) [y](#nothing) [z](LICENSE) [no](nowhere.md) `[code](gone.md)`\n"
    assert broken_links(ROOT / "README.md", text) == ["#nothing", "nowhere.md"]
    skipped = "<!-- not run: needs a GPU -->\n```python\n1 / 0\n```\n"
    assert list(blocks(skipped)) == []
    assert list(blocks("text\n```python\n1 / 0\n```\n")) == [(3, "1 / 0\n")]
    shown = "<!-- output -->\n```text\na ... b\nc\nd\n```\n"
    assert missing_output(shown, "a x b y\nz\nd\n") == ["c"]
    stale = "<!-- options -->\nold\n<!-- /options -->\n"
    assert options_table() in with_table(stale)


if __name__ == "__main__":
    for target in PAGES:
        target.write_text(with_table(target.read_text()))
