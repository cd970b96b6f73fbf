// CUDA kernels of the relative-position biases, for every scheme of core/schemes.h. Counterpart of
// cpu/kernels/relative_bias.h.
#pragma once

#include <cuda_runtime_api.h>

#include "core/scalar.h"
#include "core/schemes.h"
#include "cuda/kernels/pieces.h"

namespace posenc_ext::cuda {

// out[head, query, key] = table[row(query, key), head]
struct BiasForward {
  int64_t element_size;  // a gather copies bits: only the size of an element matters
  const void* table;
  int64_t row_stride, head_stride;
  int64_t heads;
  void* out;  // contiguous
};

// out[row, head] = the sum of grad[head, query, key] over the pairs of the row
struct BiasBackward {
  core::DType dtype;
  const void* grad;
  int64_t head_stride, query_stride, key_stride;
  int64_t heads;
  void* partial;  // [rows, heads, pieces] in the accumulator's type; unused where there is one piece
  void* out;      // contiguous
};

// Pieces of the longest row; others have fewer.
template <class Scheme>
Pieces cut_rows(const Scheme& scheme) {
  return cut(scheme.max_slots());
}

// Each needs at least one element of work.
#define POSENC_DECLARE(Scheme)                                              \
  void bias_forward(const core::Scheme&, const BiasForward&, cudaStream_t); \
  void bias_backward(const core::Scheme&, const BiasBackward&, cudaStream_t);
POSENC_SCHEMES(POSENC_DECLARE)
#undef POSENC_DECLARE

}  // namespace posenc_ext::cuda
