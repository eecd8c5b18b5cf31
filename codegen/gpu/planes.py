"""Kernels on planes beside those of weights: pointwise, norms, softmax, pooling, copies.

Holes: $source computes `value` at (row, at) of what a kernel reads, $epilogue of its result x0.
Threads lie along columns; what is reduced over rows is walked in steps of HIGH of them.
"""

from __future__ import annotations

POINTWISE = """\
def $name(out, ldo, P, M, $params HIGH: tl.constexpr, WIDE: tl.constexpr):
    row = tl.program_id(0) * HIGH + tl.arange(0, HIGH)[:, None]
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)[None, :]
    mask = (row < M) & (at < P)
$epilogue
    value = value + tl.zeros([HIGH, WIDE], tl.float32)
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""

_COLUMNS = """\
    at = tl.program_id(0) * WIDE + tl.arange(0, WIDE)[None, :]
    rows = tl.arange(0, HIGH)[:, None]
"""

_WALK = """\
    for first in range(0, M, HIGH):
        row = first + rows
        mask = (row < M) & (at < P)
$source
"""
"""All rows of a column: the statements that use `value` stand behind, indented by 8."""

_GROUP = """\
    for first in range(0, ROWS, HIGH):
        for left in range(0, EACH, WIDE):
            inner = first + tl.arange(0, HIGH)[:, None]
            across = left + tl.arange(0, WIDE)[None, :]
            mask = (inner < ROWS) & (across < EACH)
            row, at = begin + inner, column + across
$source
"""
"""All numbers of a group: what stands behind is indented by 12."""

NORM = f"""\
def $name(
    out, ldo, P, M, EPS, $params CENTRED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr
):
    # (x - mean) / sqrt(mean((x - mean)^2) + EPS) of each column; mean = 0 unless CENTRED
{_COLUMNS}    mean = tl.zeros([1, WIDE], tl.float32)
    if CENTRED:
        for first in range(0, M, HIGH):
            row = first + rows
            mask = (row < M) & (at < P)
$source
            mean += tl.sum(tl.where(mask, value, 0.0), 0)[None, :]
        mean = mean / M
    square = tl.zeros([1, WIDE], tl.float32)
{_WALK}        apart = tl.where(mask, value - mean, 0.0)
        square += tl.sum(apart * apart, 0)[None, :]
    scale = 1.0 / tl.sqrt(square / M + EPS)
{_WALK}        x0 = (value - mean) * scale
$epilogue
        tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""

SOFTMAX = f"""\
def $name(out, ldo, P, M, $params LOG: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr):
    # over the rows of each column
{_COLUMNS}    most = tl.full([1, WIDE], float("-inf"), tl.float32)
{_WALK}        most = tl.maximum(most, tl.max(tl.where(mask, value, float("-inf")), 0)[None, :])
    total = tl.zeros([1, WIDE], tl.float32)
{_WALK}        total += tl.sum(tl.where(mask, tl.exp(value - most), 0.0), 0)[None, :]
{_WALK}        if LOG:
            value = value - most - tl.log(total)
        else:
            value = tl.exp(value - most) / total
        tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""

GROUP_NORM = f"""\
def $name(
    out, ldo, EACH, ROWS, EPS, $params HIGH: tl.constexpr, WIDE: tl.constexpr
):
    # each group of ROWS planes of each sample, of EACH columns
    begin, column = tl.program_id(0) * ROWS, tl.program_id(1) * EACH
    mean = tl.zeros([1, 1], tl.float32)
{_GROUP}            mean += tl.sum(tl.sum(tl.where(mask, value, 0.0), 1), 0)
    mean = mean / (ROWS * EACH)
    square = tl.zeros([1, 1], tl.float32)
{_GROUP}            apart = tl.where(mask, value - mean, 0.0)
            square += tl.sum(tl.sum(apart * apart, 1), 0)
    scale = 1.0 / tl.sqrt(square / (ROWS * EACH) + EPS)
{_GROUP}            x0 = (value - mean) * scale
$epilogue
            tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""

REDUCE_ROWS = f"""\
def $name(
    out, P, M, $params MOST: tl.constexpr, MEAN: tl.constexpr, HIGH: tl.constexpr,
    WIDE: tl.constexpr,
):
    # one number for each column: the sum, the mean, or the maximum (MOST 1) or minimum (-1)
{_COLUMNS}    total = tl.full([1, WIDE], float("-inf") if MOST else 0.0, tl.float32)
{_WALK}        if MOST:
            kept = tl.where(mask, value * MOST, float("-inf"))
            total = tl.maximum(total, tl.max(kept, 0)[None, :])
        else:
            total += tl.sum(tl.where(mask, value, 0.0), 0)[None, :]
    total = total * MOST if MOST else (total / M if MEAN else total)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < P)
"""

