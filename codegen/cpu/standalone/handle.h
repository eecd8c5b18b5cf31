// A handle, and its model bound to sizes: checked first as doubles, then shared among threads and
// placed in memory as in runtime/native.py. Part of library.cpp, and of nothing else.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "decode_blob.h"
#include "plan.h"
#include "weights.h"

using namespace sc::standalone;

namespace {

constexpr double kMost = double(int64_t(1) << 46);  // no count or size reaches it
constexpr int64_t kInt32 = (int64_t(1) << 31) - 1;
constexpr int kHeader = 6, kPerSpace = 4, kPerBuffer = 2;  // as in arguments.py

thread_local char last_error[512];

sc_status fail(sc_status status, const char* format, ...) {
  va_list rest;
  va_start(rest, format);
  std::vsnprintf(last_error, sizeof last_error, format, rest);
  va_end(rest);
  return status;
}

}  // namespace

namespace sc::standalone {

struct Memory {
  char* data = nullptr;
  int64_t bytes = 0;

  Memory() = default;
  Memory(const Memory&) = delete;
  ~Memory() { std::free(data); }
  // Of at least so many bytes, what was there is lost; false where there is no more.
  bool grow(int64_t wanted) {
    if (wanted <= bytes) return true;
    std::free(data);
    bytes = 0;
    data = static_cast<char*>(std::aligned_alloc(64, (wanted + 63) / 64 * 64));
    if (data) bytes = wanted;
    return data;
  }
};

// A segment at the sizes and the number of threads set; in, out: room for a run's addresses.
struct Bound {
  Numbers numbers;
  std::vector<const void*> constants, in;
  std::vector<void*> out;
  std::vector<std::vector<float>> planes;
  int64_t floats = 0;
};

}  // namespace sc::standalone

struct sc_model {
  std::mutex turn;
  Weights weights;
  int threads = 1;
  bool sized = false, empty = false;
  Numbers symbols, shapes, offsets;
  std::vector<Bound> bound;
  Memory arena, between;
  std::vector<int64_t> errors;

  const int64_t* bytes_between() const { return shapes.data() + kModel.shaped - kModel.between; }
};

