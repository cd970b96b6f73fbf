// CUDA kernels of the bias of any index.
#pragma once

#include <cuda_runtime_api.h>

#include "args/gather_bias.h"
#include "cuda/kernels/chunks.h"

namespace posenc_ext::cuda {

using namespace args;

// Of the places. At least as long as there are rows, so that the partial sums are no more than the terms.
constexpr int kPlaceTile = 2048;
inline Chunks split_index(int64_t count, int64_t rows) {
  return split(count, core::max_of<int64_t>(kPlaceTile, rows), /*max_count=*/4096);
}

// Each needs at least one element of work and one row. A value of the index outside [0, rows) is a failed
// assertion on the device. GatherBackward: places are below 2^31; `partial` is [chunks, rows, heads].
void gather_forward(const GatherForward&, cudaStream_t);
void gather_backward(const GatherBackward&, cudaStream_t);

}  // namespace posenc_ext::cuda
