"""Run a model on calibration data: any iterable of inputs, a progress bar, errors of our own.

The model runs as in evaluation (no dropout, batch norms keep their statistics) and comes back as
it was. Data is read once, in order, so a generator serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn.utils import parametrize

from sparse_compiler.errors import UnsupportedError, first_line
from sparse_compiler.pruning.layers import Layer


@dataclass(frozen=True)
class Call:
    """An input of positional and keyword arguments both."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Loss = Callable[[Any, Any], torch.Tensor]
"""loss(the model's output, target) -> a scalar."""


def batches(data: Iterable[object] | None, who: str) -> Iterator[tuple[int, object]]:
    """(position, batch) of `data`, under a progress bar where standard error is a terminal.

    Raises UnsupportedError, naming the criterion `who`: no data, no iterable, nothing in it.
    """
    if data is None:
        raise UnsupportedError(
            f"{who} needs calibration data",
            why="it scores weights by what the model does with inputs",
            fix="sparsify(model, recipe, data): an iterable of inputs (tensors, tuples, dicts)",
        )
    if isinstance(data, torch.Tensor | Mapping | str) or not isinstance(data, Iterable):
        raise UnsupportedError(
            f"calibration data of {who} is a {type(data).__name__}",
            why="data is an iterable of inputs, one call of the model each",
            fix="put the input into a list: [x]",
        )
    console = Console(stderr=True)
    # a count where the data knows one: a generator does not
    total = len(cast(Sequence[object], data)) if hasattr(data, "__len__") else None
    steps = track(
        data,
        description=f"calibrating {who}",
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    count = 0
    for count, batch in enumerate(steps, 1):
        yield count - 1, batch
    if count == 0:
        raise UnsupportedError(
            f"calibration data of {who} is empty",
            why="an iterable that gives nothing; a generator can be read only once",
            fix="give at least one input",
        )


def call(model: nn.Module, batch: object, at: int) -> Any:
    """model(batch): a tuple or list are its arguments, a mapping its keyword arguments.

    Raises UnsupportedError where the model does not take the batch at position `at`.
    """
    try:
        if isinstance(batch, Call):
            return model(*batch.args, **batch.kwargs)
        if isinstance(batch, Mapping):
            return model(**batch)
        if isinstance(batch, tuple | list):
            return model(*batch)
        return model(batch)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise UnsupportedError(
            f"the model fails on calibration input {at}",
            why=f"{type(error).__name__}: {first_line(error)}",
            fix="an input is a tensor, a tuple of arguments, or a dict of keyword arguments",
        ) from error


def loss_of(model: nn.Module, batch: object, loss: Loss | None, at: int) -> torch.Tensor:
    """The loss of one batch: (inputs, target) with `loss`; without, the model gives it itself,
    as a scalar or in a field `loss`.

    Raises UnsupportedError for a batch of another shape, and for a loss that is no finite scalar.
    """
    if loss is None:
        output = call(model, batch, at)
        value = getattr(output, "loss", output)
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        value = loss(call(model, batch[0], at), batch[1])
    else:
        raise UnsupportedError(
            f"calibration input {at} is no pair (inputs, target)",
            why="a loss function compares the model's output with a target",
            fix="give pairs; several arguments go in a tuple: ((ids, mask), target)",
        )
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise UnsupportedError(
            f"calibration input {at} gives no scalar loss but {_kind(value)}",
            fix="give the recipe a loss=..., and the data as pairs (inputs, target)",
        )
    if not bool(value.isfinite()):
        raise UnsupportedError(
            f"the loss of calibration input {at} is {value.item()}",
            why="the input, the target or the model's weights hold NaN or infinity",
            fix="look for them there; nothing was pruned",
        )
    return value


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, with every submodule called as such; all modes come back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # it reads weights past their modules' hooks
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode


def gradients(
    model: nn.Module,
    layers: Sequence[Layer],
    data: Iterable[object] | None,
    loss: Loss | None,
    who: str,
) -> Iterator[list[torch.Tensor]]:
    """For each batch, the loss's gradient by each layer's weight, as the layer sees the weight.

    Raises UnsupportedError as `batches` and `loss_of`, for a layer that the loss does not depend
    on, and for gradients that are not finite.
    """
    with evaluating(model), _requiring_grad(layers):
        for at, batch in batches(data, who):
            with torch.enable_grad(), parametrize.cached():
                value = loss_of(model, batch, loss, at)
                if not value.requires_grad:
                    raise UnsupportedError(
                        f"the loss of calibration input {at} depends on no weight",
                        why="the model or the loss detaches it, or runs under torch.no_grad()",
                        fix="give a differentiable loss",
                    )
                found = _gradients(value, layers)
            _check_finite(layers, found, at)
            yield found


def _gradients(loss: torch.Tensor, layers: Sequence[Layer]) -> list[torch.Tensor]:
    # every holder's own tensor: parametrized, a tied weight is computed once for each
    weights = [
        list({id(w): w for w in (getattr(h.module, h.tensor_name) for h in x.holders)}.values())
        for x in layers
    ]
    flat = [weight for group in weights for weight in group]
    parts = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    sums: list[torch.Tensor] = []
    unused: list[str] = []
    for layer, group in zip(layers, weights, strict=True):
        present = [g for g in (next(parts) for _ in group) if g is not None]
        if not present:
            unused.append(layer.name)
            continue
        sums.append(torch.stack(present).sum(0) if len(present) > 1 else present[0])
    if unused:
        raise UnsupportedError(
            f"the loss does not depend on {len(unused)} layer(s): {', '.join(unused[:10])}",
            fix="exclude them, or give data and a loss that use them",
        )
    return sums


def _check_finite(layers: Sequence[Layer], found: Sequence[torch.Tensor], at: int) -> None:
    bad = [x.name for x, g in zip(layers, found, strict=True) if not bool(g.isfinite().all())]
    if bad:
        raise UnsupportedError(
            f"calibration input {at} gives gradients that are not finite",
            node=", ".join(bad[:5]),
            why="activations, weights or the loss hold NaN or infinity",
            fix="look for them there; nothing was pruned",
        )


@contextmanager
def _requiring_grad(layers: Sequence[Layer]) -> Iterator[None]:
    """Frozen weights take gradients meanwhile."""
    originals = [original for layer in layers for original in layer.originals]
    flags = [original.requires_grad for original in originals]
    for original in originals:
        original.requires_grad_(True)
    try:
        yield
    finally:
        for original, flag in zip(originals, flags, strict=True):
            original.requires_grad_(flag)


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
