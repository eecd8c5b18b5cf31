"""Conversions move from between the ops to where halves come in and go out."""

from __future__ import annotations

from sparse_compiler.passes.compute_in_fp32 import ComputeInFp32
from tests.passes.checks import check_pass


def test_conversions_at_the_borders() -> None:
    check_pass(
        """
        input %x: bf16[5, 8]
        param %w: bf16[6, 8]
        %y: bf16[5, 6] = linear(%x, %w)
        %z: bf16[5, 6] = pointwise[expr="relu(x0)"](%y)
        return %z
        """,
        ComputeInFp32(),
        """
        input %x: bf16[5, 8]
        param %w: bf16[6, 8]
        %x.f32: f32[5, 8] = pointwise[expr="f32(x0)"](%x)
        %w.f32: f32[6, 8] = pointwise[expr="f32(x0)"](%w)
        %y: f32[5, 6] = linear(%x.f32, %w.f32)
        %z: f32[5, 6] = pointwise[expr="relu(x0)"](%y)
        %z.bf16: bf16[5, 6] = pointwise[expr="bf16(x0)"](%z)
        return %z.bf16
        """,
    )


def test_conversions_between_ops_vanish() -> None:
    check_pass(
        """
        input %x: f16[5, 8]
        %a: f32[5, 8] = pointwise[expr="f32(x0)"](%x)
        %b: f32[5, 8] = pointwise[expr="mul(x0, x0)"](%a)
        %c: f16[5, 8] = pointwise[expr="f16(x0)"](%b)
        %d: f16[5, 8] = pointwise[expr="add(x0, x1)"](%c, %x)
        return %d
        """,
        ComputeInFp32(),
        """
        input %x: f16[5, 8]
        %x.f32: f32[5, 8] = pointwise[expr="f32(x0)"](%x)
        %b: f32[5, 8] = pointwise[expr="mul(x0, x0)"](%x.f32)
        %d: f32[5, 8] = pointwise[expr="add(x0, x1)"](%b, %x.f32)
        %d.f16: f16[5, 8] = pointwise[expr="f16(x0)"](%d)
        return %d.f16
        """,
    )


def test_a_table_stays_as_it_is() -> None:
    check_pass(
        """
        input %i: i64[2, 3]
        param %t: bf16[9, 8]
        %e: bf16[2, 3, 8] = embedding(%t, %i)
        %y: bf16[2, 3, 8] = pointwise[expr="tanh(x0)"](%e)
        return %y
        """,
        ComputeInFp32(),
        """
        input %i: i64[2, 3]
        param %t: bf16[9, 8]
        %e: bf16[2, 3, 8] = embedding(%t, %i)
        %e.f32: f32[2, 3, 8] = pointwise[expr="f32(x0)"](%e)
        %y: f32[2, 3, 8] = pointwise[expr="tanh(x0)"](%e.f32)
        %y.bf16: bf16[2, 3, 8] = pointwise[expr="bf16(x0)"](%y)
        return %y.bf16
        """,
    )


def test_torch_gets_the_dtype_that_it_had() -> None:
    check_pass(
        """
        input %x: bf16[5, 8]
        %a: bf16[5, 8] = pointwise[expr="exp(x0)"](%x)
        %t: bf16[5, 8] = torch_call[target="aten.erfc.default", args=(_0,)](%a)
        %b: bf16[5, 8] = pointwise[expr="exp(x0)"](%t)
        return %b
        """,
        ComputeInFp32(),
        """
        input %x: bf16[5, 8]
        %x.f32: f32[5, 8] = pointwise[expr="f32(x0)"](%x)
        %a: f32[5, 8] = pointwise[expr="exp(x0)"](%x.f32)
        %a.bf16: bf16[5, 8] = pointwise[expr="bf16(x0)"](%a)
        %t: bf16[5, 8] = torch_call[target="aten.erfc.default", args=(_0,)](%a.bf16)
        %t.f32: f32[5, 8] = pointwise[expr="f32(x0)"](%t)
        %b: f32[5, 8] = pointwise[expr="exp(x0)"](%t.f32)
        %b.bf16: bf16[5, 8] = pointwise[expr="bf16(x0)"](%b)
        return %b.bf16
        """,
    )


def test_fp32_is_left_alone() -> None:
    text = """
        input %x: f32[5, 8]
        param %w: f32[6, 8]
        %y: f32[5, 6] = linear(%x, %w)
        return %y
        """
    check_pass(text, ComputeInFp32(), text)
