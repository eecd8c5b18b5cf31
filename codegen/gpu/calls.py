"""A segment of the Program as a module of kernels, and what of it the GPU cannot have."""

from __future__ import annotations

from collections.abc import Mapping

from sparse_compiler.codegen.gpu import boxes, folds, one_column, plane_calls, resample, rotary
from sparse_compiler.codegen.gpu.rules import RULES, kernel_name, rule
from sparse_compiler.codegen.gpu.source import Host, Module, Printer
from sparse_compiler.codegen.gpu.weight_calls import WEIGHT_RULES
from sparse_compiler.codegen.program import Call, Segment
from sparse_compiler.errors import CodegenError, UnsupportedError
from sparse_compiler.formats.gpu_arch import DEFAULT, Arch
from sparse_compiler.ir.refusal import No

FAMILIES = (boxes, folds, one_column, plane_calls, resample, rotary)
"""Files that enter rules."""

for _name, _made in WEIGHT_RULES.items():
    rule(_name)(_made)


@rule("attend", "attend_row", "mask_to_planes", "matmul", "softmax_along")
def _host(printer: Printer, call: Call) -> None:
    """Left to torch, between the kernels and on their memory."""
    printer.launches.append(Host(call.kernel, call.args, call.label))


def print_segment(segment: Segment, dtype: str = "fp32", arch: Arch = DEFAULT) -> Module:
    """The kernels and launches of a segment.

    Raises `CodegenError` for a call without a rule and for fp64: `unprintable` finds both first.
    """
    printer, owners = Printer(segment, dtype, arch), list[int]()
    for number, call in enumerate(segment.calls):
        made = RULES.get(kernel_name(call.kernel))
        if made is None:
            raise CodegenError(f"the GPU has no rule for {call.kernel}", node=f"%{call.label}")
        made(printer, call)
        owners += [number] * (len(printer.launches) - len(owners))
    return Module(printer.text(), tuple(printer.launches), tuple(owners))


def unprintable(segment: Segment) -> Mapping[str, No]:
    """By label of a call, why the GPU has no kernel for it; empty where it has one for all."""
    found: dict[str, No] = {}
    for call in segment.calls:
        made = RULES.get(kernel_name(call.kernel))
        if made is None:
            found[call.label] = No("op_unsupported", f"the GPU has no rule for {call.kernel}")
            continue
        try:
            made(Printer(segment, "fp32"), call)
        except UnsupportedError:  # a limit of some GPU, told when it is printed for the one at hand
            continue
        except CodegenError as error:
            found[call.label] = No("dtype_unsupported", error.what)
    return found


__all__ = ["FAMILIES", "RULES", "print_segment", "unprintable"]
