// CUDA kernels of ALiBi. Counterpart of cpu/kernels/alibi_bias.h.
#pragma once

#include <cuda_runtime_api.h>

#include "core/alibi.h"
#include "core/scalar.h"
#include "cuda/kernels/pieces.h"

namespace posenc_ext::cuda {

// out[head, q, k] = -slopes[head] * distance(q, k)
struct AlibiForward {
  core::AlibiDistance distance;
  core::DType dtype;
  const void* slopes;
  int64_t slope_stride;
  int64_t heads, queries, keys;
  void* out;  // contiguous
};

// out[head] = the sum over q and k of -distance(q, k) * grad[head, q, k]
struct AlibiBackward {
  core::AlibiDistance distance;
  core::DType dtype;
  const void* grad;
  int64_t head_stride, query_stride, key_stride;
  int64_t heads, queries, keys;
  double* partial;  // [heads, pieces], pieces = cut(queries * keys).count; unused where that is 1
  void* out;        // contiguous
};

struct AlibiSlopes {
  core::DType dtype;
  void* out;
  int64_t stride;
  int64_t heads;
};

// Each needs at least one element of work.
void alibi_forward(const AlibiForward&, cudaStream_t);
void alibi_backward(const AlibiBackward&, cudaStream_t);
void alibi_slopes(const AlibiSlopes&, cudaStream_t);

}  // namespace posenc_ext::cuda
