"""Attention written out becomes one op, in the forms that models give it; nothing else does."""

import pytest

from sparse_compiler.ir.text import parse_graph
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from sparse_compiler.passes.recognize_attention import RecognizeAttention
from tests.passes.checks import check_pass, check_untouched

PASS = RecognizeAttention()
HEAD = """
    input %q: f32[2, 4, 5, 8]
    input %k: f32[2, 4, 6, 8]
    input %v: f32[2, 4, 6, 7]
    input %m: f32[2, 1, 5, 6]
    input %c: bool[5, 6]
    """
TAIL = """
    %p: f32[2, 4, 5, 6] = softmax(%s)
    %y: f32[2, 4, 5, 7] = matmul(%p, %v)
    return %y
    """
PRODUCT = """
    %kt: f32[2, 4, 8, 6] = permute[dims=(0, 1, 3, 2)](%k)
    %qk: f32[2, 4, 5, 6] = matmul(%q, %kt)
    """


def check(text: str, *kept: str) -> None:
    """After the pass and the removal of what is dead, `kept` is left of the nodes."""
    after = PASS.run(parse_graph(text), Context())
    lines = str(EliminateDeadNodes().run(after, Context())).splitlines()
    nodes = [line.strip() for line in lines if " = " in line]
    assert nodes == [line.strip() for line in kept]
    check_pass(text, PASS, str(after))


def scores(*lines: str) -> str:
    return HEAD + PRODUCT + "\n".join(lines) + TAIL


def attention(attrs: str = "", *more: str) -> str:
    inputs = ", ".join(("%q", "%k", "%v", *more))
    return f"%y: f32[2, 4, 5, 7] = attention{f'[{attrs}]' if attrs else ''}({inputs})"


PLAIN = '%s: f32[2, 4, 5, 6] = pointwise[expr="{}"](%qk)'


@pytest.mark.parametrize(
    ("expr", "attrs"),
    [
        ("mul(x0, 0.35355339059327373)", ""),
        ("div(x0, 2.8284271247461903)", ""),
        ("mul(0.5, x0)", "scale=0.5"),
        ("x0", "scale=1.0"),
    ],
)
def test_the_scale_of_the_scores(expr, attrs):
    check(scores(PLAIN.format(expr)), attention(attrs))


def test_a_scale_split_between_queries_and_keys():
    text = (
        HEAD
        + """
        %qs: f32[2, 4, 5, 8] = pointwise[expr="mul(x0, 0.5)"](%q)
        %kt: f32[2, 4, 8, 6] = permute[dims=(0, 1, 3, 2)](%k)
        %ks: f32[2, 4, 8, 6] = pointwise[expr="div(x0, 4.0)"](%kt)
        %s: f32[2, 4, 5, 6] = matmul(%qs, %ks)
        """
        + TAIL
    )
    check(text, attention("scale=0.125"))


def test_a_scale_before_the_heads_are_split():
    text = """
        input %x: f32[2, 5, 16]
        input %k: f32[2, 2, 8, 6]
        input %v: f32[2, 2, 6, 8]
        %scaled: f32[2, 5, 16] = pointwise[expr="mul(x0, 0.25)"](%x)
        %heads: f32[2, 5, 2, 8] = reshape[shape=(2, 5, 2, 8)](%scaled)
        %q: f32[2, 2, 5, 8] = permute[dims=(0, 2, 1, 3)](%heads)
        %s: f32[2, 2, 5, 6] = matmul(%q, %k)
        %p: f32[2, 2, 5, 6] = softmax(%s)
        %y: f32[2, 2, 5, 8] = matmul(%p, %v)
        return %y
        """
    check(
        text,
        "%y.query.unscaled: f32[2, 5, 2, 8] = reshape[shape=(2, 5, 2, 8)](%x)",
        "%y.query.unscaled_2: f32[2, 2, 5, 8] = permute[dims=(0, 2, 1, 3)](%y.query.unscaled)",
        "%y.key: f32[2, 2, 6, 8] = permute[dims=(0, 1, 3, 2)](%k)",
        "%y: f32[2, 2, 5, 8] = attention[scale=0.25](%y.query.unscaled_2, %y.key, %v)",
    )


def test_an_added_mask_before_and_after_the_scale():
    check(
        scores(
            '%a: f32[2, 4, 5, 6] = pointwise[expr="mul(x0, 0.5)"](%qk)',
            '%s: f32[2, 4, 5, 6] = pointwise[expr="add(x0, x1)"](%m, %a)',
        ),
        attention("mask=true, scale=0.5, nan_rows=true", "%m"),
    )
    check(
        scores('%s: f32[2, 4, 5, 6] = pointwise[expr="mul(add(x0, x1), 0.5)"](%qk, %m)'),
        '%y.mask: f32[2, 1, 5, 6] = pointwise[expr="mul(x0, 0.5)"](%m)',
        attention("mask=true, scale=0.5, nan_rows=true", "%y.mask"),
    )


