// The functions of model.h on the tables of one model. Built for the plainest CPU of the target, so
// that it can tell one that lacks the kernels' instructions.
#include <omp.h>

#include <new>

#include "extensions.h"
#include "handle.h"

#define SC_PUBLIC extern "C" __attribute__((visibility("default")))

namespace {

// The first extension that this CPU lacks, or null.
const char* lacking() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  uint64_t bit = 1;
  (void)bit;
#define SC_ASK(MACRO, name)                                                    \
  if ((kNeeded & bit) && !__builtin_cpu_supports(#name)) return #name;         \
  bit <<= 1;
  SC_FEATURES(SC_ASK)
#undef SC_ASK
  return nullptr;
}

// --- running -------------------------------------------------------------------------------------

const void* place_of(const sc_model& m, const PlaceTable& p, const void* const* inputs,
                     void* const* outputs) {
  switch (p.kind) {
    case kInput: return inputs[p.index];
    case kOutput: return outputs[p.index];
    case kBetween: return m.between.data + m.offsets[p.index];
    case kFixed: return m.weights.blob(p.index);
  }
  return nullptr;
}

// Runs a segment; with fewer threads than wanted, binds all to that many and tries again.
sc_status run_segment(sc_model& m, int i, const void* const* inputs, void* const* outputs) {
  const SegmentTable& t = kModel.segment[i];
  for (;;) {
    Bound& b = m.bound[i];
    for (int k = 0; k < t.ins; k++) b.in[k] = place_of(m, t.in[k], inputs, outputs);
    for (int k = 0; k < t.outs; k++)
      b.out[k] = const_cast<void*>(place_of(m, t.out[k], inputs, outputs));
    const int fewer = t.run(b.in.data(), b.out.data(), b.constants.data(), b.numbers.data(),
                            reinterpret_cast<float*>(m.arena.data), m.errors.data(), nullptr);
    if (!fewer) break;
    m.threads = fewer;
    const sc_status status = bind_all(m);
    if (status) return status;
  }
  for (int k = 0; k < t.checked; k++) {
    const int64_t place = m.errors[k];
    m.errors[k] = -1;
    if (place >= 0) {
      std::fill(m.errors.begin(), m.errors.end(), -1);
      return fail(SC_BAD_INDEX, "index number %lld of %s lies outside of what it indexes",
                  (long long)place, t.checked_names[k]);
    }
  }
  return SC_OK;
}

int64_t output_bytes(const sc_model& m, int32_t output) {
  constexpr int kBytes[] = {4, 8, 2, 2, 8, 4, 2, 1, 1, 1};  // in the order of sc_dtype
  int64_t bytes = kBytes[kModel.output[output].dtype];
  const int64_t* shape = sc_output_shape(&m, output);
  for (int i = 0; i < kModel.output[output].rank; i++) bytes *= shape[i];
  return bytes;
}

sc_status run(sc_model& m, const void* const* inputs, void* const* outputs) {
  if (!m.sized) return fail(SC_BAD_CALL, "sc_set_sizes must come before sc_run");
  if (m.empty) return SC_OK;
  for (int i = 0; i < kModel.inputs; i++)
    if (!inputs[i]) return fail(SC_BAD_CALL, "input %s is null", kModel.input[i].name);
  for (int i = 0; i < kModel.outputs; i++)
    if (!outputs[i]) return fail(SC_BAD_CALL, "output %s is null", kModel.output[i].name);
  for (int i = 0; i < kModel.segments; i++) {
    const sc_status status = run_segment(m, i, inputs, outputs);
    if (status) return status;
  }
  for (int i = 0; i < kModel.copies; i++) {
    const CopyTable& c = kModel.copy[i];
    std::memmove(outputs[c.output], place_of(m, c.from, inputs, outputs),
                 output_bytes(m, c.output));
  }
  return SC_OK;
}

// Weights for few columns name their kernels, which are this library's own.
void enter_kernels(const Weights& weights) {
  for (int s = 0; s < kModel.segments; s++) {
    const SegmentTable& t = kModel.segment[s];
    for (int i = 0; i < t.constants; i++)
      if (t.constant[i].kind == kStored && t.constant[i].few >= 0)
        kModel.enter_kernels(weights.blob(t.constant[i].few));
  }
}

template <class Work>
sc_status guarded(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return fail(SC_NO_MEMORY, "there is no memory left");
  }
}

sc_status create(const char* path, int32_t threads, sc_model** made) {
  if (!path || !made || threads < 0 || threads > 4096)
    return fail(SC_BAD_CALL, "sc_create needs a path, a place for the handle, 0 to 4096 threads");
  *made = nullptr;
  if (const char* name = lacking())
    return fail(SC_BAD_CPU, "this processor lacks %s; the library is for %s", name, kModel.target);
  sc_model* const m = new sc_model;
  const char* const problem = m->weights.open(path, kModel);
  sc_status status = SC_OK;
  if (*problem) status = fail(SC_BAD_FILE, "cannot use the weights %s: %s", path, problem);
  if (!status) {
    m->threads = threads ? threads : omp_get_max_threads();
    enter_kernels(m->weights);
    if (!kModel.symbols) status = set_sizes(*m, nullptr);
  }
  if (status) delete m;
  else *made = m;
  return status;
}

}  // namespace

