"""The graph as text, and back: `parse_graph(print_graph(g))` prints the same text.

symbol s0 in [2, 64]
input %x: f32[s0, 768]
param %fc.weight: f32[3072, 768]
%fc: f32[s0, 3072]{1|0} = linear(%x, %fc.weight)   # model.py:12
return %fc
update %bn.mean = %bn.mean.new
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

import sympy

from ..errors import GraphSyntaxError, RegistryError
from .attrs import parse_attr, print_attr, print_dim
from .graph import Graph, Node, Range, Value
from .op import OPS
from .types import Dim, Layout, ScalarType, TensorType, TupleType, Type

_NAME = r"%([^\s:,()=]+)"
_NODE = re.compile(rf"{_NAME}: (.+?) = ([a-z_0-9]+)(?=[\[(])")
_LOC = re.compile(r"(?:\s+# (.*))?$")
_VALUE = re.compile(rf"(input|param) {_NAME}: (.+?)(?:\s+#.*)?$")
_TENSOR = re.compile(r"([a-z0-9_]+)\[(.*?)\]((?:\{[^}]*\})*)$")
_LAYOUT = re.compile(r"(\d+(,\d+)*)?\|(\d+(,\d+)*)?$")
_SYMBOL = re.compile(r"symbol (\w+) in \[(\d+), (\d+|inf)\]$")
_UPDATE = re.compile(rf"update {_NAME} = {_NAME}(?:\s+#.*)?$")
_OBJECT = re.compile(rf"object {_NAME}$")


def print_type(type_: Type | None) -> str:
    """`f32[s0, 768]{1|0}{csr}`, `scalar i64 u0`, `(f32[8], none)`."""
    match type_:
        case None:
            return "none"
        case TupleType(items=items):
            inner = ", ".join(map(print_type, items))
            return f"({inner},)" if len(items) == 1 else f"({inner})"
        case ScalarType(dtype=dtype, value=value):
            return f"scalar {dtype} {print_dim(value)}"
        case TensorType(dtype=dtype, shape=shape, layout=layout, format=format_):
            text = f"{dtype}[{', '.join(map(print_dim, shape))}]"
            text += f"{{{layout}}}" if layout is not None else ""
            return text + (f"{{{format_}}}" if format_ != "dense" else "")


def parse_type(text: str) -> Type | None:
    """The inverse of `print_type`."""
    text = text.strip()
    if text == "none":
        return None
    if text.startswith("("):
        return TupleType(tuple(map(parse_type, _split(text[1:-1]))))
    if text.startswith("scalar "):
        _, dtype, value = text.split(" ", 2)
        return ScalarType(dtype, _parse_dim(value))
    match = _TENSOR.match(text)
    if match is None:
        raise GraphSyntaxError(f"cannot read the type {text!r}")
    dims = tuple(map(_parse_dim, _split(match[2])))
    layout, format_ = None, "dense"
    for braces in re.findall(r"\{([^}]*)\}", match[3]):
        if "|" in braces:
            layout = _parse_layout(braces)
        else:
            format_ = braces
    return TensorType(match[1], dims, layout, format_)


def _parse_dim(text: str) -> Dim:
    dim = parse_attr(text)
    if isinstance(dim, sympy.Expr) or type(dim) is int:
        return dim
    raise GraphSyntaxError(f"{text!r} is no dimension")


def _parse_layout(text: str) -> Layout:
    if not _LAYOUT.match(text):
        raise GraphSyntaxError(f"cannot read the layout {{{text}}}")
    outer, inner = (
        tuple(int(d) for d in half.split(",") if d.strip()) for half in text.split("|", 1)
    )
    return Layout(outer + inner, len(outer))


def print_graph(graph: Graph) -> str:
    """Canonical text: same graph, same bytes."""
    lines = [
        f"symbol {name} in [{r.low}, {'inf' if r.high is None else r.high}]"
        for name, r in sorted(graph.symbols.items())
    ]
    lines += [f"object %{name}" for name in sorted(graph.objects)]
    lines += [f"input %{v.name}: {print_type(v.type)}" for v in graph.inputs]
    lines += [f"param %{v.name}: {print_type(v.type)}" for v in graph.params]
    lines += [print_node(node) for node in graph.nodes]
    lines.append(f"return {', '.join(f'%{name}' for name in graph.outputs)}".rstrip())
    lines += [f"update %{target} = %{value}" for value, target in graph.updates]
    return "\n".join(lines) + "\n"


def print_node(node: Node) -> str:
    """One node with its type and source line."""
    left, right = str(node).split(" = ", 1)
    return f"{left}: {print_type(node.type)} = {right}"


class _Parser:
    """Reads line by line; every kind of line adds to one of the fields."""

    def __init__(self) -> None:
        self.values: dict[str, list[Value]] = {"input": [], "param": []}
        self.nodes: list[Node] = []
        self.outputs: tuple[str, ...] | None = None
        self.updates: list[tuple[str, str]] = []
        self.symbols: dict[str, Range] = {}
        self.objects: dict[str, object] = {}

    def line(self, text: str) -> None:
        """Reads one line that is neither empty nor a comment."""
        word = text.split(" ", 1)[0]
        reader: Callable[[str], None] = {
            "symbol": self._symbol,
            "object": self._object,
            "input": self._value,
            "param": self._value,
            "return": self._return,
            "update": self._update,
        }.get(word, self._node)
        reader(text)

    def _symbol(self, text: str) -> None:
        match = _must(_SYMBOL.match(text), text)
        self.symbols[match[1]] = Range(int(match[2]), None if match[3] == "inf" else int(match[3]))

    def _object(self, text: str) -> None:
        match = _must(_OBJECT.match(text), text)
        self.objects[match[1]] = None

    def _value(self, text: str) -> None:
        match = _must(_VALUE.match(text), text)
        type_ = parse_type(match[3])
        if not isinstance(type_, TensorType):
            raise GraphSyntaxError("inputs and parameters are tensors", node=text)
        self.values[match[1]].append(Value(match[2], type_))

    def _return(self, text: str) -> None:
        self.outputs = _names(text.removeprefix("return").split("#")[0])

    def _update(self, text: str) -> None:
        match = _must(_UPDATE.match(text), text)
        self.updates.append((match[2], match[1]))

    def _node(self, text: str) -> None:
        match = _must(_NODE.match(text), text)
        type_ = parse_type(match[2])
        if type_ is None:
            raise GraphSyntaxError("a node needs a type", node=text)
        rest, attrs = text[match.end() :], {}
        if rest.startswith("["):
            inside, rest = _bracketed(rest)
            for item in _split(inside):
                key, _, value = item.partition("=")
                attrs[key.strip()] = parse_attr(value)
        inputs, rest = _bracketed(rest)
        loc = _must(_LOC.match(rest), text)[1] or ""
        try:
            op = OPS[match[3]](**attrs)
        except (RegistryError, TypeError) as error:
            raise GraphSyntaxError("no such op or attribute", node=text, why=str(error)) from error
        self.nodes.append(Node(op, _names(inputs), type_, match[1], loc))


def parse_graph(text: str) -> Graph:
    """Reads what `print_graph` wrote, and what a person wrote by the same rules.

    Sub-graph objects have no text form and come back as None. Raises `GraphSyntaxError`.
    """
    parser = _Parser()
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            parser.line(line)
        except GraphSyntaxError as error:
            raise GraphSyntaxError(
                f"line {number}: {error.what}", node=error.node or line, why=error.why
            ) from error
    if parser.outputs is None:
        raise GraphSyntaxError("the graph has no return line", fix="end it with `return %name`")
    return Graph(
        tuple(parser.values["input"]),
        tuple(parser.values["param"]),
        tuple(parser.nodes),
        parser.outputs,
        tuple(parser.updates),
        parser.symbols,
        parser.objects,
    )


def _must(match: re.Match[str] | None, text: str) -> re.Match[str]:
    if match is None:
        raise GraphSyntaxError("cannot read this line", node=text)
    return match


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip()[1:] for name in text.split(",") if name.strip())


_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"?')


def _depths(text: str) -> Iterator[tuple[int, str, int]]:
    """(index, character, depth of brackets after it) of all that stands outside quotes."""
    depth = i = 0
    while i < len(text):
        quoted = _QUOTED.match(text, i)
        if quoted is not None:
            i = quoted.end()
            continue
        depth += (text[i] in "([{") - (text[i] in ")]}")
        yield i, text[i], depth
        i += 1


def _bracketed(text: str) -> tuple[str, str]:
    """`(a, b) c` -> `a, b` and ` c`."""
    end = next((i for i, _, depth in _depths(text) if depth == 0), None)
    if end is None or text[:1] not in ("(", "["):
        raise GraphSyntaxError("a bracket is missing", node=text)
    return text[1:end], text[end + 1 :]


def _split(text: str) -> list[str]:
    """Splits at commas that stand outside brackets and quotes."""
    commas = [i for i, c, depth in _depths(text) if c == "," and depth == 0]
    parts = [text[a + 1 : b] for a, b in pairwise([-1, *commas, len(text)])]
    return [part.strip() for part in parts if part.strip()]


__all__ = ["parse_graph", "parse_type", "print_attr", "print_graph", "print_node", "print_type"]
