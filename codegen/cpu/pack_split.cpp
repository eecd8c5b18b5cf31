// Packs, unpacks and checks split blobs (pack.h): a weight as the sum of two, which share no
// non-zero. The first holds rows or columns that are at least half full (compact), or the first p
// non-zeros of each q columns (nm); the rest is csr.
#include "pack_common.h"

namespace sc::split {

static bool in_groups(const Tiles& t) { return t.q > 1; }

static Tiles rest_tiles(Tiles t) {
  t.p = t.q = 0;
  return t;
}

// The two weights, rows K floats apart.
struct Parts {
  std::vector<float> first, rest;
  Matrix one, other;

  Parts(const Matrix& m, const Tiles& t) : first(m.M * m.K), rest(m.M * m.K) {
    const int64_t rows = m.M / m.groups;
    for (int64_t r = 0; r < m.M; r++) std::copy_n(m.w + r * m.ldw, m.K, &rest[r * m.K]);
    for (int64_t row0 = 0; row0 < m.M; row0 += rows) take(row0, rows, m.K, t);
    one = {first.data(), m.M, m.K, m.K, m.groups};
    other = {rest.data(), m.M, m.K, m.K, m.groups};
  }

 private:
  void take(int64_t row0, int64_t rows, int64_t K, const Tiles& t) {
    if (in_groups(t)) return take_groups(row0, rows, K, t);
    std::vector<int64_t> row(rows), column(K);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < K; k++)
        if (rest[(row0 + r) * K + k] != 0) row[r]++, column[k]++;
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < K; k++)
        if (t.p ? 2 * row[r] >= K : 2 * column[k] >= rows) move((row0 + r) * K + k);
  }
  void take_groups(int64_t row0, int64_t rows, int64_t K, const Tiles& t) {
    for (int64_t r = row0; r < row0 + rows; r++)
      for (int64_t k = 0, left = 0; k < K; k++) {
        if (k % t.q == 0) left = t.p;
        if (left > 0 && rest[r * K + k] != 0) move(r * K + k), left--;
      }
  }
  void move(int64_t i) { first[i] = rest[i], rest[i] = 0; }
};

static int64_t first_bytes(const Matrix& m, const Tiles& t) {
  return in_groups(t) ? sc_nm_bytes(&m, &t) : sc_compact_bytes(&m, &t);
}

static bool valid(const Matrix& m, const Tiles& t) {
  return m.groups > 0 && m.M > 0 && m.M % m.groups == 0 && valid_sizes(m.M / m.groups, m.K, t);
}

// Where the parts lie, given their sizes.
static void lay_out(PackedHeader& h, int64_t first, int64_t rest) {
  h.prefix_at = sizeof(PackedHeader);
  h.segment_at = h.row_at = h.order_at = 0;
  h.index_at = align64(h.prefix_at + (h.blocks() + 1) * 8);
  h.value_at = h.index_at + first;
  h.bytes = h.value_at + rest;
}

static int64_t bytes_of(const Matrix& m, const Tiles& t) {
  if (!valid(m, t)) return 0;
  const Parts parts(m, t);
  const Tiles tiles = rest_tiles(t);
  const int64_t first = first_bytes(parts.one, t), rest = sc_csr_bytes(&parts.other, &tiles);
  PackedHeader h = header(kSplit, m.M / m.groups, m.K, t);
  lay_out(h, first, rest);
  return first && rest ? h.bytes : 0;
}

// Adds what the groups of a part hold: numbers before each row block, and in all.
static void add_work(const PackedHeader* part, std::vector<int64_t>& prefix, int64_t& nnz) {
  for_each_group(part, [&](const PackedHeader* h) {
    nnz += h->nnz;
    for (int64_t b = 1; b <= h->blocks(); b++) {
      const int64_t rows = std::min<int64_t>(h->rows, b * h->row_block);
      prefix[b] += h->prefix_at ? section<int64_t>(h, h->prefix_at)[b] : h->nnz / h->rows * rows;
    }
    return true;
  });
}

