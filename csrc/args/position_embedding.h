// Arguments of the kernels of absolute position embeddings.
#pragma once

#include "args/dropout.h"

namespace posenc_ext::args {

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
  void* out;  // adjacent channels
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

}  // namespace posenc_ext::args
