// CUDA kernels of the bias of any index. Counterpart of cpu/kernels/gather_bias.h.
#pragma once

#include <cuda_runtime_api.h>

#include "core/scalar.h"
#include "core/strided.h"
#include "cuda/kernels/pieces.h"

namespace posenc_ext::cuda {

// out[sample, head, pair] = table[index[sample, pair], head], where a pair is a query and a key
struct GatherForward {
  const void* index;  // int32 or int64
  bool wide;          // int64
  core::Strided index_at;
  int64_t samples, plane;  // pairs of a sample

  int64_t element_size;  // a gather copies bits: only the size of an element matters
  const void* table;
  int64_t row_stride, head_stride;
  int64_t rows, heads;
  void* out;  // contiguous
};

// out[row, head] = the sum of grad[sample, head, pair] over all places, sample * plane + pair, whose index is
// the row
struct GatherBackward {
  const void* index;
  bool wide;  // int64, else int32
  core::Strided index_at;
  int64_t count;  // of places, below 2^31
  int64_t rows, heads;

  core::DType dtype;
  const void* grad;
  core::Strided grad_at;  // of a place, without heads
  int64_t head_stride;

  void* partial;  // [pieces, rows, heads] in the accumulator's type
  void* out;      // contiguous
};

// Of the places. At least as long as there are rows, so that the partial sums are no more than the terms.
constexpr int kPlaceTile = 2048;
inline Pieces cut_index(int64_t count, int64_t rows) {
  return cut(count, core::max_of<int64_t>(kPlaceTile, rows), /*max_count=*/4096);
}

// Each needs at least one element of work and one row. A value of the index outside [0, rows) is a failed
// assertion on the device.
void gather_forward(const GatherForward&, cudaStream_t);
void gather_backward(const GatherBackward&, cudaStream_t);

}  // namespace posenc_ext::cuda
