"""Each rule of the Relax importer against torch: the same numbers, and none of them from TVM."""

import pytest
import torch
import torch.nn.functional as F

tvm = pytest.importorskip("tvm")
from tvm import relax  # noqa: E402
from tvm.relax import op as R  # noqa: E402

from sparse_compiler.frontends.relax import import_relax  # noqa: E402
from sparse_compiler.frontends.relax_rules import RULES  # noqa: E402
from sparse_compiler.ir.verify import verify  # noqa: E402
from sparse_compiler.runtime.plain import PlainModule  # noqa: E402

X, IMAGE, ROWS = (2, 3, 4), (2, 3, 6, 6), (5, 4)
KERNEL = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
TABLE = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
VECTOR = torch.tensor([0.5, 1.5, 2.0, 1.0])
CHANNELS = torch.tensor([0.5, 1.5, 2.0])


def const(tensor):
    return relax.const(tensor.numpy())


def conv(x, **attrs):
    return R.nn.conv2d(x, const(KERNEL), **attrs)


UNARY = {
    "nn.relu": torch.relu, "nn.gelu": F.gelu, "nn.silu": F.silu, "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "exp": torch.exp, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos,
    "negative": torch.neg, "abs": torch.abs, "sign": torch.sign, "floor": torch.floor,
    "ceil": torch.ceil, "round": torch.round, "trunc": torch.trunc, "square": torch.square,
    "isnan": torch.isnan, "isinf": torch.isinf, "isfinite": torch.isfinite,
    "nn.gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "nn.relu6": F.relu6,
    "nn.selu": F.selu,
}  # fmt: skip
BINARY = {
    "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div,
    "maximum": torch.maximum, "minimum": torch.minimum, "less": torch.lt, "greater": torch.gt,
    "equal": torch.eq, "not_equal": torch.ne, "less_equal": torch.le, "greater_equal": torch.ge,
    "floor_divide": torch.floor_divide, "floor_mod": torch.remainder, "mod": torch.fmod,
}  # fmt: skip
CASES = {
    **{name: (X, None, fn) for name, fn in UNARY.items()},
    "clip": (X, lambda x: R.clip(x, -0.5, 0.5), lambda x: x.clamp(-0.5, 0.5)),
    "nn.leakyrelu": (X, lambda x: R.nn.leakyrelu(x, 0.1), lambda x: F.leaky_relu(x, 0.1)),
    "astype": (X, lambda x: R.astype(x, "int32"), lambda x: x.int()),
    "astype bool": (X, lambda x: R.astype(R.nn.relu(x), "bool"), lambda x: x.relu().bool()),
    "where": (X, lambda x: R.where(R.less(x, const(torch.tensor(0.0))), R.exp(x), x),
              lambda x: torch.where(x < 0, x.exp(), x)),
    "reshape": (X, lambda x: R.reshape(x, (6, 4)), lambda x: x.reshape(6, 4)),
    "expand_dims": (X, lambda x: R.expand_dims(x, [1]), lambda x: x.unsqueeze(1)),
    "squeeze": ((2, 1, 4), lambda x: R.squeeze(x, [1]), lambda x: x.squeeze(1)),
    "flatten": (X, R.flatten, torch.flatten),
    "permute_dims": (X, lambda x: R.permute_dims(x, [2, 0, 1]), lambda x: x.permute(2, 0, 1)),
    "permute_dims all": (X, R.permute_dims, lambda x: x.permute(2, 1, 0)),
    "broadcast_to": ((3, 1), lambda x: R.broadcast_to(x, (2, 3, 4)), lambda x: x.expand(2, 3, 4)),
    "tile": (X, lambda x: R.tile(x, (2, 1, 3)), lambda x: x.repeat(2, 1, 3)),
    "repeat": (X, lambda x: R.repeat(x, 2, 1), lambda x: x.repeat_interleave(2, 1)),
    "flip": (X, lambda x: R.flip(x, 1), lambda x: x.flip(1)),
    "concat": (X, lambda x: R.concat([x, R.exp(x)], 1), lambda x: torch.cat([x, x.exp()], 1)),
    "stack": (X, lambda x: R.stack([x, R.exp(x)], 1), lambda x: torch.stack([x, x.exp()], 1)),
    "strided_slice": (X, lambda x: R.strided_slice(x, [1, 2], [0, -3], [2, 4], [1, 2]),
                      lambda x: x[:, 0:2, -3:4:2]),
    "split": (X, lambda x: relax.TupleGetItem(R.split(x, [1, 3], 2), 1), lambda x: x[:, :, 1:3]),
    "split sections": (X, lambda x: relax.TupleGetItem(R.split(x, 2, 2), 1),
                       lambda x: x[:, :, 2:]),
    "nn.pad": (X, lambda x: R.nn.pad(x, [0, 0, 1, 2, 0, 1]), lambda x: F.pad(x, (0, 1, 1, 2))),
    "sum": (X, lambda x: R.sum(x, [0, 2], True), lambda x: x.sum((0, 2), True)),
    "mean": (X, lambda x: R.mean(x, -1), lambda x: x.mean(-1)),
    "max": (X, lambda x: R.max(x, 1), lambda x: x.amax(1)),
    "min": (X, lambda x: R.min(x), lambda x: x.amin()),
    "variance": (X, lambda x: R.variance(x, -1, True), lambda x: x.var(-1, False, keepdim=True)),
    "std": (X, lambda x: R.std(x, -1), lambda x: x.std(-1, False)),
    "argmax": (X, lambda x: R.argmax(x, 1), lambda x: x.argmax(1)),
    "matmul weight": (X, lambda x: R.matmul(x, const(TABLE.T.contiguous())),
                      lambda x: x @ TABLE.T),
    "matmul": (X, lambda x: R.matmul(x, R.permute_dims(x, [0, 2, 1])), lambda x: x @ x.mT),
    "nn.softmax": (X, lambda x: R.nn.softmax(x, 1), lambda x: x.softmax(1)),
    "nn.log_softmax": (X, lambda x: R.nn.log_softmax(x, -1), lambda x: x.log_softmax(-1)),
    "nn.layer_norm": (X, lambda x: R.nn.layer_norm(x, const(VECTOR), const(VECTOR), [-1]),
                      lambda x: F.layer_norm(x, (4,), VECTOR, VECTOR)),
    "nn.rms_norm": (X, lambda x: R.nn.rms_norm(x, const(VECTOR), [-1], 1e-6),
                    lambda x: F.rms_norm(x, (4,), VECTOR, 1e-6)),
    "nn.batch_norm": (IMAGE, lambda x: relax.TupleGetItem(
        R.nn.batch_norm(x, *[const(CHANNELS)] * 4, axis=1, training=False), 0),
        lambda x: F.batch_norm(x, *[CHANNELS] * 4)),
    "nn.group_norm": (IMAGE, lambda x: R.nn.group_norm(
        x, const(CHANNELS), const(CHANNELS), 3, 1, [2, 3]),
        lambda x: F.group_norm(x, 3, CHANNELS, CHANNELS)),
    "nn.conv2d": (IMAGE, lambda x: conv(x, strides=2, padding=1),
                  lambda x: F.conv2d(x, KERNEL, stride=2, padding=1)),
    "nn.conv2d uneven": (IMAGE, lambda x: conv(x, padding=[0, 1, 1, 2]),
                         lambda x: F.conv2d(F.pad(x, (1, 2, 0, 1)), KERNEL)),
    "nn.conv2d_transpose": ((2, 4, 5, 5), lambda x: R.nn.conv2d_transpose(
        x, const(KERNEL), strides=2, padding=1, output_padding=1),
        lambda x: F.conv_transpose2d(x, KERNEL, stride=2, padding=1, output_padding=1)),
    "nn.max_pool2d": (IMAGE, lambda x: R.nn.max_pool2d(x, 3, 2, 1),
                      lambda x: F.max_pool2d(x, 3, 2, 1)),
    "nn.avg_pool2d": (IMAGE, lambda x: R.nn.avg_pool2d(x, 2, 2), lambda x: F.avg_pool2d(x, 2)),
    "nn.adaptive_avg_pool2d": (IMAGE, lambda x: R.nn.adaptive_avg_pool2d(x, 2),
                               lambda x: F.adaptive_avg_pool2d(x, 2)),
    "take": ("ids", lambda i: R.take(const(TABLE), i, 0), lambda i: TABLE[i]),
    "take elements": ("ids", lambda i: R.take(const(TABLE), i, 1), lambda i: TABLE[:, i]),
    "take one": (X, lambda x: R.take(x, relax.const(1, "int64"), 1), lambda x: x[:, 1]),
    "gather_elements": ("ids", lambda i: R.gather_elements(const(TABLE), i, 0),
                        lambda i: TABLE.gather(0, i)),
    "gather_nd": ("ids", lambda i: R.gather_nd(const(TABLE), i),
                  lambda i: TABLE[i[:, 0], i[:, 1]]),
    "index_tensor": ("ids", lambda i: R.index_tensor(const(TABLE), [i, i]),
                     lambda i: TABLE[i, i]),
    "arange": (X, lambda x: R.add(x, R.arange(0, 4, 1, "float32")),
               lambda x: x + torch.arange(4.0)),
    "full": (X, lambda x: R.add(x, R.full((3, 4), relax.const(2.0), "float32")),
             lambda x: x + 2),
    "zeros": (X, lambda x: R.add(x, R.zeros((3, 4), "float32")), lambda x: x + 0),
    "ones_like": (X, lambda x: R.add(x, R.ones_like(x)), lambda x: x + 1),
    "tril": (ROWS, lambda x: R.tril(x, -1), lambda x: x.tril(-1)),
    "triu": (ROWS, lambda x: R.triu(x, 1), lambda x: x.triu(1)),
    "shape_of": (X, lambda x: R.multiply(R.astype(R.take(
        R.shape_to_tensor(R.shape_of(x)), relax.const(2, "int64"), 0), "float32"), x),
        lambda x: 4 * x),
}  # fmt: skip


