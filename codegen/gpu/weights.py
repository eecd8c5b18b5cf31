"""Kernels of packed weights: planes x [K, columns] or images -> planes out [M, columns].

One template for each family of formats, with holes: $load reads lines of x at the weight's columns
`k` (a linear's planes, or a convolution's pixels at an offset from each result), $epilogue computes
`value` of the sums x0 at (row, at). Sums are of fp32; threads lie along columns, so that loads of x
and stores are whole lines.
"""

from __future__ import annotations

HEAD = """\
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)[None, :]
    inside = at < P
"""

STORE = """\
    x0 = total
$epilogue
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""

BLOCK_ROWS = f"""\
def $name(
    out, ldo, P, M, starts, index, number, GROUP_ROWS, GROUP_LINES, $params
    HIGH: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr,
):
    # HIGH rows share each line that they read
{HEAD}    band = tl.program_id(0)
    row = band * HIGH + tl.arange(0, HIGH)[:, None]
    mask = (row < M) & inside
    first_line = band * HIGH // GROUP_ROWS * GROUP_LINES
$prepare
    total = tl.zeros([HIGH, WIDE], tl.float32)
    for i in range(tl.load(starts + band), tl.load(starts + band + 1)):
        column = tl.load(index + i) * DEEP
        for j in tl.static_range(DEEP):
            weight = tl.load(number + (i * HIGH + tl.arange(0, HIGH)[:, None]) * DEEP + j)
            k = column + j
$load
            total += weight.to(tl.float32) * line.to(tl.float32)
{STORE}"""

DENSE_ROWS = f"""\
def $name(
    out, ldo, P, M, K, number, GROUP_ROWS, GROUP_LINES, $params
    WIDE: tl.constexpr,
):
    # a row of few numbers, as of a depthwise convolution
{HEAD}    mine = tl.program_id(0)
    row, mask = mine + tl.zeros([1, 1], tl.int32), inside
    first_line = mine // GROUP_ROWS * GROUP_LINES
$prepare
    total = tl.zeros([1, WIDE], tl.float32)
    for k in range(K):
        weight = tl.load(number + mine * K + k)
$load
        total += weight.to(tl.float32) * line.to(tl.float32)
{STORE}"""

NM_ROWS = f"""\
def $name(
    out, ldo, P, M, place, number, RUNS, GROUP_ROWS, GROUP_LINES, $params
    KEPT: tl.constexpr, OF: tl.constexpr, WIDE: tl.constexpr,
):
    # KEPT numbers of each run of OF columns; place: where in its run each lies, a byte
{HEAD}    mine = tl.program_id(0)
    row, mask = mine + tl.zeros([1, 1], tl.int32), inside
    first_line = mine // GROUP_ROWS * GROUP_LINES
$prepare
    total = tl.zeros([1, WIDE], tl.float32)
    for run in range(RUNS):
        for j in tl.static_range(KEPT):
            i = (mine * RUNS + run) * KEPT + j
            weight = tl.load(number + i)
            k = run * OF + tl.load(place + i).to(tl.int32)
$load
            total += weight.to(tl.float32) * line.to(tl.float32)
{STORE}"""

BLOCK_DOTS = f"""\
def $name(
    out, ldo, P, M, starts, index, number, $params
    HIGH: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):
    # each stored block times its lines, on matrix units
{HEAD}    band = tl.program_id(0)
    row = band * HIGH + tl.arange(0, HIGH)[:, None]
    mask = (row < M) & inside
    first_line = 0
$prepare
    total = tl.zeros([HIGH, WIDE], tl.float32)
    for i in range(tl.load(starts + band), tl.load(starts + band + 1)):
        down = i * HIGH + tl.arange(0, HIGH)[:, None]
        block = tl.load(number + down * DEEP + tl.arange(0, DEEP)[None, :])
        k = tl.load(index + i) * DEEP + tl.arange(0, DEEP)[:, None]
$load
        total = tl.dot(block, line, total, input_precision=PRECISION)
{STORE}"""

DENSE_DOTS = f"""\
def $name(
    out, ldo, P, M, K, number, $params
    HIGH: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):
    # number: [whole bands of HIGH rows, K in whole steps of DEEP], zeros behind M and K
{HEAD}    row = tl.program_id(0) * HIGH + tl.arange(0, HIGH)[:, None]
    mask = (row < M) & inside
    first_line = 0
$prepare
    total = tl.zeros([HIGH, WIDE], tl.float32)
    for first in range(0, K, DEEP):
        block = tl.load(number + row * K + first + tl.arange(0, DEEP)[None, :])
        k = first + tl.arange(0, DEEP)[:, None]
$load
        total = tl.dot(block, line, total, input_precision=PRECISION)
{STORE}"""

CSR_ROWS = f"""\
def $name(
    out, ldo, P, M, order, starts, index, number, GROUP_ROWS, GROUP_LINES, $params
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):
    # HIGH rows one after the other over one panel of x: lines that one fetched the next ones find
{HEAD}$prepare
    for band in range(tl.program_id(0) * HIGH, tl.minimum(tl.program_id(0) * HIGH + HIGH, M)):
        mine = tl.load(order + band)
        row, mask = mine + tl.zeros([1, 1], tl.int32), inside
        first_line = mine // GROUP_ROWS * GROUP_LINES
        total = tl.zeros([1, WIDE], tl.float32)
        for i in range(tl.load(starts + mine), tl.load(starts + mine + 1)):
            k = tl.load(index + i)
            weight = tl.load(number + i)
$load
            total += weight.to(tl.float32) * line.to(tl.float32)
        x0 = total
$epilogue
        tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""