SC_PUBLIC int32_t sc_abi(void) { return SC_ABI; }

SC_PUBLIC const char* sc_last_error(void) { return last_error; }

SC_PUBLIC const sc_tensor* sc_inputs(int32_t* count) {
  if (count) *count = kModel.inputs;
  return kModel.input;
}

SC_PUBLIC const sc_tensor* sc_outputs(int32_t* count) {
  if (count) *count = kModel.outputs;
  return kModel.output;
}

SC_PUBLIC sc_status sc_create(const char* weights, int32_t threads, sc_model** model) {
  return guarded([&] { return create(weights, threads, model); });
}

SC_PUBLIC sc_status sc_set_sizes(sc_model* model, const int64_t* const* shapes) {
  if (!model || !shapes) return fail(SC_BAD_CALL, "sc_set_sizes needs a handle and shapes");
  for (int i = 0; i < kModel.inputs; i++)
    if (!shapes[i] && kModel.input[i].rank)
      return fail(SC_BAD_CALL, "the shape of input %s is null", kModel.input[i].name);
  for (int i = 0; i < kModel.inputs; i++)
    for (int d = 0; d < kModel.input[i].rank; d++)
      if (shapes[i][d] < 0 || double(shapes[i][d]) >= kMost)
        return fail(SC_BAD_SIZE, "dimension %d of input %s is %lld", d, kModel.input[i].name,
                    (long long)shapes[i][d]);
  const std::lock_guard<std::mutex> hold(model->turn);
  return guarded([&] { return set_sizes(*model, shapes); });
}

SC_PUBLIC const int64_t* sc_output_shape(const sc_model* model, int32_t output) {
  if (!model || !model->sized || output < 0 || output >= kModel.outputs) return nullptr;
  const int64_t* at = model->shapes.data();
  for (int i = 0; i < kModel.inputs; i++) at += kModel.input[i].rank;
  for (int i = 0; i < output; i++) at += kModel.output[i].rank;
  return at;
}

SC_PUBLIC sc_status sc_run(sc_model* model, const void* const* inputs, void* const* outputs) {
  if (!model || (!inputs && kModel.inputs) || (!outputs && kModel.outputs))
    return fail(SC_BAD_CALL, "sc_run needs a handle, inputs and outputs");
  const std::lock_guard<std::mutex> hold(model->turn);
  return guarded([&] { return run(*model, inputs, outputs); });
}

SC_PUBLIC void sc_destroy(sc_model* model) { delete model; }
