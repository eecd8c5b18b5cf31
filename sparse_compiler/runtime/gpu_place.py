"""Where target "cuda" runs, and whose limits and peaks its choices reckon with.

With a GPU: that of the model's parameters, else torch's current one. With triton's interpreter:
the CPU. With neither, a target that names an architecture is still compiled for, and not run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch

from ..errors import InputError, OptionError, UnsupportedError, first_line
from ..formats.gpu_arch import DEFAULT, Arch, arch_of_device, find_arch
from ..options import Options

_HALVES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Place:
    """device: where planes and weights lie; arch: what kernels are chosen for; runs: False where
    this machine can compile them and no more."""

    device: torch.device
    arch: Arch
    runs: bool = True

    def check(self, tensor: torch.Tensor, what: str) -> None:
        """Raises `OptionError` where nothing can run, `InputError` for a tensor that lies
        elsewhere."""
        if not self.runs:
            raise OptionError(
                f"the model was compiled for {self.arch.name}, and there is no GPU to run it",
                why="torch.cuda.is_available() says no",
                fix="save it with sc.export(..., target=...) and load it where the GPU is",
            )
        if tensor.device != self.device:
            raise InputError(
                f"{what} lies on {tensor.device}",
                why=f"the model was compiled for {self.device}",
                fix=f'move it there: x.to("{self.device}")',
            )


def interpreting() -> bool:
    """True where triton's interpreter is on: TRITON_INTERPRET=1."""
    from ..codegen.gpu.static import require_triton

    return bool(require_triton().knobs.runtime.interpret)


def place_of(target: str, params: Mapping[str, torch.Tensor]) -> Place:
    """The place of a target: "cuda", or one that names an architecture.

    Raises `OptionError` without triton, where there is no GPU, and where the GPU at hand is not the
    one that is named; `UnsupportedError` for parameters on several GPUs.
    """
    named = find_arch(target) if ":" in target else None
    if interpreting():
        return Place(torch.device("cpu"), named or DEFAULT)
    if torch.cuda.is_available():
        device = _device_of(params.values())
        arch = _arch_at(device)
        if named is not None and named.name != arch.name:
            raise OptionError(
                f'option target is "{target}", and the GPU at hand is {arch.name}',
                why=f"kernels for {named.label} are not chosen for what {arch.label} can do",
                fix='target="cuda" compiles for the one at hand; sc.export for any other',
            )
        return Place(device, arch)
    if named is not None:
        return Place(torch.device("cpu"), named, runs=False)
    raise OptionError(
        f'option target is "{target}", and there is no GPU',
        why="torch.cuda.is_available() says no",
        fix='compile for the cpu; for a GPU elsewhere sc.export(..., target="cuda:90"); or set '
        "TRITON_INTERPRET=1 to run the kernels slowly, for tests",
    )


def placed(options: Options, params: Collection[torch.Tensor], *, named: bool) -> Options:
    """The options with the target of a model whose caller named none: "cuda" where its parameters
    lie on a GPU.

    Raises `UnsupportedError` where only some of them do, `OptionError` where the caller named the
    CPU.
    """
    found = next((p.device for p in params if p.device.type == "cuda"), None)
    if found is None or options.target != "cpu":
        return options
    if named:
        raise OptionError(
            'option target is "cpu"',
            why=f"the model lies on {found}",
            fix='move it with model.cpu(), or give target="cuda"',
        )
    _only({p.device for p in params if p.dim() >= 2})
    return replace(options, target="cuda")


def dtype_of(options: Options, params: Mapping[str, torch.Tensor]) -> str:
    """The dtype of products: the option `weights`, else that of a model of halves; of fp32, tf32
    where torch was told that it may (`torch.set_float32_matmul_precision`).

    Raises `UnsupportedError` for a model of fp64.
    """
    dtypes = {p.dtype for p in params.values() if p.is_floating_point() and p.ndim >= 2}
    if torch.float64 in dtypes:
        raise UnsupportedError(
            "a model of fp64 cannot be compiled for a GPU",
            why="its kernels compute in fp32, tf32, fp16 and bf16",
            fix="model.float()",
        )
    if options.weights != "fp32":
        return options.weights
    if len(dtypes) == 1 and (half := _HALVES.get(next(iter(dtypes)))) is not None:
        return half
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def gpu_facts(options: Options, params: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """What measured times on the options' GPU depend on beside the layer; empty for the CPU."""
    if options.target == "cpu":
        return {}
    place = place_of(options.target, params)
    cuda = place.device.type == "cuda"
    return {
        "arch": place.arch.label,
        "dtype": dtype_of(options, params),
        "gpu": torch.cuda.get_device_name(place.device) if cuda else "interpreter",
        "triton": version("triton"),
        "torch": torch.__version__,
    }


def _device_of(params: Iterable[torch.Tensor]) -> torch.device:
    devices = {p.device for p in params if p.device.type == "cuda"}
    if not devices:
        return torch.device("cuda", torch.cuda.current_device())
    _only(devices)
    return devices.pop()


def _only(devices: set[torch.device]) -> None:
    if len(devices) > 1:
        raise UnsupportedError(
            "the model lies on several devices",
            why=f"its parameters are on {', '.join(sorted(map(str, devices)))}",
            fix="move it to one of them",
        )


def _arch_at(device: torch.device) -> Arch:
    properties = torch.cuda.get_device_properties(device)
    gcn = properties.gcnArchName if torch.version.hip else ""
    try:
        return arch_of_device(properties.major, properties.minor, gcn)
    except OptionError as error:
        raise OptionError(
            f"the GPU at hand, {properties.name}, is none that we compile for",
            why=first_line(error),
            fix='use target="cpu"',
        ) from error
