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

#include "linear.h"

using namespace sc;

static int failures = 0;
static std::string where;

static void expect(bool ok, const char* what) {
  if (!ok && failures++ < 100) std::printf("FAILED %s: %s\n", where.c_str(), what);
}

static float* aligned_floats(int64_t n) {
  return static_cast<float*>(aligned_alloc(64, (n * 4 + 63) / 64 * 64));
}

struct Blob {
  void* data;
  int64_t bytes;
  explicit Blob(int64_t bytes) : data(aligned_alloc(64, bytes)), bytes(bytes) {
    std::memset(data, 0xA5, bytes);  // packers must write every byte
  }
  ~Blob() { std::free(data); }
  Blob(const Blob&) = delete;
  PackedHeader* header() { return static_cast<PackedHeader*>(data); }
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

struct Case {
  int64_t M, K, n;
  double density;
  int k_tile, panel, row_block, threads;
};

static std::vector<float> random_weight(const Case& c, int64_t ldw, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> w(c.M * ldw, std::numeric_limits<float>::quiet_NaN());  // NaN between rows
  for (int64_t m = 0; m < c.M; m++)
    for (int64_t k = 0; k < c.K; k++)
      w[m * ldw + k] = std::abs(uniform(random)) < c.density ? uniform(random) : 0;
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
  for (int64_t i = 0; i < c.M * ld; i++) y[i] = 12345, residual[i] = uniform(random);
  for (int64_t m = 0; m < c.M; m++) bias[m] = uniform(random);
  std::vector<int> visits(c.M * ld / W);
  float* scratch = aligned_floats(linear_scratch_floats(blob) + 16);
  const int64_t floats = linear_scratch_floats(blob);
  scratch[floats] = 54321;
  expect(floats == sc_linear_scratch_floats(blob, W), "scratch size, C and C++");

  Barrier barrier;
  for (int id = 0; id < c.threads; id++) {
    Team team(id, c.threads, &barrier);
    run(team, x, ld, y, scratch, Epilogue{bias, residual, ld, visits.data()});
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
  expect(close, "values");
  expect(once, "epilogue exactly once for each output vector");
  expect(untouched, "columns after the last vector are left alone");
  expect(scratch[floats] == 54321, "scratch is large enough");
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

static void check_csr(const Case& c, std::mt19937& random) {
  where = "csr " + std::to_string(c.M) + "x" + std::to_string(c.K) + " n " + std::to_string(c.n) +
          " tile " + std::to_string(c.k_tile) + " panel " + std::to_string(c.panel) + " block " +
          std::to_string(c.row_block) + " threads " + std::to_string(c.threads);
  const int64_t ldw = c.K + random() % 3;
  const auto w = random_weight(c, ldw, random);
  Blob blob(sc_csr_packed_bytes(w.data(), c.M, c.K, ldw, c.k_tile, c.panel, c.row_block));
  expect(sc_csr_pack(w.data(), c.M, c.K, ldw, c.k_tile, c.panel, c.row_block, blob.data), "pack");
  expect(sc_csr_check(blob.data, blob.bytes), "own blob passes the check");
  expect(unpacks(c, w, ldw, blob.data, sc_csr_unpack), "unpack gives the weight back");
  compare(c, w, ldw, blob.data, random,
          [&](Team& team, const float* x, int64_t ld, float* y, float* scratch, const Epilogue& e) {
            linear_csr(team, blob.data, x, ld, y, ld, c.n, scratch, e);
          });
}

static void check_dense(const Case& c, std::mt19937& random) {
  where = "dense " + std::to_string(c.M) + "x" + std::to_string(c.K) + " n " +
          std::to_string(c.n) + " tile " + std::to_string(c.k_tile) + " threads " +
          std::to_string(c.threads);
  const int64_t ldw = c.K + random() % 3;
  const auto w = random_weight(c, ldw, random);
  const int rows = dense_rows(W);
  Blob blob(sc_dense_packed_bytes(nullptr, c.M, c.K, c.K, c.k_tile, c.panel, rows));
  expect(sc_dense_pack(w.data(), c.M, c.K, ldw, c.k_tile, c.panel, rows, blob.data), "pack");
  expect(sc_dense_check(blob.data, blob.bytes, W), "own blob passes the check");
  expect(unpacks(c, w, ldw, blob.data, sc_dense_unpack), "unpack gives the weight back");
  compare(c, w, ldw, blob.data, random,
          [&](Team& team, const float* x, int64_t ld, float* y, float* scratch, const Epilogue& e) {
            linear_dense(team, blob.data, x, ld, y, ld, c.n, scratch, e);
          });
}

// The rows in up to three pieces, anywhere in memory.
static void check_rows(const Case& c, std::mt19937& random) {
  if (W == 4) return;  // no kernel
  where = "rows " + std::to_string(c.M) + "x" + std::to_string(c.K) + " n " + std::to_string(c.n) +
          " tile " + std::to_string(c.k_tile) + " threads " + std::to_string(c.threads);
  const auto w = random_weight(c, c.K, random);
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
          [&](Team& team, const float* x, int64_t ld, float* y, float* scratch, const Epilogue& e) {
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
  for (const Case& c : cases) check_csr(c, random), check_dense(c, random), check_rows(c, random);
}

// NaN and Inf travel from x through non-zeros only, from weights always.
static void check_special_values() {
  where = "special values";
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const int64_t M = 4, K = 6, n = 3, ld = 16;
  float w[M * K] = {};
  w[0 * K + 1] = 2;    // row 0 reads the Inf
  w[1 * K + 2] = 2;    // row 1 does not: 0 * Inf from structural zeros is not computed
  w[2 * K + 2] = nan;  // a NaN weight is a non-zero
  w[3 * K + 0] = -0.f;  // minus zero is a structural zero
  Blob blob(sc_csr_packed_bytes(w, M, K, K, 4, 4, 4));
  sc_csr_pack(w, M, K, K, 4, 4, 4, blob.data);
  expect(blob.header()->nnz == 3, "non-zeros counted");
  float *x = aligned_floats(K * ld), *y = aligned_floats(M * ld);
  for (int64_t i = 0; i < K * ld; i++) x[i] = 1;
  for (int p = 0; p < n; p++) x[1 * ld + p] = inf;
  float* scratch = aligned_floats(linear_scratch_floats(blob.data));
  Barrier barrier;
  Team team(0, 1, &barrier);
  const auto identity = [](V sum, int64_t, int64_t) { return sum; };
  linear_csr(team, blob.data, x, ld, y, ld, n, scratch, identity);
  for (int p = 0; p < n; p++) {
    expect(y[p] == inf, "Inf of x reaches the row that reads it");
    expect(y[ld + p] == 2, "and no other");
    expect(std::isnan(y[2 * ld + p]), "a NaN weight counts");
    expect(y[3 * ld + p] == 0, "an empty row is zero");
  }
  Blob dense(sc_dense_packed_bytes(nullptr, M, K, K, 4, 2, dense_rows(W)));
  sc_dense_pack(w, M, K, K, 4, 2, dense_rows(W), dense.data);
  float* dense_scratch = aligned_floats(linear_scratch_floats(dense.data));
  linear_dense(team, dense.data, x, ld, y, ld, n, dense_scratch, identity);
  expect(y[0] == inf || std::isnan(y[0]), "dense: Inf");
  expect(std::isnan(y[ld]), "dense computes 0 * Inf, as the eager model does");
  std::free(x), std::free(y), std::free(scratch), std::free(dense_scratch);
}

// Every damaged blob is refused; the check itself stays inside `bytes` (see the sanitizer build).
static void check_damage() {
  where = "damage";
  std::mt19937 random(9);
  const Case c{50, 70, 8, .2, 32, 4, 16, 1};
  const auto w = random_weight(c, c.K, random);
  Blob blob(sc_csr_packed_bytes(w.data(), c.M, c.K, c.K, 32, 4, 16));
  sc_csr_pack(w.data(), c.M, c.K, c.K, 32, 4, 16, blob.data);
  PackedHeader* h = blob.header();
  char* base = static_cast<char*>(blob.data);
  const auto refused = [&](auto* place, auto bad, const char* what) {
    const auto good = *place;
    *place = bad;
    expect(!sc_csr_check(blob.data, blob.bytes), what);
    *place = good;
  };
  expect(!sc_csr_check(blob.data, blob.bytes - 1), "truncated");
  expect(!sc_csr_check(blob.data, 20), "shorter than a header");
  expect(!sc_dense_check(blob.data, blob.bytes, W), "another format");
  refused(&h->magic, 1u, "magic");
  refused(&h->version, 99u, "version");
  refused(&h->rows, int64_t(1) << 40, "rows");
  refused(&h->rows, h->rows + 1, "one row more");
  refused(&h->cols, int64_t(-1), "columns");
  refused(&h->nnz, h->nnz + 64, "non-zeros");
  refused(&h->k_tile, 0, "k_tile of zero");
  refused(&h->k_tile, 31, "k_tile");
  refused(&h->panel_vectors, 17, "panel");
  refused(&h->row_block, 0, "row block of zero");
  refused(&h->index_at, h->index_at + 64, "offset");
  refused(&h->value_at, int64_t(1) << 60, "offset far away");
  auto* index = reinterpret_cast<uint16_t*>(base + h->index_at);
  refused(index, uint16_t(32), "index outside its tile");
  refused(index + h->nnz - 1, uint16_t(6), "index outside the last, narrower tile");
  auto* row = reinterpret_cast<RowEntry*>(base + h->row_at);
  refused(&row->row, uint16_t(16), "row outside its block");
  refused(&row->row, row[1].row, "a row twice");
  refused(&row->count, uint16_t(row->count + 1), "count");
  auto* segment = reinterpret_cast<int64_t*>(base + h->segment_at);
  refused(segment + 1, segment[2] + 1, "segments out of order");
  auto* prefix = reinterpret_cast<int64_t*>(base + h->prefix_at);
  refused(prefix + 1, prefix[1] + 1, "prefix");
  expect(sc_csr_check(blob.data, blob.bytes), "undamaged again");

  Blob dense(sc_dense_packed_bytes(nullptr, 50, 70, 70, 32, 2, dense_rows(W)));
  sc_dense_pack(w.data(), 50, 70, 70, 32, 2, dense_rows(W), dense.data);
  expect(!sc_dense_check(dense.data, dense.bytes, W == 16 ? 8 : 16), "rows of another width");
  dense.header()->cols++;
  expect(!sc_dense_check(dense.data, dense.bytes, W), "dense: columns");
  expect(sc_csr_packed_bytes(w.data(), 50, 70, 70, 70000, 4, 16) == 0, "k_tile beyond 16 bits");
  expect(sc_csr_packed_bytes(w.data(), 0, 70, 70, 32, 4, 16) == 0, "no rows");
}

static void check_default_tiles() {
  where = "default tiles";
  for (int64_t M : {1, 10, 384, 768, 3072, 30522})
    for (int64_t K : {1, 64, 384, 768, 3072, 100000})
      for (double density : {0., .01, .05, .1, .3, .5, 1.}) {
        int k_tile = 0, panel = 0, rows = 0;
        sc_csr_default_tiles(M, K, int64_t(density * M * K), M % 200, W, &k_tile, &panel, &rows);
        expect(k_tile >= 1 && k_tile <= kMaxTile && panel >= 1 && panel <= kCsrPanel && rows >= 1 &&
                   rows <= kMaxRowBlock, "csr tiles in range");
        sc_dense_default_tiles(M, K, 0, 0, W, &k_tile, &panel, &rows);
        expect(k_tile >= 1 && k_tile <= kMaxTile && panel >= 1 && panel <= kMaxPanel &&
                   rows == dense_rows(W), "dense tiles in range");
      }
}

// Shares of a team tile the output exactly, and non-zeros are spread evenly.
static void check_shares() {
  where = "shares";
  std::mt19937 random(5);
  const Case c{1024, 256, 128, .1, 256, 4, 16, 1};
  auto w = random_weight(c, c.K, random);
  for (int64_t i = 0; i < 512 * c.K; i++)
    if (random() % 4) w[i] = 0;  // the upper half is emptier
  Blob blob(sc_csr_packed_bytes(w.data(), c.M, c.K, c.K, 256, 4, 16));
  sc_csr_pack(w.data(), c.M, c.K, c.K, 256, 4, 16, blob.data);
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
