// Checks the packers and the linear kernels against a plain double precision loop, for one
// SC_WIDTH. A team is played by one thread, member after member, since the kernels never wait.
// Prints what failed; the exit status is the number of failures (at most 100).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "any_format.h"

using namespace sc;

static int failures = 0;
static std::string where;

static void expect(bool ok, const char* what) {
  if (!ok && failures++ < 100) std::printf("FAILED %s: %s\n", where.c_str(), what);
}

static float* aligned_floats(int64_t n) {
  return static_cast<float*>(aligned_alloc(64, (n * 4 + 63) / 64 * 64));
}

static bool is_block(const AnyFormat& f) {
  return f.bytes == sc_block_bytes || f.bytes == sc_sorted_bytes;
}

struct Blob {
  void* data;
  int64_t bytes;
  explicit Blob(int64_t bytes) : data(aligned_alloc(64, bytes)), bytes(bytes) {
    std::memset(data, 0xA5, bytes);  // packers must write every byte
  }
  Blob(const AnyFormat& f, const float* w, int64_t M, int64_t K, int64_t ldw, const Tiles& tiles)
      : Blob(f.bytes(matrix(w, M, K, ldw), &tiles)) {
    expect(f.pack(matrix(w, M, K, ldw), &tiles, data), "pack");
  }
  ~Blob() { std::free(data); }
  Blob(const Blob&) = delete;
  PackedHeader* header() { return static_cast<PackedHeader*>(data); }
  static const Matrix* matrix(const float* w, int64_t M, int64_t K, int64_t ldw) {
    static Matrix found;
    found = {w, M, K, ldw, 1};
    return &found;
  }
};

// bias + residual, and a count of how often each output vector passed by.
struct Epilogue {
  const float *bias, *residual;
  int64_t ld;
  int* visits;
  SC_INLINE V operator()(V sum, int64_t row, int64_t col) const {
    visits[row * ld / W + col / W]++;
    return sum + splat(bias[row]) + load(residual + row * ld + col);
  }
};

// The same with the residual in y from the start.
struct Onto {
  static constexpr bool onto = true;
  const float* bias;
  int64_t ld;
  int* visits;
  SC_INLINE V operator()(V sum, int64_t row, int64_t col) const {
    visits[row * ld / W + col / W]++;
    return sum + splat(bias[row]);
  }
};

struct Case {
  int64_t M, K, n;
  double density;
  int k_tile, panel, row_block, threads;
};

// Of the pattern that a format needs: no more than p numbers in q columns, or none.
static std::vector<float> random_weight(const Case& c, int64_t ldw, const AnyFormat& f,
                                        std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> w(c.M * ldw, std::numeric_limits<float>::quiet_NaN());  // NaN between rows
  for (int64_t m = 0; m < c.M; m++)
    for (int64_t k = 0, left = 0; k < c.K; k++) {
      if (f.bytes == sc_nm_bytes && k % f.q == 0) left = f.p;
      const bool live = std::abs(uniform(random)) < c.density && (f.bytes != sc_nm_bytes || left);
      w[m * ldw + k] = live ? uniform(random) : 0;
      left -= live;
    }
  return w;
}

