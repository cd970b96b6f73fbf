// CPU kernels that add the encoding to x, and that scale and drop: plain pointers in, plain pointers out.
// Each works on the items [begin, end).
#pragma once

#include "args/dropout.h"
#include "args/sinusoidal.h"
#include "core/strided.h"

namespace posenc_ext::args {

// y[b, l, :] = dropout(x[b, l, :] * x_scale + encoding(start + l + offset[b])); an item is a tile of
// positions of a chunk of samples, which share the tile's encodings.
struct AddSinusoidal {
  static constexpr int64_t kBatchChunk = 32;
  static constexpr int64_t kTile = 4096;  // encodings of a tile, which stay in L2
  Frequencies frequencies;
  const double* kept;  // encodings of the positions [0, kept_positions)
  int64_t kept_positions;
  int64_t batch, length;
  int64_t start;
  const void* offsets;  // null: all samples start alike
  core::PositionType offset_type;
  int64_t offset_stride;
  double x_scale;
  SeededDropout dropout;
  core::DType dtype;
  const void* x;
  int64_t x_batch_stride, x_length_stride, x_channel_stride;
  void* out;  // channels lie side by side; x itself, or apart from it
  int64_t out_batch_stride, out_length_stride;
  bool past_caches;

  // Whether the samples of a position lie side by side; memory is walked in its order.
  bool length_first() const { return out_length_stride >= out_batch_stride; }
  int64_t tile_length() const {
    if (length_first()) return 1;
    return core::min_of(length, core::max_of<int64_t>(1, kTile / frequencies.spec.dim));
  }
  int64_t tiles() const { return (length + tile_length() - 1) / tile_length(); }
  int64_t chunks() const { return (batch + kBatchChunk - 1) / kBatchChunk; }
  int64_t items() const { return tiles() * chunks(); }
  int64_t item_elements() const {
    return tile_length() * core::min_of(batch, kBatchChunk) * frequencies.spec.dim;
  }
};

// y[i, :] = x[i, :] * scale, then dropout; an item is a stretch of `inner` elements.
struct ScaleDropout {
  double scale;
  SeededDropout dropout;
  core::DType dtype;
  const void* x;
  core::Strided outer;
  int64_t inner, inner_stride;
  int64_t total;  // elements; the last item may be shorter
  void* out;
  bool past_caches;
};

}  // namespace posenc_ext::args
