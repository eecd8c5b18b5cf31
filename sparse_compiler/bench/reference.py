"""Makes a case: builds and prunes the model once, runs it in eager mode, exports it to ONNX.

Runs as a process of its own. Leaves in the case's folder model.safetensors, inputs.npz,
reference.npz and model.onnx: the same weights, inputs and truth for every engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.utils import parametrize

from sparse_compiler.pruning import Magnitude, sparsify
from sparse_compiler.pruning.layers import Layer, find_layers
from sparse_compiler.pruning.patterns import parse_pattern

from .case import Case
from .guest.serve import answer
from .layers import parse_layer
from .models import Inputs, build_model, calibrate_batch_norms, load_module, model_named
from .work import count_work

OPSET = 17  # the newest that DeepSparse 1.8 reads
SMALLEST = 4096


def pruned_layers(module: nn.Module, case: Case) -> list[Layer]:
    """Linears and convolutions that fit the pattern; what a case's sparsity speaks of.

    In a model those of 4096 weights or more but the first convolution; a layer alone always.
    """
    pattern = parse_pattern(case.pattern)
    layers = list(find_layers(module))
    if parse_layer(case.model) is None:
        layers = [x for x in layers if x.weight.numel() >= SMALLEST and not x.first_conv]
    return [x for x in layers if not pattern.misfit(x.view.rows, x.view.columns)]


def prune(module: nn.Module, case: Case) -> None:
    """Plain zeros, the same for every engine: masks are folded into the weights at once."""
    if case.sparsity == 0:
        return
    names = tuple(layer.name for layer in pruned_layers(module, case))
    recipe = Magnitude(
        case.sparsity, case.pattern, include=names, min_weights=0, keep_first_conv=False
    )
    sparsify(module, recipe, inplace=True)
    for child in module.modules():
        if parametrize.is_parametrized(child, "weight"):
            parametrize.remove_parametrizations(child, "weight")


class Reference:
    """The commands that the parent sends, in this order."""

    def build(self, case: dict[str, Any], folder: str) -> dict[str, Any]:
        """Model, inputs and eager's outputs into `folder`; what the model amounts to."""
        self._case, self._folder = Case(**case), Path(folder)
        torch.set_num_threads(self._case.threads)
        torch.set_grad_enabled(False)
        spec = model_named(self._case.model)
        module = build_model(self._case)
        inputs = spec.inputs(self._case)
        prune(module, self._case)
        calibrate_batch_norms(module, inputs)
        module = module.to(getattr(torch, self._case.dtype)).requires_grad_(False)
        save_model(module, str(self._folder / "model.safetensors"))
        feed: dict[str, Any] = {name: tensor.numpy() for name, tensor in inputs.items()}
        np.savez(self._folder / "inputs.npz", **feed)
        return self._run(module, inputs)

    def export(self) -> dict[str, Any]:
        """The saved model as model.onnx in the folder (the tracing exporter)."""
        module = load_module(self._case, self._folder)
        inputs = model_named(self._case.model).inputs(self._case)
        path = self._folder / "model.onnx"
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["y"],
        )
        return {"bytes": path.stat().st_size}

    def _run(self, module: nn.Module, inputs: Inputs) -> dict[str, Any]:
        floats = getattr(torch, self._case.dtype)
        cast = [t.to(floats) if t.is_floating_point() else t for t in inputs.values()]
        result = torch.utils._pytree.tree_leaves(module(*cast))
        outputs: dict[str, Any] = {f"out{i}": t.float().numpy() for i, t in enumerate(result)}
        np.savez(self._folder / "reference.npz", **outputs)
        weights = [layer.weight for layer in pruned_layers(module, self._case)]
        zeros = sum(int((w == 0).sum()) for w in weights)
        total = sum(w.numel() for w in weights)
        return {
            "work": count_work(module, cast, result),
            "pruned_weights": total,
            "actual_sparsity": zeros / total if total else 0.0,
            "finite": all(bool(t.isfinite().all()) for t in result),
        }


if __name__ == "__main__":
    answer(Reference())
