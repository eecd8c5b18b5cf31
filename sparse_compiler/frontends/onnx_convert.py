"""A prepared ONNX model -> a Relax module, by TVM's importer, with three things added to it.

Weights keep their names, as parameters after the inputs; sizes are followed as expressions; and
recurrent layers, which TVM lacks, become calls of `sparse_compiler.<layer>`, see relax_recurrent.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import numpy_helper
from tvm import relax, tirx
from tvm.relax.frontend.onnx import onnx_frontend
from tvm.sym.analyzer import Analyzer

from ..errors import UnsupportedError
from .onnx_inputs import Axis, Bound
from .onnx_prepare import Prepared
from .onnx_read import node_text, refusal
from .onnx_recurrent import RECURRENT, recurrent, recurrent_weights
from .onnx_sizes import Sizes, as_sizes, evaluate, is_number

_MOST_SIZES = 64
_SIZE_DTYPES = ("int64", "int32", "bool", "float32")
_KEEPS_FLOATS = ("Concat", "Gather", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_TO_THE_END = 10**9  # and more, as the end of a slice
_FIX_SIZES = (
    "fix the sizes (dynamic_shapes={} with example arguments, or --set NAME=SIZE), or say of what "
    "they are multiples; if they are fixed, give sc.compile the torch module"
)
_PADS = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}
_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, KeyError, IndexError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def to_relax(path: Path, prepared: Prepared, bound: Bound) -> tvm.IRModule:
    """The module of a model. Raises `UnsupportedError` naming the node that TVM cannot take."""
    sizes = {name: _size(axis) for name, axis in bound.axes.items()}
    shapes = {
        value.name: [sizes[d] if isinstance(d, str) else d for d in value.shape or ()]
        for value in bound.inputs
        if value.name not in bound.numbers
    }
    importer = _Importer(path, shapes)
    return importer.from_onnx(prepared.model.graph, prepared.opset)


class _Importer(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer; `sizes` has every value that is known in terms of sizes."""

    def __init__(self, path: Path, shapes: dict[str, list[Any]]) -> None:
        super().__init__(shapes, {}, keep_params_in_input=True, sanitize=False)
        self.path = path
        self.sizes: dict[str, tuple[Sizes, str]] = {}
        self.recurrent: dict[str, list[list[Any]]] = {}
        self.analyzer = Analyzer()

    def _check_for_unsupported_ops(self, graph: Any) -> None:
        known = {*onnx_frontend._get_convert_map(), *RECURRENT}
        lacking = [node for node in graph.node if node.op_type not in known]
        if lacking:
            names = ", ".join(sorted({node.op_type for node in lacking}))
            raise refusal(
                self.path,
                f"TVM {tvm.__version__} imports no {names}",
                node=node_text(lacking[0]),
                fix="export the model without it: in float instead of integers where it is "
                "quantised; or give sc.compile the torch module",
            )

    def _parse_graph_initializers(self, graph: Any) -> None:
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim >= 2 and array.dtype.kind not in "iub":
                self.parameter(tensor.name, array)
            else:
                self._nodes[tensor.name] = relax.const(array)
            if _may_be_sizes(array):
                self.sizes[tensor.name] = as_sizes(array), str(array.dtype)
        self.recurrent = recurrent_weights(self, graph)

    def parameter(self, name: str, array: Any) -> Any:
        """A weight under its own name."""
        var = self._new_var(name, shape=array.shape, dtype=str(array.dtype))
        self._nodes[name] = var
        self._params[name] = (var, tvm.runtime.tensor(array))
        return var

    def array(self, name: str) -> Any:
        """The numbers of a weight or constant; None for what is computed."""
        if name in self._params:
            return self._params[name][1].numpy()
        value = self._nodes.get(name)
        return value.value.numpy() if isinstance(value, tvm.ir.GenericConst) else None

    def drop(self, name: str) -> None:
        """Forgets a parameter that nothing reads any more."""
        self._params.pop(name, None)

    def _construct_nodes(self, graph: Any) -> None:
        for node in graph.node:
            try:
                self._node(node)
            except UnsupportedError:
                raise
            except _ERRORS as error:
                raise refusal(
                    self.path,
                    "TVM cannot import this node",
                    next(iter(str(error).strip().splitlines()), type(error).__name__),
                    node=node_text(node),
                    fix=_FIX_SIZES,
                ) from error

    def _node(self, node: Any) -> None:
        attributes = self._parse_attr(node.attribute)
        if self._size_op(node, attributes):
            return
        if node.op_type in RECURRENT:
            results = recurrent(self, node, attributes)
        elif (padded := self._padded(node, attributes)) is not None:
            results = [padded]
        elif (ranged := self._range(node)) is not None:
            results = [ranged]
        elif (picked := self._picked(node, attributes)) is not None:
            results = [picked]
        elif node.op_type == "Resize" and not self._is_fixed(node.input[0]):
            results = [self._resize(node, attributes)]
        else:
            inputs = onnx_frontend.onnx_input()
            inputs.extend(self._operand(node, i, name) for i, name in enumerate(node.input))
            attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
            found = self._convert_operator(node.op_type, inputs, attributes, self.opset)
            results = self._results(node, found)
        for name, value in zip(node.output, results, strict=False):
            if name:
                self._check_shape(node, value)
                self._nodes[name] = value

    def _check_shape(self, node: Any, value: Any) -> None:
        """A tensor whose shape does not follow from the inputs' is told where it arises."""
        if isinstance(value.ty, relax.TensorType) and value.ty.shape is None:
            raise refusal(
                self.path,
                "the shape of this node's result is unknown",
                "it depends on numbers inside tensors, or on two dynamic sizes being equal",
                node=f"{node_text(node)} of {', '.join(map(self._shape_text, node.input))}",
                fix=_FIX_SIZES,
            )

    def _shape_text(self, name: str) -> str:
        shape = getattr(getattr(self._nodes.get(name), "ty", None), "shape", None)
        return "?" if shape is None else f"[{', '.join(map(_dim_text, shape.values))}]"

    def _results(self, node: Any, found: Any) -> list[Any]:
        if isinstance(found, relax.Tuple):
            return list(found)
        if isinstance(found.ty, relax.TupleType):
            count = len(found.ty.fields)
            return [self.bb.emit(relax.TupleGetItem(found, i)) for i in range(count)]
        return [found]

    def _picked(self, node: Any, attributes: dict[str, Any]) -> Any:
        """`Gather` at known places, counted from the front; TVM would compute them at run time."""
        known = self.sizes.get(node.input[1]) if node.op_type == "Gather" else None
        if known is None:
            return None
        data, axis = self._operand(node, 0, node.input[0]), attributes.get("axis", 0)
        size = self.simplify(data.ty.shape.values[axis])
        known_places = list(known[0].reshape(-1))
        places = [p for p in known_places if (is_number(p) and p >= 0) or is_number(size)]
        if len(places) < known[0].size:
            return None
        places = [p + size if p < 0 else p for p in places]
        index = relax.const(np.array(places, "int64").reshape(known[0].shape))
        return self.bb.emit(relax.op.take(data, index, axis))

    def _padded(self, node: Any, attributes: dict[str, Any]) -> Any:
        """`Pad` by known widths, as one operator; TVM would make a loop of its own of it."""
        mode = _PADS.get(attributes.get("mode", b"constant"))
        names = [*node.input, "", "", ""]
        widths = self.sizes.get(names[1]) if node.op_type == "Pad" else None
        axes = self.sizes.get(names[3]) if names[3] else None
        fill = self.array(names[2]) if names[2] else np.zeros(1)
        if mode is None or widths is None or fill is None or (names[3] and axes is None):
            return None
        data = self._operand(node, 0, names[0])
        rank = len(data.ty.shape.values)
        ends = list(widths[0].reshape(-1))
        if not all(is_number(end) and end >= 0 for end in ends):
            return None
        chosen = range(rank) if axes is None else [int(a) % rank for a in axes[0].reshape(-1)]
        whole = [0] * (2 * rank)  # before and after of each dimension
        for i, axis in enumerate(chosen):
            whole[2 * axis : 2 * axis + 2] = ends[i], ends[i + len(ends) // 2]
        return self.bb.emit(relax.op.nn.pad(data, whole, mode, float(fill.reshape(-1)[0])))

    def _range(self, node: Any) -> Any:
        """`Range(0, size, 1)`, whose length is that size."""
        known = [self.sizes.get(name) for name in node.input]
        given = [sizes for sizes in known if sizes is not None]
        if node.op_type != "Range" or len(given) < len(known):
            return None
        start, limit, step = (sizes.reshape(-1)[0] for sizes, _ in given)
        if is_number(limit) or (start, step) != (0, 1):
            return None
        end = relax.prim_value(limit)
        counted = self.bb.normalize(relax.op.arange(0, end, 1, "int64"))
        return self.bb.emit(relax.op.astype(counted, given[0][1]))

    def _is_fixed(self, name: str) -> bool:
        shape = self._nodes[name].ty.shape
        return all(isinstance(d, tirx.IntImm) for d in shape.values)

    def _resize(self, node: Any, attributes: dict[str, Any]) -> Any:
        """Of an image whose size is a symbol: by whole factors, or to sizes that are known."""
        image = self._nodes[node.input[0]]
        dims = [self.simplify(d) for d in image.ty.shape.values]
        names = [*node.input[1:], "", "", ""]
        if names[2] in self.sizes:
            target = list(self.sizes[names[2]][0])
        else:
            factors = self.array(names[1]) if names[1] else None
            if factors is None or (factors != np.round(factors)).any():
                raise ValueError("it resizes a dynamic axis by a factor that is no whole number")
            target = [d * int(f) for d, f in zip(dims, factors, strict=True)]
        if len(dims) != 4 or attributes.get("mode", b"nearest") == b"cubic":
            raise ValueError("only planes can be resized along a dynamic axis, and not cubically")
        mode = attributes.get("mode", b"nearest").decode()
        place = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
        return self.bb.emit(
            relax.op.image.resize2d(
                image,
                size=relax.ShapeExpr(target[2:]),
                roi=[0.0] * 4,
                layout="NCHW",
                method={"nearest": "nearest_neighbor"}.get(mode, mode),
                coordinate_transformation_mode=place,
                rounding_method=attributes.get("nearest_mode", b"round_prefer_floor").decode(),
            )
        )

    # --- sizes ---------------------------------------------------------------------------------

    def _size_op(self, node: Any, attributes: dict[str, Any]) -> bool:
        """Follows an operator on sizes; True where its result is known."""
        if node.op_type in ("Shape", "Size"):
            found, dtype = self._dims(node, attributes), "int64"
        elif node.op_type == "Cast":
            name = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]).name
            known = self.sizes.get(node.input[0])
            if known is None or name not in _SIZE_DTYPES:
                return False
            found, dtype = known[0], name
            if name == "bool" and not all(is_number(v) for v in found.reshape(-1)):
                return False
        else:
            given = [self.sizes.get(name) for name in node.input]
            values = [None if g is None else g[0] for g in given]
            floats = any(g is not None and g[1] == "float32" for g in given)
            if floats and node.op_type not in _KEEPS_FLOATS:
                return False
            found = evaluate(node.op_type, values, attributes, self.simplify)
            source = given[-1] if node.op_type == "Where" else next(iter(given), None)
            dtype = "bool" if node.op_type == "Equal" else source[1] if source else "int64"
        if found is None:
            return False
        self.sizes[node.output[0]] = found, dtype
        return True

    def simplify(self, value: Any) -> Any:
        """An int where the expression is one."""
        if isinstance(value, (int, np.integer)):
            return int(value)
        simple = self.analyzer.simplify(value)
        return int(simple) if isinstance(simple, tirx.IntImm) else simple

    def _dims(self, node: Any, attributes: dict[str, Any]) -> Sizes | None:
        value = self._nodes.get(node.input[0])
        shape = getattr(getattr(value, "ty", None), "shape", None)
        if node.input[0] in self.sizes:
            dims = list(self.sizes[node.input[0]][0].shape)
        elif isinstance(shape, relax.ShapeExpr):
            dims = [self.simplify(d) for d in shape.values]
        else:
            return None
        if node.op_type == "Size":
            found: Any = 1
            for dim in dims:
                found = found * dim
            dims = self.simplify(found)
        else:
            dims = dims[attributes.get("start", 0) : attributes.get("end", len(dims))]
        array = np.empty(np.shape(np.array(dims, object)), object)
        array[...] = dims
        return array

    def _operand(self, node: Any, position: int, name: str) -> Any:
        if not name:
            return None
        if name not in self.sizes:
            return self._nodes[name]
        sizes, dtype = self.sizes[name]
        if node.op_type == "Slice" and position in (1, 2):
            return self._slice_bound(node, position, sizes)
        if all(is_number(v) for v in sizes.reshape(-1)):
            if name not in self._nodes:
                self._nodes[name] = relax.const(np.array(sizes.tolist(), dtype))
            return self._nodes[name]
        if sizes.ndim == 1 and (node.op_type, position) in _TAKES_SHAPE:
            return self._shape_operand(node, sizes)
        tensor = relax.op.shape_to_tensor(relax.ShapeExpr(list(sizes.reshape(-1))))
        tensor = self.bb.normalize(relax.op.reshape(tensor, sizes.shape))
        return tensor if dtype == "int64" else self.bb.normalize(relax.op.astype(tensor, dtype))

    def _slice_bound(self, node: Any, position: int, sizes: Sizes) -> Any:
        """Starts or ends: TVM cuts them to 32 bits, so that the largest int64 would become -1."""
        bounds = [_in_32_bits(v) if is_number(v) else v for v in sizes.reshape(-1)]
        known = self.sizes.get(node.input[3]) if len(node.input) > 3 else None
        axes = list(range(len(bounds))) if known is None else list(known[0].reshape(-1))
        dims = list(self._nodes[node.input[0]].ty.shape.values) if position == 2 else []
        for i, bound in enumerate(bounds if dims else ()):
            if is_number(bound) and bound >= _TO_THE_END:
                bounds[i] = self.simplify(dims[axes[i]])
        if all(is_number(v) for v in bounds):
            return relax.const(np.array(bounds, "int64"))
        return relax.ShapeExpr(bounds)

    def _shape_operand(self, node: Any, sizes: Sizes) -> Any:
        """A shape for an operator that takes one; 0 and -1 of a reshape are worked out."""
        dims = list(sizes)
        if node.op_type == "Reshape":
            shape = [self.simplify(d) for d in self._nodes[node.input[0]].ty.shape.values]
            dims = [shape[i] if is_number(d) and d == 0 else d for i, d in enumerate(dims)]
            dims = self._inferred(dims, shape)
        return relax.ShapeExpr(dims)

    def _inferred(self, dims: list[Any], shape: list[Any]) -> list[Any]:
        """Replaces the one -1 by what is left of the elements."""
        unknown = [i for i, d in enumerate(dims) if is_number(d) and d == -1]
        if not unknown:
            return dims
        whole: Any = 1
        rest: Any = 1
        for dim in shape:
            whole = whole * dim
        for i, dim in enumerate(dims):
            rest = rest if i == unknown[0] else rest * dim
        dims[unknown[0]] = self.simplify(whole // rest)
        return dims


_TAKES_SHAPE = frozenset((("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0)))


def _dim_text(dim: Any) -> str:
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(dim))


def _may_be_sizes(array: Any) -> bool:
    """True for a short list of integers; for one number that is whole, also as a float."""
    if array.size > _MOST_SIZES or array.ndim > 1:
        return False
    return array.dtype.kind in "ib" or (
        array.dtype == np.float32
        and array.size == 1
        and bool((np.abs(array) < 2**24).all() and (array == np.round(array)).all())
    )


def _size(axis: Axis) -> Any:
    var = tirx.Var(axis.symbol, "int64")
    return var if axis.step == 1 else var * axis.step


def _in_32_bits(value: int) -> int:
    return max(-(2**31) + 1, min(value, 2**31 - 1))
