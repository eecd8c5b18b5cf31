"""How each node could run natively: in planes, row-major, or neither.

Planes spread forwards, from ops that open them (linear, conv) over whatever takes their layout,
and then backwards, to ops of the same shape that feed them. Where an op refuses the planes in which
its input lies, it is asked again with a few other orders; the copy in between is priced later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim, Layout, TensorType, Type, product
from sparse_compiler.ops.pack import is_packed, packs_weight
from sparse_compiler.ops.shape import in_planes

OUTSIDE = "outside_region"
"""Code of a refusal that says only: nothing that this op reads is in planes."""


@dataclass(frozen=True)
class Mode:
    """One native way to run a node.

    inputs: the layout in which each must arrive; None: a constant, read as torch stored it.
    type: of the result, with its layout; an op that reads planes may leave rows (a mean over them).
    """

    inputs: tuple[Layout | None, ...]
    type: TensorType


@dataclass(frozen=True)
class Choices:
    """The modes of one node; `refusal` says why it has no planes, where it has none."""

    planes: Mode | None
    rows: Mode | None
    refusal: No | None = None


def constants(graph: Graph) -> frozenset[str]:
    """Values that are the same at every call of a bound program, so that none is native."""
    return graph.weight_time | frozenset(getattr(graph, "bind_time", ()))


def candidates(graph: Graph, lacks: Mapping[str, No] | None = None) -> dict[str, Choices]:
    """The choices of every node that is no constant, in graph order.

    lacks: nodes for which the target has no kernel, and why.
    """
    search = _Search(graph, constants(graph), lacks or {})
    for node in search.nodes:
        search.visit(node)
    for node in reversed(search.nodes):
        search.visit_backwards(node)
    for node in search.nodes:
        search.visit_again(node)
    return {
        node.name: Choices(
            search.planes.get(node.name), search.rows(node), search.refusals.get(node.name)
        )
        for node in search.nodes
    }


@dataclass
class _Search:
    graph: Graph
    fixed: frozenset[str]
    lacks: Mapping[str, No]
    planes: dict[str, Mode] = field(default_factory=dict)
    refusals: dict[str, No] = field(default_factory=dict)
    wanted: dict[str, Layout] = field(default_factory=dict)
    asked: dict[str, tuple[Type, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = [n for n in self.graph.nodes if n.name not in self.fixed]

    def visit(self, node: Node) -> None:
        """Asks the op with its inputs in the planes that they could have."""
        self.asked[node.name] = types = self._types(node)
        answer = self._refused_unasked(node) or self._ask(node, types)
        if isinstance(answer, No) and self._worth_another(node, types):
            for other in self._rearranged(node, types):
                again = self._ask(node, other)
                if isinstance(again, Mode):
                    answer = again
                    break
        self._enter(node, answer)

    def visit_again(self, node: Node) -> None:
        """Asks a second time where an input gained planes from what reads it."""
        if node.name not in self.planes and self._types(node) != self.asked[node.name]:
            self.visit(node)

    def visit_backwards(self, node: Node) -> None:
        """Gives a node without planes those in which its result is read."""
        layout = self.wanted.get(node.name)
        if layout is None or node.name in self.planes or self._refused_unasked(node) is not None:
            return
        for types in self._towards(node, layout):
            answer = self._ask(node, types)
            if isinstance(answer, Mode) and answer.type.layout == layout:
                self._enter(node, answer)
                return

    def rows(self, node: Node) -> Mode | None:
        """Row-major, if there is a kernel for it; a view may do without one."""
        if self._refused_unasked(node) is not None:
            return None
        if node.op.row_major(self._laid(node, (None,) * len(node.inputs))) is not None:
            return None
        inputs = tuple(
            None if name in self.fixed else Layout.rows(self.graph.tensor(name).rank)
            for name in node.inputs
        )
        result = node.op.infer(self._laid(node, inputs))
        if not isinstance(result, TensorType) or all(layout is None for layout in inputs):
            return None
        fits = result.layout == Layout.rows(result.rank)
        return Mode(inputs, result) if fits else None

    # --- asking ---------------------------------------------------------------------------------

    def _enter(self, node: Node, answer: Mode | No) -> None:
        if isinstance(answer, No):
            self.refusals[node.name] = answer
            return
        self.planes[node.name] = answer
        self.refusals.pop(node.name, None)
        for name, layout in zip(node.inputs, answer.inputs, strict=True):
            if name not in self.fixed and layout is not None and layout.planes:
                self.wanted.setdefault(name, layout)

    def _refused_unasked(self, node: Node) -> No | None:
        if self._without_tensors(node):
            return No("no_tensor", f"{node.op.name} works on numbers or tuples, not on one tensor")
        if node.name in self.lacks:
            return self.lacks[node.name]
        weight = node.op.weight_input
        packs = weight is not None and packs_weight(self.graph, node)
        if weight is not None and packs and not is_packed(self.graph, node.inputs[weight]):
            return No("not_packed", "the weight has no storage format")
        return None

    def _without_tensors(self, node: Node) -> bool:
        types = [node.type, *(self.graph.types[name] for name in node.inputs)]
        return not all(isinstance(t, TensorType) for t in types)

    def _ask(self, node: Node, types: tuple[Type, ...]) -> Mode | No:
        flags = tuple(name in self.fixed for name in node.inputs)
        answer = node.op.planar(types, flags)
        if isinstance(answer, No):
            return answer
        inputs = tuple(
            Layout.rows(self.graph.tensor(name).rank) if layout is None and not fixed else layout
            for name, layout, fixed in zip(node.inputs, answer, flags, strict=True)
        )
        result = node.op.infer(self._laid(node, inputs))
        if not isinstance(result, TensorType) or not _native(result):
            return No("layout", f"the result of {node.op.name} lies neither in planes nor in rows")
        if not isinstance(product(result.shape[d] for d in _outer(result)), int):
            return No("symbolic_planes", f"the number of planes of {result.shape} is not known")
        return Mode(inputs, result)

    def _laid(self, node: Node, layouts: tuple[Layout | None, ...]) -> tuple[Type, ...]:
        types = (self.graph.types[name] for name in node.inputs)
        return tuple(
            t.laid_out(layout) if isinstance(t, TensorType) and layout is not None else t
            for t, layout in zip(types, layouts, strict=True)
        )

    def _types(self, node: Node) -> tuple[Type, ...]:
        """Of the inputs, in planes where they have some or where a reader wants them so."""
        layouts: list[Layout | None] = []
        for name in node.inputs:
            mode = self.planes.get(name)
            known = in_planes(mode.type) if mode is not None else None
            layouts.append(known or self.wanted.get(name))
        return self._laid(node, tuple(layouts))

    def _worth_another(self, node: Node, types: tuple[Type, ...]) -> bool:
        """Without planes around it, only an op that has no other kernel is asked for some.

        A view that drops elements is not: copying all of a tensor to slice it for free is dearer.
        """
        if self._refused_unasked(node) is not None:
            return False
        if node.op.view:
            return types != self._laid(node, (None,) * len(types)) and _numel(types[0]) == _numel(
                node.type
            )
        return not node.op.rows or types != self._laid(node, (None,) * len(types))

    def _rearranged(self, node: Node, types: tuple[Type, ...]) -> Iterator[tuple[Type, ...]]:
        """`types` in other orders: of the inputs in planes, then of all that could be."""
        tried = {types}
        for everything in (False, True):
            for order in (*ORDERS, _batch_inside) if node.op.view else ORDERS:
                other = tuple(
                    t if name in self.fixed else _ordered(t, order, everything)
                    for name, t in zip(node.inputs, types, strict=True)
                )
                if other not in tried:
                    tried.add(other)
                    yield other

    def _towards(self, node: Node, layout: Layout) -> Iterator[tuple[Type, ...]]:
        """Input types under which the result may come out in `layout`."""
        shapes = [self.graph.tensor(name).shape for name in node.inputs]
        shape = self.graph.tensor(node.name).shape
        if not node.op.view:
            yield self._laid(
                node,
                tuple(
                    layout if len(s) == len(shape) and name not in self.fixed else None
                    for s, name in zip(shapes, node.inputs, strict=True)
                ),
            )
            return
        for guess in _guesses(len(shapes[0])):
            yield self._laid(node, (guess, *(None for _ in shapes[1:])))


def _outer(type_: TensorType) -> tuple[int, ...]:
    return type_.layout.outer if type_.layout is not None else ()


def _native(type_: TensorType) -> bool:
    return in_planes(type_) is not None or type_.layout == Layout.rows(type_.rank)


# --- other orders to ask for ----------------------------------------------------------------------

Order = Callable[[Layout], Layout | None]


def _in_order(layout: Layout) -> Layout:
    """The same planes, both sides in logical order: what windows need after their permute."""
    return Layout((*sorted(layout.outer), *sorted(layout.inner)), layout.planes)


def planes_of(rank: int, *outer: int) -> Layout:
    """The layout of `outer` dimensions as planes, in this order, and the others inside."""
    return Layout((*outer, *(d for d in range(rank) if d not in outer)), len(outer))


def _last(layout: Layout) -> Layout:
    rank = len(layout.order)
    return planes_of(rank, rank - 1)


def _first(layout: Layout) -> Layout | None:
    rank = len(layout.order)
    return planes_of(rank, 1) if rank > 1 else None


def _heads(layout: Layout) -> Layout | None:
    return planes_of(4, 1, 3) if len(layout.order) == 4 else None


def _batch_inside(layout: Layout) -> Layout:
    rank = len(layout.order)
    return planes_of(rank, *range(1, rank))


ORDERS: tuple[Order, ...] = (_in_order, _last, _first, _heads)


def _numel(type_: Type) -> Dim | None:
    return type_.numel if isinstance(type_, TensorType) else None


def _ordered(type_: Type, order: Order, everything: bool) -> Type:
    if not isinstance(type_, TensorType) or type_.dtype != "f32" or not type_.rank:
        return type_
    if type_.layout is None and not everything:
        return type_
    layout = type_.layout or Layout.rows(type_.rank)
    return type_.laid_out(order(layout) or type_.layout)


def _guesses(rank: int) -> Iterator[Layout]:
    """Layouts in which the input of a view may lie."""
    for dim in reversed(range(1, rank)):
        yield planes_of(rank, dim)
    if rank == 4:
        yield planes_of(4, 1, 3)
