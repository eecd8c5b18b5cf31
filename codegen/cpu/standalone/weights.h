// The file of weights, mapped and checked: a damaged one is refused, never read from.
//   Header, then {int64 offset, int64 bytes} for each blob, then the blobs at cache lines.
// Pages are private: a blob for few columns names its kernels, which are entered after mapping.
#pragma once
#include <cerrno>
#include <cstdint>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32.h"
#include "tables.h"

namespace sc::standalone {

constexpr uint32_t kFileVersion = 1;

struct FileHeader {
  char magic[8];  // "SCWEIGHT"
  uint32_t version, blobs;
  uint64_t bytes, identity;
  char target[28];
  uint32_t crc;  // of all bytes but these four
};
static_assert(sizeof(FileHeader) == 64, "the header is part of the file format");

struct BlobEntry {
  int64_t offset, bytes;
};

class Weights {
 public:
  ~Weights() { close(); }

  // "" or what is wrong. The file must hold `blobs` blobs for this model.
  const char* open(const char* path, const ModelTable& model) {
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return std::strerror(errno);
    struct stat facts {};
    if (fstat(file, &facts) || !S_ISREG(facts.st_mode)) {
      ::close(file);
      return "it is no regular file";
    }
    bytes_ = facts.st_size;
    const bool enough = bytes_ >= int64_t(sizeof(FileHeader));
    constexpr int access = PROT_READ | PROT_WRITE;
    void* const mapped =
        enough ? mmap(nullptr, bytes_, access, MAP_PRIVATE, file, 0) : MAP_FAILED;
    const char* const why = enough ? std::strerror(errno) : "it is cut short";
    ::close(file);
    if (mapped == MAP_FAILED) return why;
    base_ = static_cast<char*>(mapped);
    const char* const problem = check(model);
    if (*problem) close();
    return problem;
  }

  void* blob(int32_t i) const { return base_ + entries()[i].offset; }
  int64_t blob_bytes(int32_t i) const { return entries()[i].bytes; }

 private:
  char* base_ = nullptr;
  int64_t bytes_ = 0;

  void close() {
    if (base_) munmap(base_, bytes_);
    base_ = nullptr;
  }

  const BlobEntry* entries() const {
    return reinterpret_cast<const BlobEntry*>(base_ + sizeof(FileHeader));
  }

  const char* check(const ModelTable& model) const {
    FileHeader h;
    std::memcpy(&h, base_, sizeof h);
    if (std::memcmp(h.magic, "SCWEIGHT", 8)) return "it is no file of weights";
    if (h.version != kFileVersion) return "its version is not that of this library";
    if (int64_t(h.bytes) != bytes_) return "it is cut short or longer than it was";
    constexpr int64_t at = offsetof(FileHeader, crc);
    uint32_t crc = crc32(0, base_, at);
    crc = crc32(crc, base_ + sizeof h, bytes_ - sizeof h);
    if (crc != h.crc) return "it is damaged: its checksum differs";
    if (std::strncmp(h.target, model.target, sizeof h.target))
      return "it was packed for another target";
    if (h.identity != model.identity) return "it belongs to another model";
    if (int64_t(h.blobs) != model.stored) return "it holds another number of weights";
    const int64_t first = sizeof h + h.blobs * sizeof(BlobEntry);
    if (first > bytes_) return "its table is cut short";
    for (uint32_t i = 0; i < h.blobs; i++) {
      const BlobEntry e = entries()[i];
      if (e.offset < first || e.bytes < 0 || e.offset % 64 || e.offset > bytes_ ||
          e.bytes > bytes_ - e.offset)
        return "a weight lies outside of it";
    }
    return "";
  }
};

}  // namespace sc::standalone
