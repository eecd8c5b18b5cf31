"""Calls that torch runs between the kernels of a GPU segment, on views of the segment's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..codegen.operands import Word, ld_of
from .gpu_clock import Step


def _attend(binder: Any, args: tuple[Any, ...]) -> Step:
    """softmax(q k' scale + mask) v by torch's SDPA; planes [heads * size, samples * tokens]."""
    q, k, v, to, samples, heads, shared, queries, keys, size, values, scale, causal, nan, mask = (
        args[:15]
    )
    count = binder.value(samples)
    numbers = [binder.number(n) for n in (heads, shared, size, values, keys)]
    h, group, width, depth, reads = numbers
    asked = binder.value(queries)

    def view(planes: Any, heads: int, width: int, tokens: int) -> torch.Tensor:
        planes = getattr(planes, "planes", planes)
        ld = binder.known[str(ld_of(planes.space))]
        flat: torch.Tensor = binder.value(planes)
        return flat.as_strided((count, heads, tokens, width), (tokens, width * ld, 1, ld))

    views = (
        view(q, h, width, asked),
        view(k, h // group, width, reads),
        view(v, h // group, depth, reads),
    )
    out, bias = view(to, h, depth, asked), None
    pointer = binder.value(mask) if not isinstance(mask, Word) else None
    if pointer is not None:
        steps = [binder.number(n) for n in args[15:19]]
        bias = pointer.as_strided((count, h, asked, reads), (*steps[:2], steps[3], steps[2]))

    def run() -> None:
        added = None if bias is None else bias.to(views[0].dtype)
        if added is not None and causal:  # torch takes one of them
            added = added + torch.full_like(added, float("-inf")).triu(1)
        result = torch.nn.functional.scaled_dot_product_attention(
            views[0].contiguous(),
            views[1].contiguous(),
            views[2].contiguous(),
            attn_mask=added,
            is_causal=causal and added is None,
            scale=scale,
            enable_gqa=group > 1,
        )
        if nan and added is not None:
            result = result.masked_fill((added == float("-inf")).all(-1, keepdim=True), math.nan)
        out.copy_(result)

    return run


def _attend_row(binder: Any, args: tuple[Any, ...]) -> Step:
    """The same for one query; q [heads, size], k and v [groups, keys, size], all row-major."""
    geometry, *places, mask, to, _ = args
    heads, groups, keys, size, depth = (binder.number(n) for n in geometry.fields[:5])
    scale, nan, step = geometry.fields[5:]
    q, k, v = (binder.value(place) for place in places)
    query = q[: heads * size].view(1, heads, 1, size)
    known = k[: groups * keys * size].view(1, groups, keys, size)
    values = v[: groups * keys * depth].view(1, groups, keys, depth)
    out = binder.value(to)[: heads * depth].view(1, heads, 1, depth)
    seen = None
    if not isinstance(mask, Word):
        seen = binder.value(mask).as_strided((1, heads, 1, keys), (0, binder.number(step), 0, 1))

    def run() -> None:
        result = torch.nn.functional.scaled_dot_product_attention(
            query, known, values, attn_mask=seen, scale=scale, enable_gqa=heads > groups
        )
        if seen is not None:
            hidden = ~seen if seen.dtype == torch.bool else seen == float("-inf")
            blind = hidden.all(-1, keepdim=True)
            result = result.masked_fill(blind, math.nan if nan else 0.0)
        out.copy_(result)

    return run


def _mask_to_planes(binder: Any, args: tuple[Any, ...]) -> Step:
    """A bool or additive mask -> additive fp32 with `row` numbers from each of its lines on."""
    source, geometry, columns, to, row = args
    sizes = [binder.value(n) for n in geometry.fields[0].fields]
    steps = [binder.number(n) for n in geometry.fields[1].fields]
    wide, apart = binder.number(columns), binder.number(row)
    given = binder.value(source).as_strided(
        (*sizes, wide), (*steps, binder.number(geometry.fields[2]))
    )
    lines = math.prod(sizes)
    target = binder.value(to)[: lines * apart].view(*sizes, apart)[..., :wide]

    def run() -> None:
        if given.dtype == torch.bool:
            target.zero_().masked_fill_(~given, float("-inf"))
        else:
            target.copy_(given)

    return run


def _matmul(binder: Any, args: tuple[Any, ...]) -> Step:
    """A product of activations, each with strides over up to three batch dimensions."""
    batch, rows, columns, inner, left, right, to = args[0].fields
    sizes = [binder.value(n) for n in batch.fields]
    m, n, k = (binder.number(x) for x in (rows, columns, inner))

    def view(side: Any, shape: tuple[int, int]) -> torch.Tensor:
        place, steps, *last = side.fields
        strides = [binder.number(s) for s in (*steps.fields, *last)]
        found: torch.Tensor = binder.value(place).as_strided((*sizes, *shape), strides)
        return found

    a, b, out = view(left, (m, k)), view(right, (k, n)), view(to, (m, n))

    def run() -> None:
        out.copy_(torch.matmul(a, b))

    return run


def _softmax_along(binder: Any, args: tuple[Any, ...]) -> Step:
    """softmax over the middle dimension of [outer, size, inner], row-major."""
    outer, size, inner, source, to, log = args
    shape = [binder.value(n) for n in (outer, size, inner)]
    numel = math.prod(shape)
    given = binder.value(source)[:numel].view(shape)
    out = binder.value(to)[:numel].view(shape)
    function = torch.log_softmax if log else torch.softmax

    def run() -> None:
        out.copy_(function(given, 1))

    return run


HOST: Mapping[str, Callable[[Any, tuple[Any, ...]], Step]] = {
    "attend": _attend,
    "attend_row": _attend_row,
    "mask_to_planes": _mask_to_planes,
    "matmul": _matmul,
    "softmax_along": _softmax_along,
}