namespace {

// --- sizes ---------------------------------------------------------------------------------------

Numbers symbol_sizes(const int64_t* const* given) {
  Numbers dims, symbols(kModel.symbols, -1);
  for (int i = 0; i < kModel.inputs; i++)
    dims.insert(dims.end(), given[i], given[i] + kModel.input[i].rank);
  kModel.solve(dims.data(), symbols.data());
  return symbols;
}

std::vector<double> estimates(const Numbers& numbers) {
  return std::vector<double>(numbers.begin(), numbers.end());
}

// The bytes or elements of all inputs and outputs fit, and so does what lies between segments.
bool shapes_fit(const Numbers& symbols) {
  const auto known = estimates(symbols);
  std::vector<double> dims(kModel.shaped);
  kModel.shapes_estimated(known.data(), dims.data());
  const double* at = dims.data();
  for (int i = 0; i < kModel.inputs + kModel.outputs; i++) {
    const sc_tensor& t = i < kModel.inputs ? kModel.input[i] : kModel.output[i - kModel.inputs];
    double elements = 1;
    for (int d = 0; d < t.rank; d++) elements *= *at++;
    if (!(elements < kMost)) return false;
  }
  for (int i = 0; i < kModel.between; i++)
    if (!(*at++ < kMost)) return false;
  return true;
}

sc_status check_shapes(const int64_t* const* given, const Numbers& symbols, Numbers& shapes) {
  for (int i = 0; i < kModel.symbols; i++) {
    const int64_t low = kModel.ranges[2 * i], high = kModel.ranges[2 * i + 1];
    if (symbols[i] < low || symbols[i] > high)
      return fail(SC_BAD_SIZE, "the size %s is %lld, outside of %lld to %lld", kModel.symbol[i],
                  (long long)symbols[i], (long long)low, (long long)high);
  }
  if (!shapes_fit(symbols)) return fail(SC_BAD_SIZE, "these sizes are too large");
  kModel.shapes(symbols.data(), shapes.data());
  const int64_t* expected = shapes.data();
  for (int i = 0; given && i < kModel.inputs; i++)
    for (int d = 0; d < kModel.input[i].rank; d++, expected++)
      if (given[i][d] != *expected)
        return fail(SC_BAD_SIZE, "dimension %d of input %s is %lld where %lld is expected", d,
                    kModel.input[i].name, (long long)given[i][d], (long long)*expected);
  return SC_OK;
}

// Whether all results are empty, so that nothing is to be computed.
bool results_empty(const Numbers& shapes) {
  const int64_t* at = shapes.data();
  for (int i = 0; i < kModel.inputs; i++) at += kModel.input[i].rank;
  for (int i = 0; i < kModel.outputs; i++) {
    bool empty = false;
    for (int d = 0; d < kModel.output[i].rank; d++) empty = *at++ == 0 || empty;
    if (!empty) return false;
  }
  return true;
}

// --- binding a segment ---------------------------------------------------------------------------

// The most columns that each packed weight is applied to at a time; 1 outside of planes.
Numbers columns_of_weights(const SegmentTable& t, const Sharing& s, const int64_t* columns) {
  Numbers found(t.constants, 1);
  for (int i = 0; i < t.uses; i++) {
    const int space = t.use[i].space;
    const int64_t own = s.part[space] + s.rest[space];
    const int64_t whole = std::min(s.per, std::max<int64_t>(1, s.samples)) * columns[space];
    int64_t& most = found[t.use[i].weight];
    most = std::max(most, own ? own : whole);
  }
  return found;
}

// Lays a constant out in planes, its columns `repeats` times; gives the floats between planes.
int64_t lay_planes(const ConstantTable& c, const float* value, const int64_t* extents,
                   int64_t repeats, std::vector<float>& memory, const void*& start) {
  int64_t rows = 1, once = 1;
  for (int i = 0; i < c.rank; i++) (i < c.planes ? rows : once) *= extents[i];
  const int64_t ld = lines(std::max<int64_t>(once * repeats, 1));
  memory.assign(std::max<int64_t>(rows, 1) * ld + kLine, 0.f);
  float* const first = memory.data() + (-(reinterpret_cast<uintptr_t>(memory.data()) / 4) & 15);
  std::vector<int64_t> place(c.rank, 0);
  int64_t from = 0;
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t col = 0; col < once; col++) {
      for (int64_t k = 0; k < repeats; k++) first[r * ld + k * once + col] = value[from];
      for (int i = c.rank - 1; i >= 0; i--) {  // the next place, as an odometer counts
        from += c.strides[i];
        if (++place[i] < extents[i]) break;
        from -= c.strides[i] * extents[i];
        place[i] = 0;
      }
    }
  }
  start = first;
  return ld;
}

void bind_constants(const sc_model& m, const SegmentTable& t, const Sharing& sharing,
                    const Numbers& sizes, Numbers& ldw, Bound& b) {
  const Numbers wide = columns_of_weights(t, sharing, sizes.data() + 1);
  b.constants.resize(t.constants);
  b.planes.resize(t.constants);
  for (int i = 0; i < t.constants; i++) {
    const ConstantTable& c = t.constant[i];
    if (c.kind == kPlanes) {
      const auto* value = static_cast<const float*>(m.weights.blob(c.many));
      ldw[i] = lay_planes(c, value, sizes.data() + c.extents, c.carried ? 1 : sharing.per,
                          b.planes[i], b.constants[i]);
      continue;
    }
    const bool few = c.many < 0 || (c.few >= 0 && wide[i] <= sc::kFewColumns);
    b.constants[i] = m.weights.blob(few ? c.few : c.many);
  }
}

bool bound_fits(const SegmentTable& t, const Numbers& symbols, const Numbers& ld,
                const Numbers& ldw) {
  std::vector<double> found(t.buffers + t.numbers + 1);
  t.bind_estimated(estimates(symbols).data(), estimates(ld).data(), estimates(ldw).data(),
                   found.data());
  for (const double number : found)
    if (!(number < kMost) || !(number > -kMost)) return false;
  double all = 0;
  for (int i = 0; i < t.buffers; i++)
    all += found[i] * (t.buffer[i].space >= 0 ? double(ld[t.buffer[i].space]) : 8.);
  return all < kMost;
}

