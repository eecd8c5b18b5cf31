// Runs conv_winograd and conv_stem on images of many sizes, for the sanitizers, on planes without
// slack, and compares with plain loops. Prints the first difference.
#include "dense_conv_kernels.cpp"

#include <cmath>
#include <cstdio>
#include <limits>

using Floats = std::vector<float>;

static float uniform() { return float(rand() % 2001) / 1000 - 1; }
static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// G g G' of each kernel of [M, C, 3, 3], as 16 matrices one below the other.
static Floats transformed(const Floats& w, int64_t kernels) {
  const float G[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
  Floats out(16 * kernels);
  for (int64_t k = 0; k < kernels; k++)
    for (int p = 0; p < 16; p++)
      for (int t = 0; t < 9; t++)
        out[p * kernels + k] += G[p / 4][t / 3] * G[p % 4][t % 3] * w[k * 9 + t];
  return out;
}

static void check(int64_t samples, int64_t high, int64_t wide, int64_t side, int64_t stride,
                  int64_t pad, int64_t C, int64_t M) {
  const int64_t oh = (high + 2 * pad - side) / stride + 1, ow = (wide + 2 * pad - side) / stride + 1;
  if (high + 2 * pad < side || wide + 2 * pad < side || (stride == 2 && ow < W)) return;
  const int64_t taps = side * side;
  const int64_t in = samples * high * wide, out = samples * oh * ow;
  const int64_t ldx = padded(in), ldy = padded(out);
  Floats x(C * ldx), y(M * ldy, 77.f), w(M * C * taps), bias(M), add(M * ldy);
  for (int64_t i = 0; i < C * ldx; i++)
    x[i] = i % ldx < in ? uniform() : std::numeric_limits<float>::quiet_NaN();
  for (Floats* v : {&w, &bias, &add})
    for (float& f : *v) f = uniform();
  const bool whole = stride == 2;
  const Floats products = whole ? w : transformed(w, M * C);
  Tiles tiles{0, 0, 0, 0, 0, kF32};
  const int64_t K = whole ? C * taps : C, groups = whole ? 1 : 16;
  const Layer layer{M, K, M * K, out, whole ? taps : 1, W, 0};
  sc_dense_tiles(&layer, &tiles);
  if (rand() % 2) tiles.k_tile = 1 + rand() % 7;
  const Matrix matrix{products.data(), groups * M, K, K, groups};
  void* blob = std::aligned_alloc(64, sc_dense_bytes(&matrix, &tiles));
  if (!sc_dense_pack(&matrix, &tiles, blob)) std::abort();
  const int64_t numbers[] = {samples, high, wide, oh, ow, side, side, pad, pad};
  const auto kernel = whole ? stem : winograd;
  kernel(1 + rand() % 3, blob, numbers, x.data(), ldx, y.data(), ldy, bias.data(), add.data());
  for (int64_t m = 0; m < M; m++)
    for (int64_t p = 0; p < out; p++) {
      const int64_t s = p / (oh * ow), oy = p / ow % oh, ox = p % ow;
      double want = bias[m] + add[m * ldy + p];
      for (int64_t c = 0; c < C; c++)
        for (int64_t t = 0; t < taps; t++) {
          const int64_t iy = oy * stride + t / side - pad, ix = ox * stride + t % side - pad;
          if (iy >= 0 && iy < high && ix >= 0 && ix < wide)
            want += double(w[(m * C + c) * taps + t]) * x[c * ldx + (s * high + iy) * wide + ix];
        }
      if (std::fabs(y[m * ldy + p] - want) <= 1e-4) continue;
      std::printf("%g instead of %g at %lld, %lld\n", y[m * ldy + p], want, (long long)m,
                  (long long)p);
      std::exit(1);
    }
  std::free(blob);
}

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 100;
  for (int i = 0; i < count; i++) {
    check(1 + rand() % 2, 1 + rand() % 40, 1 + rand() % 40, 3, 1, rand() % 4, 1 + rand() % 9,
          1 + rand() % 30);
    check(1 + rand() % 2, 1 + rand() % 30, 30 + rand() % 60, 1 + rand() % 7, 2, rand() % 4,
          1 + rand() % 4, 1 + rand() % 30);
  }
  return 0;
}
