"""What sparsity is worth: counts, arithmetic, bytes, and accuracy per weight that is left.

Definitions follow Hoefler, Alistarh, Ben-Nun, Dryden, Peste: Sparsity in Deep Learning, JMLR 2021,
arXiv:2102.00554, where it has one; each is stated as a formula beside its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.formats.base import FORMATS, candidates
from sparse_compiler.pruning.calibration import call, evaluating
from sparse_compiler.pruning.layers import Layer, find_layers


@dataclass(frozen=True)
class LayerMetrics:
    """A linear or convolution weight of m · k = `weights` numbers.

    nonzeros: that are not 0. effective: of these, how many lie on a way from an input of the model
    to an output; None where nobody looked. positions: how often each weight is used in the call
    that was measured (tokens, pixels of the output, times samples); None without one.
    bytes: the smallest ideal size among our formats, values and indices (`format` names it).
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzeros: int
    effective: int | None
    positions: int | None
    dense_bytes: int
    bytes: int
    format: str

    @property
    def sparsity(self) -> float:
        """Direct sparsity: 1 - nonzeros / weights."""
        return 1.0 - self.nonzeros / max(self.weights, 1)

    @property
    def effective_sparsity(self) -> float | None:
        """1 - effective / weights."""
        return None if self.effective is None else 1.0 - self.effective / max(self.weights, 1)

    @property
    def flops(self) -> int | None:
        """2 · nonzeros · positions: a multiplication and an addition each."""
        return None if self.positions is None else 2 * self.nonzeros * self.positions

    @property
    def dense_flops(self) -> int | None:
        """2 · weights · positions."""
        return None if self.positions is None else 2 * self.weights * self.positions


