// Runs the decode kernels on every kind of rows and values, odd sizes, and one query of attention,
// for the sanitizers, on tight buffers, and compares with plain loops. Prints the first difference.
#include "decode_kernels.cpp"

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

using Floats = std::vector<float>;

static std::mt19937 chance(11);
static int64_t pick(int64_t low, int64_t high) {
  return low + int64_t(chance() % (high - low + 1));
}
static float uniform() { return float(chance() % 2001) / 1000 - 1; }
static Floats random(int64_t n) {
  Floats out(n);
  for (float& f : out) f = uniform();
  return out;
}

static void expect(bool holds, const char* what, int64_t a = 0, int64_t b = 0) {
  if (holds) return;
  std::printf("%s at %lld, %lld\n", what, (long long)a, (long long)b);
  std::exit(1);
}

static void near(double got, double want, const char* what, int64_t a, int64_t b) {
  expect(std::fabs(got - want) <= 1e-4 * (1 + std::fabs(want)), what, a, b);
}

static void check_weight(int kind, int values) {
  const int64_t M = pick(1, 70), K = pick(1, 300), n = pick(1, 8), ldx = 16, ldy = 16;
  Floats w(M * K), stored(M * K, 5.f);
  const int64_t density = pick(0, 10);
  for (float& f : w) f = pick(0, 9) < density ? uniform() : 0;
  const int64_t bytes = sc_decode_bytes(w.data(), M, K, K, kind, values);
  void* blob = std::aligned_alloc(64, bytes);
  expect(sc_decode_pack(w.data(), M, K, K, kind, values, blob), "packed");
  expect(sc_decode_check(blob, bytes) && !sc_decode_check(blob, bytes - 1), "checked");
  sc_decode_unpack(blob, stored.data());
  for (int64_t i = 0; i < M * K; i++)
    expect(values ? std::fabs(w[i] - stored[i]) < .005 : w[i] == stored[i], "unpacked", i);

  Floats x(K * ldx), y(M * ldy, 77.f);
  for (int64_t i = 0; i < K * ldx; i++)
    x[i] = i % ldx < n ? uniform() : std::numeric_limits<float>::quiet_NaN();
  decode_on_planes(int(pick(1, 3)), blob, x.data(), ldx, y.data(), ldy, n);
  for (int64_t m = 0; m < M; m++)
    for (int64_t p = 0; p < n; p++) {
      double want = 1;
      for (int64_t k = 0; k < K; k++) want += double(stored[m * K + k]) * x[k * ldx + p];
      near(y[m * ldy + p], want, "planes", m, p);
    }
  const Floats row = random(K), bias = random(M);
  Floats out(M, 77.f);
  decode_on_row(int(pick(1, 3)), blob, row.data(), bias.data(), out.data());
  for (int64_t m = 0; m < M; m++) {
    double want = bias[m];
    for (int64_t k = 0; k < K; k++) want += double(stored[m * K + k]) * row[k];
    near(out[m], want, "row", m, 0);
  }
  std::free(blob);
}

static void check_attention() {
  const int64_t groups = pick(1, 3), heads = groups * pick(1, 3), keys = pick(1, 140);
  const int64_t d = pick(1, 70), dv = pick(1, 70);
  const Floats q = random(heads * d), k = random(groups * keys * d), v = random(groups * keys * dv);
  Floats y(heads * dv, 77.f);
  std::vector<char> mask(keys);
  for (char& m : mask) m = char(pick(0, 1));
  mask[0] = 1;
  const bool masked = pick(0, 1);
  attend_one(int(pick(1, 3)), heads, groups, keys, d, dv, q.data(), k.data(), v.data(),
             masked ? reinterpret_cast<const bool*>(mask.data()) : nullptr, y.data());
  for (int64_t h = 0; h < heads; h++) {
    const int64_t g = h / (heads / groups);
    std::vector<double> want(dv);
    double sum = 0;
    for (int64_t i = 0; i < keys; i++) {
      if (masked && !mask[i]) continue;
      double score = 0;
      for (int64_t j = 0; j < d; j++) score += double(q[h * d + j]) * k[(g * keys + i) * d + j];
      const double weight = std::exp(score / 2);
      sum += weight;
      for (int64_t j = 0; j < dv; j++) want[j] += weight * v[(g * keys + i) * dv + j];
    }
    for (int64_t j = 0; j < dv; j++) near(y[h * dv + j], want[j] / sum, "attention", h, j);
  }
}

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 12;
  for (int i = 0; i < count; i++) {
    for (int kind = 0; kind < 3; kind++)
      for (int values = 0; values < 3; values++) check_weight(kind, values);
    check_attention();
  }
  return 0;
}
