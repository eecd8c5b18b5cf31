"""Live parameters: notices what changed, and computes what depends on weights alone.

An in-place change bumps a tensor's `_version`; a replaced parameter or module is another object in
the same slot. Both are compared at each call, about 100 ns a tensor. Writes through `.data` bypass
the version counter: `refit()` is for those.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any

import torch

from ..errors import InputError
from ..ir.graph import Graph, Node
from ..ir.interpret import run_node
from ..ir.types import tensor_type
from ..ops.cat import Cat
from ..ops.pack import Pack

_VERSION, _WANTS_GRAD = attrgetter("_version"), attrgetter("requires_grad")


def wants_grad(tensors: Iterable[Any]) -> bool:
    """True if any of them, all tensors or not, asks for gradients."""
    try:
        return True in map(_WANTS_GRAD, tensors)
    except AttributeError:  # not all are tensors, which is for a later check to refuse
        return False


class LiveWeights:
    """The tensors behind a graph's parameters, by name."""

    def __init__(
        self, params: Mapping[str, torch.Tensor], module: torch.nn.Module | None = None
    ) -> None:
        self.module = module
        self.tensors = dict(params)
        self._aliases = {} if module is None else _aliases(module, self.tensors)
        self._slots: tuple[Sequence[dict[str, Any]], Sequence[str], Sequence[Any]] = (), (), ()
        self._versions: tuple[list[torch.Tensor], list[int]] = [], []
        self.trackable = True
        """False where a parameter was made in inference mode and has no version."""
        self._untied: list[str] = []
        self.mark()

    def mark(self) -> None:
        """Takes the present state as known, and finds replaced parameters again."""
        if self.module is not None:
            slots, found = _slots(self.module, {**self.tensors, **self._aliases})
            holders, keys, values = zip(*slots, strict=True) if slots else ((), (), ())
            self._slots = holders, keys, values
            self.tensors |= {name: found[name] for name in self.tensors if name in found}
            self._untied = [n for n, of in self._aliases.items() if found.get(n) is not found[of]]
        self.trackable = not any(t.is_inference() for t in self.tensors.values())
        watched = list(self.tensors.values()) if self.trackable else []
        self._versions = watched, list(map(_VERSION, watched))

    def mark_written(self, names: Iterable[str]) -> None:
        """Takes the present state of these as known, which the graph itself has written."""
        watched, versions = self._versions
        written = {id(self.tensors[name]) for name in names if name in self.tensors}
        pairs = zip(watched, versions, strict=True)
        known = [t._version if id(t) in written else v for t, v in pairs]
        self._versions = watched, known

    def changed(self) -> bool:
        """True if a parameter was replaced or written to since `mark`."""
        holders, keys, values = self._slots
        watched, versions = self._versions
        same = all(map(is_, map(dict.get, holders, keys), values))
        return not same or list(map(_VERSION, watched)) != versions

    def check(self, graph: Graph) -> None:
        """Raises `InputError` where the weights are no longer those that `graph` was made for."""
        fix = "compile the model again"
        for param in graph.params:
            tensor = self.tensors[param.name]
            if tensor_type(tensor) != param.type:
                raise InputError(
                    f"the parameter {param.name} is now {tensor.dtype} {list(tensor.shape)}",
                    why=f"the model was compiled for {param.type.dtype} {list(param.type.shape)}",
                    fix=fix,
                )
        if self._untied:
            name = self._untied[0]
            raise InputError(
                f"the parameters {name} and {self._aliases[name]} are two now",
                why="the model was compiled while they were one",
                fix=f"tie them again, or {fix}",
            )

    def on_cpu(self) -> LiveWeights:
        """The same as passes and packers read them; itself where all lie there."""
        if all(t.device.type != "cuda" for t in self.tensors.values()):
            return self
        found = copy.copy(self)
        found.tensors = {name: t.detach().cpu() for name, t in self.tensors.items()}
        return found

    def needs_grad(self) -> bool:
        """True if any parameter asks for gradients."""
        return wants_grad(self._versions[0] or self.tensors.values())


