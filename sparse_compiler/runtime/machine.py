"""The machine that the cost model reckons with: calibrated, or public figures of a usual core."""

from __future__ import annotations

import os
import platform

import torch

from ..codegen.cpu.build import cpu_model, cpu_vendor, native_width
from ..formats.cost import Machine
from ..options import Options

WIDTHS = {"x86-64-v2": 4, "x86-64-v3": 8, "x86-64-v4": 16}
_GIGAHERTZ = 3.2
_MKL_ON_AMD = (4000.0, 0.38, 0.01)  # MKL gives AMD no AVX-512: 0.33 of the peak on Zen 5


def vector_width(options: Options) -> int:
    """Floats per vector of the instruction set that the options name."""
    return native_width() if options.isa == "native" else WIDTHS[options.isa]


def assumed_machine(options: Options) -> Machine:
    """Public figures of a 3.2 GHz core with two multiply-add units of this width."""
    width = vector_width(options)
    amd = cpu_vendor() == "AuthenticAMD" and native_width() == 16
    return Machine(
        vector=width,
        flops_per_ns=width * 2 * 2 * _GIGAHERTZ,
        torch_vector=native_width(),
        torch=(("torch_linear", _MKL_ON_AMD),) if amd else (),
    )


def machine_facts() -> dict[str, object]:
    """What measured times depend on, besides our own kernels and the number of threads."""
    return {
        "cpu": cpu_model() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def machine_for(options: Options) -> Machine:
    """What the cost model of a compile reckons with."""
    if not options.calibrate:
        return assumed_machine(options)
    # Measuring compiles a graph, for which it must not ask what it measures: hence so late.
    from .calibrate import calibrated_machine

    return calibrated_machine(options, torch.get_num_threads())