def module_of(build, *types):
    """A Relax module of one function, its inputs of these types."""
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", type_) for i, type_ in enumerate(types)]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(*inputs)))
        builder.emit_func_output(result)
    return builder.get()


def imported(module):
    """The module as torch runs its graph; and the graph."""
    found = import_relax(module)
    verify(found.imported.graph)
    model = PlainModule(found.imported.graph, found.imported.params, found.call)
    return model, found.imported.graph


def check(module, inputs, expected):
    model, graph = imported(module)
    assert "tvm_call" not in {node.op.name for node in graph.nodes}
    result = model(*inputs)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    shape, build, expected = CASES[name]
    if build is None:
        function = R
        for part in name.split("."):
            function = getattr(function, part)
        build = function
    if shape == "ids":
        x, type_ = torch.tensor([[3, 1], [0, 2]]), relax.TensorType((2, 2), "int64")
    else:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        type_ = relax.TensorType(shape, "float32")
    check(module_of(build, type_), [x], expected(x))


@pytest.mark.parametrize("name", BINARY)
def test_rule_of_two(name):
    a = torch.randn(X, generator=torch.Generator().manual_seed(0))
    b = torch.randn(4, generator=torch.Generator().manual_seed(1)) + 2
    types = [relax.TensorType(t.shape, "float32") for t in (a, b)]
    check(module_of(getattr(R, name), *types), [a, b], BINARY[name](a, b))


def test_elementwise_tir_functions_are_read():
    from tvm import topi

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(X, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            low = builder.emit_te(topi.maximum, x, relax.const(0.0))
            high = builder.emit_output(builder.emit_te(topi.minimum, low, relax.const(6.0)))
        builder.emit_func_output(high)
    value = 5 * torch.randn(X, generator=torch.Generator().manual_seed(0))
    check(builder.get(), [value], F.relu6(value))


@pytest.mark.system
def test_other_tir_functions_are_left_to_tvm():
    from tvm import topi

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(ROWS, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit_te(topi.sum, x, 1))
        builder.emit_func_output(result)
    model, graph = imported(builder.get())
    assert [node.op.name for node in graph.nodes] == ["tvm_call"]
    value = torch.randn(ROWS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(value), value.sum(1))


def test_every_rule_names_an_operator_of_relax():
    known = set(tvm.ir.Op.list_op_names())
    foreign = {key for key in RULES if not key.startswith("extern.")} - known
    assert not foreign
