"""Logging: every channel's switch, torch's switch, and the table of every environment variable."""

import importlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler import logs
from sparse_compiler.options import Options

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "environment.md"
SOURCES = (".py", ".h", ".cpp", ".c", ".sh", ".toml", "")
VARIABLE = re.compile(r"\b_?SPARSE_COMPILER_[A-Z_]*[A-Z]\b")
FOLDERS = (
    "sparse_compiler",
    "codegen",
    "passes",
    "tests",
    "tools",
    "examples",
    "benchmarks",
    ".ci",
)
LOGS_SOMETHING = """
import torch, sparse_compiler as sc
model = torch.nn.Sequential(torch.nn.Linear(8, 8)).eval().requires_grad_(False)
sc.compile(model, (torch.randn(2, 8),))
"""


@pytest.fixture
def restored() -> Iterator[None]:
    """Loggers as they were."""
    loggers = [logging.getLogger(name) for name, _ in logs.CHANNELS.values()]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("info", {"sparse_compiler": logging.INFO}),
        ("passes", {"sparse_compiler.passes": logging.INFO}),
        (
            "warning, +codegen,-tune",
            {
                "sparse_compiler": logging.WARNING,
                "sparse_compiler.codegen": logging.DEBUG,
                "sparse_compiler.runtime.tune": logging.ERROR,
            },
        ),
        ("+all", {"sparse_compiler": logging.DEBUG}),
        ("", {}),
    ],
)
def test_settings(setting: str, found: dict[str, int]) -> None:
    assert logs.levels(setting) == found


@pytest.mark.parametrize("channel", logs.CHANNELS)
def test_a_channel_is_a_module_of_ours(channel: str) -> None:
    """So that TORCH_LOGS, which takes names of modules, reaches it."""
    assert importlib.import_module(logs.CHANNELS[channel][0])


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith(logs.ROOT)]


@pytest.mark.usefixtures("cached_kernels", "restored")
def test_channels_speak(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(64, 64)).eval().requires_grad_(False)
    x = torch.randn(64, 64)
    sc.compile(model, (x,))
    assert not [r for r in ours(caplog) if r.levelno < logging.WARNING]
    sc.compile(model, (x,), options={"log": "+passes,codegen"})
    texts: dict[str, list[str]] = {}
    for record in ours(caplog):
        texts.setdefault(record.name, []).append(record.getMessage())
    passes = texts["sparse_compiler.passes.pipeline"]
    assert any(text.startswith("choose-formats ") for text in passes)
    assert any(text.startswith("after choose-formats:\n") for text in passes)
    assert any(text.startswith("0") for text in texts["sparse_compiler.passes.choose_formats"])
    opened = ("sparse_compiler.passes", "sparse_compiler.codegen")
    assert all(name.startswith(opened) for name in texts)


@pytest.mark.system
@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("SPARSE_COMPILER_LOG", "passes", "I sparse_compiler.passes.pipeline: choose-formats"),
        ("TORCH_LOGS", "sparse_compiler.passes", "] choose-formats"),
    ],
)
def test_the_switches_of_a_program(variable: str, value: str, part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS_SOMETHING],
        env=os.environ | {"PYTHONPATH": str(ROOT), variable: value},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert sum(part in line for line in lines) == 1, done.stderr
    assert all("codegen" not in line for line in lines)


def tabled(text: str) -> set[str]:
    """The first column of the page's tables."""
    return set(re.findall(r"^\| `(\w+)`", text, re.M))


def variables() -> set[str]:
    """Every variable of ours that a source of this repository names."""
    files = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    texts = [path.read_text() for path in files if path.suffix in SOURCES]
    return {name for text in texts for name in VARIABLE.findall(text)}


def test_every_variable_is_in_the_table() -> None:
    used = variables()
    assert used >= {v for row in Options.docs() for v in row.env.split(", ") if v} - {"CXX"}
    assert used == {name for name in tabled(PAGE.read_text()) if "SPARSE_COMPILER_" in name}


def test_every_channel_is_in_the_table() -> None:
    assert set(logs.CHANNELS) <= tabled(PAGE.read_text())
    for channel, (logger, meaning) in logs.CHANNELS.items():
        assert f"| `{channel}` | `{logger}` | {meaning} |" in PAGE.read_text()
