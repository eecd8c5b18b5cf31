"""How a model is called, as plain values for a saved model's manifest, and back.

A tree is nested: null for a leaf, `{"tuple": [...]}`, `{"list": [...]}`, `{"dict": [[key, ...]]}`,
or with a "class" beside it for one that torch can flatten into named fields. Where such a class is
not known when the file is loaded, its result comes as a dict.
"""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch.utils import _pytree as pytree

from ..errors import ArtifactError, UnsupportedError
from ..ir.attrs import parse_attr, print_attr
from ..ir.types import TensorType
from .export import CallSpec, Constant, Size

_DEEPEST = 64


def store_call(call: CallSpec) -> dict[str, Any]:
    """The call as plain values. Raises `UnsupportedError` on a structure without a text form."""
    return {
        "arguments": _tree(call.in_spec),
        "results": _tree(call.out_spec),
        "inputs": list(call.inputs),
        "fixed": {str(place): print_attr(value) for place, value in call.fixed.items()},
        "outputs": [_output(output) for output in call.outputs],
    }


def read_call(stored: Any, types: tuple[TensorType, ...], outputs: int) -> CallSpec:
    """The call of a graph with these inputs and so many outputs. Raises `ArtifactError`."""
    if not isinstance(stored, dict):
        raise ArtifactError("the manifest does not say how the model is called")
    in_spec = pytree.tree_structure(_example(stored.get("arguments"), 0))
    out_spec = pytree.tree_structure(_example(stored.get("results"), 0))
    inputs, fixed, leaves = stored.get("inputs"), stored.get("fixed"), stored.get("outputs")
    if not isinstance(inputs, list) or not isinstance(fixed, dict) or not isinstance(leaves, list):
        raise ArtifactError("inputs, constants or outputs of the call are missing")
    constants = {_place(place): _constant(text) for place, text in fixed.items()}
    places = sorted([*filter(_is_count, inputs), *constants])
    takes_args = in_spec.type is tuple and in_spec.num_children == 2
    if not takes_args or places != list(range(in_spec.num_leaves)) or len(inputs) != len(types):
        raise ArtifactError("the arguments of the call are not those of the graph")
    if len(leaves) != out_spec.num_leaves:
        raise ArtifactError("the results of the call do not fill their structure")
    results = tuple(_leaf(leaf, outputs) for leaf in leaves)
    return CallSpec(in_spec, out_spec, tuple(inputs), constants, results, types)


def _tree(spec: Any) -> Any:
    if spec.is_leaf():
        return None
    children = [_tree(child) for child in spec.children()]
    if spec.type in (tuple, list, torch.Size):
        return {"list" if spec.type is list else "tuple": children}
    keys = spec.context
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UnsupportedError(
            f"a {spec.type.__name__} among arguments or results cannot be saved",
            why="it does not flatten into fields with names",
            fix="let the model take and return tensors, tuples, lists and dicts",
        )
    fields = [list(pair) for pair in zip(keys, children, strict=True)]
    if spec.type is dict:
        return {"dict": fields}
    name = pytree.SUPPORTED_SERIALIZED_TYPES[spec.type].serialized_type_name
    return {"dict": fields, "class": name}


def _example(tree: Any, depth: int) -> Any:
    """An object of that structure."""
    if tree is None:
        return 0
    if depth > _DEEPEST:
        raise ArtifactError("the structure of the call is nested without end")
    match tree:
        case {"tuple": list(items)}:
            return tuple(_example(item, depth + 1) for item in items)
        case {"list": list(items)}:
            return [_example(item, depth + 1) for item in items]
        case {"dict": list(pairs)}:
            fields = dict(_field(pair, depth) for pair in pairs)
            return _object(tree.get("class"), fields)
    raise ArtifactError(f"{str(tree)[:60]!r} is no structure of arguments")


def _field(pair: Any, depth: int) -> tuple[str, Any]:
    match pair:
        case [str(key), item]:
            return key, _example(item, depth + 1)
    raise ArtifactError(f"{str(pair)[:60]!r} is no field of arguments or results")


def _object(name: Any, fields: dict[str, Any]) -> Any:
    """One of a class that torch can flatten; a dict of the same fields where it is not known."""
    known = isinstance(name, str) and not name.startswith(("builtins.", "collections.", "torch."))
    kind = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name) if known else None
    if kind is None or kind not in pytree.SUPPORTED_NODES:
        return fields
    return pytree.SUPPORTED_NODES[kind].unflatten_fn(list(fields.values()), list(fields))


def _output(output: int | Constant | Size) -> Any:
    match output:
        case Constant(value=value):
            return {"constant": print_attr(value)}
        case Size(value=value):
            return {"size": print_attr(value)}
        case index:
            return index


def _leaf(leaf: Any, outputs: int) -> int | Constant | Size:
    match leaf:
        case {"constant": str(text)}:
            return Constant(_constant(text))
        case {"size": str(text)}:
            return Size(sympy.sympify(_constant(text)))
        case int(index) if _is_count(index) and index < outputs:
            return index
    raise ArtifactError(f"{str(leaf)[:60]!r} is no result of the graph")


def _constant(text: Any) -> Any:
    if not isinstance(text, str):
        raise ArtifactError(f"{str(text)[:60]!r} is no constant")
    return parse_attr(text)


def _place(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ArtifactError(f"{text[:60]!r} is no place of an argument")
    return int(text)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
