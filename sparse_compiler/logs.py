"""Which parts of the compiler speak, and how loudly: every switch of logging stands here.

A setting is a level for all (`info`), or a list of channels as torch's `TORCH_LOGS` takes it:
`passes,+codegen,-tune` is `passes` at info, `codegen` at debug, `tune` at error. Each module logs
under its own name, so that Python's logging and `TORCH_LOGS` reach the same loggers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from difflib import get_close_matches

from .errors import OptionError

ROOT = "sparse_compiler"
LEVELS = ("debug", "info", "warning", "error")

CHANNELS: Mapping[str, tuple[str, str]] = {
    "all": (ROOT, "everything below"),
    "backend": (f"{ROOT}.backend", "what became of each graph of torch.compile"),
    "frontends": (f"{ROOT}.frontends", "contests with Inductor, by `max-autotune`"),
    "passes": (f"{ROOT}.passes", "a line for each pass; with `+` the graph after it"),
    "formats": (f"{ROOT}.passes.choose_formats", "each weight's format; with `+` why no other"),
    "codegen": (
        f"{ROOT}.codegen",
        "libraries compiled; with `+` the compiler's commands and the programs",
    ),
    "runtime": (f"{ROOT}.runtime", "tuning, calibration, and what made torch run everything"),
    "tune": (f"{ROOT}.runtime.tune", "each candidate measured by `max-autotune`"),
    "calibrate": (f"{ROOT}.runtime.calibrate", "the measurement of this machine"),
}
"""Channel -> (logger, what it says)."""

_SIGNS = {"+": logging.DEBUG, "-": logging.ERROR}


class _Fallback(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error, for programs that have not set up logging themselves."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)


def levels(setting: str) -> dict[str, int]:
    """Level of each logger that a setting names. Raises `OptionError` on what is no channel."""
    found = {}
    for part in setting.split(","):
        name = part.strip()
        if name in LEVELS:
            found[ROOT] = logging.getLevelNamesMapping()[name.upper()]
        elif name:
            channel = name.lstrip("+-")
            if channel not in CHANNELS or len(name) - len(channel) > 1:
                raise _unknown(setting, name)
            found[CHANNELS[channel][0]] = _SIGNS.get(name[0], logging.INFO)
    return found


def _unknown(setting: str, name: str) -> OptionError:
    known = (*LEVELS, *CHANNELS)
    near = get_close_matches(name.strip("+-"), known, n=1)
    return OptionError(
        f"option log is {setting!r}",
        why=f"there is no channel {name!r}",
        fix=f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}",
    )


def configure(setting: str | None) -> None:
    """Lets the loggers that `setting` names speak; None leaves everything as it is.

    Holds for the process until another setting names the same loggers. What is logged goes to the
    handlers of the program's root logger, or to standard error where it has none.
    """
    if setting is None:
        return
    for name, level in levels(setting).items():
        logging.getLogger(name).setLevel(level)
    root = logging.getLogger(ROOT)
    if not any(isinstance(handler, _Fallback) for handler in root.handlers):
        handler = _Fallback()
        handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
        root.addHandler(handler)