def _aliases(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Further names of tied parameters -> the first under which the graph knows them."""
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), name)
    everything = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {n: names[id(t)] for n, t in everything if names.get(id(t), n) != n}


def _slots(
    module: torch.nn.Module, names: Iterable[str]
) -> tuple[list[tuple[dict[str, Any], str, Any]], dict[str, torch.Tensor]]:
    """Every dictionary entry on the way from the root to a parameter, and the parameters found."""
    slots: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
    found: dict[str, torch.Tensor] = {}
    for name in names:
        *path, leaf = name.split(".")
        owner: Any = module
        for part in path:
            child = getattr(owner, "_modules", {}).get(part)
            if child is None:
                break
            slots[id(owner), part] = (owner._modules, part, child)
            owner = child
        else:
            for holder in (owner._parameters, owner._buffers):
                if isinstance(holder.get(leaf), torch.Tensor):
                    found[name] = holder[leaf]
                    slots[id(owner), leaf] = (holder, leaf, holder[leaf])
    return list(slots.values()), found


class WeightTimeValues:
    """Values that depend on parameters alone: each is computed at its first reading and freed after
    its last, so that memory holds few of them at a time.

    nodes: what computes them, in order. reads: names, once for each time they will be taken;
    kept: names that live on, in `kept` with all parameters. in_place: whether a kernel may read a
    parameter where it lies; not if what is packed outlives this process.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[Node],
        params: Mapping[str, torch.Tensor],
        reads: Iterable[str],
        kept: Iterable[str] = (),
        *,
        in_place: bool = True,
    ) -> None:
        self._in_place = in_place
        self._graph, self._nodes = graph, {node.name: node for node in nodes}
        self._order = {name: i for i, name in enumerate(self._nodes)}
        self._held: dict[str, Any] = {}
        self._params = frozenset(params)
        self.kept: dict[str, Any] = {name: tensor.detach() for name, tensor in params.items()}
        lasting = [name for name in dict.fromkeys(kept) if name in self._nodes]
        self._left = Counter([*reads, *lasting])
        for node in reversed(list(nodes)):
            if self._left[node.name]:
                self._left.update(node.inputs)
        self.kept |= {name: self.take(name) for name in lasting}

    def take(self, name: str) -> Any:
        """The value of `name`, at one of the readings announced."""
        if name in self.kept:
            return self.kept[name]
        with torch.no_grad():
            for node in self._missing(name):
                inputs = [self._read(value) for value in node.inputs]
                self._held[node.name] = run_node(node, inputs, {}, self._graph.objects)
        return self._read(name)

    def again(self, name: str) -> WeightTimeValues:
        """For one more reading of `name`, which was not announced."""
        params = {param: self.kept[param] for param in self._params}
        nodes = list(self._nodes.values())
        return WeightTimeValues(self._graph, nodes, params, [name], in_place=self._in_place)

    def parts(self, name: str) -> list[torch.Tensor] | None:
        """The parameters that the value of `name` is, one below the other; None if it is computed,
        or if none may be read in place.

        What they are made into instead need not be taken.
        """
        if not self._in_place:
            return None
        if name in self._params:
            return [self.kept[name]]
        node = self._nodes.get(name)
        if node is None or not (node.op == Cat(0) or isinstance(node.op, Pack)):
            return None
        found: list[torch.Tensor] = []
        for value in node.inputs:
            parts = self.parts(value)
            if parts is None:
                return None
            found += parts
        return found

    def _read(self, name: str) -> Any:
        if name in self.kept:
            return self.kept[name]
        self._left[name] -= 1
        return self._held[name] if self._left[name] else self._held.pop(name)

    def _missing(self, name: str) -> list[Node]:
        """Nodes to run before `name` is there, itself the last, in order."""
        wanted: set[str] = set()
        stack = [name]
        while stack:
            found = stack.pop()
            if found in wanted or found in self.kept or found in self._held:
                continue
            wanted.add(found)
            stack += self._nodes[found].inputs
        return [self._nodes[found] for found in sorted(wanted, key=self._order.__getitem__)]
