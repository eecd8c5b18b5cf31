"""Everything this package raises on purpose, on one screen.

Two families: what the user can mend (`UserError`) and what we must mend (`InternalError`).
A message names what failed, which node (with the user's source line), why, and what to do.
"""

from __future__ import annotations


class SparseCompilerError(Exception):
    """Root of all errors raised on purpose.

    what: one sentence; node: the node as printed, with its source line; why: the cause;
    fix: what the reader can do about it.
    """

    def __init__(self, what: str, *, node: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.node, self.why, self.fix = what, node, why, fix
        parts = (("node", node), ("why", why), ("fix", fix))
        super().__init__("\n".join([what, *(f"  {k}: {v}" for k, v in parts if v)]))


class UserError(SparseCompilerError):
    """The input, the options or the environment must change."""


class UnsupportedError(UserError):
    """A model, recipe or request that we cannot serve."""


class OptionError(UserError, ValueError):
    """An option or environment variable with an unknown name or an impossible value."""


class InputError(UserError, ValueError):
    """Arguments of a call that do not fit the compiled model: count, dtype, shape, device."""


class ToolchainError(UserError):
    """The C++ compiler is missing or refuses our source; or the cache folder cannot be used."""


class ArtifactError(UserError):
    """A saved model that is truncated, altered, foreign or newer; names the member and why."""


class InternalError(SparseCompilerError):
    """A defect of ours; the message carries what a bug report needs."""


class GraphSyntaxError(UserError, ValueError):
    """Graph text that does not parse; names the line."""


class VerifyError(InternalError):
    """A graph that breaks its own rules."""


class PassError(InternalError):
    """A pass failed or produced a wrong graph; `graph` is the graph before it, as text."""

    def __init__(self, what: str, *, graph: str = "", node: str = "", why: str = "") -> None:
        super().__init__(what, node=node, why=why, fix="report it with the graph, .graph")
        self.graph = graph


class CodegenError(InternalError):
    """Lowering or printing met a graph that the earlier stages should have refused."""


class RegistryError(InternalError):
    """Two entries with one name, or a name nobody registered."""


def first_line(error: BaseException) -> str:
    """What another library's error says, without its stack: the `why` of one of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
