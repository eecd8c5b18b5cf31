/* Runs a model that `sc.export(..., library=True)` wrote, without Python: main FOLDER [THREADS].
   The folder holds model.weights, and for the comparison input0.bin, ... and output0.bin, ... */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"

enum { MOST = 16, ROUNDS = 20 };

static void fail(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

/* The tensors are row-major, element after element. */
static size_t bytes_of(const sc_tensor* t, const int64_t* shape) {
  static const size_t element[] = {4, 8, 2, 2, 8, 4, 2, 1, 1, 1}; /* in the order of sc_dtype */
  size_t bytes = element[t->dtype];
  for (int i = 0; i < t->rank; i++) bytes *= (size_t)shape[i];
  return bytes;
}

static void* read_tensor(const char* folder, const char* kind, int number, size_t bytes) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s%d.bin", folder, kind, number);
  FILE* file = fopen(path, "rb");
  if (!file) fail(path, "cannot be read");
  void* data = malloc(bytes ? bytes : 1);
  if (!data || fread(data, 1, bytes, file) != bytes) fail(path, "is too short");
  fclose(file);
  return data;
}

static void print_tensor(const char* kind, const sc_tensor* t) {
  printf("%s %s: [", kind, t->name);
  for (int i = 0; i < t->rank; i++) {
    const sc_dim* dim = &t->dims[i];
    if (dim->symbol) printf("%s%s", i ? ", " : "", dim->symbol);
    else printf("%s%lld", i ? ", " : "", (long long)dim->low);
  }
  puts("]");
}

static double seconds(void) {
  struct timespec now;
  timespec_get(&now, TIME_UTC);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

/* max |a - b| / max |b| */
static double relative_error(const float* a, const float* b, size_t count) {
  double worst = 0, most = 1e-30;
  for (size_t i = 0; i < count; i++) {
    const double error = fabs((double)a[i] - b[i]);
    worst = error <= worst ? worst : error; /* a NaN stays */
    most = fmax(most, fabs(b[i]));
  }
  return worst / most;
}

int main(int argc, char** argv) {
  if (argc < 2) fail("usage", "main FOLDER [THREADS]");
  const char* folder = argv[1];
  char path[4096];
  snprintf(path, sizeof path, "%s/model.weights", folder);

  sc_model* model;
  if (sc_create(path, argc > 2 ? atoi(argv[2]) : 0, &model)) fail("sc_create", sc_last_error());

  int32_t inputs, outputs;
  const sc_tensor *input = sc_inputs(&inputs), *output = sc_outputs(&outputs);
  if (inputs > MOST || outputs > MOST) fail("main", "too many tensors");

  /* A size that may change is set to the least allowed; fixed ones are as they are. */
  int64_t shape[MOST][8];
  const int64_t* shapes[MOST];
  const void* in[MOST];
  void* out[MOST];
  for (int i = 0; i < inputs; i++) {
    print_tensor("input", &input[i]);
    for (int d = 0; d < input[i].rank; d++) shape[i][d] = input[i].dims[d].low;
    shapes[i] = shape[i];
  }
  if (sc_set_sizes(model, shapes)) fail("sc_set_sizes", sc_last_error());
  for (int i = 0; i < inputs; i++)
    in[i] = read_tensor(folder, "input", i, bytes_of(&input[i], shape[i]));
  for (int i = 0; i < outputs; i++) {
    print_tensor("output", &output[i]);
    out[i] = malloc(bytes_of(&output[i], sc_output_shape(model, i)) + 1);
  }

  if (sc_run(model, in, out)) fail("sc_run", sc_last_error());

  int wrong = 0;
  for (int i = 0; i < outputs; i++) {
    const size_t bytes = bytes_of(&output[i], sc_output_shape(model, i));
    void* expected = read_tensor(folder, "output", i, bytes);
    const double error = output[i].dtype == SC_F32
                             ? relative_error(out[i], expected, bytes / sizeof(float))
                             : memcmp(out[i], expected, bytes) != 0;
    printf("output %d: relative error %.1e\n", i, error);
    wrong |= !(error <= 1e-5);
    free(expected);
  }

  double times[ROUNDS];
  for (int i = 0; i < ROUNDS; i++) {
    const double began = seconds();
    if (sc_run(model, in, out)) fail("sc_run", sc_last_error());
    times[i] = seconds() - began;
  }
  qsort(times, ROUNDS, sizeof times[0], ascending);
  printf("median of %d runs: %.3f ms\n", ROUNDS, 1e3 * times[ROUNDS / 2]);

  sc_destroy(model);
  for (int i = 0; i < inputs; i++) free((void*)in[i]);
  for (int i = 0; i < outputs; i++) free(out[i]);
  return wrong;
}
