"""What a TVM module asks for and we have no op for: run by TVM, counted in the report.

The op knows nothing of TVM: its function is an object of the graph, made by the front end, so a
graph with such a node prints and verifies where TVM is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import UnsupportedError
from ..ir.attrs import Object
from ..ir.op import OPS, Op
from ..ir.refusal import No
from ..ir.types import Dim, Layout, Type


@OPS.register("tvm_call")
@dataclass(frozen=True)
class TvmCall(Op):
    """function(inputs, sizes), as TVM computes it.

    target: the Relax operator or TIR function, for people. function: names the graph's object, a
    callable of (tensors, numbers) that gives a tensor or a tuple of them. sizes: symbols that the
    function reads and no input's shape gives.
    """

    name: ClassVar[str] = "tvm_call"
    target: str = ""
    function: Any = None
    sizes: tuple[Dim, ...] = ()

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return No("op_unsupported", f"{self.target} has no kernel here yet: TVM runs it")

    def widened(self) -> Op | No:
        return No("op_unsupported", f"{self.target} computes in the dtype that it is given")

    def infer(self, types: tuple[Type, ...]) -> Type | None:
        return None

    def reference(self, *inputs: Any) -> Any:
        if self.function is None or isinstance(self.function, Object):
            raise UnsupportedError(
                f"tvm_call of {self.target} has no function",
                why="TVM's functions have no text form, and this graph was read from text",
                fix="import the TVM module again",
            )
        return self.function(inputs, self.sizes)
