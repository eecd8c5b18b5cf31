// Reads segments, sizes and threads; prints how plan.h shares and arranges them, a line each.
#include <cstdio>
#include <memory>

#include "plan.h"

using namespace sc::standalone;

static bool next(int64_t& value) {
  long long read;
  if (std::scanf("%lld", &read) != 1) return false;
  value = read;
  return true;
}

static int64_t number() {
  int64_t value = 0;
  next(value);
  return value;
}

static void print(const Numbers& numbers) {
  for (const int64_t value : numbers) std::printf("%lld ", (long long)value);
}

int main() {
  int64_t calls;
  while (next(calls)) {
    SegmentTable t{};
    t.calls = int32_t(calls);
    const int64_t samples = number(), threads = number();
    t.spaces = int32_t(number());
    const std::unique_ptr<bool[]> tokens(new bool[t.spaces + 1]);
    Numbers columns(t.spaces);
    for (int i = 0; i < t.spaces; i++) {
      tokens[i] = number();
      columns[i] = number();
    }
    t.buffers = int32_t(number());
    std::vector<BufferTable> buffers(t.buffers);
    Numbers floats(t.buffers);
    for (int i = 0; i < t.buffers; i++) {
      BufferTable& b = buffers[i];
      b.space = int32_t(number());
      b.rows = int32_t(number());
      b.shared = number();
      b.foreign = number();
      b.first = int32_t(number());
      b.last = int32_t(number());
      floats[i] = number();
    }
    t.waits = int32_t(number());
    std::vector<WaitTable> waits(t.waits);
    for (WaitTable& wait : waits) {
      wait.call = int32_t(number());
      wait.space = int32_t(number());
      wait.given = number();
    }
    t.tokens = tokens.get();
    t.buffer = buffers.data();
    t.wait = waits.data();
    const Sharing s = share(t, samples, columns.data(), threads);
    const Arena a = arrange(t, s, floats);
    print({s.per, s.alone});
    print(s.part);
    print(s.rest);
    print(s.ld);
    for (const char local : a.local) std::printf("%d ", local);
    print(a.offset);
    std::printf("%lld %lld\n", (long long)a.local_floats, (long long)a.shared_floats);
  }
}
