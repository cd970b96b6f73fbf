// CPU kernels of absolute position embeddings: plain pointers in, plain pointers out.
#pragma once

#include "args/dropout.h"
#include "core/scalar.h"

namespace posenc_ext::args {

// Tokens of every sample, with any strides; a batch stride of 0 shares them.
struct Tokens {
  const void* data;
  int64_t batch_stride, token_stride, channel_stride;
};

// y[b] = dropout(cat(prefixes of b, x[b] * x_scale) + pos); an item is a tile of tokens x samples.
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
  bool past_caches;
  int64_t item_tokens, item_samples;
  bool whole_samples;  // items walk over the tokens of a sample before the next sample; else the other way
                       // round

  int64_t token_blocks() const { return (length + item_tokens - 1) / item_tokens; }
  int64_t sample_blocks() const { return (batch + item_samples - 1) / item_samples; }
  int64_t items() const { return token_blocks() * sample_blocks(); }
};

// out[i, j] = sum over samples b of grad[b, i, j]; an item is a block of columns j of one row i. Either of
// tokens and channels may be i.
struct SumBatch {
  static constexpr int64_t kBlock = 2048;  // sums that stay in L1
  core::DType dtype;
  int64_t batch, rows, columns;
  const void* grad;
  int64_t batch_stride, row_stride, column_stride;
  void* out;
  int64_t out_row_stride, out_column_stride;

  int64_t blocks() const { return (columns + kBlock - 1) / kBlock; }
  int64_t items() const { return rows * blocks(); }
};

}  // namespace posenc_ext::args
