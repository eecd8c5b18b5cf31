// Runs convolutions of every format in many shapes, for the sanitizers, on heap planes that end
// with their last column's cache line, and compares with plain double loops. Prints the first
// difference.
#include "conv_kernels.cpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <random>

using Floats = std::vector<float>;

static std::mt19937 chance(7);
static int64_t pick(int64_t low, int64_t high) {
  return low + int64_t(chance() % (high - low + 1));
}
static float uniform() { return float(chance() % 2001) / 1000 - 1; }
static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

struct Shape {
  int64_t samples, in[3], out[3], kernel[3], stride[3], dilation[3], pad[3], transposed;
  int64_t channels, rows, groups;  // of one group

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

static bool random_shape(Shape& s) {
  const int rank = int(pick(1, 3));
  s.samples = pick(1, 2), s.transposed = pick(0, 1);
  s.channels = pick(1, 20), s.rows = pick(1, 30), s.groups = pick(0, 2) ? 1 : pick(2, 4);
  for (int d = 0; d < 3; d++) {
    s.in[d] = s.out[d] = s.kernel[d] = s.stride[d] = s.dilation[d] = 1, s.pad[d] = 0;
    if (d < 3 - rank) continue;
    s.in[d] = pick(1, rank == 1 ? 90 : rank == 2 ? 20 : 6);
    s.kernel[d] = pick(1, 4), s.dilation[d] = pick(1, 2);
    s.stride[d] = pick(0, 1) ? 1 : pick(2, 5), s.pad[d] = pick(0, 3);
    const int64_t reach = s.dilation[d] * (s.kernel[d] - 1);
    s.out[d] = s.transposed ? (s.in[d] - 1) * s.stride[d] - 2 * s.pad[d] + reach + 1
                            : (s.in[d] + 2 * s.pad[d] - reach - 1 + s.stride[d]) / s.stride[d];
    if (s.in[d] + 2 * s.pad[d] < reach + 1 || s.out[d] < 1) return false;
  }
  return true;
}

// The input coordinate of output o under tap k, or -1.
static int64_t source(const Shape& s, int d, int64_t o, int64_t k) {
  int64_t i = o * s.stride[d] - s.pad[d] + k * s.dilation[d];
  if (s.transposed) {
    i = o + s.pad[d] - k * s.dilation[d];
    if (i < 0 || i % s.stride[d]) return -1;
    i /= s.stride[d];
  }
  return i < s.in[d] ? i : -1;
}

static double expected(const Shape& s, const Floats& x, int64_t ldx, const Floats& w, int64_t row,
                       int64_t column) {
  const int64_t area = s.out[0] * s.out[1] * s.out[2], sample = column / area, taps = s.taps();
  const int64_t o[3] = {column / (s.out[1] * s.out[2]) % s.out[0], column / s.out[2] % s.out[1],
                        column % s.out[2]};
  double sum = 0;
  for (int64_t t = 0; t < taps; t++) {
    const int64_t k[3] = {t / (s.kernel[1] * s.kernel[2]), t / s.kernel[2] % s.kernel[1],
                          t % s.kernel[2]};
    int64_t at = sample;
    bool inside = true;
    for (int d = 0; d < 3; d++) {
      const int64_t i = source(s, d, o[d], k[d]);
      inside &= i >= 0;
      at = at * s.in[d] + i;
    }
    if (!inside) continue;
    for (int64_t c = 0; c < s.channels; c++)
      sum += double(w[(row * s.channels + c) * taps + t]) *
             x[(row / s.rows * s.channels + c) * ldx + at];
  }
  return sum;
}

// The second of the groups, which lie one behind the other: a split's in each of its two parts.
static std::vector<PackedHeader*> second_groups(void* blob) {
  const auto* h = static_cast<const PackedHeader*>(blob);
  const auto after = [&](int64_t at) {
    return const_cast<PackedHeader*>(next_group(section<PackedHeader>(h, at)));
  };
  if (h->format != kSplit) return {after(0)};
  return {after(h->index_at), after(h->value_at)};
}

static void check(const Shape& s, const AnyFormat& f) {
  const bool nm = f.bytes == sc_nm_bytes;
  const int64_t M = s.rows * s.groups, K = s.channels * s.taps();
  const int64_t in = s.samples * s.in[0] * s.in[1] * s.in[2];
  const int64_t out = s.samples * s.out[0] * s.out[1] * s.out[2];
  const int64_t ldx = padded(in), ldy = padded(out);
  Floats x(s.channels * s.groups * ldx), y(M * ldy, 77.f), w(M * K), bias(M, 0.f);
  for (int64_t i = 0; i < int64_t(x.size()); i++)
    x[i] = i % ldx < in ? uniform() : std::numeric_limits<float>::quiet_NaN();
  for (int64_t i = 0, left = 0; i < M * K; i++) {
    if (nm && i % K % f.q == 0) left = f.p;
    if (pick(0, 2) == 0 && (!nm || left-- > 0)) w[i] = uniform();
  }
  Tiles tiles{0, 0, 0, f.p, f.q, kF32};
  const int32_t banded = s.taps() == 9 && s.stride[2] == 1;
  const Layer layer{s.rows, K, M * K / 3 / s.groups, out, s.taps(), W, banded};
  f.tiles(&layer, &tiles);
  const int unit = f.bytes == sc_bitmap_bytes ? 64 : std::max(f.q, 1);
  if (pick(0, 1))
    tiles.k_tile = int(pick(1, 40) + unit - 1) / unit * unit, tiles.panel_vectors = int(pick(1, 8));
  if (f.bytes == sc_block_bytes && f.p >= 4 && pick(0, 1))  // whole channels
    tiles.k_tile = int(s.taps() * f.q * pick(1, 3));
  if (f.bytes == sc_csr_bytes) {  // by columns of the kernel, or not
    tiles.p = s.taps() == 9 && K % 36 == 0 ? 3 : 0;
    if (tiles.p) tiles.k_tile = int(36 * pick(1, 3));
  }
  const Matrix matrix{w.data(), M, K, K, s.groups};
  const int64_t bytes = f.bytes(&matrix, &tiles);
  if (bytes == 0 && f.q > 1 && !nm && K % f.q) return;
  void* blob = std::aligned_alloc(64, bytes);
  f.pack(&matrix, &tiles, blob);
  Floats back(M * K, 5.f);
  f.unpack(blob, back.data());
  if (back != w || !f.check(blob, bytes, W) || f.check(blob, bytes - 1, W)) {
    std::printf("%s: pack, unpack, check of %lld groups\n", f.name, (long long)s.groups);
    std::exit(1);
  }
  if (s.groups > 1)  // a later group that is not like the first
    for (PackedHeader* next : second_groups(blob)) {
      next->groups++;
      if (f.check(blob, bytes, W)) {
        std::printf("%s: a damaged second group passes the check\n", f.name);
        std::exit(1);
      }
      next->groups--;
    }
  conv(int(pick(1, 3)), blob, &s.samples, x.data(), ldx, y.data(), ldy, bias.data());
  for (int64_t m = 0; m < M; m++)
    for (int64_t p = 0; p < ldy; p++) {
      const double got = y[m * ldy + p];
      if (p >= vectors(out) * W ? got == 77 : p >= out) continue;
      const double want = p < out ? expected(s, x, ldx, w, m, p) : 77;
      if (std::fabs(got - want) <= 1e-4) continue;
      std::printf("%s: %g instead of %g at %lld, %lld\n", f.name, got, want, (long long)m,
                  (long long)p);
      std::exit(1);
    }
  std::free(blob);
}

// A 3 x 3 convolution that conv_bands.h or conv_flat.h may take.
static Shape image_shape() {
  const int64_t stride = pick(1, 2), high = pick(7, 33), wide = pick(7, 33), pad = pick(0, 2);
  return {pick(1, 2), {1, high, wide},
          {1, (high + 2 * pad - 3) / stride + 1, (wide + 2 * pad - 3) / stride + 1},
          {1, 3, 3}, {1, stride, stride}, {1, 1, 1}, {0, pad, pad}, 0, 4 * pick(1, 5),
          pick(1, 40), 1};
}

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 150;
  for (int i = 0; i < count / 10; i++) check(image_shape(), kAnyFormat[0]);
  const AnyFormat blocks[] = {kAnyFormat[3], kAnyFormat[4], kAnyFormat[8], kAnyFormat[10]};
  for (int i = 0; i < count / 10; i++) check(image_shape(), blocks[i % std::size(blocks)]);
  for (int i = 0; i < count;) {
    Shape s;
    if (!random_shape(s)) continue;
    check(s, kAnyFormat[i++ % int64_t(std::size(kAnyFormat))]);
  }
  return 0;
}
