"""What an op is: a frozen dataclass whose fields are its attributes.

`infer` serves the builder and the verifier, `reference` the interpreter, which is the oracle of
every test. Traits state what passes may do; an op that says nothing fuses with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any, ClassVar, Self

import sympy

from ..errors import VerifyError
from ..registry import Registry
from .attrs import Object, map_attr, print_attr
from .refusal import No
from .types import ELEMENTS, HALVES, Layout, TensorType, Type, evaluate


@dataclass(frozen=True)
class Op:
    """Base of all ops. Fields of a subclass are attributes and appear in the text."""

    name: ClassVar[str] = ""
    view: ClassVar[bool] = False  # moves no number: the result is the input, renamed
    weight_input: ClassVar[int | None] = None  # which input holds the weight of a layer
    channel_dim: ClassVar[int] = -1  # which dimension of the result a bias runs along
    moves: ClassVar[bool] = False  # gives elements of its inputs as they are, whatever their dtype
    rows: ClassVar[bool] = False  # has a kernel on row-major buffers, of types as in `row_major`

    def infer(self, types: tuple[Type, ...]) -> Type | None:
        """The result's type, or None where only the importer knows it (`torch_call`)."""
        raise NotImplementedError(f"{type(self).__name__} has no type rule")

    def reference(self, *inputs: Any) -> Any:
        """The result, by torch, of real tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no reference")

    @property
    def random(self) -> bool:
        """True where two runs on the same inputs may differ."""
        return False

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        """The layout each input must have for the op to run in planes; None: stored row-major.

        types: of the inputs, planar where they are computed in planes already; weight_time: which
        inputs depend on parameters alone. The result's layout then follows from `infer`.
        """
        return No("op_unsupported", f"{self.name} has no kernel for planes")

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        """Why no kernel runs the op on row-major buffers of these types; None where one does."""
        if not (self.rows or self.view):
            return No("op_unsupported", f"{self.name} has no kernel on row-major buffers")
        tensors = [t for t in (*types, self.infer(types)) if isinstance(t, TensorType)]
        held = ELEMENTS | HALVES if self.moves or self.view else ELEMENTS
        foreign = next((t.dtype for t in tensors if t.dtype not in held), None)
        return None if foreign is None else No("dtype_unsupported", f"kernels hold no {foreign}")

    def free(self, types: tuple[Type, ...]) -> bool:
        """True for a view whose result lies in the bytes of its input, laid out as in `types`."""
        return False

    def widened(self) -> Op | No:
        """The op for inputs in fp32 where they were in half precision; a No where it needs them."""
        changes = {f.name: "f32" for f in fields(self) if getattr(self, f.name) in HALVES}
        return replace(self, **changes) if changes else self

    def bind(self, symbols: Mapping[str, int], objects: Mapping[str, Any]) -> Self:
        """The same op with numbers for symbolic attributes and objects for their names."""

        def leaf(value: Any) -> Any:
            if isinstance(value, sympy.Expr):
                return evaluate(value, symbols)
            return objects[value.name] if isinstance(value, Object) else value

        changes = {f.name: map_attr(getattr(self, f.name), leaf) for f in fields(self)}
        changed = {k: v for k, v in changes.items() if v is not getattr(self, k)}
        return replace(self, **changed) if changed else self

    def attributes(self) -> dict[str, Any]:
        """Attributes that differ from their defaults, in the order of declaration."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not self._is_default(f)}

    def _is_default(self, field: Field[Any]) -> bool:
        if field.default is MISSING:
            return False
        return print_attr(getattr(self, field.name)) == print_attr(field.default)


OPS: Registry[type[Op]] = Registry("op", "sparse_compiler.ops")


def tensor_inputs(op: Op, types: tuple[Type, ...], low: int, high: int) -> tuple[TensorType, ...]:
    """Checks that there are low..high inputs, all tensors; returns their types."""
    if not low <= len(types) <= high:
        raise VerifyError(f"{op.name} takes {low} to {high} inputs, not {len(types)}")
    for type_ in types:
        if not isinstance(type_, TensorType):
            raise VerifyError(f"{op.name} takes tensors, not {type_}")
    return tuple(t for t in types if isinstance(t, TensorType))
