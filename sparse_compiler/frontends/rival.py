"""Under `torch.compile(mode="max-autotune")`: our hosted program against frozen Inductor.

Dynamo's guards hold the shapes, and notice a weight that was replaced; a weight written to in place
is noticed here, at each call, and the frozen code dropped for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._guards import tracing
from torch.utils._python_dispatch import _disable_current_modes

from ..ir.refusal import No
from ..runtime.pipeline import Lowered
from ..runtime.weights import LiveWeights
from .contest import EAGER, INDUCTOR, OURS, Outcome, contest, least_dense_ms
from .dynamo import StaticInput, guard_identity
from .frozen import Frozen, freeze, with_attributes


class Guarded:
    """Frozen code while its weights stand still, our program from their first change on.

    kept: positions of the inputs that frozen code takes.
    """

    def __init__(
        self,
        frozen: Frozen,
        ours: Callable[..., Any],
        kept: Sequence[int],
        weights: LiveWeights,
    ) -> None:
        self._frozen: Frozen | None = frozen
        self._ours, self._kept, self._weights = ours, tuple(kept), weights

    def __call__(self, *args: Any) -> Any:
        frozen = self._frozen
        if frozen is None:
            return self._ours(*args)
        if self._weights.changed():
            self._frozen = None
            return self._ours(*args)
        inputs = [args[i] for i in self._kept]
        return frozen.run(*inputs) if frozen.fits(inputs) else self._ours(*args)


def settle(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    ours: Callable[..., Any],
    statics: Mapping[int, StaticInput],
    lowered: Lowered,
    lock: Path | None = None,
) -> tuple[Callable[..., Any], Outcome]:
    """What Dynamo is to call, and how the contest ended. Call it while Dynamo compiles."""
    if not all(isinstance(x, torch.Tensor) for x in example_inputs):
        reason = No("dynamic_dim", "frozen Inductor is asked for fixed sizes only")
        return ours, Outcome(OURS, {}, reason)
    module, kept = with_attributes(gm, {i: s.tensor for i, s in statics.items()})
    with _disable_current_modes(), tracing(None), torch.no_grad():
        arguments = [x.detach() for x in example_inputs]
        inputs = [arguments[i] for i in kept]
        outcome = contest(
            lambda: ours(*arguments),
            lambda: gm(*arguments),
            lambda: freeze(module, inputs),
            inputs,
            least_dense_ms(lowered),
            lock,
        )
    if outcome.winner == EAGER:
        return gm.forward, outcome
    if outcome.winner != INDUCTOR or outcome.frozen is None:
        return ours, outcome
    guard_identity(statics.values())
    weights = LiveWeights({f"{i}": s.tensor for i, s in statics.items()})
    winner = Guarded(outcome.frozen, ours, kept, weights)
    return winner, replace(outcome, frozen=None)
