/* A compiled model as a library: no Python, no torch. Every function may be called from any thread.

   A handle (sc_model) holds the memory of one run at a time: runs of the same handle take turns,
   those of different handles go on side by side. Handles of one file share its mapped weights.
   Functions that give an sc_status leave a sentence about a failure in sc_last_error(). */
#ifndef SC_MODEL_H
#define SC_MODEL_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SC_ABI 1 /* what sc_abi() gives for the functions and structs below */

typedef enum {
  SC_OK = 0,
  SC_BAD_CALL = 1,  /* a null pointer, a number out of range, a run before sizes are set */
  SC_BAD_FILE = 2,  /* the weights: missing, damaged, of another model, version or target */
  SC_BAD_CPU = 3,   /* this processor lacks instructions that the library was built for */
  SC_BAD_SIZE = 4,  /* sizes that the model does not take */
  SC_BAD_INDEX = 5, /* an input holds an index outside of what it indexes */
  SC_NO_MEMORY = 6
} sc_status;

typedef enum {
  SC_F32 = 0,
  SC_F64 = 1,
  SC_F16 = 2,
  SC_BF16 = 3,
  SC_I64 = 4,
  SC_I32 = 5,
  SC_I16 = 6,
  SC_I8 = 7,
  SC_U8 = 8,
  SC_BOOL = 9 /* a byte, 0 or 1 */
} sc_dtype;

/* A dimension: low == high where it is fixed. symbol: null where it is fixed, else an expression;
   dimensions of equal expressions are equal. high is INT64_MAX where nothing bounds it. */
typedef struct {
  int64_t low, high;
  const char* symbol;
} sc_dim;

/* A row-major tensor without gaps between its elements. */
typedef struct {
  const char* name;
  sc_dtype dtype;
  int32_t rank;
  const sc_dim* dims;
} sc_tensor;

typedef struct sc_model sc_model;

int32_t sc_abi(void);

/* What went wrong last in the calling thread, "" at first; valid until its next failure. */
const char* sc_last_error(void);

/* The tensors that a run reads and writes, in order. */
const sc_tensor* sc_inputs(int32_t* count);
const sc_tensor* sc_outputs(int32_t* count);

/* Opens a model: maps and checks the file of weights. threads: 0 for all cores. The file may be
   replaced by rename meanwhile, but not written to. A model without symbols is ready to run. */
sc_status sc_create(const char* weights, int32_t threads, sc_model** model);

/* Sets the sizes of all inputs: shapes[i] are the dimensions of input i. Takes memory for them. */
sc_status sc_set_sizes(sc_model* model, const int64_t* const* shapes);

/* The dimensions of an output at the sizes set, as many as its rank; null before. */
const int64_t* sc_output_shape(const sc_model* model, int32_t output);

/* One forward pass. inputs, outputs: the addresses of their first elements, aligned to elements. */
sc_status sc_run(sc_model* model, const void* const* inputs, void* const* outputs);

/* Frees a handle; null is fine. */
void sc_destroy(sc_model* model);

#ifdef __cplusplus
}
#endif
#endif
