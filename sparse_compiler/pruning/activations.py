"""What a layer's inputs look like as the columns of its weight matrix [output, the rest].

A convolution is a matrix product with windows of its input, so every criterion that reads
activations sees one thing: samples [groups, n, columns], `columns` those of `Layer.view`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.pruning.calibration import batches, call, evaluating
from sparse_compiler.pruning.layers import Layer

MOST_WINDOWS = 4096
"""Windows of a convolution that are looked at in one call, evenly spread; all of a linear's."""


class Enough(Exception):  # noqa: N818
    """No error but the way out of a forward pass, for an observer that needs nothing more."""


Observer = Callable[[int, nn.Module, torch.Tensor], None]
"""observer(position of the layer, the module that is called, its input)."""


def observe(
    model: nn.Module,
    layers: Sequence[Layer],
    data: Iterable[object] | None,
    observer: Observer,
    who: str,
    *,
    needed: int | None = None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Runs `model` on `data`; `observer` sees the input of each call of each of `layers`.

    needed: how many of the first layers must be reached, all by default. after: called when a batch
    is done.

    Raises UnsupportedError as `batches` and `call` do, for inputs of a layer that are not finite,
    and for layers that no input reaches.
    """
    seen = [False] * len(layers)
    batch_at = 0

    def look(at: int, module: nn.Module, x: torch.Tensor) -> None:
        if not bool(x.isfinite().all()):
            raise UnsupportedError(
                f"calibration input {batch_at} gives activations that are not finite",
                node=layers[at].name,
                why="NaN or infinity reaches this layer",
                fix="look for them in the input, or in the weights before; nothing was pruned",
            )
        seen[at] = True
        observer(at, module, x)

    with torch.no_grad(), evaluating(model), _hooks(layers, look):
        for batch_at, batch in batches(data, who):
            with suppress(Enough):
                call(model, batch, batch_at)
            after()
    needy = list(zip(layers, seen, strict=True))[:needed]
    missing = [layer.name for layer, found in needy if not found]
    if missing:
        raise UnsupportedError(
            f"no calibration input reaches {len(missing)} layer(s): {', '.join(missing[:10])}",
            why="the model does not call them (nn.MultiheadAttention reads its out_proj directly)",
            fix="exclude them, or give data that uses them",
        )


@contextmanager
def _hooks(
    layers: Sequence[Layer], look: Callable[[int, nn.Module, torch.Tensor], None]
) -> Iterator[None]:
    def hook_of(at: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            look(at, module, args[0] if args else next(iter(kwargs.values())))

        return hook

    handles = [
        module.register_forward_pre_hook(hook_of(at), with_kwargs=True)
        for at, layer in enumerate(layers)
        for module in layer.modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def samples(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Inputs of a layer as [groups, n, columns], f32 or f64: rows of the matrix product that the
    layer is, in its groups. Of convolutions at most MOST_WINDOWS windows, evenly spread.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if not isinstance(module, _ConvNd):
        return x.reshape(1, -1, x.shape[-1])
    dims = len(module.kernel_size)
    x = x if x.dim() == dims + 2 else x[None]  # without a batch dimension
    transposed = isinstance(module, _ConvTransposeNd)
    windows = _transposed_windows(module, x) if transposed else _windows(module, x)
    order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
    windows = windows.permute(order)  # [batch, positions..., channels, taps...]
    places = windows.shape[: 1 + dims]
    total = places.numel()
    count = min(total, MOST_WINDOWS)
    flat = (torch.arange(count, device=x.device) * total) // max(count, 1)
    picked = windows[torch.unravel_index(flat, places)]
    return picked.reshape(count, module.groups, -1).transpose(0, 1)


def _windows(conv: _ConvNd, x: torch.Tensor) -> torch.Tensor:
    """[batch, channels, positions..., taps...]"""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    pads = conv._reversed_padding_repeated_twice
    return _unfold(F.pad(x, pads, mode=mode), conv.kernel_size, conv.stride, conv.dilation)


def _transposed_windows(conv: _ConvNd, x: torch.Tensor) -> torch.Tensor:
    """The same, as the convolution that it is: zeros between the inputs, taps turned round."""
    dims = len(conv.kernel_size)
    spread = x.new_zeros(
        *x.shape[:2],
        *((size - 1) * step + 1 for size, step in zip(x.shape[2:], conv.stride, strict=True)),
    )
    every = (slice(None), slice(None), *(slice(None, None, step) for step in conv.stride))
    spread[every] = x
    pads: list[int] = []
    for size, dilation, padding, extra in zip(
        conv.kernel_size,
        conv.dilation,
        cast(tuple[int, ...], conv.padding),
        conv.output_padding,
        strict=True,
    ):
        border = dilation * (size - 1) - padding
        pads = [border, border + extra, *pads]
    windows = _unfold(F.pad(spread, pads), conv.kernel_size, (1,) * dims, conv.dilation)
    return windows.flip(tuple(range(2 + dims, 2 + 2 * dims)))


def _unfold(
    x: torch.Tensor, size: Sequence[int], step: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    for at, (k, s, d) in enumerate(zip(size, step, dilation, strict=True)):
        x = x.unfold(2 + at, d * (k - 1) + 1, s)[..., ::d]
    return x
