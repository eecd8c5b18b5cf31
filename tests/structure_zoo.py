"""Masked models of the zoo, and how far the compiled ones are from them.

    python -m tests.structure_zoo            # the table of docs/structure.md, all models
    python -m tests.structure_zoo bert vit

error = max|compiled - masked| / max|masked|, the largest over the results of a model. Allowed are
1e-5, or four times eager's own distance from float64 where that is more.
"""

import argparse
import copy
import sys
import time
import warnings

import torch
import torch.utils._pytree as pytree
from torch import nn

import sparse_compiler as sc
from sparse_compiler.analysis.channels.groups import channel_groups
from sparse_compiler.frontends.export import export_module
from tests.models import zoo
from tests.zoo.base import settled

ZOO = zoo()
SHARES = (0.1, 0.5, 0.9)
KINDS = ("groups", "layers")
MODES = ("zeros", "reflect", "replicate")
BOUND = 1e-5


def unmasked(name):
    """A model of the zoo and its arguments, with random statistics and biases."""
    model, args, kwargs = ZOO[name](2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        settled(model)
        for key, tensor in model.named_parameters():
            if key.endswith("bias") and not tensor.any():
                nn.init.normal_(tensor, 0.0, 0.1)
    return model, args, kwargs


def masked(name, share, kind="layers", mode="zeros"):
    """A model of the zoo with random statistics and biases, and zeros in a share of the filters.

    kind: "layers" masks other filters in each layer, "groups" the same channels in all layers of a
    group. mode: how the convolutions pad, where the image is large enough for it.
    """
    model, args, kwargs = unmasked(name)
    if mode != "zeros":
        pad_with(model, mode, args, kwargs)
    if kind == "groups":
        masked_channels(model, args, kwargs, share)
    else:
        mask_layers(model, share)
    return model, args, kwargs


def mask_layers(model, share):
    """Zeros in a share of every layer's filters, each its own."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            continue
        dim = 1 if getattr(module, "transposed", False) else 0
        count = module.weight.shape[dim]
        dead = torch.randperm(count, generator=generator)[: int(count * share)]
        module.weight.data.index_fill_(dim, dead, 0.0)


def masked_channels(model, args, kwargs, share):
    """Zeros in the filters of a share of each group's channels, in all layers that write them; for
    each group the rows that are zero now, by the weight's name.
    """
    imported = export_module(model, args, kwargs).imported
    graph = imported.graph
    params = {name: t.detach() for name, t in imported.params.items()}
    generator = torch.Generator().manual_seed(0)
    found = []
    for group in channel_groups(graph, params):
        dead = torch.zeros(group.size, dtype=torch.bool)
        dead[torch.randperm(group.size, generator=generator)[: int(group.size * share)]] = True
        rows = {}
        for member in group.writers:
            weight, dim = member.weight, member.dim
            if weight not in params:  # a transposed parameter, as GPT-2 has them
                weight, dim = graph.producers[weight].inputs[0], 1
            if group.fixed or member.dim != 0 or weight not in params:
                continue
            rows[weight] = member.index[dead[member.channel]]
            params[weight].index_fill_(dim, rows[weight], 0.0)
        found.append(rows)
    return found


def padded_layers(model):
    """The convolutions of images that pad."""
    found = [m for m in model.modules() if type(m) is nn.Conv2d and not isinstance(m.padding, str)]
    return [m for m in found if any(m.padding)]


def pad_with(model, mode, args, kwargs):
    """Sets the padding mode of the convolutions whose input is larger than its padding."""
    sizes = {}

    def note(module, inputs):
        sizes[module] = inputs[0].shape[-2:]

    layers = padded_layers(model)
    hooks = [m.register_forward_pre_hook(note) for m in layers]
    with torch.no_grad():
        model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    for module in layers:
        if all(p < n for p, n in zip(module.padding, sizes.get(module, (0, 0)), strict=True)):
            module.padding_mode = mode


def floats(tree, kind=torch.float32):
    leaves = pytree.tree_leaves(tree)
    return [t.to(kind) for t in leaves if isinstance(t, torch.Tensor) and t.is_floating_point()]


def _double(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    return value


def distances(got, expected, model, args, kwargs):
    """(error, what is allowed) for each result of floats."""
    with torch.no_grad():
        wide = copy.deepcopy(model).double()
        exact = wide(*pytree.tree_map(_double, args), **pytree.tree_map(_double, kwargs))
    found = []
    pairs = zip(floats(got), floats(expected), floats(exact, torch.float64), strict=True)
    for a, b, c in pairs:
        assert a.shape == b.shape
        own = float((b.double() - c).abs().max() / c.abs().max().clamp_min(1e-30))
        error = float((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-30))
        found.append((error, max(BOUND, 4 * own)))
    return found


def assert_close(got, expected, model, args, kwargs):
    """Within 1e-5, or four times eager's own error."""
    for error, allowed in distances(got, expected, model, args, kwargs):
        assert error <= allowed


def compiled_distances(name, share, kind="layers", mode="zeros"):
    """(error, allowed) of each result of the compiled model, all of it native."""
    model, args, kwargs = masked(name, share, kind, mode)
    with torch.no_grad():
        expected = model(*args, **kwargs)
        fast = sc.compile(model, args, kwargs, options={"force_native": True})
        return distances(fast(*args, **kwargs), expected, model, args, kwargs)


def cases(name):
    """(share, kind, mode) of a model: the other modes for those that pad images."""
    padding = bool(padded_layers(ZOO[name](2)[0]))
    other = ((0.5, "reflect"), (0.9, "replicate")) if padding else ()
    zeros = [(share, "groups", "zeros") for share in SHARES]
    return [*zeros, *((share, "groups", mode) for share, mode in other)]


def main():
    """Prints a line of the table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(ZOO))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shown = "".join(f" {int(100 * share)} % |" for share in SHARES)
    print(f"| model | cases |{shown} allowed |", flush=True)
    print("| --- | --- |" + " --- |" * (len(SHARES) + 1), flush=True)
    for name in options.models:
        began = time.perf_counter()
        worst, allowed, count = dict.fromkeys(SHARES, 0.0), BOUND, 0
        for share, kind, mode in cases(name):
            for error, limit in compiled_distances(name, share, kind, mode):
                if error > limit:
                    print(f"FAILED {name} {share} {kind} {mode}: {error:.1e} > {limit:.1e}")
                worst[share], allowed = max(worst[share], error), max(allowed, limit)
            count += 1
        errors = "".join(f" {worst[share]:.1e} |" for share in SHARES)
        print(f"| {name} | {count} |{errors} {allowed:.0e} |", flush=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
