// Runs every kernel at odd sizes on heap buffers without slack, for the sanitizers, and compares
// attention and layer norm with plain double loops. Prints the first difference and fails.
#include "vector_kernels.cpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>

using Floats = std::vector<float>;
static const int64_t SIZES[] = {1, 7, 16, 17, 49, 197};
static const int64_t HEAD_SIZES[] = {1, 5, 32, 64, 80, 128};

static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

static Floats random_floats(int64_t n) {
  Floats x(n);
  for (float& f : x) f = float(rand()) / float(RAND_MAX) * 4 - 2;
  return x;
}

static void check(const char* what, double got, double want, int64_t i) {
  if (std::fabs(got - want) <= 1e-5) return;
  printf("%s: %g instead of %g at %lld\n", what, got, want, (long long)i);
  exit(1);
}

// Two samples side by side in planes that end with their last column's vector.
static void check_attention(int64_t sq, int64_t sk, int64_t d, bool causal) {
  const int64_t samples = 2, heads = 2, ldq = padded(samples * sq), ldk = padded(samples * sk);
  const Floats q = random_floats(heads * d * ldq), k = random_floats(heads * d * ldk);
  const Floats v = random_floats(heads * d * ldk), mask = random_floats(sk * padded(sq));
  Floats o(heads * d * ldq, 77.f);
  const float scale = 1 / std::sqrt(float(d));
  const sc::Attention a{q.data(), k.data(), v.data(), o.data(), ldq, ldk, ldk, ldq, d, d, d, d,
                        1, 1, 1, 1, samples, heads, 1, sq, sk, d, d, scale, causal,
                        mask.data(), 0, 0, padded(sq), 1};
  attention(3, &a);
  std::vector<double> p(sk);
  for (int64_t b = 0; b < samples; b++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t i = 0; i < sq; i += 5) {
        double sum = 0;
        for (int64_t j = 0; j < sk; j++) {
          double s = 0;
          for (int64_t f = h * d; f < h * d + d; f++)
            s += double(q[f * ldq + b * sq + i]) * k[f * ldk + b * sk + j];
          p[j] = causal && j > i ? 0 : std::exp(s * scale + mask[j * padded(sq) + i]);
          sum += p[j];
        }
        for (int64_t f = h * d; f < h * d + d; f += 3) {
          double y = 0;
          for (int64_t j = 0; j < sk; j++) y += p[j] / sum * v[f * ldk + b * sk + j];
          check("attention", o[f * ldq + b * sq + i], y, i);
        }
      }
  for (int64_t i = samples * sq; i < ldq; i++) check("attention's tail", o[i], 77, i);
}

static void check_planes(int64_t rows, int64_t n) {
  const int64_t ld = padded(n);
  const Floats x = random_floats(rows * ld), gamma(rows, 1.f), beta(rows, 0.f);
  Floats y(rows * ld), plain(rows * n), back(rows * ld);
  planes_to_rows(3, x.data(), ld, n, rows, plain.data(), rows);
  rows_to_planes(3, plain.data(), rows, n, rows, back.data(), ld);
  for (int64_t i = 0; i < rows * ld; i++)
    if (i % ld < n) check("transpose", back[i], x[i], i);
  const sc::Strided s{{1, 1, rows}, {0, 0, n}, 1};
  planes_to_strided(3, x.data(), ld, n, &s, plain.data());
  strided_to_planes(3, plain.data(), &s, n, back.data(), ld);
  for (int64_t i = 0; i < rows * ld; i++)
    if (i % ld < n) check("copy", back[i], x[i], i);
  softmax(3, 0, rows, n, x.data(), ld, y.data());
  softmax(3, 1, rows, n, x.data(), ld, y.data());
  map_gelu(3, x.data(), y.data(), rows, n, ld, 0, 0, 0);
  map_sin(3, x.data(), y.data(), rows, n, ld, 0, 0, 0);
  map_log(3, x.data(), y.data(), rows, n, ld, 0, 0, 0);
  map_pow(3, x.data(), y.data(), rows, n, ld, 5, 0, 0);
  norm(3, 1, rows, n, 1e-5f, x.data(), nullptr, ld, gamma.data(), beta.data(), nullptr, y.data());
  const float* twice = x.data();
  norm(3, 0, rows, n, 1e-5f, twice, twice, ld, gamma.data(), beta.data(), y.data(), y.data());
  for (int64_t c = 0; c < n; c += 3) {
    double mean = 0, square = 0;
    for (int64_t r = 0; r < rows; r++) mean += 2.0 * x[r * ld + c] / rows;
    for (int64_t r = 0; r < rows; r++) square += std::pow(2.0 * x[r * ld + c] - mean, 2) / rows;
    const double scale = 1 / std::sqrt(square + 1e-5);
    for (int64_t r = 0; r < rows; r++)
      check("layer norm", y[r * ld + c], (2.0 * x[r * ld + c] - mean) * scale, r);
  }
}

int main() {
  for (int64_t n : SIZES)
    for (int64_t rows : {1, 9, 49}) check_planes(rows, n);
  for (int64_t d : HEAD_SIZES)
    for (int64_t i = 0; i < 6; i++) {
      check_attention(SIZES[i], SIZES[i], d, true);
      check_attention(SIZES[i], SIZES[5 - i], d, false);
    }
  return 0;
}