static int pack(const Matrix& m, const Tiles& t, void* out) {
  if (bytes_of(m, t) == 0) return 0;
  const Parts parts(m, t);
  const Tiles tiles = rest_tiles(t);
  PackedHeader h = header(kSplit, m.M / m.groups, m.K, t);
  lay_out(h, first_bytes(parts.one, t), sc_csr_bytes(&parts.other, &tiles));
  h.groups = m.groups;
  char* base = static_cast<char*>(out);
  std::memset(base, 0, h.index_at);
  if (in_groups(t)) sc_nm_pack(&parts.one, &t, base + h.index_at);
  else sc_compact_pack(&parts.one, &t, base + h.index_at);
  sc_csr_pack(&parts.other, &tiles, base + h.value_at);
  std::vector<int64_t> prefix(h.blocks() + 1);
  for (int64_t at : {h.index_at, h.value_at})
    add_work(section<PackedHeader>(out, at), prefix, h.nnz);
  std::copy(prefix.begin(), prefix.end(), section<int64_t>(out, h.prefix_at));
  std::memcpy(base, &h, sizeof h);
  return 1;
}

static void unpack(const PackedHeader* h, float* w_out) {
  const auto* first = section<char>(h, h->index_at);
  if (h->q > 1) sc_nm_unpack(first, w_out);
  else sc_compact_unpack(first, w_out);
  std::vector<float> rest(h->groups * h->rows * h->cols);
  sc_csr_unpack(section<char>(h, h->value_at), rest.data());
  for (size_t i = 0; i < rest.size(); i++)
    if (rest[i] != 0) w_out[i] = rest[i];
}

static bool part_ok(const PackedHeader* h, const PackedHeader* part, const Tiles& tiles) {
  const Tiles own = tiles_of(*part);
  return part->rows == h->rows && part->cols == h->cols && part->groups == h->groups &&
         std::memcmp(&own, &tiles, sizeof own) == 0;
}

// Bytes of all groups of a part that was checked.
static int64_t part_bytes(const PackedHeader* part) {
  int64_t bytes = 0;
  for_each_group(part, [&](const PackedHeader* h) {
    bytes += h->bytes;
    return true;
  });
  return bytes;
}

static bool blob_ok(const void* packed, int64_t bytes, int width) {
  if (!header_ok(packed, bytes, kSplit)) return false;
  const auto* h = static_cast<const PackedHeader*>(packed);
  const Tiles tiles = tiles_of(*h), rest_of = rest_tiles(tiles);
  PackedHeader expected = *h;
  lay_out(expected, 0, 0);
  if (h->index_at != expected.index_at || h->value_at < h->index_at ||
      h->value_at % 64 || h->value_at > h->bytes || h->bytes > bytes)
    return false;
  const auto* first = section<PackedHeader>(h, h->index_at);
  const auto* rest = section<PackedHeader>(h, h->value_at);
  const int64_t room = h->value_at - h->index_at;
  const auto check = h->q > 1 ? sc_nm_check : sc_compact_check;
  if (!check(first, room, width) || !sc_csr_check(rest, h->bytes - h->value_at, width) ||
      !part_ok(h, first, tiles) || !part_ok(h, rest, rest_of))
    return false;
  lay_out(expected, part_bytes(first), part_bytes(rest));
  std::vector<int64_t> prefix(h->blocks() + 1);
  expected.nnz = 0;
  for (const PackedHeader* part : {first, rest}) add_work(part, prefix, expected.nnz);
  return std::memcmp(&expected, h, sizeof expected) == 0 &&
         std::equal(prefix.begin(), prefix.end(), section<int64_t>(h, h->prefix_at));
}

}  // namespace sc::split

extern "C" {

int64_t sc_split_bytes(const sc::Matrix* matrix, const sc::Tiles* tiles) {
  return sc::split::bytes_of(*matrix, *tiles);
}

int sc_split_pack(const sc::Matrix* matrix, const sc::Tiles* tiles, void* out) {
  return sc::split::pack(*matrix, *tiles, out);
}

void sc_split_unpack(const void* packed, float* w_out) {
  sc::split::unpack(static_cast<const sc::PackedHeader*>(packed), w_out);
}

int sc_split_check(const void* packed, int64_t bytes, int width) {
  return sc::split::blob_ok(packed, bytes, width);
}

void sc_split_tiles(const sc::Layer* layer, sc::Tiles* tiles) {
  sc::csr_like_tiles(*layer, std::max(tiles->q, 1), *tiles);
}
}