REDUCE_COLUMNS = """\
def $name(
    out, ldo, EACH, SAMPLES, $params MOST: tl.constexpr, MEAN: tl.constexpr, WIDE: tl.constexpr
):
    # one number for each plane of each sample, of EACH columns
    row = tl.program_id(0) + tl.zeros([1, 1], tl.int32)
    sample = tl.program_id(1)
    total = tl.full([1, WIDE], float("-inf") if MOST else 0.0, tl.float32)
    for left in range(0, EACH, WIDE):
        across = left + tl.arange(0, WIDE)[None, :]
        mask = across < EACH
        at = sample * EACH + across
$source
        if MOST:
            total = tl.maximum(total, tl.where(mask, value * MOST, float("-inf")))
        else:
            total += tl.where(mask, value, 0.0)
    x0 = tl.max(total, 1)[:, None] * MOST if MOST else tl.sum(total, 1)[:, None]
    if MEAN:
        x0 = x0 / EACH
    tl.store(out + row * ldo + sample, x0.to(out.dtype.element_ty))
"""

POOL = """\
def $name(
    out, ldo, P, $params DIVISOR, MAX: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr
):
    # WHOLE: places outside of the image count in a mean; DIVISOR: of a mean, 0 for the count
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)[None, :]
    inside = at < P
    first_line = tl.program_id(0)
$prepare
    total = tl.full([1, WIDE], float("-inf") if MAX else 0.0, tl.float32)
    count = tl.zeros([1, WIDE], tl.float32)
    for k in range(KD * KH * KW):
$load
        if MAX:
            value = tl.where(seen, line.to(tl.float32), float("-inf"))
            total = tl.maximum(total, value, propagate_nan=tl.PropagateNan.ALL)
        else:
            total += line.to(tl.float32)
            padded = (depth + dz < D + PD) & (top + dy < H + PH) & (left + dx < W + PW)
            count += tl.where((padded & WHOLE) | seen, 1.0, 0.0)
    if not MAX:
        total = total / tl.where(DIVISOR != 0, DIVISOR, count)
    tl.store(out + first_line * ldo + at, total.to(out.dtype.element_ty), mask=inside)
"""

ADAPTIVE_POOL = """\
def $name(
    out, ldo, P, x, ldx, D, H, W, DO, HO, WO, MAX: tl.constexpr, WIDE: tl.constexpr
):
    # result i of n reads floor(i * size / n) .. ceil((i + 1) * size / n)
    row, at = tl.program_id(1), tl.program_id(0)
    pixel = at % (DO * HO * WO)
    oz, oy, ox = pixel // (HO * WO), pixel // WO % HO, pixel % WO
    z, z_end = oz * D // DO, ((oz + 1) * D + DO - 1) // DO
    y, y_end = oy * H // HO, ((oy + 1) * H + HO - 1) // HO
    left, right = ox * W // WO, ((ox + 1) * W + WO - 1) // WO
    deep, high, wide = z_end - z, y_end - y, right - left
    corner = row * ldx + at // (DO * HO * WO) * (D * H * W)
    total = tl.full([WIDE], float("-inf") if MAX else 0.0, tl.float32)
    for first in range(0, deep * high * wide, WIDE):
        i = first + tl.arange(0, WIDE)
        seen = i < deep * high * wide
        place = ((z + i // (high * wide)) * H + y + i // wide % high) * W + left + i % wide
        value = tl.load(x + corner + place, mask=seen, other=0.0).to(tl.float32)
        if MAX:
            total = tl.maximum(total, tl.where(seen, value, float("-inf")))
        else:
            total += value
    result = tl.max(total, 0) if MAX else tl.sum(total, 0) / (deep * high * wide)
    tl.store(out + row * ldo + at, result.to(out.dtype.element_ty))
"""

TRANSPOSE = """\
def $name(
    out, ldo, x, ldx, P, M, SIDE: tl.constexpr,
):
    # out[i, j] = x[j, i] of M x P: rows of features <-> planes of features
    row = tl.program_id(0) * SIDE + tl.arange(0, SIDE)[:, None]
    at = tl.program_id(1) * SIDE + tl.arange(0, SIDE)[None, :]
    tile = tl.load(x + tl.trans(at) * ldx + tl.trans(row), mask=tl.trans((row < M) & (at < P)),
                   other=0.0)
    value = tl.trans(tile)
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=(row < M) & (at < P))
"""

GATHER = """\
def $name(
    out, ROW_STEP, COLUMN_STEP, table, ids, error, ROWS, WIDTH, P, WIDE: tl.constexpr
):
    # out[column, feature] = table[ids[column], feature]; an id outside of it is noted, 1 + place
    column = tl.program_id(0)
    feature = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    id = tl.load(ids + column).to(tl.int64)
    if (id < 0) | (id >= ROWS):
        tl.store(error, (column + 1).to(tl.int64))
        id = id * 0
    value = tl.load(table + id * WIDTH + feature, mask=feature < WIDTH, other=0.0)
    place = column.to(tl.int64) * COLUMN_STEP + feature * ROW_STEP
    tl.store(out + place, value.to(out.dtype.element_ty), mask=feature < WIDTH)
"""

SPREAD = """\
def $name(
    out, ldo, x, ldx, P, M, $params HIGH: tl.constexpr, WIDE: tl.constexpr
):
    # rows of x at places of their own, a number for each of the rows between
    row = tl.program_id(0) * HIGH + tl.arange(0, HIGH)[:, None]
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)[None, :]
    mask = (row < M) & (at < P)
$runs
$epilogue
    there = mask & (source >= 0)
    line = tl.load(x + source * ldx + at, mask=there, other=0.0).to(tl.float32)
    value = tl.where(there, line, value)
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""