def _decode(params: str, prepare: str, loop: str, part: bool) -> str:
    """A product with one column of few: threads along HIGH rows' numbers, summed at the end.

    part: each of PARTS programs takes its share of a row and keeps the sum, [PARTS, M, P] in fp32.
    """
    head = f"def $name(out, {'' if part else 'ldo, '}P, M, {params} $params\n"
    store = _KEEP if part else _WHOLE
    return f"{head}{_DECODE_HEAD}{prepare}{_ZEROS}{loop}{store}"


_DECODE_HEAD = """\
    HIGH: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr,
):
    band = tl.program_id(0) * HIGH + tl.arange(0, HIGH)[:, None]
    at = tl.program_id(1) + tl.zeros([1, 1], tl.int32)
    first = tl.program_id(2) * WIDE
    mask = (band < M) & (at < P)
"""

_ZEROS = "    total = tl.zeros([HIGH, WIDE], tl.float32)\n"

_WHOLE = """\
    x0 = tl.sum(total, 1)[:, None]
$epilogue
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""

_KEEP = """\
    tl.store(out + (tl.program_id(2) * M + row) * P + at, tl.sum(total, 1)[:, None], mask=mask)
"""

_CSR_DECODE = (
    "order, starts, index, number,",
    """\
    row = tl.load(order + band, mask=band < M, other=0)
    begin = tl.load(starts + row)
    count = tl.where(band < M, tl.load(starts + row + 1) - begin, 0)
""",
    """\
    for left in range(first, tl.max(tl.max(count, 1), 0), WIDE * PARTS):
        i = left + tl.arange(0, WIDE)[None, :]
        k = tl.load(index + begin + i, mask=i < count, other=0)
        weight = tl.load(number + begin + i, mask=i < count, other=0.0)
        line = tl.load(x + k * ldx + at, mask=i < count, other=0.0)
        total += weight.to(tl.float32) * line.to(tl.float32)
""",
)

_DENSE_DECODE = (
    "K, number,",
    "    row = tl.minimum(band, M - 1)\n",
    """\
    for left in range(first, K, WIDE * PARTS):
        k = left + tl.arange(0, WIDE)[None, :]
        weight = tl.load(number + row * K + k, mask=k < K, other=0.0)
        line = tl.load(x + k * ldx + at, mask=k < K, other=0.0)
        total += weight.to(tl.float32) * line.to(tl.float32)
""",
)

_BITMAP_DECODE = (
    "WORDS, CHUNKS, starts, bits, number,",
    "    row = tl.minimum(band, M - 1)\n",
    """\
    for left in range(first, CHUNKS * WIDE, WIDE * PARTS):
        # a bit for each column, 32 to a word; starts: of the numbers of each WIDE columns
        k = left + tl.arange(0, WIDE)[None, :]
        word = tl.load(bits + row * WORDS + k // 32, mask=k < WORDS * 32, other=0)
        kept = (word >> (k % 32)) & 1
        i = tl.load(starts + row * CHUNKS + left // WIDE) + tl.cumsum(kept, 1) - 1
        weight = tl.load(number + i, mask=kept != 0, other=0.0)
        line = tl.load(x + k * ldx + at, mask=kept != 0, other=0.0)
        total += weight.to(tl.float32) * line.to(tl.float32)
""",
)

CSR_DECODE, CSR_DECODE_PART = (_decode(*_CSR_DECODE, part) for part in (False, True))
DENSE_DECODE, DENSE_DECODE_PART = (_decode(*_DENSE_DECODE, part) for part in (False, True))
BITMAP_DECODE, BITMAP_DECODE_PART = (_decode(*_BITMAP_DECODE, part) for part in (False, True))

SUM_PARTS = """\
def $name(
    out, ldo, P, M, partial, $params HIGH: tl.constexpr, PARTS: tl.constexpr,
):
    # the second pass of a row that was split along K: no atomics, the same order every time
    row = tl.program_id(0) * HIGH + tl.arange(0, HIGH)[:, None]
    at = tl.program_id(1) + tl.zeros([1, 1], tl.int32)
    mask = (row < M) & (at < P)
    x0 = tl.zeros([HIGH, 1], tl.float32)
    for part in tl.static_range(PARTS):
        x0 += tl.load(partial + (part * M + row) * P + at, mask=mask, other=0.0)
$epilogue
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=mask)
"""

LINES = {
    "params": "x, ldx, LINES,",
    "prepare": "    lines_end = LINES",
    "load": """\
line = tl.load(x + (first_line + k) * ldx + at, mask=inside & (k < lines_end), other=0.0)""",
}
"""x of a linear: plane k at the result's column."""

WINDOW = {
    "params": """\
x, ldx, LINES, D, H, W, DO, HO, WO,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    ED: tl.constexpr, EH: tl.constexpr, EW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,""",
    "prepare": """\
    pixel = at % (DO * HO * WO)
    depth, top = pixel // (HO * WO) * SD - PD, pixel // WO % HO * SH - PH
    left = pixel % WO * SW - PW
    corner = at // (DO * HO * WO) * (D * H * W) + (depth * H + top) * W + left""",
    "load": """\
channel, tap = k // (KD * KH * KW), k % (KD * KH * KW)
dz, dy, dx = tap // (KH * KW) * ED, tap // KW % KH * EH, tap % KW * EW
seen = inside & (channel < LINES) & (depth + dz >= 0) & (depth + dz < D)
seen = seen & (top + dy >= 0) & (top + dy < H) & (left + dx >= 0) & (left + dx < W)
pixels = (first_line + channel) * ldx + (dz * H + dy) * W + dx + corner
line = tl.load(x + pixels, mask=seen, other=0.0)""",
}
"""x of a convolution: k counts (channel, tap); a tap is an offset from the result's corner."""