@dataclass(frozen=True)
class Metrics:
    """Sums over `layers`, the linear and convolution weights, each once however often it is tied.

    other_nonzeros, other_bytes: of all other parameters (embeddings, norms, biases), kept dense.
    """

    layers: tuple[LayerMetrics, ...]
    other_nonzeros: int
    other_bytes: int

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Of the layers and all other parameters: what accuracy is divided by."""
        return sum(layer.nonzeros for layer in self.layers) + self.other_nonzeros

    @property
    def sparsity(self) -> float:
        """Direct sparsity of the layers: 1 - Σ nonzeros / Σ weights."""
        return 1.0 - sum(layer.nonzeros for layer in self.layers) / max(self.weights, 1)

    @property
    def effective_sparsity(self) -> float | None:
        """1 - Σ effective / Σ weights: non-zeros that read a constant or that nobody reads do not
        count. Vysogorets, Kempe: Connectivity Matters, JMLR 2023, arXiv:2107.02306.
        """
        counts = [layer.effective for layer in self.layers if layer.effective is not None]
        if len(counts) < len(self.layers):
            return None
        return 1.0 - sum(counts) / max(self.weights, 1)

    @property
    def flops(self) -> int | None:
        """Σ 2 · nonzeros · positions, of the layers alone."""
        return _total([layer.flops for layer in self.layers])

    @property
    def dense_flops(self) -> int | None:
        """Σ 2 · weights · positions, of the layers alone."""
        return _total([layer.dense_flops for layer in self.layers])

    @property
    def bytes(self) -> int:
        """Each layer in its smallest format, values and indices without padding, and the rest."""
        return sum(layer.bytes for layer in self.layers) + self.other_bytes

    @property
    def dense_bytes(self) -> int:
        return sum(layer.dense_bytes for layer in self.layers) + self.other_bytes

    def accuracy_density(self, accuracy: float) -> float:
        """accuracy / nonzeros, per million: how much each weight that is left contributes.

        Bianco, Cadene, Celona, Napoletano: Benchmark Analysis of Representative Deep Neural Network
        Architectures, IEEE Access 2018, arXiv:1810.00736, with non-zeros for parameters.
        """
        return 1e6 * accuracy / max(self.nonzeros, 1)

    def json(self) -> dict[str, Any]:
        """All figures, plain values only."""
        names = ("weights", "nonzeros", "sparsity", "effective_sparsity", "flops", "dense_flops")
        totals = {name: getattr(self, name) for name in (*names, "bytes", "dense_bytes")}
        return totals | {"layers": [asdict(layer) for layer in self.layers]}

    def text(self) -> str:
        """A table: a line for each layer, and the sums."""
        table = Table(box=None, pad_edge=False)
        table.add_column("layer", no_wrap=True)
        for title in ("weight", "sparsity", "effective", "MFLOP", "dense", "kB", "dense", "format"):
            table.add_column(title, justify="right" if title != "format" else "left")
        for x in self.layers:
            shape = "x".join(map(str, x.shape))
            table.add_row(x.name, shape, *_figures(x), x.format)
        total = "all, others too" if self.other_bytes else "all"
        table.add_row(total, "", *_figures(self), "")
        console = Console(width=max(80, 100 + max(map(len, [x.name for x in self.layers] or [""]))))
        with console.capture() as captured:
            console.print(table)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())


def metrics(
    model: nn.Module, example: object = None, *, effective: Mapping[str, int] | None = None
) -> Metrics:
    """Counts, arithmetic and bytes of `model`, masks applied.

    example: an input as for calibration (a tensor, a tuple of arguments or a dict), on which the
    model is run once to count positions; without it there are no FLOPs. effective: layer ->
    effective non-zeros, as `sparse_compiler.metrics` finds them.

    Raises UnsupportedError for a model without linear or convolution layers, or which does not
    take the example.
    """
    layers = list(find_layers(model))
    if not layers:
        raise UnsupportedError(
            f"a {type(model).__name__} has no linear or convolution layer",
            fix="give a model that has one",
        )
    positions = _positions(model, layers, example) if example is not None else {}
    counted = {id(original) for layer in layers for original in layer.originals}
    others = [p for p in model.parameters() if id(p) not in counted]
    return Metrics(
        tuple(
            _layer(layer, positions.get(at, 0) if positions else None, effective)
            for at, layer in enumerate(layers)
        ),
        sum(int(p.count_nonzero()) for p in others),
        sum(p.numel() * p.element_size() for p in others),
    )


def parameter_slack(
    points: Iterable[tuple[float, float]], dense: tuple[float, float], drop: float
) -> float:
    """How much can be removed at no more than a stated loss of accuracy:

        slack = 1 - min { nonzeros : accuracy >= dense accuracy - drop } / dense nonzeros

    points: (nonzeros, accuracy) of pruned models; dense: of the dense one, which is a point too, so
    slack is at least 0. drop: absolute, 0.01 for one point of accuracy. Measured points only,
    nothing between them is assumed.

    Raises UnsupportedError for a drop below 0.
    """
    if not drop >= 0:
        raise UnsupportedError(f"an accuracy drop of {drop}", fix="give one >= 0, such as 0.01")
    nonzeros, accuracy = dense
    enough = [n for n, a in (*points, dense) if a >= accuracy - drop]
    return max(0.0, 1.0 - min(enough) / nonzeros)


def _layer(
    layer: Layer, positions: int | None, effective: Mapping[str, int] | None
) -> LayerMetrics:
    weight, view = layer.values, layer.view
    nonzeros, bits = int(weight.count_nonzero()), layer.weight.element_size() * 8
    found = None if effective is None else effective.get(layer.name)
    facts = sparsity_facts(view.matrix(weight))
    sizes = {name: FORMATS[name].ideal_bits_of(facts, bits) for name in candidates(facts)}
    smallest = min(sizes, key=sizes.__getitem__)
    return LayerMetrics(
        layer.name,
        tuple(weight.shape),
        weight.numel(),
        nonzeros,
        found,
        positions,
        weight.numel() * bits // 8,
        math.ceil(sizes[smallest] / 8),
        smallest,
    )


def _positions(model: nn.Module, layers: list[Layer], example: object) -> dict[int, int]:
    """Position of a layer -> how often its weight is used."""
    counts = dict.fromkeys(range(len(layers)), 0)

    def hook_of(at: int) -> Any:
        def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            counts[at] += output.numel() // max(layers[at].view.rows, 1)

        return hook

    handles = [
        module.register_forward_hook(hook_of(at))
        for at, layer in enumerate(layers)
        for module in layer.modules
    ]
    try:
        with torch.no_grad(), evaluating(model):
            call(model, example, 0)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _total(parts: list[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _figures(x: LayerMetrics | Metrics) -> tuple[str, ...]:
    return (
        f"{x.sparsity:.1%}",
        "" if x.effective_sparsity is None else f"{x.effective_sparsity:.1%}",
        "" if x.flops is None else f"{x.flops / 1e6:,.2f}",
        "" if x.dense_flops is None else f"{x.dense_flops / 1e6:,.2f}",
        f"{x.bytes / 1e3:,.1f}",
        f"{x.dense_bytes / 1e3:,.1f}",
    )
