"""What commands print on: a console that cuts nothing in a pipe, JSON, a spinner on a terminal."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .errors import ArtifactError

_WIDE = 10_000
"""Columns of a pipe, which has no edge at which to wrap or cut."""


def console(*, json: bool = False, err: bool = False) -> Console:
    """Standard output (err: standard error); silent where JSON is wanted."""
    stream = sys.stderr if err else sys.stdout
    return Console(quiet=json, stderr=err, width=None if stream.isatty() else _WIDE)


def print_json(found: Any, json: bool) -> None:
    """The values as JSON, where that is wanted."""
    if json:
        typer.echo(json_text.dumps(found, indent=1, default=str))


def progress() -> Progress:
    """A spinner on standard error, where that is a terminal; nothing in a pipe."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    err = console(err=True)
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def write_text(path: Path, text: str) -> None:
    """Writes a file that the user named. Raises `ArtifactError` where that cannot be done."""
    try:
        path.write_text(text)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}",
            why=str(error.strerror or error),
            fix="name a file in a folder that exists and may be written",
        ) from error
