"""y = epilogue(conv(x, W) + b) over 1, 2 or 3 dimensions, grouped, dilated, strided, transposed.

A convolution is the linear kernel over K = C/groups * taps rows, so its weight is always
[M, C/groups, *kernel], also of a transposed one, and its epilogue is that of a linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import VerifyError
from ..ir.op import OPS, tensor_inputs
from ..ir.refusal import No
from ..ir.types import Dim, Layout, TensorType, Type, as_dim, result_layout
from .epilogue import TakesEpilogue, apply_epilogue, check_epilogue
from .images import channel_planes, check_positive, check_shape, spatial, window_count
from .pointwise import operand_layouts, same_dtype


@OPS.register("conv")
@dataclass(frozen=True)
class Conv(TakesEpilogue):
    """x [B, C, *s], W [M, C/groups, *k], b [M] if `bias`, then epilogue operands x1, x2, ...

    stride, padding (zeros on either side), dilation: one number per dimension of the kernel.
    `transposed` computes the gradient of that convolution (torch's conv_transpose, arXiv:1603.07285
    section 4), `output_padding` then adds to its sizes; its taps are not turned around.
    The epilogue sees conv(x) + b as x0; its other operands broadcast to the result [B, M, *s'].
    """

    name: ClassVar[str] = "conv"
    weight_input: ClassVar[int | None] = 1
    channel_dim: ClassVar[int] = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    bias: bool = False
    epilogue: str = "x0"

    @property
    def operands(self) -> int:
        """Index of the first input that the epilogue reads."""
        return 3 if self.bias else 2

    def infer(self, types: tuple[Type, ...]) -> TensorType:
        tensors = tensor_inputs(self, types, self.operands, 64)
        x, weight = tensors[0], tensors[1]
        shape = self._shape(x, weight)
        if self.bias and tensors[2].shape != (weight.shape[0],):
            raise VerifyError(f"a bias of {tensors[2].shape} with a weight of {weight.shape}")
        check_epilogue(self, shape, tensors)
        layout = result_layout((x,), x.rank, channel_planes(x.rank))
        return TensorType(same_dtype(self.name, tensors), shape, layout)

    def _shape(self, x: TensorType, weight: TensorType) -> tuple[Dim, ...]:
        dims = len(self.stride)
        sizes = spatial(self, x, dims)
        if not dims == len(self.padding) == len(self.dilation) == weight.rank - 2:
            raise VerifyError(f"conv of {x.shape} with a weight of {weight.shape}: {self}")
        if len(self.output_padding) != (dims if self.transposed else 0):
            raise VerifyError(f"conv with output_padding={self.output_padding}")
        check_positive(self, stride=self.stride, dilation=self.dilation, groups=(self.groups,))
        outputs = weight.shape[0]
        if x.shape[1] != weight.shape[1] * self.groups or outputs % self.groups != 0:
            raise VerifyError(
                f"conv of {x.shape} with a weight of {weight.shape} in {self.groups} groups"
            )
        kernel = [int(k) for k in weight.shape[2:]]
        found = tuple(self._size(i, size, kernel[i]) for i, size in enumerate(sizes))
        return check_shape(self, (x.shape[0], outputs, *found))

    def keeps_places(self, weight: TensorType) -> bool:
        """Whether each place of the result reads that place of the input and no other."""
        moves = self.transposed or any(s != 1 for s in self.stride) or any(self.padding)
        return not moves and all(size == 1 for size in weight.shape[2:])

    def plain_image(self, weight: TensorType, result: TensorType) -> tuple[Dim, ...]:
        """Height and width of the images of a 3 x 3 convolution that keeps them, taking each pixel
        with its eight neighbours; empty for every other convolution."""
        plain = {self.stride, self.dilation, self.padding} == {(1, 1)} and not self.transposed
        return result.shape[2:] if plain and weight.shape[2:] == (3, 3) else ()

    def _size(self, i: int, size: Dim, kernel: int) -> Dim:
        stride, padding, dilation = self.stride[i], self.padding[i], self.dilation[i]
        if not self.transposed:
            return window_count(size, kernel, stride, padding, dilation)
        reach = dilation * (kernel - 1) + self.output_padding[i] + 1
        return as_dim((size - 1) * stride - 2 * padding + reach)

    def planar(
        self, types: tuple[Type, ...], weight_time: tuple[bool, ...]
    ) -> tuple[Layout | None, ...] | No:
        tensors = tensor_inputs(self, types, self.operands, 64)
        x, first = tensors[0], self.operands
        if x.dtype != "f32":
            return No("dtype_unsupported", f"kernels compute in f32, this layer in {x.dtype}")
        if not all(weight_time[1:first]):
            return No("weight_is_computed", "the weight or bias changes from call to call")
        if weight_time[0]:
            return No("constant_input", "the input is a constant")
        layout = channel_planes(x.rank)
        shape = self._shape(x, tensors[1])
        operands = operand_layouts(shape, layout, tensors[first:], weight_time[first:])
        if isinstance(operands, No):
            return operands
        return (layout, *(None for _ in tensors[1:first]), *operands)

    def reference(self, *inputs: Any) -> Any:
        x, weight = inputs[:2]
        if self.transposed:
            weight = transpose_weight(weight, self.groups)
        result = torch.convolution(
            x,
            weight,
            inputs[2] if self.bias else None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding or (0,) * len(self.stride),
            self.groups,
        )
        return apply_epilogue(self, result, inputs)


def transpose_weight(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """[M, C/groups, *k] -> torch's [C, M/groups, *k] of a transposed convolution."""
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return split.transpose(1, 2).flatten(0, 1)