template <class Run>
static void compare(const Case& c, const std::vector<float>& w, int64_t ldw, const void* blob,
                    std::mt19937& random, const Run& run) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  const int64_t ld = ((c.n + 15) / 16 | 1) * 16, touched = vectors(c.n) * W;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  float *x = aligned_floats(c.K * ld), *y = aligned_floats(c.M * ld);
  float *residual = aligned_floats(c.M * ld), *bias = aligned_floats(c.M);
  for (int64_t i = 0; i < c.K * ld; i++) x[i] = i % ld < c.n ? uniform(random) : nan;
  for (int64_t i = 0; i < c.M * ld; i++) residual[i] = uniform(random);
  for (int64_t m = 0; m < c.M; m++) bias[m] = uniform(random);
  float* scratch = aligned_floats(linear_scratch_floats(blob) + 16);
  const int64_t floats = linear_scratch_floats(blob);
  scratch[floats] = 54321;
  expect(floats == sc_linear_scratch_floats(blob, W), "scratch size, C and C++");

  for (const bool onto : {false, true}) {
    std::vector<int> visits(c.M * ld / W);
    for (int64_t i = 0; i < c.M * ld; i++)
      y[i] = onto && i % ld < touched ? residual[i] : 12345;
    Barrier barrier;
    for (int id = 0; id < c.threads; id++) {
      Team team(id, c.threads, &barrier);
      if (onto) run(team, x, ld, y, scratch, Onto{bias, ld, visits.data()});
      else run(team, x, ld, y, scratch, Epilogue{bias, residual, ld, visits.data()});
    }
    bool close = true, once = true, untouched = true;
    for (int64_t m = 0; m < c.M; m++)
      for (int64_t p = 0; p < ld; p++) {
        const float got = y[m * ld + p];
        if (p >= touched) untouched &= got == 12345;
        once &= visits[(m * ld + p) / W] == (p < touched);
        if (p >= c.n) continue;
        double sum = double(bias[m]) + residual[m * ld + p], size = std::abs(sum);
        for (int64_t k = 0; k < c.K; k++) {
          const double term = double(w[m * ldw + k]) * x[k * ld + p];
          sum += term, size += std::abs(term);
        }
        close &= std::abs(got - sum) <= 1e-6 * size + 1e-7;
      }
    expect(close, onto ? "values onto what y held" : "values");
    expect(once, "epilogue exactly once for each output vector");
    expect(untouched, "columns after the last vector are left alone");
    expect(scratch[floats] == 54321, "scratch is large enough");
  }
  std::free(x), std::free(y), std::free(residual), std::free(bias), std::free(scratch);
}

static bool unpacks(const Case& c, const std::vector<float>& w, int64_t ldw, const void* blob,
                    void (*unpack)(const void*, float*)) {
  std::vector<float> back(c.M * c.K, 7);
  unpack(blob, back.data());
  for (int64_t m = 0; m < c.M; m++)
    if (std::memcmp(&back[m * c.K], &w[m * ldw], c.K * 4) != 0) return false;
  return true;
}

// The case with sizes and tiles that the format takes.
static Case suited(Case c, const AnyFormat& f) {
  if (f.bytes == sc_dense_bytes) c.row_block = dense_rows(W);
  if (f.bytes == sc_bitmap_bytes) c.k_tile = (c.k_tile + 63) / 64 * 64;
  if (is_block(f)) c.row_block = (c.row_block + f.p - 1) / f.p * f.p;
  if (f.q > 1) c.k_tile = (c.k_tile + f.q - 1) / f.q * f.q;
  if (is_block(f)) c.K = (c.K + f.q - 1) / f.q * f.q;
  return c;
}

static void check_format(const AnyFormat& f, const Case& given, std::mt19937& random) {
  const Case c = suited(given, f);
  where = std::string(f.name) + " " + std::to_string(c.M) + "x" + std::to_string(c.K) + " n " +
          std::to_string(c.n) + " tile " + std::to_string(c.k_tile) + " panel " +
          std::to_string(c.panel) + " block " + std::to_string(c.row_block) + " threads " +
          std::to_string(c.threads);
  const int64_t ldw = c.K + random() % 3;
  const auto w = random_weight(c, ldw, f, random);
  Blob blob(f, w.data(), c.M, c.K, ldw, {c.k_tile, c.panel, c.row_block, f.p, f.q, kF32});
  expect(f.check(blob.data, blob.bytes, W), "own blob passes the check");
  expect(unpacks(c, w, ldw, blob.data, f.unpack), "unpack gives the weight back");
  compare(c, w, ldw, blob.data, random,
          [&](Team& team, const float* x, int64_t ld, float* y, float* scratch, const auto& e) {
            linear_any(team, blob.data, x, ld, y, ld, c.n, scratch, e);
          });
}