// Samples, columns and extents; false where they are too large.
bool sizes_of(const SegmentTable& t, const Numbers& symbols, Numbers& sizes) {
  std::vector<double> estimated(t.sized);
  t.sizes_estimated(estimates(symbols).data(), estimated.data());
  for (int i = 0; i < t.sized; i++)
    if (!(estimated[i] * std::max(1., i ? estimated[0] : 1.) < kMost)) return false;
  sizes.resize(t.sized);
  t.sizes(symbols.data(), sizes.data());
  return true;
}

sc_status bind_segment(const sc_model& m, const SegmentTable& t, const Numbers& sizes, Bound& b) {
  Numbers ldw(t.constants + 1);
  const int64_t *columns = sizes.data() + 1, threads = m.threads;
  const Sharing s = share(t, sizes[0], columns, threads);
  for (const int64_t ld : s.ld)
    if (ld > kInt32) return fail(SC_BAD_SIZE, "a plane of %lld numbers is too long", (long long)ld);
  bind_constants(m, t, s, sizes, ldw, b);
  if (!bound_fits(t, m.symbols, s.ld, ldw)) return fail(SC_BAD_SIZE, "these sizes are too large");
  Numbers found(t.buffers + t.numbers + 1), floats(t.buffers);
  t.bind(m.symbols.data(), s.ld.data(), ldw.data(), found.data());
  for (int i = 0; i < t.buffers; i++) {
    const BufferTable& buffer = t.buffer[i];
    const int64_t samples = buffer.shared ? 1 : s.per;
    floats[i] = buffer.space >= 0 ? found[i] * s.ld[buffer.space]
                                  : lines(ceil_div(samples * found[i] * buffer.bytes, 4));
  }
  const Arena arena = arrange(t, s, floats);
  b.numbers = {s.samples, s.per, s.alone, 0, arena.local_floats, threads};
  for (int i = 0; i < t.spaces; i++)
    b.numbers.insert(b.numbers.end(), {columns[i], s.part[i], s.ld[i], s.rest[i]});
  for (int i = 0; i < t.buffers; i++)
    b.numbers.insert(b.numbers.end(), {int64_t(arena.local[i]), arena.offset[i]});
  b.numbers.insert(b.numbers.end(), found.begin() + t.buffers, found.end() - 1);
  b.numbers[3] = t.scratch(b.constants.data(), b.numbers.data());
  b.in.resize(t.ins);
  b.out.resize(t.outs);
  b.floats = threads * (b.numbers[3] + arena.local_floats) + arena.shared_floats;
  return SC_OK;
}

// Binds all segments to the sizes and threads of `m`.
sc_status bind_all(sc_model& m) {
  std::vector<Bound> bound(kModel.segments);
  int64_t floats = 0, checked = 1;
  m.empty = false;
  for (int i = 0; i < kModel.segments; i++) {
    const SegmentTable& t = kModel.segment[i];
    Numbers sizes;
    if (!sizes_of(t, m.symbols, sizes)) return fail(SC_BAD_SIZE, "these sizes are too large");
    if (*std::min_element(sizes.begin(), sizes.begin() + 1 + t.spaces) <= 0) {
      if (!results_empty(m.shapes))
        return fail(SC_BAD_SIZE, "an input has a dimension of size 0");
      m.empty = true;
      continue;
    }
    const sc_status status = bind_segment(m, t, sizes, bound[i]);
    if (status) return status;
    floats = std::max(floats, bound[i].floats);
    checked = std::max<int64_t>(checked, t.checked);
  }
  int64_t bytes = 0;
  m.offsets.assign(kModel.between, 0);
  for (int i = 0; i < kModel.between; i++) {
    m.offsets[i] = bytes;
    bytes += (m.bytes_between()[i] + 63) / 64 * 64;
  }
  m.errors.assign(checked, -1);
  if (!m.arena.grow(floats * 4) || !m.between.grow(bytes + 64))
    return fail(SC_NO_MEMORY, "there is no memory for %lld bytes", (long long)(floats * 4 + bytes));
  m.bound.swap(bound);
  return SC_OK;
}

sc_status set_sizes(sc_model& m, const int64_t* const* given) {
  m.sized = false;
  m.symbols = given ? symbol_sizes(given) : Numbers();
  m.shapes.assign(kModel.shaped + 1, 0);
  sc_status status = check_shapes(given, m.symbols, m.shapes);
  if (!status) status = bind_all(m);
  m.sized = !status;
  return status;
}

}  // namespace
