// CUDA kernels of absolute position embeddings: plain device pointers and a stream. Counterpart of
// cpu/kernels/position_embedding.h.
#pragma once

#include <cuda_runtime_api.h>

#include "core/scalar.h"
#include "core/strided.h"
#include "cuda/kernels/dropout.h"

namespace posenc_ext::cuda {

// Tokens of every sample, with any strides; a batch stride of 0 shares them.
struct Tokens {
  const void* data;
  int64_t batch_stride, token_stride, channel_stride;
};

// y[b] = dropout(cat(prefixes of b, x[b] * x_scale) + pos)
struct AddPositionEmbedding {
  static constexpr int32_t kMaxPrefixes = 8;
  core::DType dtype;
  int64_t batch, length, prefix_length, dim;  // length: prefix tokens and those of x
  Tokens x;
  double x_scale;
  int32_t prefixes;
  Tokens prefix[kMaxPrefixes];
  int64_t prefix_end[kMaxPrefixes];  // the first token after each
  const void* pos;
  int64_t pos_token_stride, pos_channel_stride;
  int64_t first_embedded;  // token of the first row of pos
  SeededDropout dropout;
  void* out;  // channels lie side by side
  int64_t out_batch_stride, out_token_stride;
};

// out[i, j] = sum over samples b of grad[b, i, j]. Either of tokens and channels may be i.
struct SumBatch {
  core::DType dtype;
  int64_t batch, rows, columns;
  const void* grad;
  int64_t batch_stride, row_stride, column_stride;
  void* out;
  int64_t out_row_stride, out_column_stride;
};

// y[i] = dropout(x[i] * x_scale + pos[position i]) for rows i < count of x
struct AddPositions {
  core::DType dtype;
  int64_t count, rows, dim;  // rows: of pos
  const void* x;
  core::Strided x_at;  // of its rows
  int64_t x_channel_stride;
  double x_scale;
  const void* positions;  // int32 or int64
  bool wide;              // int64
  core::Strided positions_at;
  const void* pos;
  int64_t pos_row_stride, pos_channel_stride;
  SeededDropout dropout;
  void* out;  // contiguous
};

// out[row] = the sum of grad[order[n]] over all n < count with sorted[n] == row, in this order
struct SumPositions {
  core::DType dtype;
  int64_t rows, dim, count;
  const int64_t* sorted;
  const int64_t* order;
  const void* grad;
  core::Strided grad_at;  // of its rows
  int64_t channel_stride;
  void* out;  // contiguous
};

// Each needs at least one element of the result, and sum_positions of the gradient. A position that is no row
// is a failed assertion on the device.
void add_position_embedding(const AddPositionEmbedding&, cudaStream_t);
void sum_batch(const SumBatch&, cudaStream_t);
void add_positions(const AddPositions&, cudaStream_t);
void sum_positions(const SumPositions&, cudaStream_t);

}  // namespace posenc_ext::cuda