// The rows in up to three pieces, anywhere in memory.
static void check_rows(const Case& c, std::mt19937& random) {
  if (W == 4) return;  // no kernel
  where = "rows " + std::to_string(c.M) + "x" + std::to_string(c.K) + " n " + std::to_string(c.n) +
          " tile " + std::to_string(c.k_tile) + " threads " + std::to_string(c.threads);
  const auto w = random_weight(c, c.K, kAnyFormat[0], random);
  std::vector<std::vector<float>> pieces;
  std::vector<const float*> piece;
  std::vector<int64_t> rows;
  for (int64_t m = 0; m < c.M; m += rows.back()) {
    const bool end = pieces.size() == 2;
    rows.push_back(end ? c.M - m : 1 + int64_t(random() % (c.M - m)));
    pieces.emplace_back(w.begin() + m * c.K, w.begin() + (m + rows.back()) * c.K);
  }
  for (const auto& p : pieces) piece.push_back(p.data());
  const int block = dense_rows(W), count = int(rows.size());
  Blob blob(sc_rows_packed_bytes(rows.data(), count, c.K, block));
  expect(sc_rows_pack(piece.data(), rows.data(), count, c.K, c.k_tile, c.panel, block, blob.data),
         "pack");
  compare(c, w, c.K, blob.data, random,
          [&](Team& team, const float* x, int64_t ld, float* y, float* scratch, const auto& e) {
            linear_dense(team, blob.data, x, ld, y, ld, c.n, scratch, e);
          });
}

static void check_cases() {
  std::mt19937 random(3);
  const auto pick = [&](std::vector<int> from) { return from[random() % from.size()]; };
  std::vector<Case> cases = {
      {1, 1, 1, 1, 1, 1, 1, 1},          {1, 1, 5, 0, 8, 4, 8, 2},
      {1, 300, 7, .3, 64, 4, 64, 3},     {300, 1, 49, .3, 64, 8, 64, 2},
      {64, 64, 128, 0, 16, 8, 16, 2},    {70, 130, 197, .1, 32, 12, 16, 2},
      {37, 300, 128, 1, 256, 16, 7, 64}, {20, 40, 1000, .5, 40, 8, 5, 48},
      {20, 300, 2000, .05, 300, 4, 5, 2}};
  for (int n = 1; n <= 16 * kMaxPanel + 1; n += n < 9 ? 1 : 7)
    cases.push_back({33, 65, n, .2, 24, kMaxPanel, 8, 2});
  for (int i = 0; i < 80; i++)
    cases.push_back({pick({1, 2, 5, 12, 13, 31, 64, 100}), pick({1, 3, 16, 47, 128}),
                     pick({1, 2, 3, 7, 16, 17, 49, 64, 128, 197}), pick({0, 5, 10, 50, 100}) / 100.,
                     pick({1, 7, 64, 128, 1000}), pick({1, 2, 4, 8, 12, 16}),
                     pick({1, 6, 16, 64, 300}), pick({1, 2, 3, 4, 7, 64})});
  for (const Case& c : cases) {
    check_rows(c, random);
    for (const AnyFormat& f : kAnyFormat) check_format(f, c, random);
  }
}

// NaN and Inf travel from x through stored numbers only, from weights always.
static void check_special_values() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const int64_t M = 4, K = 16, n = 3, ld = 16;
  float w[M * K] = {};
  w[0 * K + 1] = 2;     // row 0 reads the Inf
  w[1 * K + 6] = 2;     // row 1 does not: 0 * Inf from structural zeros is not computed
  w[2 * K + 6] = nan;   // a NaN weight is a non-zero
  w[3 * K + 0] = -0.f;  // minus zero is a structural zero
  float *x = aligned_floats(K * ld), *y = aligned_floats(M * ld);
  for (int64_t i = 0; i < K * ld; i++) x[i] = 1;
  for (int p = 0; p < n; p++) x[1 * ld + p] = inf;
  Barrier barrier;
  Team team(0, 1, &barrier);
  const auto identity = [](V sum, int64_t, int64_t) { return sum; };
  for (const AnyFormat& f : kAnyFormat) {
    where = std::string("special values, ") + f.name;
    const Case c = suited({M, K, n, 0, 8, 4, 4, 1}, f);
    Blob blob(f, w, M, K, K, {c.k_tile, 4, c.row_block, f.p, f.q, kF32});
    float* scratch = aligned_floats(linear_scratch_floats(blob.data));
    linear_any(team, blob.data, x, ld, y, ld, n, scratch, identity);
    std::free(scratch);
    const bool rows_apart = f.bytes == sc_csr_bytes || f.bytes == sc_bitmap_bytes;
    for (int p = 0; p < n; p++) {
      expect(y[p] == inf || (!rows_apart && std::isnan(y[p])), "Inf of x reaches its row");
      if (rows_apart) expect(y[ld + p] == 2, "and no other");
      if (f.bytes == sc_dense_bytes) expect(std::isnan(y[ld + p]), "dense computes 0 * Inf");
      expect(std::isnan(y[2 * ld + p]), "a NaN weight counts");
      if (rows_apart) expect(y[3 * ld + p] == 0, "an empty row is zero");
    }
    if (rows_apart) expect(blob.header()->nnz == 3, "non-zeros counted");
    float back[M * K];
    f.unpack(blob.data, back);
    for (int64_t i = 0; i < M * K; i++)
      expect(std::isnan(w[i]) ? std::isnan(back[i]) : back[i] == w[i], "unpack");
  }
  std::free(x), std::free(y);
}

