"""An ONNX file as a checked model: what TVM's importer would stumble over is refused here, by name.

Nothing outside of the file's folder is read: weights beside the file are looked for below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UnsupportedError, first_line
from .onnx_misread import misread

OLDEST, NEWEST = 11, 21
"""Opsets of the default domain that the tests cover; TVM's own importer knows no newer."""

_OUR_DOMAINS = ("", "ai.onnx")
# Fused operators of ONNX Runtime that TVM's importer has; it looks at the name alone.
_RUNTIME_OPS = frozenset(
    ("BiasGelu", "EmbedLayerNormalization", "FastGelu", "Gelu", "SkipLayerNormalization")
)
_LOOPS = frozenset(("Loop", "Scan", "SequenceMap"))
_DRAWS = frozenset(
    (
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    )
)


def read_onnx(path: Path) -> Any:
    """The `onnx.ModelProto` in a file, with its external data, functions of its own inlined.

    Raises `UnsupportedError` for a file that is missing, truncated, cyclic or otherwise invalid, of
    an opset outside of 11 to 21, with control flow other than `If`, or with weights elsewhere.
    """
    onnx = need_onnx(path)
    if not path.is_file():
        raise UnsupportedError(f"there is no ONNX file {path}", fix="give the path of a .onnx file")
    model = _parsed(path)
    _check_opset(path, model)
    _check_order(path, model.graph)
    _check_external_data(path, model)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise refusal(path, "its external data cannot be read", first_line(error)) from error
    _check_valid(path, model)
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    _check_operators(path, model)
    return model


def need_onnx(path: Path) -> Any:
    """The package onnx. Raises `UnsupportedError` where it is not installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            f"cannot read {path}",
            why=f"{error.name} is not installed, which ONNX files need",
            fix="pip install sparse-compiler[tvm]",
        ) from error
    return onnx


def refusal(path: Path, why: str, detail: str = "", *, node: str = "", fix: str = "") -> Any:
    """An `UnsupportedError` about a file."""
    return UnsupportedError(
        f"cannot import {path}",
        node=node,
        why=f"{why}: {detail}" if detail else why,
        fix=fix or "export the model again; onnx.checker.check_model says what is wrong with it",
    )


def graphs_of(graph: Any) -> Iterator[Any]:
    """A graph and those of control flow inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_of(attribute.g)
            for inner in attribute.graphs:
                yield from graphs_of(inner)


def node_text(node: Any) -> str:
    """`Conv "conv1" (x, w) -> y`, as an error shows a node."""
    name = f' "{node.name}"' if node.name else ""
    return f"{node.op_type}{name} ({', '.join(node.input)}) -> {', '.join(node.output)}"


def _parsed(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, UnicodeDecodeError) as error:
        raise refusal(
            path,
            "it is truncated or no ONNX file",
            first_line(error),
            fix="copy or download the file again, whole",
        ) from error
    if not model.opset_import or not model.graph.output:
        raise refusal(
            path,
            "it is truncated or no ONNX file: it has "
            + ("no results" if model.opset_import else "no opset"),
            fix="copy or download the file again, whole",
        )
    return model


def _check_opset(path: Path, model: Any) -> None:
    found = {o.domain: o.version for o in model.opset_import}
    version = found.get("", found.get("ai.onnx", OLDEST))
    if OLDEST <= version <= NEWEST:
        return
    age = "new" if version > NEWEST else "old"
    raise refusal(
        path,
        f"its opset {version} is too {age}: {OLDEST} to {NEWEST} are read",
        fix=f"export with opset_version={NEWEST}, or convert the file with "
        f"onnx.version_converter.convert_version(model, {min(max(version, 18), NEWEST)})",
    )


