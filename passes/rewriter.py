"""Builds the new graph of a pass node by node: types inferred, names unique, producers known."""

from __future__ import annotations

from collections.abc import Iterable

from sparse_compiler.errors import VerifyError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.types import TensorType, Type


class Rewriter:
    """nodes: the new graph's so far; producers: of those nodes, then of the old graph's.

    Names of the old graph mean the same in the new one, whether a node was kept or replaced.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.producers: dict[str, Node] = dict(graph.producers)
        self._taken = set(graph.types)

    def keep(self, node: Node) -> None:
        """Appends a node as it is, or another of the same name and type."""
        self.nodes.append(node)
        self.producers[node.name] = node

    def replace(self, old: Node, op: Op, inputs: Iterable[str]) -> None:
        """Appends `op` in the place of `old`, whose name and type it must have."""
        names = tuple(inputs)
        type_ = self._infer(op, names)
        if type_ != old.type:
            raise VerifyError(f"%{old.name} is {old.type} and would become {type_}")
        self.keep(Node(op, names, old.type, old.name, old.loc))

    def add(self, op: Op, inputs: Iterable[str], name: str, loc: str = "") -> str:
        """Appends a new node; returns its name: `name`, or `name_2`, ... where that is taken."""
        names = tuple(inputs)
        unique, count = name, 2
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._taken.add(unique)
        self.keep(Node(op, names, self._infer(op, names), unique, loc))
        return unique

    def tensor(self, name: str) -> TensorType:
        """The type of a value, which must be a tensor."""
        type_ = self._type(name)
        if not isinstance(type_, TensorType):
            raise VerifyError(f"%{name} is no tensor", why=f"its type is {type_}")
        return type_

    def only_reader(self, name: str) -> bool:
        """True where exactly one node of the old graph reads the value, and nothing else does."""
        return len(self.graph.users.get(name, ())) == 1 and name not in self.graph.results

    def finish(self) -> Graph:
        """The new graph, or the old one where nothing changed."""
        return self.graph.with_nodes(self.nodes)

    def _type(self, name: str) -> Type:
        return self.producers[name].type if name in self.producers else self.graph.types[name]

    def _infer(self, op: Op, inputs: tuple[str, ...]) -> Type:
        type_ = op.infer(tuple(self._type(i) for i in inputs))
        if type_ is None:
            raise VerifyError(f"{op.name} infers no type")
        return type_