// Every damaged blob is refused; the check itself stays inside `bytes` (see the sanitizer build).
static void check_damage() {
  std::mt19937 random(9);
  for (const AnyFormat& f : kAnyFormat) {
    where = std::string("damage, ") + f.name;
    const Case c = suited({50, 140, 8, .2, 64, 4, 16, 1}, f);
    const auto w = random_weight(c, c.K, f, random);
    const Tiles tiles{c.k_tile, c.panel, c.row_block, f.p, f.q, kF32};
    Blob blob(f, w.data(), c.M, c.K, c.K, tiles);
    PackedHeader* h = blob.header();
    char* base = static_cast<char*>(blob.data);
    const auto refused = [&](auto* place, auto bad, const char* what) {
      const auto good = *place;
      *place = bad;
      expect(!f.check(blob.data, blob.bytes, W), what);
      *place = good;
    };
    expect(!f.check(blob.data, blob.bytes - 1, W), "truncated");
    expect(!f.check(blob.data, 20, W), "shorter than a header");
    for (const AnyFormat& other : kAnyFormat)
      if (other.check != f.check) expect(!other.check(blob.data, blob.bytes, W), "another format");
    refused(&h->magic, 1u, "magic");
    refused(&h->version, 99u, "version");
    refused(&h->rows, int64_t(1) << 40, "rows");
    refused(&h->rows, h->rows + 64, "more rows");
    refused(&h->cols, int64_t(-1), "columns");
    refused(&h->nnz, h->nnz + 64, "non-zeros");
    refused(&h->k_tile, 0, "k_tile of zero");
    refused(&h->panel_vectors, 17, "panel");
    refused(&h->row_block, 0, "row block of zero");
    refused(&h->values, 3, "type of values");
    refused(&h->value_at, int64_t(1) << 60, "offset far away");
    refused(&h->index_at, h->index_at + 64, "offset");
    if (f.p && f.q) refused(&h->p, 0, "p of zero");
    if (f.q) refused(&h->q, h->q + 1, "q");
    if (f.bytes == sc_dense_bytes)
      expect(!f.check(blob.data, blob.bytes, W == 16 ? 8 : 16), "rows of another width");
    if (counts_work(h)) {
      auto* prefix = reinterpret_cast<int64_t*>(base + h->prefix_at);
      refused(prefix + 1, prefix[1] + 1, "prefix");
    }
    if (h->row_at) {
      auto* row = reinterpret_cast<RowEntry*>(base + h->row_at);
      auto* segment = reinterpret_cast<int64_t*>(base + h->segment_at);
      refused(&row->row, uint16_t(50), "row outside its block");
      if (h->row_block > h->p && h->p < 16) refused(&row->row, row[1].row, "a row twice");
      refused(&row->count, uint16_t(row->count + 1), "count");
      refused(segment + 1, segment[h->blocks() * h->tiles()] + 1, "segments out of order");
    }
    if (f.bytes == sc_compact_bytes) {
      auto* segment = reinterpret_cast<int64_t*>(base + h->segment_at);
      auto* column = reinterpret_cast<uint16_t*>(base + h->index_at);
      refused(segment + h->tiles(), segment[h->tiles()] + 1, "more columns than are listed");
      refused(column, column[1], "a column twice");
      refused(column + 1, uint16_t(c.k_tile), "a column outside its tile");
    }
    if (f.bytes == sc_split_bytes) {
      for (int64_t at : {h->index_at, h->value_at}) {
        auto* part = reinterpret_cast<PackedHeader*>(base + at);
        refused(&part->rows, part->rows - 1, "a part of another size");
        refused(&part->row_block, part->row_block + 4, "a part of other row blocks");
      }
    }
    auto* index = reinterpret_cast<uint16_t*>(base + h->index_at);
    if (f.bytes == sc_csr_bytes || is_block(f)) {
      refused(index, uint16_t(c.k_tile), "index outside its tile");
      if (f.q < 2) refused(index + (h->nnz / (f.p ? f.p : 1)) - 1, uint16_t(12), "the last tile");
    }
    if (f.bytes == sc_sorted_bytes || (f.bytes == sc_compact_bytes && f.p)) {
      auto* order = reinterpret_cast<int32_t*>(base + h->order_at);
      refused(order, 50, "an order beyond the rows");
      refused(order, order[1], "a row twice in the order");
      refused(&h->order_at, int64_t(0), "no order");
    }
    if (f.bytes == sc_bitmap_bytes)
      refused(reinterpret_cast<uint64_t*>(index), uint64_t(0), "bits that are not counted");
    if (f.q == 7) refused(reinterpret_cast<uint32_t*>(index), 7u, "a slot that is no column");
    expect(f.check(blob.data, blob.bytes, W), "undamaged again");

    Tiles wide = tiles;
    wide.k_tile = 70 * 1024;
    expect(f.bytes(Blob::matrix(w.data(), c.M, c.K, c.K), &wide) == 0, "k_tile beyond 16 bits");
    expect(f.bytes(Blob::matrix(w.data(), 0, c.K, c.K), &tiles) == 0, "no rows");
  }
  where = "an nm weight with one number too many";
  const float full[8] = {1, 1, 1, 0, 0, 1, 0, 0};
  const Tiles tiles{8, 1, W, 2, 4, kF32};
  expect(sc_nm_bytes(Blob::matrix(full, 1, 8, 8), &tiles) == 0, "refused");
  expect(sc_nm_bytes(Blob::matrix(full + 1, 1, 7, 7), &tiles) > 0, "a group less: taken");
}

