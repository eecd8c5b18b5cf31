// Runs the strided kernels at odd sizes on heap buffers without slack, for the sanitizers, and
// compares them with plain loops. Prints the first difference and fails.
#include "sweep_kernels.cpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>

using Floats = std::vector<float>;
static const int64_t SIZES[] = {1, 2, 3, 7, 16, 17, 40};

static Floats random_floats(int64_t n) {
  Floats x(n);
  for (float& f : x) f = float(rand()) / float(RAND_MAX) * 4 - 2;
  return x;
}

static void check(const char* what, double got, double want, int64_t i) {
  if (std::fabs(got - want) <= 1e-4 || (std::isnan(got) && std::isnan(want))) return;
  printf("%s: %g instead of %g at %lld\n", what, got, want, (long long)i);
  exit(1);
}

static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// [a, b, c] to [c, b, a], with the last dimension of the source backwards or broadcast.
static void check_sweeps(int64_t a, int64_t b, int64_t c) {
  const Floats x = random_floats(a * b * c), bias = random_floats(c);
  Floats y(a * b * c), z(a * b * c), sum(b);
  const Sizes box{{a, b, c, 1, 1, 1}};
  const int64_t to[kRank] = {1, a, a * b}, from[kRank] = {b * c, c, 1}, back[kRank] = {b * c, c, -1};
  const int64_t along[kRank] = {0, 0, 1};
  copy_4(3, &box, y.data(), to, x.data() + c - 1, back);
  multiply_add_f32(3, &box, z.data(), to, x.data(), from, x.data(), from, bias.data(), along);
  for (int64_t i = 0; i < a * b * c; i++) {
    const int64_t k = i / (a * b), j = i / a % b, row = (i % a * b + j) * c;
    check("copy", y[i], x[row + c - 1 - k], i);
    check("map", z[i], double(x[row + k]) * x[row + k] + bias[k], i);
  }
  std::vector<uint8_t> bytes(a * b * c, 1), moved(a * b * c);
  copy_1(3, &box, moved.data(), to, bytes.data(), from);
  fill_1(3, &box, bytes.data(), from);
  for (int64_t i = 0; i < a * b * c; i++) check("bytes", moved[i] + bytes[i], 4, i);
  // Sums over the first and the last dimension.
  const Sizes kept_first{{b, a, c, 1, 1, 1}};
  const int64_t results[kRank] = {1}, swapped[kRank] = {c, b * c, 1};
  fold_sum_f32(3, &kept_first, 1, sum.data(), results, x.data(), swapped);
  std::vector<int64_t> best(b);
  fold_argmax_f32(3, &kept_first, 1, best.data(), results, x.data(), swapped);
  for (int64_t j = 0; j < b; j++) {
    double want = 0, most = -9;
    for (int64_t i = 0; i < a * c; i++) {
      const float v = x[(i / c * b + j) * c + i % c];
      want += v;
      most = std::fmax(most, v);
    }
    check("sum", sum[j], want, j);
    check("argmax", x[(best[j] / c * b + j) * c + best[j] % c], most, j);
  }
}

static void check_gathers(int64_t n, int64_t width) {
  const int64_t rows = 5, ld = padded(n);
  const Floats table = random_floats(rows * width);
  std::vector<int64_t> ids(n);
  for (int64_t& id : ids) id = rand() % rows;
  if (n > 2) ids[2] = rows;
  Floats planes(width * ld, 7.f), plain(n * width);
  int64_t error = sc::kNoError;
  lookup_i64(3, table.data(), rows, width, ids.data(), n, planes.data(), ld, &error);
  check("bad id", double(error), n > 2 ? 2 : -1, 0);
  error = sc::kNoError;
  rows_f32_i64(3, table.data(), rows, width, ids.data(), n, plain.data(), width, &error);
  check("bad id", double(error), n > 2 ? 2 : -1, 0);
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < width; c++) {
      const double want = table[(ids[i] == rows ? 0 : ids[i]) * width + c];
      check("lookup", planes[c * ld + i], want, i);
      check("rows", plain[i * width + c], want, i);
    }
  int64_t id = 3;
  error = sc::kNoError;
  rows_f32_i64(2, nullptr, 0, width, &id, 1, plain.data(), width, &error);
  check("empty table", double(error), 0, 0);
}

