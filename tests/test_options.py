"""Options: where values come from, and what impossible ones are told."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from sparse_compiler.errors import OptionError
from sparse_compiler.options import Options

VARIABLES = [v for row in Options.docs() for v in row.env.split(", ") if v]


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_the_caller_goes_before_the_environment_and_that_before_the_default(monkeypatch):
    assert Options.from_env().verify == 1
    monkeypatch.setenv("SPARSE_COMPILER_VERIFY", "2")
    assert Options.from_env().verify == 2
    assert Options.from_env(verify=0).verify == 0
    assert Options.from_dict({"verify": 0}) == Options.from_env(verify=0)
    assert Options().verify == 1, "a plain Options() reads no environment"


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("SPARSE_COMPILER_VERIFY", " 0 ", "verify", 0),
        ("SPARSE_COMPILER_FUEL", "17", "fuel", 17),
        ("SPARSE_COMPILER_FUEL", "", "fuel", None),
        ("SPARSE_COMPILER_DUMP", "some/where", "dump", Path("some/where")),
        ("SPARSE_COMPILER_CACHE", "/c", "cache_dir", Path("/c")),
        ("SPARSE_COMPILER_CXX", "ccache g++-12", "compiler", "ccache g++-12"),
        ("CXX", "clang++", "compiler", "clang++"),
        ("SPARSE_COMPILER_ISA", "x86-64-v3", "isa", "x86-64-v3"),
        ("SPARSE_COMPILER_FORCE_NATIVE", "Yes", "force_native", True),
        ("SPARSE_COMPILER_FORCE_NATIVE", "0", "force_native", False),
        ("SPARSE_COMPILER_LOG", "info", "log", "info"),
    ],
)
def test_variables(monkeypatch, variable, text, name, value):
    monkeypatch.setenv(variable, text)
    assert getattr(Options.from_env(), name) == value


def test_our_variable_goes_before_the_common_one(monkeypatch):
    monkeypatch.setenv("CXX", "b++")
    monkeypatch.setenv("SPARSE_COMPILER_CXX", "a++")
    assert Options.from_env().compiler == "a++"


def test_without_a_compiler_there_is_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert Options.from_env().compiler is None


@pytest.mark.parametrize(
    ("variable", "text", "part"),
    [
        ("SPARSE_COMPILER_VERIFY", "two", "must be a whole number"),
        ("SPARSE_COMPILER_VERIFY", "3", "give 0 | 1 | 2"),
        ("SPARSE_COMPILER_FUEL", "-1", "0 or more"),
        ("SPARSE_COMPILER_FUEL", "1.5", "must be a whole number"),
        ("SPARSE_COMPILER_ISA", "x86-64-v9", "did you mean x86-64-v"),
        ("SPARSE_COMPILER_FORCE_NATIVE", "perhaps", "1 or 0"),
    ],
)
def test_impossible_variables(monkeypatch, variable, text, part):
    monkeypatch.setenv(variable, text)
    with pytest.raises(OptionError) as caught:
        Options.from_env()
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"verfy": 1}, "did you mean verify"),
        ({"qqqqqq": 1}, "one of mode, "),
        ({"verify": "1"}, "'1', a str"),
        ({"verify": True}, "True, a bool"),
        ({"force_native": 1}, "1, a int"),
        ({"disable": "fuse-pointwise"}, "a tuple of names"),
        ({"disable": (1,)}, "a tuple of names"),
        ({"cache_dir": None}, "a path"),
        ({"cache_dir": ""}, "a path"),
        ({"weights": "int8"}, "not yet supported"),
        ({"target": "cudo"}, "target is 'cudo'"),
        ({"mode": "defualt"}, "did you mean default"),
    ],
)
def test_impossible_values(values, part):
    with pytest.raises(OptionError) as caught:
        Options.from_dict(values)
    assert part in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_convenient_forms_become_the_fields_type():
    options = Options(dump="folder", disable=["a", "b"])
    assert (options.dump, options.disable) == (Path("folder"), ("a", "b"))
    assert hash(options) == hash(Options(dump=Path("folder"), disable=("a", "b")))
    with pytest.raises(FrozenInstanceError):
        options.verify = 0


def test_docs_hold_every_field_once():
    rows = Options.docs()
    assert [row.name for row in rows] == [field.name for field in fields(Options)]
    assert all(row.doc.endswith(".") and row.values and row.default for row in rows)
    assert len(set(VARIABLES)) == len(VARIABLES)
    assert {row.name: row.default for row in rows}["verify"] == "1"


@pytest.mark.parametrize("log", ["inof", "passes,++codegen", "+nothing", "pases"])
def test_what_is_no_channel_of_logging(log):
    with pytest.raises(OptionError, match="no channel"):
        Options(log=log)
