"""The shape of the code, read from its imports: what stands left never imports from the right."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sparse_compiler"

# Left to right; within one layer anything goes. A folder stands for all of its modules.
LAYERS = (
    ("errors", "registry", "logs", "files", "options"),
    ("ir",),
    ("ops", "formats"),
    ("analysis", "pruning"),
    ("passes",),
    ("codegen",),
    ("runtime",),
    ("frontends",),
    ("inspector",),
    ("compiled",),
    ("saved", "standalone", "tuned"),
    ("api", "backend", "tvm"),
    ("sources", "terminal"),
    ("commands",),
    ("command_sparsify",),
    ("__init__", "doctor", "bench"),
    ("cli_models", "cli_sparsify"),
    ("cli",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# These belong to torch's tracing or to a foreign compiler.
TRACERS = (
    "torch.fx",
    "torch._dynamo",
    "torch._functorch",
    "torch._inductor",
    "torch.export",
    "tvm",
)
MAY_TRACE = ("frontends", "backend", "tvm")
# It starts other processes with environments of its own making, and reports this one's.
MAY_READ_ENVIRONMENT = ("options", "bench")
MAX_LINES = 400


def sources():
    """(path from the package, part) of every module; passes and codegen by their links."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE)
    for linked in ("passes", "codegen"):
        for path in sorted((ROOT / linked).rglob("*.py")):
            yield Path(linked) / path.relative_to(ROOT / linked)


MODULES = sorted({path.as_posix() for path in sources()})


def part_of(module):
    return module.removesuffix(".py").split("/")[0]


def tree_of(module):
    return ast.parse((PACKAGE / module).read_text(), module)


def imports(module):
    """(line, absolute dotted name) of everything that a module imports, also inside functions."""
    package = ["sparse_compiler", *module.split("/")[:-1]]
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def starts(name, prefixes):
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def test_every_part_has_its_layer():
    unknown = {part_of(module) for module in MODULES} - set(RANK)
    assert not unknown, f"give {unknown} a place in LAYERS"
    assert len(MODULES) > 40, "the sources were not found"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_the_left(module):
    own = RANK[part_of(module)]
    for line, name in imports(module):
        if not starts(name, ["sparse_compiler"]):
            continue
        parts = name.split(".")
        target = parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"
        assert RANK[target] <= own, f"{module}:{line} imports {name} from the right"


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) not in (*MAY_TRACE, "bench")])
def test_only_front_ends_touch_tracers(module):
    for line, name in imports(module):
        assert not starts(name, TRACERS), f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) not in MAY_READ_ENVIRONMENT])
def test_only_options_read_the_environment(module):
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
            pytest.fail(f"{module}:{node.lineno} reads the environment: add an option instead")
    for line, name in imports(module):
        assert not starts(name, ("os.environ", "os.getenv")), f"{module}:{line}"


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_the_links_by_their_short_names(module):
    for line, name in imports(module):
        assert not starts(name, ("passes", "codegen")), f"{module}:{line}: a second copy"


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short_and_say_what_they_are(module):
    text = (PACKAGE / module).read_text()
    assert text.count("\n") < MAX_LINES, "split it along an idea"
    if text.strip():
        assert ast.get_docstring(tree_of(module)), "the module docstring gives the idea"


@pytest.mark.parametrize("module", MODULES)
def test_no_pickle_no_asserts(module):
    for node in ast.walk(tree_of(module)):
        # bench narrows the types of its own handles with them, never of what a user gave
        is_assert = isinstance(node, ast.Assert) and part_of(module) != "bench"
        assert not is_assert, f"{module}:{node.lineno}: raise a named error"
    for line, name in imports(module):
        assert not starts(name, ("pickle", "marshal", "shelve")), f"{module}:{line}"


def test_the_test_can_fail(tmp_path, monkeypatch):
    """The rules above on a file that breaks them."""
    import sys

    this = sys.modules[__name__]
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "bad.py").write_text(
        '"""Bad."""\nimport os\nfrom ..passes.base import Pass\nfrom torch import fx\n'
        "def f():\n    import pickle\n    return os.environ\n"
    )
    monkeypatch.setattr(this, "PACKAGE", tmp_path)
    names = {name for _, name in imports("ir/bad.py")}
    assert names >= {"sparse_compiler.passes.base.Pass", "torch.fx", "pickle"}
    for rule in (
        test_imports_point_to_the_left,
        test_only_front_ends_touch_tracers,
        test_no_pickle_no_asserts,
    ):
        with pytest.raises(AssertionError):
            rule("ir/bad.py")
    with pytest.raises(pytest.fail.Exception, match="reads the environment"):
        test_only_options_read_the_environment("ir/bad.py")