static void check_matmul(int64_t m, int64_t n, int64_t k) {
  const Floats a = random_floats(2 * m * k), b = random_floats(2 * k * n);
  for (int turned = 0; turned < 8; turned++) {
    Floats c(2 * m * n);
    const auto side = [&](int bit, int64_t rows, int64_t columns) {
      return turned >> bit & 1 ? std::pair<int64_t, int64_t>(1, rows)
                               : std::pair<int64_t, int64_t>(columns, 1);
    };
    const auto [ar, ac] = side(0, m, k);
    const auto [br, bc] = side(1, k, n);
    const auto [cr, cc] = side(2, m, n);
    const sc::Matmul p{{1, 2, 1}, m, n, k, {a.data(), {0, m * k, 0}, ar, ac},
                       {b.data(), {0, k * n, 0}, br, bc}, {c.data(), {0, m * n, 0}, cr, cc}};
    matmul(3, &p);
    for (int64_t i = 0; i < 2 * m * n; i += 3) {
      const int64_t z = i / (m * n), row = i / n % m, column = i % n;
      double want = 0;
      for (int64_t j = 0; j < k; j++)
        want += double(a[z * m * k + row * ar + j * ac]) * b[z * k * n + j * br + column * bc];
      check("matmul", c[z * m * n + row * cr + column * cc], want, i);
    }
  }
}

static void check_along(int64_t outer, int64_t n, int64_t inner) {
  const Floats x = random_floats(outer * n * inner);
  Floats y(x.size()), z(x.size());
  softmax_along(3, outer, n, inner, x.data(), y.data(), 0);
  cumsum_f32(3, outer, n, inner, x.data(), z.data());
  for (int64_t o = 0; o < outer; o++)
    for (int64_t c = 0; c < inner; c++) {
      double total = 0, sum = 0;
      for (int64_t i = 0; i < n; i++) {
        const int64_t at = (o * n + i) * inner + c;
        check("cumsum", z[at], sum += x[at], at);
        total += y[at];
      }
      check("softmax", total, 1, c);
    }
}

static void check_rotary(int64_t n) {
  const int64_t heads = 2, d = 6, rotated = 4, ld = padded(n);
  const Floats x = random_floats(heads * d * ld), cos(rotated * ld, 2.f), sin(rotated * ld, 3.f);
  Floats y(heads * d * ld);
  for (const bool interleaved : {false, true}) {
    const sc::Rotary r{heads, d, rotated, x.data(), cos.data(), sin.data(), y.data(),
                       ld, ld, ld, ld, interleaved};
    rotary(3, &r, n);
    for (int64_t i = 0; i < n; i++) {
      const int64_t partner = (interleaved ? 1 : 2) * ld;
      check("rotary", y[i], 2.0 * x[i] - 3.0 * x[partner + i], i);
      check("rotary", y[partner + i], 2.0 * x[partner + i] + 3.0 * x[i], i);
      check("rotary", y[5 * ld + i], x[5 * ld + i], i);
    }
  }
}

int main() {
  for (int64_t a : SIZES)
    for (int64_t b : SIZES)
      for (int64_t c : SIZES) {
        check_sweeps(a, b, c);
        check_along(a, b, c);
        check_matmul(a, b, c);
      }
  check_sweeps(2, 3, 2500);
  check_matmul(13, 300, 520);
  for (int64_t n : SIZES) {
    check_rotary(n);
    for (int64_t width : SIZES) check_gathers(n, width);
  }
  return 0;
}
