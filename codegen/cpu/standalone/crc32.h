// The usual CRC-32 (of zlib, polynomial 0xedb88320), eight bytes at a time.
#pragma once
#include <cstdint>
#include <cstring>

namespace sc::standalone {

struct Crc32Tables {
  uint32_t t[8][256];
  constexpr Crc32Tables() : t() {
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      t[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
      for (uint32_t i = 0; i < 256; i++) t[k][i] = t[0][t[k - 1][i] & 255] ^ (t[k - 1][i] >> 8);
  }
};

static uint32_t crc32(uint32_t crc, const char* data, int64_t bytes) {
  static constexpr Crc32Tables tables;
  const auto& t = tables.t;
  crc = ~crc;
  for (; bytes >= 8; bytes -= 8, data += 8) {
    uint32_t low, high;  // little endian, as every target here
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24] ^
          t[3][high & 255] ^ t[2][high >> 8 & 255] ^ t[1][high >> 16 & 255] ^ t[0][high >> 24];
  }
  for (; bytes > 0; bytes--) crc = t[0][(crc ^ uint8_t(*data++)) & 255] ^ (crc >> 8);
  return ~crc;
}

}  // namespace sc::standalone
