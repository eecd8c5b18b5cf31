"""Registries: filled from a folder, without duplicates, with errors that help."""

import pytest

from sparse_compiler.errors import RegistryError
from sparse_compiler.ir.op import OPS, Op
from sparse_compiler.registry import Registry


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package `plugins` whose modules register with `plugins.shelf.SHELF`."""
    package = tmp_path / "plugins_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("LOADED = []\n")
    for name in ("beta", "alpha"):
        (package / f"{name}.py").write_text(
            f"import {package.name}\n{package.name}.LOADED.append({name!r})\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    return package.name


def test_the_first_look_up_imports_the_folder_in_order(folder):
    import importlib

    shelf = Registry("tool", folder)
    shelf.register("hammer")(1)
    package = importlib.import_module(folder)
    assert package.LOADED == []
    assert "hammer" in shelf
    assert package.LOADED == ["alpha", "beta"]
    assert (list(shelf), shelf["hammer"], shelf.items()) == (["hammer"], 1, [("hammer", 1)])


def test_duplicates_are_refused():
    shelf = Registry("tool", "sparse_compiler.ops")
    shelf.register("hammer")(1)
    with pytest.raises(RegistryError, match="two tools are named 'hammer'"):
        shelf.register("hammer")(2)


def test_unknown_names_bring_the_nearest():
    with pytest.raises(RegistryError, match="did you mean linear"):
        OPS["linaer"]
    with pytest.raises(RegistryError, match="known: adaptive_pool, "):
        OPS["zzz"]


def test_ops_are_registered_under_their_own_names():
    assert all(issubclass(op, Op) and op.name == name for name, op in OPS.items())


def test_a_folder_that_fails_to_import_fails_again(tmp_path, monkeypatch):
    package = tmp_path / "broken_plugins_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text("raise ValueError('bad file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    shelf = Registry("tool", package.name)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad file"):
            list(shelf)
