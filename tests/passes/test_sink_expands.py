"""SinkExpands: what is spread over samples is computed once; inputs keep their expands."""

from sparse_compiler.passes.sink_expands import SinkExpands
from tests.passes.checks import check_pass, check_untouched


def test_position_ids_are_looked_up_once() -> None:
    check_pass(
        """
        symbol B in [1, 64]
        input %x: f32[B, 5, 4]
        param %table: f32[9, 4]
        %i: i64[5] = iota[length=5]()
        %ids: i64[1, 5] = reshape[shape=(1, 5)](%i)
        %spread: i64[B, 5] = expand[shape=(B, 5)](%ids)
        %e: f32[B, 5, 4] = embedding(%table, %spread)
        %y: f32[B, 5, 4] = pointwise[expr="add(x0, x1)"](%x, %e)
        return %y
        """,
        SinkExpands(),
        """
        symbol B in [1, 64]
        input %x: f32[B, 5, 4]
        param %table: f32[9, 4]
        %i: i64[5] = iota[length=5]()
        %ids: i64[1, 5] = reshape[shape=(1, 5)](%i)
        %spread: i64[B, 5] = expand[shape=(B, 5)](%ids)
        %e.once: f32[1, 5, 4] = embedding(%table, %ids)
        %e: f32[B, 5, 4] = expand[shape=(B, 5, 4)](%e.once)
        %y: f32[B, 5, 4] = pointwise[expr="add(x0, x1)"](%x, %e.once)
        return %y
        """,
    )


def test_what_gives_the_result_its_shape_stays() -> None:
    check_untouched(
        """
        input %x: f32[1, 4]
        param %p: f32[1, 4]
        %wide: f32[3, 4] = expand[shape=(3, 4)](%p)
        %y: f32[3, 4] = pointwise[expr="add(x0, x1)"](%x, %wide)
        return %y
        """,
        SinkExpands(),
    )


def test_inputs_stay_spread() -> None:
    check_untouched(
        """
        input %x: f32[3, 4]
        input %i: f32[1, 4]
        %wide: f32[3, 4] = expand[shape=(3, 4)](%i)
        %y: f32[3, 4] = pointwise[expr="add(x0, x1)"](%x, %wide)
        return %y
        """,
        SinkExpands(),
    )
