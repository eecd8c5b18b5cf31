"""Torch-Pruning and this compiler on the same masks: how many channels each takes out.

    python benchmarks/against_torch_pruning.py            # the table of docs/structure.md
    python benchmarks/against_torch_pruning.py bert resnet

Half of each group's channels is masked, on the small models of the tests. A channel counts where
the layer that writes it has no row for it any more. Torch-Pruning (`pip install torch-pruning`) is
given the channels group by group; a group after which the model no longer runs, or that takes more
than a minute of processor time, is put back. error: of its result against the masked model's,
relative to the largest number.
"""

import argparse
import copy
import importlib.util
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch.utils._pytree as pytree
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from sparse_compiler.analysis.channels.flow import analyse
from sparse_compiler.analysis.channels.groups import channel_groups
from sparse_compiler.inspector.coupled import traced
from tests.structure_zoo import masked_channels, unmasked

MODELS = (
    *("bert", "minilm", "distilbert", "roberta", "vit", "deit", "swin", "gpt2", "llama"),
    *("resnet18", "resnet", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "efficientnet"),
    *("convnext", "regnet", "segformer", "unet", "yolo", "vgg", "densenet"),
)
SECONDS = 60.0
"""Of processor time that a group may take."""

MISSING = "Torch-Pruning is not installed here: pip install torch-pruning==1.6.0"


def prepared(name):
    """(model, args, kwargs, [{layer: dead rows} for each group]), the rows zero."""
    model, args, kwargs = unmasked(name)
    groups = masked_channels(model, args, kwargs, 0.5)
    return model, args, kwargs, [g for g in groups if g]


def ours(model, args, kwargs, groups):
    """How many of the dead rows the analysis takes out of their layers."""
    graph, params = traced(model, args, kwargs)
    channels = analyse(graph, params)
    alive = {}
    for group in channel_groups(graph, params):
        for member in group.writers:
            mask = channels.alive[member.layer]
            dim = channels.sites[member.layer].node.op.channel_dim % mask.dim()
            others = [d for d in range(mask.dim()) if d != dim]
            size = channels.sites[member.layer].result.shape[dim]
            alive[source_of(graph, member.weight)] = mask.amax(others).expand(size)
    dead = [(weight, rows) for group in groups for weight, rows in group.items()]
    return sum(int((~alive[weight][rows]).sum()) for weight, rows in dead)


def source_of(graph, weight):
    """The parameter that a weight is a view of."""
    while weight in graph.producers:
        weight = graph.producers[weight].inputs[0]
    return weight


class Rival:
    """A model in Torch-Pruning's hands, and which rows of its layers are left."""

    def __init__(self, model, args, kwargs):
        self.model, self.args, self.kwargs = copy.deepcopy(model).requires_grad_(True), args, kwargs
        self.left = {}

    def run(self):
        with torch.no_grad():
            return self.model(*self.args, **self.kwargs)

    def prune(self, dead):
        """Takes out the rows of one group: weight's name -> rows of the model as it was."""
        import torch_pruning as tp

        graph = tp.DependencyGraph().build_dependency(
            self.model, (), forward_fn=lambda model, _: model(*self.args, **self.kwargs)
        )
        modules = dict(self.model.named_modules())
        paths = {module: path for path, module in modules.items()}
        for weight, rows in dead.items():
            path = weight.rpartition(".")[0]
            left = self.left.setdefault(path, list(range(rows_of(modules[path]))))
            places = [left.index(r) for r in rows.tolist() if r in left]
            if not places:
                continue
            function = graph.get_pruner_of_module(modules[path]).prune_out_channels
            group = graph.get_pruning_group(modules[path], function, idxs=places)
            if not graph.check_pruning_group(group):
                raise RuntimeError("would take out every channel of a layer")
            gone = {}  # a layer may come up more than once
            for dependency, indices in group:
                module = dependency.target.module
                writes = graph.is_out_channel_pruning_fn(dependency.handler)
                layer = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
                if layer and writes and module in paths:
                    gone.setdefault(module, set()).update(indices)
            for module, indices in gone.items():
                own = self.left.setdefault(paths[module], list(range(rows_of(module))))
                self.left[paths[module]] = [r for i, r in enumerate(own) if i not in indices]
            group.prune()

    def gone(self, groups):
        """How many of the dead rows their layers no longer have."""
        count = 0
        for group in groups:
            for weight, rows in group.items():
                left = self.left.get(weight.rpartition(".")[0])
                count += 0 if left is None else sum(r not in set(left) for r in rows.tolist())
        return count


def rows_of(module):
    """Output channels of a layer."""
    if hasattr(module, "out_channels"):
        return module.out_channels
    weight = getattr(module, "weight", None)
    return len(weight) if weight is not None else 0


def give_up(signum, frame):
    """Ends a group that takes too long."""
    raise TimeoutError(f"no end after {SECONDS:.0f} s")


def theirs(model, args, kwargs, groups):
    """(rows taken out, error of the result, groups given up, the first reason)."""
    state, failed, reason = Rival(model, args, kwargs), 0, ""
    for group in groups:
        attempt = copy.deepcopy(state)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            attempt.prune(group)
            attempt.run()
        except Exception as error:  # noqa: BLE001  whatever a tool of others may raise is its result here
            failed += 1
            reason = reason or f"{type(error).__name__}: {error}".splitlines()[0][:90]
            continue
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        state = attempt
    error = distance(state.run(), model(*args, **kwargs))
    return state.gone(groups), error, failed, reason


def distance(got, expected):
    """max|a - b| / max|b|, the largest of all results; infinite where shapes differ."""
    worst = 0.0
    for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True):
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            if a.shape != b.shape:
                return float("inf")
            worst = max(worst, float((a - b).abs().max() / b.abs().max()))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, give_up)
    present = importlib.util.find_spec("torch_pruning") is not None
    if not present:
        print(MISSING, file=sys.stderr)
    print("| model | masked | ours | Torch-Pruning | its error | groups it gave up, and why |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in options.models:
        model, args, kwargs, groups = prepared(name)
        total = sum(len(rows) for group in groups for rows in group.values())
        line = f"| {name} | {total} | {ours(model, args, kwargs, groups)} |"
        if present:
            gone, error, failed, reason = theirs(model, args, kwargs, groups)
            why = f"{failed} of {len(groups)}: `{reason}`" if failed else "none"
            line += f" {gone} | {error:.0e} | {why} |"
        else:
            line += " | | |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
