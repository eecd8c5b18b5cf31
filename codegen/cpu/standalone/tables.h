// What the generated unit of a library says of its model: tables, and sizes of given symbols.
#pragma once
#include <cstdint>

#include "model.h"

namespace sc::standalone {

// Sizes are computed twice: as doubles, to see that they fit, and as integers.
inline int64_t floor_div(int64_t a, int64_t b) {
  return b ? a / b - (a % b != 0 && (a < 0) != (b < 0)) : 0;
}
inline double floor_div(double a, double b) { return b ? __builtin_floor(a / b) : 0; }
template <class T>
T modulo(T a, T b) {
  return a - floor_div(a, b) * b;
}
template <class T>
T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
T most(T a, T b) {
  return a > b ? a : b;
}

// As Buffer of codegen/program.py; space -1: row-major elements of `bytes` bytes.
struct BufferTable {
  int32_t space, bytes, rows;  // rows: of planes, 0 where sizes decide
  bool shared, foreign;
  int32_t first, last;
};

// As Wait; space -1: all threads meet whatever they hold.
struct WaitTable {
  int32_t call, space;
  bool given;
};

// A call that applies a packed weight to planes of a space: what decides about few columns.
struct UseTable {
  int32_t weight, space;
};

enum ConstantKind : uint8_t { kStored, kPlanes };

// many, few: number of its bytes in the file, packed for few columns or for more; -1 where no sizes
// ask for it. kPlanes: row-major floats of `rank` dimensions, `planes` of which count planes, at
// these strides (0: one number for the whole dimension); their extents are `extents` and on of
// what `sizes` gives. carried: holds a part for each sample.
struct ConstantTable {
  ConstantKind kind;
  int32_t many, few;
  int32_t rank, planes, extents;
  const int64_t* strides;
  bool carried;
};

// Where a value lies that segments and callers hand over.
enum PlaceKind : uint8_t { kInput, kOutput, kBetween, kFixed };
struct PlaceTable {
  PlaceKind kind;  // kFixed: `index` counts what the file stores
  int32_t index;
};

struct SegmentTable {
  int32_t spaces, buffers, waits, uses, constants, ins, outs, checked, sized, numbers, calls;
  const bool* tokens;
  const BufferTable* buffer;
  const WaitTable* wait;
  const UseTable* use;
  const ConstantTable* constant;
  const PlaceTable *in, *out;
  const char* const* checked_names;
  // From sizes of symbols, `sized` numbers: samples, columns of each space, extents of constants.
  void (*sizes)(const int64_t* s, int64_t* out);
  void (*sizes_estimated)(const double* s, double* out);
  // From symbols, floats between planes of spaces and of constants: the size of each buffer, then
  // the `numbers` that calls read.
  void (*bind)(const int64_t* s, const int64_t* ld, const int64_t* ldw, int64_t* out);
  void (*bind_estimated)(const double* s, const double* ld, const double* ldw, double* out);
  int64_t (*scratch)(const void* const* weight, const int64_t* d);
  int (*run)(const void* const* in, void* const* out, const void* const* weight, const int64_t* d,
             float* memory, int64_t* error, double* clock);
};

struct CopyTable {
  PlaceTable from;
  int32_t output;
};

struct ModelTable {
  const char* target;
  uint64_t identity;  // of what the weights must fit
  int32_t inputs, outputs, segments, symbols, between, stored, copies, shaped;
  const sc_tensor *input, *output;
  const SegmentTable* segment;
  const char* const* symbol;
  const int64_t* ranges;  // low and high of each symbol
  const CopyTable* copy;  // results that no segment writes
  // The symbols that the inputs' dimensions, one after another, determine.
  void (*solve)(const int64_t* dims, int64_t* s);
  // `shaped` numbers: dimensions of inputs, of outputs, then bytes of what lies between segments.
  void (*shapes)(const int64_t* s, int64_t* out);
  void (*shapes_estimated)(const double* s, double* out);
  void (*enter_kernels)(void* blob);  // into a weight for few columns; null where there is none
};

extern const ModelTable kModel;
// Which of the extensions in extensions.h the kernels were built for.
extern const uint64_t kNeeded;

}  // namespace sc::standalone
