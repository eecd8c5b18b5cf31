"""One segment being lowered: places for values, spaces, constants, and the calls so far.

A value in planes is rows of a buffer; views rename rows. Values of a group of tokens (see
`groups.py`) have a space of their own, since threads may hold columns of it each: calls that do
not keep to columns read and write them through a copy in a common space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_compiler.codegen.lowering.groups import token_groups
from sparse_compiler.codegen.lowering.operand_reads import lay_out_constant, operand_of
from sparse_compiler.codegen.lowering.places import Place
from sparse_compiler.codegen.operands import (
    Arg,
    Columns,
    Elements,
    Own,
    Planes,
    Read,
    Vector,
    Word,
    Written,
)
from sparse_compiler.codegen.program import Buffer, Call, Segment, Space, Wait, WeightEntry
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, TensorType, as_dim, product


@dataclass(frozen=True)
class Separation:
    """samples: how many independent ones a segment has; carried: values that hold one of each."""

    samples: Dim
    carried: frozenset[str]


class Lowering:
    """Mutable state while one segment is lowered; rules call its methods."""

    def __init__(
        self, graph: Graph, nodes: Sequence[Node], separation: Separation, constants: frozenset[str]
    ) -> None:
        self.graph, self.nodes, self.separation = graph, nodes, separation
        self.constants = constants
        self.names = {node.name for node in nodes}
        self.groups = token_groups(graph, nodes, separation.samples, constants)
        self.places: dict[tuple[str, int | None], Place] = {}
        self.spaces: dict[tuple[Dim, int | None], int] = {}
        self.buffers: list[Buffer] = []
        self.inputs: dict[str, TensorType] = {}
        self.outputs: dict[str, TensorType] = {}
        self.weights: dict[tuple[str, str, TensorType], WeightEntry] = {}
        self.calls: list[Call] = []
        self.checked: list[str] = []
        self.shared_work: dict[Any, Any] = {}
        self.owners: dict[str, str] = {}
        self.last_use = self._last_uses()
        self.order = {node.name: i for i, node in enumerate(nodes)}

    # --- values -----------------------------------------------------------------------------------

    def type(self, name: str) -> TensorType:
        """The tensor type of a value."""
        return self.graph.tensor(name)

    def carried(self, name: str) -> bool:
        """True where a value holds one part for each sample."""
        return name in self.separation.carried or self.separation.samples == 1

    def holds_samples(self, name: str) -> bool:
        """True where a value is told apart by sample, of more than one."""
        return name in self.separation.carried and self.separation.samples != 1

    def per_sample(self, dim: Dim, name: str) -> Dim:
        """A size that counts all samples -> that of one, where `name` is carried."""
        if not self.holds_samples(name):
            return dim
        samples = self.separation.samples
        if samples == 0:
            return 0  # such a segment is never entered
        if isinstance(dim, int) and isinstance(samples, int):
            if dim % samples:
                raise CodegenError(f"%{name}: {dim} is no multiple of {samples} samples")
            return dim // samples
        return as_dim(dim / samples)

    def group(self, node: Node) -> int | None:
        """The group of tokens that a node belongs to; none where all samples share its value."""
        return self.groups.get(node.name) if self.carried(node.name) else None

    def space(self, name: str, group: int | None) -> int:
        """The space of a planar value, in a group or outside."""
        type_ = self.type(name)
        if type_.layout is None:
            raise CodegenError(f"%{name} does not lie in planes")
        columns = self.per_sample(product(type_.shape[d] for d in type_.layout.inner), name)
        return self.spaces.setdefault((columns, group), len(self.spaces))

    def columns_of(self, space: int) -> Dim:
        """The columns of one sample in a space."""
        return next(columns for (columns, _), i in self.spaces.items() if i == space)

    def rows(self, name: str) -> Dim:
        """How many planes a planar value has."""
        type_ = self.type(name)
        if type_.layout is None:
            raise CodegenError(f"%{name} does not lie in planes")
        return product(type_.shape[d] for d in type_.layout.outer)

    def is_planar(self, name: str) -> bool:
        """True for a value in planes, false for a row-major or constant one."""
        layout = self.type(name).layout
        return layout is not None and layout.planes > 0 and name not in self.constants

    # --- reading ----------------------------------------------------------------------------------

    def planes(self, name: str, node: Node) -> Planes:
        """Where `node` reads a planar value: in the space of its group."""
        group = self.group(node)
        place = self.place_in(name, group)
        if not isinstance(place, Planes):
            raise CodegenError(f"%{name} is no value in planes", node=print_node(node))
        return place

    def elements(self, name: str) -> Elements:
        """Where a row-major value lies: a buffer, a tensor of torch's, or a constant."""
        if name in self.constants:
            type_ = self.type(name)
            step = self.per_sample(type_.numel, name) if self.holds_samples(name) else 0
            return Elements("weight", self.weight(name, "raw"), type_.dtype, step)
        place = self.places.get((name, None))
        if not isinstance(place, Elements):
            raise CodegenError(f"%{name} is no row-major value")
        return place

    def place_in(self, name: str, group: int | None) -> Place:
        """Where a planar value lies in the space of a group: copied there if need be."""
        if name in self.constants and (name, None) not in self.places:
            lay_out_constant(self, name)
        place = self.places.get((name, group))
        return self._moved(name, group) if place is None else place

    def anywhere(self, name: str) -> Planes:
        """A planar value, in whichever space it was computed."""
        for (known, _), place in self.places.items():
            if known == name and isinstance(place, Planes):
                return place
        raise CodegenError(f"%{name} has no place yet")

    def _moved(self, name: str, group: int | None) -> Planes:
        """A copy of a value in the space of another group."""
        known = [(g, p) for (n, g), p in self.places.items() if n == name and isinstance(p, Planes)]
        if not known:
            raise CodegenError(f"%{name} has no place yet")
        source_group, source = known[0]
        if group is not None and source_group is not None:  # through the common space
            source_group, source = None, self._moved(name, None)
        to = self.places[name, group] = self.new_planes(name, group)
        self.move_columns(name, source, to, into_group=group is not None)
        return to

    def move_columns(self, label: str, source: Planes, to: Planes, *, into_group: bool) -> None:
        """Copies planes from the common space to that of a group, or back."""
        space = to.space if into_group else source.space
        pair: tuple[Arg, Arg] = (Own(source, 1, space), Written(to))
        if not into_group:
            pair = (source, Own(to, 1, space, written=True))
        args = (source.rows, Columns(space), *pair)
        self.emit("move_columns", "relayout.h", args, label, tokens=space)

    # --- results ----------------------------------------------------------------------------------

    def new_planes(self, name: str, group: int | None) -> Planes:
        """A fresh buffer for a planar value."""
        space, rows = self.space(name, group), self.rows(name)
        self.buffers.append(Buffer(rows, space, shared=not self.carried(name)))
        return Planes(len(self.buffers) - 1, 0, rows, space)

    def new_elements(self, size: Dim, dtype: str, *, carried: bool) -> Elements:
        """A fresh row-major buffer; size: elements, of one sample where carried."""
        self.buffers.append(Buffer(size, None, dtype, shared=not carried))
        return Elements("buffer", len(self.buffers) - 1, dtype, size if carried else 0)

    def result(self, node: Node, *, over: Iterable[str] = ()) -> Planes:
        """Rows for a planar result: an input's in `over` if this node is its last reader."""
        group = self.group(node)
        ready = self.places.get((node.name, group))
        if isinstance(ready, Planes):
            return ready
        for name in over:
            if self.is_planar(name) and self._may_overwrite(name, node, group):
                self.places[node.name, group] = self.places[name, group]
                return self.planes(node.name, node)
        place = self._in_concatenation(node, group) or self.new_planes(node.name, group)
        self.places[node.name, group] = place
        return place

    def _may_overwrite(self, name: str, node: Node, group: int | None) -> bool:
        owner = self.owners.get(name)
        place = self.places.get((name, group))
        if owner is None or not isinstance(place, Planes) or self.last_use[owner] is not node:
            return False
        if place.space != self.space(node.name, group):
            return False  # an operand of fewer columns
        whole = place.first == 0 and place.rows == self.buffers[place.buffer].size
        return whole and place.rows == self.rows(node.name) and self._alone(owner, place, node)

    def _alone(self, owner: str, place: Planes, node: Node) -> bool:
        """True where every other value in the buffer has been overwritten before `node`."""
        others = {
            self.owners.get(n, n)
            for (n, _), p in self.places.items()
            if isinstance(p, Planes) and p.buffer == place.buffer
        } - {owner}
        now = self.order[node.name]
        return all(o in self.last_use and self.order[self.last_use[o].name] < now for o in others)

    def _in_concatenation(self, node: Node, group: int | None) -> Planes | None:
        """Rows inside the buffer of a concatenation, where that is what reads the node."""
        from sparse_compiler.codegen.lowering.concatenate import row_in_concatenation

        found = row_in_concatenation(self, node)
        if found is None or self.group(found[0]) != group:
            return None
        whole = self.places.get((found[0].name, group))
        if whole is None:
            whole = self.places[found[0].name, group] = self.new_planes(found[0].name, group)
        if not isinstance(whole, Planes):
            return None
        first = as_dim(whole.first + found[1])
        return Planes(whole.buffer, first, self.rows(node.name), whole.space)

    def result_elements(self, node: Node) -> Elements:
        """A fresh buffer for a row-major result."""
        type_, carried = self.type(node.name), self.carried(node.name)
        size = self.per_sample(type_.numel, node.name)
        place = self.new_elements(size, type_.dtype, carried=carried)
        self.places[node.name, None] = place
        return place

    # --- tensors outside and constants ------------------------------------------------------------

    def input(self, name: str) -> Elements:
        """A torch tensor that the segment reads."""
        type_ = self.type(name)
        self.inputs.setdefault(name, type_)
        step = self.per_sample(type_.numel, name) if self.carried(name) else 0
        return Elements("in", list(self.inputs).index(name), type_.dtype, step)

    def output(self, name: str) -> Elements:
        """A torch tensor that the segment gives."""
        type_ = self.type(name)
        self.outputs[name] = type_
        step = self.per_sample(type_.numel, name) if self.carried(name) else 0
        return Elements("out", list(self.outputs).index(name), type_.dtype, step)

    def weight(
        self,
        name: str,
        kind: str,
        *,
        groups: int = 1,
        taps: int = 0,
        image: tuple[Dim, ...] = (),
        type_: TensorType | None = None,
    ) -> int:
        """Number of a constant, stored as `kind` (see `WeightEntry`), expanded to `type_`."""
        type_ = type_ or self.type(name)
        carried = self.holds_samples(name)
        key = (name, kind, type_)
        if key not in self.weights:
            per_shape = name not in self.graph.weight_time or kind in ("planes", "mask")
            of_conv = (groups, taps, per_shape, carried, image)
            self.weights[key] = WeightEntry(name, type_, kind, *of_conv)
        return list(self.weights).index(key)

    def vector(self, name: str) -> Vector:
        """A constant read by row number, or one number."""
        return Vector(self.weight(name, "raw"), single=self.type(name).numel == 1)

    def operand(self, name: str, node: Node) -> Read | Vector:
        """What an epilogue of `node` reads, broadcast to the node's result."""
        return operand_of(self, name, node)

    def error(self, node: Node) -> Word:
        """Where the kernel of `node` notes an index out of range."""
        self.checked.append(node.name)
        return Word(f"error + {len(self.checked) - 1}")

    # --- calls ------------------------------------------------------------------------------------

    def emit(
        self,
        kernel: str,
        header: str,
        args: tuple[Arg, ...],
        label: str,
        *,
        tokens: int | None = None,
        flops: Dim = 0,
    ) -> None:
        """Appends a call. tokens: the space to whose own columns a thread keeps."""
        once = label in self.names and not self.carried(label)
        self.calls.append(Call(kernel, header, args, label, tokens, once, flops))

    def tokens(self, node: Node) -> int | None:
        """The space whose columns threads hold, for a node of a group of tokens."""
        group = self.group(node)
        return None if group is None else self.space(node.name, group)

    # --- the segment ------------------------------------------------------------------------------

    def tokens_of_copy(self, node: Node) -> int | None:
        """As `tokens`, for a copy between a row-major tensor and planes."""
        planar = node.name if self.is_planar(node.name) else node.inputs[0]
        group = self.group(node)
        return None if group is None else self.space(planar, group)

    def _last_uses(self) -> dict[str, Node]:
        """The last node that reads each buffer, through any view of it."""
        last: dict[str, Node] = {}
        for node in self.nodes:
            sources = [self.owners.get(i, i) for i in node.inputs if i in self.names]
            self.owners[node.name] = sources[0] if node.op.view and sources else node.name
            for source in sources:
                last[source] = node
            last.setdefault(self.owners[node.name], node)
        return last

    def segment(self, waits: dict[int, Wait], buffers: Sequence[Buffer]) -> Segment:
        """The finished segment."""
        carried = (
            frozenset(n for n in self.inputs if self.carried(n)),
            frozenset(n for n in self.outputs if self.carried(n)),
        )
        return Segment(
            self.nodes[-1].name,
            tuple(self.inputs.items()),
            tuple(self.outputs.items()),
            carried,
            tuple(self.weights.values()),
            tuple(Space(columns, group is not None) for columns, group in self.spaces),
            tuple(buffers),
            tuple(self.calls),
            self.separation.samples,
            waits,
            tuple(node.name for node in self.nodes),
            tuple(self.checked),
        )