def _check_order(path: Path, graph: Any) -> None:
    """A node may only read what stands before it; names a cycle where there is one."""
    makers = {out: node for node in graph.node for out in node.output if out}
    state: dict[int, bool] = {}  # False while what a node reads is being visited
    for root in graph.node:
        stack = [(root, iter(root.input))]
        while stack:
            node, inputs = stack[-1]
            state.setdefault(id(node), False)
            maker = next((m for i in inputs if (m := makers.get(i)) is not None), None)
            if maker is None:
                state[id(node)] = True
                stack.pop()
            elif state.get(id(maker)) is False:
                raise refusal(
                    path,
                    f"its graph has a cycle: {node.name or node.op_type} reads what is made of "
                    "its own result",
                    node=node_text(maker),
                )
            elif id(maker) not in state:
                stack.append((maker, iter(maker.input)))


def _tensors(model: Any) -> Iterator[Any]:
    for graph in (model.graph, *model.functions):
        for inner in graphs_of(graph):
            yield from getattr(inner, "initializer", ())
            for sparse in getattr(inner, "sparse_initializer", ()):
                yield from (sparse.values, sparse.indices)
            for node in inner.node:
                for attribute in node.attribute:
                    yield from (attribute.t, *attribute.tensors)


def _check_external_data(path: Path, model: Any) -> None:
    """Each piece lies below the file's folder, exists, and is as long as its tensor."""
    import onnx

    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise refusal(
                path,
                f"the weight {tensor.name} is said to lie in {location!r}, outside of its folder",
                fix="save the model with its external data beside it",
            )
        if not file.is_file():
            raise refusal(
                path,
                f"the weight {tensor.name} lies in {location}, which is missing",
                fix=f"put {location} beside the model: the two belong together",
            )
        _check_length(path, tensor, entries, file)


def _check_length(path: Path, tensor: Any, entries: dict[str, str], file: Path) -> None:
    import onnx

    bits = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    wanted = math.prod(tensor.dims) * bits // 8
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", wanted))
    except ValueError as error:
        raise refusal(path, f"the place of the weight {tensor.name} is no number") from error
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise refusal(
            path,
            f"the weight {tensor.name} needs bytes {offset} to {offset + length} of {file.name}, "
            f"which has {file.stat().st_size}",
            fix=f"copy {file.name} again, whole",
        )


def _check_valid(path: Path, model: Any) -> None:
    import onnx

    checked: Any = str(path)  # a model of over 2 GB is no one message
    bare = [v for v in model.graph.output if not v.type.tensor_type.HasField("shape")]
    if bare:
        checked = onnx.ModelProto()  # results without a shape do no harm
        checked.CopyFrom(model)
        for value in checked.graph.output:
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(checked)
    except onnx.checker.ValidationError as error:
        raise refusal(path, "it is no valid ONNX model", first_line(error)) from error


def _check_operators(path: Path, model: Any) -> None:
    """Collects all that nothing here can run, and says it once."""
    loops, draws, foreign = set(), set(), set()
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.domain not in _OUR_DOMAINS and not _known(node):
                foreign.add(f"{node.domain}.{node.op_type}")
            elif node.op_type in _LOOPS:
                loops.add(node_text(node))
            elif node.op_type in _DRAWS:
                draws.add(node_text(node))
    for graph in graphs_of(model.graph):
        for node in graph.node:
            wrong = misread(node)
            if wrong:
                raise refusal(
                    path,
                    f"this {node.op_type} {wrong.split(':')[0]}, which TVM imports wrongly",
                    node=node_text(node),
                    fix=wrong.partition(": ")[2] or "export the model without it",
                )
    if loops:
        raise refusal(
            path,
            "it has control flow that runs as often as its data say",
            node="; ".join(sorted(loops)[:3]),
            fix="export the model for a fixed number of steps, or give sc.compile the torch module",
        )
    if draws:
        raise refusal(
            path,
            "it has an effect: it draws random numbers",
            node="; ".join(sorted(draws)[:3]),
            fix="make the random tensor an input of the model",
        )
    if foreign:
        raise refusal(
            path,
            f"it uses {', '.join(sorted(foreign)[:5])}, which ONNX does not define",
            fix="save the model before an optimiser of ONNX Runtime, or without custom operators",
        )


def _known(node: Any) -> bool:
    return node.domain == "com.microsoft" and node.op_type in _RUNTIME_OPS