@pytest.mark.parametrize(
    ("expr", "mask"),
    [
        ("where(x1, x0, -inf)", None),
        ("where(x1, -inf, x0)", "logical_not(x0)"),
        ("where(x1, x0, -1000000000.0)", "where(x0, 0.0, -1000000000.0)"),
        ("where(x1, -3.4028234663852886e+38, x0)", "where(x0, -3.4028234663852886e+38, 0.0)"),
    ],
)
def test_a_mask_that_is_filled_in(expr, mask):
    made = (
        [f'%y.mask: {"bool" if "not" in mask else "f32"}[5, 6] = pointwise[expr="{mask}"](%c)']
        if mask
        else []
    )
    text = (
        HEAD.replace("%c: bool[5, 6]", "%raw: f32[5, 6]")
        + """
        %c: bool[5, 6] = pointwise[expr="lt(x0, 2.0)"](%raw)
        """
        + PRODUCT
        + f"""
        %s: f32[2, 4, 5, 6] = pointwise[expr="{expr}"](%qk, %c)
        """
        + TAIL
    )
    check(
        text,
        '%c: bool[5, 6] = pointwise[expr="lt(x0, 2.0)"](%raw)',
        *made,
        attention("mask=true, scale=1.0, nan_rows=true", "%y.mask" if mask else "%c"),
    )


def test_two_masks_become_one():
    check(
        scores(
            '%a: f32[2, 4, 5, 6] = pointwise[expr="add(x0, x1)"](%qk, %m)',
            '%s: f32[2, 4, 5, 6] = pointwise[expr="where(x0, -1e9, x1)"](%c, %a)',
        ).replace("-1e9", "-1000000000.0"),
        '%y.mask: f32[2, 1, 5, 6] = pointwise[expr="add(x0, where(x1, -1000000000.0, 0.0))"]'
        "(%m, %c)",
        attention("mask=true, scale=1.0, nan_rows=true", "%y.mask"),
    )


def test_windows_have_masks_of_their_own():
    """Swin's form: the batch is split into samples and windows where the mask comes in."""
    text = """
        input %q: f32[6, 4, 5, 8]
        input %k: f32[6, 4, 8, 5]
        input %v: f32[6, 4, 5, 8]
        param %bias: f32[1, 4, 5, 5]
        param %shifted: f32[3, 1, 5, 5]
        %qk: f32[6, 4, 5, 5] = matmul(%q, %k)
        %a: f32[6, 4, 5, 5] = pointwise[expr="add(x0, x1)"](%qk, %bias)
        %split: f32[2, 3, 4, 5, 5] = reshape[shape=(2, 3, 4, 5, 5)](%a)
        %m: f32[1, 3, 1, 5, 5] = reshape[shape=(1, 3, 1, 5, 5)](%shifted)
        %b: f32[2, 3, 4, 5, 5] = pointwise[expr="add(x0, x1)"](%split, %m)
        %s: f32[6, 4, 5, 5] = reshape[shape=(6, 4, 5, 5)](%b)
        %p: f32[6, 4, 5, 5] = softmax(%s)
        %y: f32[6, 4, 5, 8] = matmul(%p, %v)
        return %y
        """
    check(
        text,
        "%m: f32[1, 3, 1, 5, 5] = reshape[shape=(1, 3, 1, 5, 5)](%shifted)",
        "%y.key: f32[6, 4, 5, 8] = permute[dims=(0, 1, 3, 2)](%k)",
        "%y.mask.samples: f32[2, 3, 1, 5, 5] = expand[shape=(2, 3, 1, 5, 5)](%m)",
        "%y.mask.windows: f32[6, 1, 5, 5] = reshape[shape=(6, 1, 5, 5)](%y.mask.samples)",
        '%y.mask: f32[6, 4, 5, 5] = pointwise[expr="add(x0, x1)"](%bias, %y.mask.windows)',
        "%y: f32[6, 4, 5, 8] = attention[mask=true, scale=1.0, nan_rows=true]"
        "(%q, %y.key, %v, %y.mask)",
    )


def test_heads_folded_into_the_batch():
    """Batched products of three dimensions, the mask added to scores of four."""
    text = """
        input %q: f32[8, 5, 8]
        input %k: f32[8, 6, 8]
        input %v: f32[8, 6, 8]
        input %m: f32[2, 1, 5, 6]
        %kt: f32[8, 8, 6] = permute[dims=(0, 2, 1)](%k)
        %qk: f32[8, 5, 6] = matmul(%q, %kt)
        %open: f32[2, 4, 5, 6] = reshape[shape=(2, 4, 5, 6)](%qk)
        %masked: f32[2, 4, 5, 6] = pointwise[expr="add(x0, x1)"](%open, %m)
        %s: f32[8, 5, 6] = reshape[shape=(8, 5, 6)](%masked)
        %p: f32[8, 5, 6] = softmax(%s)
        %y: f32[8, 5, 8] = matmul(%p, %v)
        return %y
        """
    check(
        text,
        "%q.heads: f32[2, 4, 5, 8] = reshape[shape=(2, 4, 5, 8)](%q)",
        "%k.heads: f32[2, 4, 6, 8] = reshape[shape=(2, 4, 6, 8)](%k)",
        "%v.heads: f32[2, 4, 6, 8] = reshape[shape=(2, 4, 6, 8)](%v)",
        "%y.heads: f32[2, 4, 5, 8] = attention[mask=true, scale=1.0, nan_rows=true]"
        "(%q.heads, %k.heads, %v.heads, %m)",
        "%y: f32[8, 5, 8] = reshape[shape=(8, 5, 8)](%y.heads)",
    )


