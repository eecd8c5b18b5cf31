"""Whether TVM is there, and in the version whose names this package knows."""

from __future__ import annotations

import importlib.util

from ..errors import UnsupportedError

KNOWN = "0.27"


def require_tvm(what: str) -> None:
    """Raises `UnsupportedError` where `what` needs TVM and there is none, or another version."""
    if importlib.util.find_spec("tvm") is None:
        raise UnsupportedError(
            f"{what} needs TVM, which is not installed",
            fix="pip install 'sparse-compiler[tvm]'",
        )
    import tvm

    version = str(getattr(tvm, "__version__", "unknown"))
    if not version.startswith(f"{KNOWN}."):
        raise UnsupportedError(
            f"{what} needs TVM {KNOWN}, and this is TVM {version}",
            why="TVM's operators and attributes change their names between versions",
            fix=f"pip install 'apache-tvm>={KNOWN},<0.28'",
        )


__all__ = ["KNOWN", "require_tvm"]
