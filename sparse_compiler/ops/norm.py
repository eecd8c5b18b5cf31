"""Norms over the last dimension: layer norm (arXiv:1607.06450) and RMS norm (arXiv:1910.07467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import VerifyError
from ..ir.op import OPS, Op, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Layout, TensorType, Type
from .epilogue import TakesEpilogue, apply_epilogue, check_epilogue
from .pointwise import operand_layouts, same_dtype


def down_the_planes(
    op: Op, types: tuple[Type, ...], weight_time: tuple[bool, ...]
) -> tuple[Layout | None, ...] | No:
    """What an op that reduces over the last dimension needs: that this one counts planes.

    Its other inputs are vectors along that dimension.
    """
    tensors = tensor_inputs(op, types, 1, 64)
    x = tensors[0]
    if x.layout is None:
        return No("outside_region", "the input is not computed in planes")
    if x.layout.outer != (x.rank - 1,):
        return No("layout", "the last dimension does not count planes")
    if not all(weight_time[1:]):
        return No("weight_is_computed", "a vector that it reads changes from call to call")
    return (x.layout, *(None for _ in tensors[1:]))


def one_column(tensors: tuple[TensorType, ...], result: Type) -> No | None:
    """None where kernels for one column of `result` run: f32, operands one or a number a feature.

    Those of more columns want planes.
    """
    if not isinstance(result, TensorType):
        return No("no_tensor", "the result is no tensor")
    features = result.shape[-1] if result.shape else 1
    if result.numel != features or not isinstance(features, int):
        return No("many_columns", f"{result.shape} has many columns: planes are for them")
    if any(t.dtype != "f32" for t in (result, *tensors)):
        return No("dtype_unsupported", "kernels compute in f32")
    spread = next((t for t in tensors if t.numel != 1 and t.numel != t.shape[-1]), None)
    return None if spread is None else No("broadcast", f"an operand of shape {spread.shape}")


class _Norm(TakesEpilogue):
    """What the two norms share: x, its vectors, then what the epilogue reads as x1, x2, ..."""

    @property
    def vectors(self) -> int:
        """How many inputs after x are vectors along the last dimension."""
        raise NotImplementedError(f"{type(self).__name__} does not say what vectors it reads")

    @property
    def operands(self) -> int:
        """Index of the first input that the epilogue reads."""
        return 1 + self.vectors

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, self.operands, 64)
        for vector in tensors[1 : self.operands]:
            if vector.shape != tensors[0].shape[-1:]:
                raise VerifyError(f"{self.name} of {tensors[0].shape} with {vector.shape}")
        check_epilogue(self, tensors[0].shape, tensors)
        return TensorType(same_dtype(self.name, tensors), tensors[0].shape, tensors[0].layout)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        first = self.operands
        layouts = down_the_planes(self, types[:first], weight_time[:first])
        if isinstance(layouts, No) or layouts[0] is None:
            return layouts
        tensors = tensor_inputs(self, types, first, 64)
        operands = operand_layouts(
            tensors[0].shape, layouts[0], tensors[first:], weight_time[first:]
        )
        return operands if isinstance(operands, No) else (*layouts, *operands)

    def row_major(self, types: tuple[Type, ...]) -> No | None:
        return one_column(tensor_inputs(self, types, self.operands, 64), types[0])


@OPS.register("layer_norm")
@dataclass(frozen=True)
class LayerNorm(_Norm):
    """(x - mean) / sqrt(var + eps) over the last dimension C, times gamma [C], plus beta [C].

    Inputs: x [..., C], then gamma if `scale`, then beta if `shift`, then operands of the epilogue.
    The variance is the biased one.
    """

    name: ClassVar[str] = "layer_norm"
    eps: float = 1e-5
    scale: bool = True
    shift: bool = True
    epilogue: str = "x0"

    @property
    def vectors(self) -> int:
        return self.scale + self.shift

    def reference(self, *inputs: Any) -> Any:
        gamma = inputs[1] if self.scale else None
        beta = inputs[self.vectors] if self.shift else None
        result = F.layer_norm(inputs[0], inputs[0].shape[-1:], gamma, beta, self.eps)
        return apply_epilogue(self, result, inputs)


@OPS.register("rms_norm")
@dataclass(frozen=True)
class RmsNorm(_Norm):
    """x / sqrt(mean(x^2) + eps) over the last dimension C, times gamma [C] if `scale`.

    Inputs: x [..., C], then gamma if `scale`, then operands of the epilogue.
    """

    name: ClassVar[str] = "rms_norm"
    eps: float = 1e-6
    scale: bool = True
    epilogue: str = "x0"

    @property
    def vectors(self) -> int:
        return int(self.scale)

    def reference(self, *inputs: Any) -> Any:
        gamma = inputs[1] if self.scale else None
        result = F.rms_norm(inputs[0], inputs[0].shape[-1:], gamma, self.eps)
        return apply_epilogue(self, result, inputs)
