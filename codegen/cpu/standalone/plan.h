// How threads share a segment and where its buffers lie: as in codegen/plan.py, which says why. The
// tests hold the two to the same numbers.
#pragma once
#include <algorithm>
#include <vector>

#include "tables.h"

namespace sc::standalone {

constexpr int64_t kChunkColumns = 256, kAloneColumns = 128, kSplitColumns = 32, kLine = 16;
constexpr int64_t kChunkFloats = 1 << 20, kSaved = 3;

using Numbers = std::vector<int64_t>;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t lines(int64_t floats) { return ceil_div(floats, kLine) * kLine; }

struct Sharing {
  int64_t samples, per;
  bool alone;
  Numbers part, rest, ld;
};

// The columns that each thread holds, and the rest; none where they are too few for a split.
static void divide_columns(int64_t columns, int64_t threads, int64_t& part, int64_t& rest) {
  const int64_t most = lines(ceil_div(columns, threads));
  const int64_t least = columns / threads / kLine * kLine;
  part = rest = 0;
  if (least >= kSplitColumns && double(most * threads) >= 1.05 * double(lines(columns))) {
    part = least;
    rest = columns - least * threads;
  } else if (most >= kSplitColumns && most * (threads - 1) < columns) {
    part = most;
  }
}

// Samples of a chunk, doubled while small planes then leave fewer lanes of vectors empty.
static int64_t widened(const SegmentTable& segment, int64_t samples, const int64_t* columns,
                       int64_t most) {
  for (; 2 * most <= samples; most *= 2) {
    int64_t work = 0, wider = 0;
    for (int i = 0; i < segment.buffers; i++) {
      const BufferTable& b = segment.buffer[i];
      if (b.space < 0 || !b.rows) continue;
      const int64_t rows = b.rows, twice = lines(2 * most * columns[b.space]);
      if (rows * twice > kChunkFloats) return most;
      work += 2 * rows * rows * lines(most * columns[b.space]);
      wider += rows * rows * twice;
    }
    if (100 * wider >= (100 - kSaved) * work) break;
  }
  return most;
}

static int64_t samples_per_chunk(const SegmentTable& segment, int64_t samples,
                                 const int64_t* columns, int64_t unit, int64_t threads) {
  const int64_t few = std::max<int64_t>(1, kChunkColumns / unit);
  const int64_t most = widened(segment, samples, columns, few);
  int64_t count = ceil_div(samples, most);
  const bool busy = samples * unit >= threads * kAloneColumns;
  if (count < threads && threads <= samples && busy) count = threads;
  if (count > threads) count = ceil_div(count, threads) * threads;
  int64_t per = count < samples ? ceil_div(samples, count) : 1;
  return unit == 1 ? std::min(lines(per), lines(samples)) : per;
}

static Sharing share(const SegmentTable& segment, int64_t samples, const int64_t* columns,
                     int64_t threads) {
  int64_t unit = 0, widest = segment.spaces ? 0 : 1;
  for (int i = 0; i < segment.spaces; i++) {
    if (segment.tokens[i]) unit = std::max(unit, columns[i]);
    widest = std::max(widest, columns[i]);
  }
  unit = unit ? unit : widest ? widest : 1;
  const int64_t per = samples_per_chunk(segment, samples, columns, unit, threads);
  Sharing s{samples, per, false, {}, {}, {}};
  const int64_t turns = ceil_div(ceil_div(samples, s.per), threads);
  s.alone = threads > 1 && double(samples) >= double(turns * threads * s.per) * 0.9;
  bool split = false;
  for (int i = 0; i < segment.spaces; i++) {
    int64_t part = 0, rest = 0;
    if (threads > 1 && !s.alone && segment.tokens[i])
      divide_columns(columns[i], threads, part, rest);
    s.part.push_back(part);
    s.rest.push_back(rest);
    split = split || part;
  }
  if (split) s.per = 1;
  for (int i = 0; i < segment.spaces; i++) {
    const int64_t own = s.part[i] + s.rest[i];
    s.ld.push_back((lines(own ? own : s.per * columns[i]) / kLine | 1) * kLine);
  }
  return s;
}

struct Arena {
  Numbers offset;
  std::vector<char> local;
  int64_t local_floats = 0, shared_floats = 0;
};

static int64_t first_fit(std::vector<int>& alive, const Numbers& offset, const Numbers& floats,
                         int64_t size) {
  std::stable_sort(alive.begin(), alive.end(),
                   [&](int a, int b) { return offset[a] < offset[b]; });
  int64_t place = 0;
  for (const int j : alive) {
    if (offset[j] - place >= lines(size)) break;
    place = std::max(place, offset[j] + lines(floats[j]));
  }
  return place;
}

// The call up to which a buffer's memory is taken.
static int end_of(const SegmentTable& segment, const Sharing& sharing, int i, bool local,
                  bool split, bool rest) {
  const BufferTable& b = segment.buffer[i];
  const bool kept = b.space >= 0 && local && !b.foreign;
  if (sharing.alone || (kept && !rest)) return b.last + 1;
  for (int w = 0; w < segment.waits; w++) {
    const WaitTable& wait = segment.wait[w];
    const bool stands = wait.space < 0 || !split || (rest && wait.given);
    if (stands && wait.call > b.last) return wait.call;
  }
  return segment.calls;
}

static Arena arrange(const SegmentTable& segment, const Sharing& sharing, const Numbers& floats) {
  const auto any = [](const Numbers& n) {
    return std::any_of(n.begin(), n.end(), [](int64_t v) { return v != 0; });
  };
  const bool split = any(sharing.part), rest = any(sharing.rest);
  Arena arena{Numbers(floats.size()), std::vector<char>(floats.size())};
  std::vector<int> order(floats.size()), end(floats.size());
  for (int i = 0; i < segment.buffers; i++) {
    const BufferTable& b = segment.buffer[i];
    const bool mine = sharing.alone || (b.space >= 0 && sharing.part[b.space] > 0);
    arena.local[i] = mine && !b.shared;
    order[i] = i;
    end[i] = end_of(segment, sharing, i, arena.local[i], split, rest);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return segment.buffer[a].first < segment.buffer[b].first;
  });
  for (const bool side : {true, false}) {
    std::vector<int> placed;
    int64_t& total = side ? arena.local_floats : arena.shared_floats;
    for (const int i : order) {
      if (bool(arena.local[i]) != side) continue;
      std::vector<int> alive;
      for (const int j : placed) {
        const BufferTable &mine = segment.buffer[i], &other = segment.buffer[j];
        if (mine.shared || other.shared || end[j] > mine.first) alive.push_back(j);
      }
      arena.offset[i] = first_fit(alive, arena.offset, floats, floats[i]);
      total = std::max(total, arena.offset[i] + lines(floats[i]));
      placed.push_back(i);
    }
  }
  return arena;
}

}  // namespace sc::standalone
