"""Calls of a layer's function, in a traced graph, as calls of the standard module."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

_CONV: dict[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {
    3: nn.ConvTranspose1d,
    4: nn.ConvTranspose2d,
    5: nn.ConvTranspose3d,
}
_BATCH_NORM: dict[int, Callable[..., nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def place(root: nn.Module, path: str, tensor: torch.Tensor, trained: bool = True) -> None:
    """Puts a tensor at a dotted path, as a parameter where it is one that a user would train."""
    *owners, leaf = path.split(".")
    owner = root
    for name in owners:
        if not hasattr(owner, name):
            owner.add_module(name, nn.Module())
        owner = getattr(owner, name)
    tensor = tensor.detach().clone().contiguous()
    statistic = leaf.startswith(("running_", "num_batches"))
    if (tensor.is_floating_point() and not statistic and leaf in ("weight", "bias")) or (
        trained and tensor.is_floating_point() and not statistic
    ):
        owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        owner.register_buffer(leaf, tensor)


def layer_call(module: fx.GraphModule, node: fx.Node) -> bool:
    """Makes a node a call of a standard layer, if its weights are tensors of one module."""
    rule = _RULES.get(str(node.target))
    arguments = _arguments(node)
    if rule is None or arguments is None:
        return False
    attrs = {k: a for k, a in arguments.items() if isinstance(a, fx.Node) and a.op == "get_attr"}
    paths = {k: str(a.target) for k, a in attrs.items()}
    owners = {path.rpartition(".")[0] for path in paths.values()}
    if len(owners) != 1 or not paths.get("weight"):
        return False
    (owner,) = owners
    tensors = {k: operator.attrgetter(p)(module) for k, p in paths.items()}
    layer = rule(arguments, tensors)
    if layer is None or any(paths[k].rpartition(".")[2] != k for k in paths):
        return False
    existing = module.get_submodule(owner) if owner else None
    if existing is None or (type(existing) is not nn.Module and str(existing) != str(layer)):
        return False
    if type(existing) is nn.Module:
        if list(existing.children()):
            return False
        for key, tensor in tensors.items():
            if key in layer._parameters or key in ("weight", "bias"):
                layer.register_parameter(key, _parameter(tensor))
            else:
                layer._buffers[key] = tensor
        module.set_submodule(owner, layer.eval())
    source = arguments["indices" if "indices" in arguments else "input"]
    with module.graph.inserting_before(node):
        call = module.graph.call_module(owner, (source,))
    call.meta = node.meta
    for user in list(node.users):  # of several results, where only the first is read
        if user.target is operator.getitem:
            user.replace_all_uses_with(call)
            module.graph.erase_node(user)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)
    return True


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)


def _arguments(node: fx.Node) -> dict[str, Any] | None:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    found = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    found |= {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
    return found | dict(node.kwargs)


def _linear(a: dict[str, Any], t: dict[str, torch.Tensor]) -> nn.Module:
    rows, columns = t["weight"].shape
    return nn.Linear(columns, rows, "bias" in t, device="meta", dtype=t["weight"].dtype)


def _conv(a: dict[str, Any], t: dict[str, torch.Tensor]) -> nn.Module | None:
    weight, groups = t["weight"], a["groups"]
    settings: dict[str, Any] = {
        "bias": "bias" in t,
        "device": "meta",
        "dtype": weight.dtype,
        "groups": groups,
    }
    settings |= {key: tuple(a[key]) for key in ("stride", "dilation", "padding")}
    kernel: Any = tuple(weight.shape[2:])
    if a["transposed"]:
        settings["output_padding"] = tuple(a["output_padding"])
        outputs = weight.shape[1] * groups
        return _TRANSPOSED[weight.dim()](weight.shape[0], outputs, kernel, **settings)
    inputs = weight.shape[1] * groups
    return _CONV[weight.dim()](inputs, weight.shape[0], kernel, **settings)


def _batch_norm(a: dict[str, Any], t: dict[str, torch.Tensor]) -> nn.Module | None:
    rank = a["input"].meta["val"].dim()
    if "running_mean" not in t or a.get("training") or "bias" not in t:
        return None
    size = t["weight"].shape[0]
    layer = _BATCH_NORM[rank](size, eps=a["eps"], device="meta", dtype=t["weight"].dtype)
    layer.register_buffer("num_batches_tracked", torch.tensor(0))
    return layer


def _layer_norm(a: dict[str, Any], t: dict[str, torch.Tensor]) -> nn.Module:
    shape, dtype = tuple(a["normalized_shape"]), t["weight"].dtype
    return nn.LayerNorm(shape, eps=a["eps"], bias="bias" in t, device="meta", dtype=dtype)


def _rms_norm(a: dict[str, Any], t: dict[str, torch.Tensor]) -> nn.Module:
    shape, dtype = tuple(a["normalized_shape"]), t["weight"].dtype
    return nn.RMSNorm(shape, eps=a["eps"], device="meta", dtype=dtype)


def _group_norm(a: dict[str, Any], t: dict[str, torch.Tensor]) -> nn.Module | None:
    size, dtype = t["weight"].shape[0], t["weight"].dtype
    if "bias" not in t:
        return None
    return nn.GroupNorm(a["num_groups"], size, eps=a["eps"], device="meta", dtype=dtype)


def _embedding(a: dict[str, Any], t: dict[str, torch.Tensor]) -> nn.Module:
    rows, columns = t["weight"].shape
    return nn.Embedding(rows, columns, device="meta", dtype=t["weight"].dtype)


_Make = Callable[[dict[str, Any], dict[str, torch.Tensor]], "nn.Module | None"]

_RULES: dict[str, _Make] = {
    "aten.linear.default": _linear,
    "aten.convolution.default": _conv,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten.group_norm.default": _group_norm,
    "aten.embedding.default": _embedding,
}
