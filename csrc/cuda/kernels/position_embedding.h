// CUDA kernels of absolute position embeddings: device pointers and a stream.
#pragma once

#include <cuda_runtime_api.h>

#include "args/position_embedding.h"
#include "args/positions.h"

namespace posenc_ext::cuda {

using namespace args;

// The rows of grad are summed in this order, by the sorted positions of its rows.
struct SumPositions : args::SumPositions {
  const int64_t* sorted;
  const int64_t* order;
};

// Each needs at least one element of the result, and sum_positions of the gradient. Positions are int32 or
// int64; one that is no row is a failed assertion on the device.
void add_position_embedding(const AddPositionEmbedding&, cudaStream_t);
void sum_batch(const SumBatch&, cudaStream_t);
void add_positions(const AddPositions&, cudaStream_t);
void sum_positions(const SumPositions&, cudaStream_t);

}  // namespace posenc_ext::cuda