def test_no_heads_at_all():
    text = """
        input %q: f32[3, 5, 8]
        input %k: f32[3, 8, 5]
        input %v: f32[3, 5, 8]
        %s: f32[3, 5, 5] = matmul(%q, %k)
        %p: f32[3, 5, 5] = softmax[dim=2](%s)
        %y: f32[3, 5, 8] = matmul(%p, %v)
        return %y
        """
    check(
        text,
        "%y.key: f32[3, 5, 8] = permute[dims=(0, 2, 1)](%k)",
        "%q.heads: f32[3, 1, 5, 8] = reshape[shape=(3, 1, 5, 8)](%q)",
        "%y.key.heads: f32[3, 1, 5, 8] = reshape[shape=(3, 1, 5, 8)](%y.key)",
        "%v.heads: f32[3, 1, 5, 8] = reshape[shape=(3, 1, 5, 8)](%v)",
        "%y.heads: f32[3, 1, 5, 8] = attention[scale=1.0](%q.heads, %y.key.heads, %v.heads)",
        "%y: f32[3, 5, 8] = reshape[shape=(3, 5, 8)](%y.heads)",
    )


REPEATED = """
    input %q: f32[2, 4, 5, 8]
    input %k: f32[2, 2, 5, 8]
    input %v: f32[2, 2, 5, 8]
    %k1: f32[2, 2, 1, 5, 8] = reshape[shape=(2, 2, 1, 5, 8)](%k)
    %k2: f32[2, 2, 2, 5, 8] = expand[shape=(2, 2, 2, 5, 8)](%k1)
    %kr: f32[2, 4, 5, 8] = reshape[shape=(2, 4, 5, 8)](%k2)
    %v1: f32[2, 2, 1, 5, 8] = reshape[shape=(2, 2, 1, 5, 8)](%v)
    %v2: f32[2, 2, 2, 5, 8] = expand[shape=(2, 2, 2, 5, 8)](%v1)
    %vr: f32[2, 4, 5, 8] = reshape[shape=(2, 4, 5, 8)](%v2)
    """


def test_keys_and_values_repeated_for_grouped_queries():
    written = """
        %kt: f32[2, 4, 8, 5] = permute[dims=(0, 1, 3, 2)](%kr)
        %s: f32[2, 4, 5, 5] = matmul(%q, %kt)
        %p: f32[2, 4, 5, 5] = softmax(%s)
        %y: f32[2, 4, 5, 8] = matmul(%p, %vr)
        return %y
        """
    check(REPEATED + written, "%y: f32[2, 4, 5, 8] = attention[scale=1.0](%q, %k, %v)")
    fused = "%y: f32[2, 4, 5, 8] = attention[causal=true](%q, %kr, %vr)\nreturn %y"
    check(REPEATED + fused, "%y: f32[2, 4, 5, 8] = attention[causal=true](%q, %k, %v)")


def test_repeats_of_only_one_stay():
    text = REPEATED.replace("(%v)", "(%w)").replace("%v:", "%w:")
    text += "%y: f32[2, 4, 5, 8] = attention(%q, %kr, %q)\nreturn %y"
    check_untouched(text, PASS)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (scores(PLAIN.format("exp(x0)")), "no_scores"),
        (scores(PLAIN.format("add(x0, 1.0)")), "no_scores"),
        (
            scores('%s: f32[2, 4, 5, 6] = pointwise[expr="where(x1, x0, -5.0)"](%qk, %c)'),
            "mask",
        ),
        (scores(PLAIN.format("x0")).replace("return %y", "return %y, %p"), "shared_value"),
        (scores(PLAIN.format("x0")).replace("return %y", "return %y, %qk"), "shared_value"),
        (scores(PLAIN.format("x0")).replace("softmax(%s)", "softmax[dim=2](%s)"), "softmax"),
        (scores(PLAIN.format("x0")).replace("f32", "f64"), "dtype_unsupported"),
    ],
)
def test_must_not_fire(text, code):
    check_untouched(text, PASS, code)


def test_scores_that_are_broadcast():
    text = scores('%s: f32[2, 4, 5, 6] = pointwise[expr="add(x0, x1)"](%qk, %m)')
    text = text.replace("%q: f32[2, 4,", "%q: f32[2, 1,").replace("%k: f32[2, 4,", "%k: f32[2, 1,")
    text = text.replace("%kt: f32[2, 4,", "%kt: f32[2, 1,").replace(
        "%qk: f32[2, 4", "%qk: f32[2, 1"
    )
    text = text.replace("%m: f32[2, 1,", "%m: f32[2, 4,")
    check_untouched(text, PASS, "no_scores")


def test_a_log_softmax_is_none():
    text = scores(PLAIN.format("x0")).replace("softmax(%s)", "softmax[log=true](%s)")
    check_untouched(text, PASS)