static void check_default_tiles() {
  where = "default tiles";
  for (const AnyFormat& f : kAnyFormat)
    for (int64_t M : {1, 10, 384, 768, 3072, 30522})
      for (int64_t K : {1, 64, 384, 768, 3072, 100000})
        for (int64_t taps : {0, 1, 9})
          for (double density : {0., .01, .05, .1, .3, .5, 1.}) {
            Tiles tiles{0, 0, 0, f.p, f.q, kF32};
            const Layer layer{M, K, int64_t(density * M * K), M % 200 + (taps > 0), taps, W, 0};
            f.tiles(&layer, &tiles);
            expect(tiles.k_tile >= 1 && tiles.k_tile <= kMaxTile && tiles.panel_vectors >= 1 &&
                       tiles.panel_vectors <= kMaxPanel && tiles.row_block >= 1 &&
                       tiles.row_block <= kMaxRowBlock && suited({M, K, 1, 0, tiles.k_tile, 1,
                       tiles.row_block, 1}, f).row_block == tiles.row_block,
                   f.name);
          }
}

// Shares of a team tile the output exactly, and non-zeros are spread evenly.
static void check_shares() {
  where = "shares";
  std::mt19937 random(5);
  const Case c{1024, 256, 128, .1, 256, 4, 16, 1};
  auto w = random_weight(c, c.K, kAnyFormat[0], random);
  for (int64_t i = 0; i < 512 * c.K; i++)
    if (random() % 4) w[i] = 0;  // the upper half is emptier
  Blob blob(kAnyFormat[0], w.data(), c.M, c.K, c.K, {256, 4, 16, 0, 0, kF32});
  const PackedHeader* h = blob.header();
  const auto* prefix = section<int64_t>(h, h->prefix_at);
  Barrier barrier;
  for (int size : {1, 2, 3, 4, 8}) {
    int64_t area = 0, most = 0;
    for (int id = 0; id < size; id++) {
      const Share s = divide(Team(id, size, &barrier), h, vectors(c.n));
      const int64_t wide = s.vector1 - s.vector0;
      area += (s.block1 - s.block0) * wide;
      most = std::max(most, (prefix[s.block1] - prefix[s.block0]) * wide);
    }
    expect(area == h->blocks() * vectors(c.n), "every block and vector is somebody's");
    expect(most <= 1.25 * double(h->nnz * vectors(c.n)) / size, "non-zeros are balanced");
  }
}

int main() {
  check_cases();
  check_special_values();
  check_damage();
  check_default_tiles();
  check_shares();
  std::printf("width %d: %d failures\n", W, failures);
  return failures < 100 ? failures : 100;
}
