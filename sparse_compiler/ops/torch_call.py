"""What we have no op for: called in torch, typed by its importer, counted in the report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch

from ..errors import UnsupportedError, VerifyError
from ..ir.attrs import Slot, map_attr
from ..ir.op import OPS, Op
from ..ir.refusal import No
from ..ir.types import Layout, TupleType, Type


@lru_cache(maxsize=1024)
def resolve_target(target: str) -> Any:
    """`"aten.add.Tensor"` -> the torch operator. Raises `UnsupportedError` where there is none."""
    found: Any = torch.ops
    for part in target.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise UnsupportedError(
                f"torch has no operator {target!r}",
                fix="import the package that registers it before the model is loaded",
            )
    return found


@OPS.register("torch_call")
@dataclass(frozen=True)
class TorchCall(Op):
    """target(*args, **kwargs), where `_0`, `_1`, ... in args and kwargs stand for the inputs."""

    name: ClassVar[str] = "torch_call"
    target: str = ""
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        return No("op_unsupported", f"{self.target} has no kernel here yet")

    def widened(self) -> Op | No:
        return No("op_unsupported", f"{self.target} computes in the dtype that it is given")

    @property
    def random(self) -> bool:
        tags = getattr(resolve_target(self.target), "tags", ())
        return torch.Tag.nondeterministic_seeded in tags

    def infer(self, types: tuple[Type, ...]) -> Type | None:
        def leaf(value: Any) -> Any:
            if isinstance(value, Slot) and value.index >= len(types):
                raise VerifyError(f"{self.target} reads _{value.index} of {len(types)} inputs")
            return value

        map_attr((self.args, self.kwargs), leaf)
        return None

    def reference(self, *inputs: Any) -> Any:
        def leaf(value: Any) -> Any:
            return inputs[value.index] if isinstance(value, Slot) else value

        args = [_listed(map_attr(a, leaf)) for a in self.args]
        kwargs = {k: _listed(map_attr(v, leaf)) for k, v in self.kwargs}
        return resolve_target(self.target)(*args, **kwargs)


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


@OPS.register("getitem")
@dataclass(frozen=True)
class GetItem(Op):
    """Result number `index` of an op that has several."""

    name: ClassVar[str] = "getitem"
    view: ClassVar[bool] = True
    index: int = 0

    def widened(self) -> Op | No:
        return No("op_unsupported", "what gives several results keeps their dtypes")

    def infer(self, types: tuple[Type, ...]) -> Type | None:
        if len(types) != 1 or not isinstance(types[0], TupleType):
            raise VerifyError(f"getitem of {types}")
        if not 0 <= self.index < len(types[0].items):
            raise VerifyError(f"getitem of result {self.index} of {len(types[0].items)}")
        return types[0].items[self.index]

    def reference(self, *inputs: Any) -> Any:
        return inputs[0][self.index]
