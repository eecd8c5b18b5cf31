// Runs a generated unit on recorded calls and compares its results with the recorded ones. Built
// together with the unit, for any instruction set of the vector width that the weights were packed
// for. Arguments: files as `recording.py` writes them, little endian.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "decode_blob.h"
#include "decode_pack.h"

extern "C" int64_t sc_scratch_floats(const void* const* weight, const int64_t* d);
extern "C" int sc_run(const void* const* in, void* const* out, const void* const* weight,
                      const int64_t* d, float* memory, int64_t* error, double* clock);

struct Blob {
  int64_t bytes = 0;
  void* data = nullptr;
};

static int64_t number(std::ifstream& file) {
  int64_t value = 0;
  file.read(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

static void* memory_of(int64_t bytes) {
  return std::aligned_alloc(64, bytes > 0 ? (bytes + 63) / 64 * 64 : 64);
}

static std::vector<Blob> blobs(std::ifstream& file) {
  std::vector<Blob> all(number(file));
  for (Blob& blob : all) {
    blob.bytes = number(file);
    blob.data = memory_of(blob.bytes);
    file.read(static_cast<char*>(blob.data), blob.bytes);
  }
  return all;
}

// Weights for few columns name their kernels, which are this program's own.
static void bind(const std::vector<Blob>& weights) {
  for (const Blob& blob : weights) {
    const auto* h = static_cast<const sc::DecodeHeader*>(blob.data);
    if (blob.bytes < int64_t(sizeof *h) || h->magic != sc::kDecodeMagic) continue;
    if (sc::is_decode(blob.data)) sc_decode_bind(blob.data);
  }
}

static std::vector<void*> pointers(const std::vector<Blob>& all) {
  std::vector<void*> found;
  for (const Blob& blob : all) found.push_back(blob.data);
  return found;
}

// File: the bound numbers, the floats of memory, the indices checked; inputs, weights, results.
static bool replay(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<int64_t> d(number(file));
  for (int64_t& value : d) value = number(file);
  const int64_t floats = number(file), checked = number(file);
  const auto in = blobs(file), weight = blobs(file), want = blobs(file);
  if (!file) return std::printf("%s is cut short\n", path), false;
  bind(weight);
  std::vector<Blob> got = want;
  for (Blob& blob : got) blob.data = memory_of(blob.bytes);
  const auto inputs = pointers(in), constants = pointers(weight), results = pointers(got);
  if (sc_scratch_floats(constants.data(), d.data()) > d[3])
    return std::printf("%s: more scratch is needed here\n", path), false;
  auto* memory = static_cast<float*>(memory_of(floats * 4));
  for (int64_t i = 0; i < floats; i++) memory[i] = NAN;  // what nobody wrote, nobody may use
  std::vector<int64_t> error(checked + 1, -1);
  const int fewer = sc_run(inputs.data(), results.data(), constants.data(), d.data(), memory,
                           error.data(), nullptr);
  if (fewer) return std::printf("%s: only %d threads\n", path, fewer), false;
  double most = 0;
  for (size_t i = 0; i < want.size(); i++) {
    const auto *a = static_cast<float*>(got[i].data), *b = static_cast<float*>(want[i].data);
    double worst = 0, scale = 1e-30;
    for (int64_t j = 0; j < want[i].bytes / 4; j++) {
      const double difference = std::fabs(double(a[j]) - b[j]);
      worst = difference <= worst ? worst : difference;  // NaN stays
      scale = std::fmax(scale, std::fabs(b[j]));
    }
    most = worst / scale <= most ? most : worst / scale;
  }
  std::printf("%s: relative error %.1e\n", path, most);
  return most <= 1e-5;
}

int main(int argc, char** argv) {
  bool fine = argc > 1;
  for (int i = 1; i < argc; i++) fine = replay(argv[i]) && fine;
  return fine ? 0 : 1;
}
