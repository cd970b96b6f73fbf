// What the CPU kernels take besides the arguments that they share with CUDA: cached values, how memory is
// written, and how work is divided into items.
#pragma once

#include "args/add_sinusoidal.h"
#include "args/dropout.h"
#include "args/position_embedding.h"
#include "args/positions.h"
#include "args/sinusoidal.h"

namespace posenc_ext::cpu {

using namespace args;

// An item is a row.
struct SinusoidRows : args::SinusoidRows {
  Frequencies frequencies;
  AngleSteps angles{};  // none near: all are evaluated at their own position
  bool non_temporal = false;
};

// An item is a row.
struct SinusoidBackward : args::SinusoidBackward {
  Frequencies frequencies;
};

// An item is a tile of positions of a chunk of samples, which share the tile's encodings.
struct AddSinusoidal : args::AddSinusoidal {
  static constexpr int64_t kBatchChunk = 32;
  static constexpr int64_t kTile = 4096;  // encodings of a tile, which stay in L2
  Frequencies frequencies;
  const double* cached_rows;  // encodings of the positions [0, cached_positions)
  int64_t cached_positions;
  bool non_temporal;

  // Whether the samples of a position are adjacent; memory is walked in its order.
  bool length_first() const { return out_length_stride >= out_batch_stride; }
  int64_t tile_length() const {
    if (length_first()) return 1;
    return core::min_of(length, core::max_of<int64_t>(1, kTile / spec.dim));
  }
  int64_t tiles() const { return (length + tile_length() - 1) / tile_length(); }
  int64_t chunks() const { return (batch + kBatchChunk - 1) / kBatchChunk; }
  int64_t items() const { return tiles() * chunks(); }
  int64_t item_elements() const { return tile_length() * core::min_of(batch, kBatchChunk) * spec.dim; }
};

// An item is a stretch of `inner` elements; the last one may be shorter.
struct ScaleDropout : args::ScaleDropout {
  core::Strided outer;
  int64_t inner, inner_stride;
  bool non_temporal;

  int64_t items() const { return (total + inner - 1) / inner; }
};

// An item is a tile of tokens x samples.
struct AddPositionEmbedding : args::AddPositionEmbedding {
  bool non_temporal;
  int64_t item_tokens, item_samples;
  bool whole_samples;  // items walk over the tokens of a sample before the next sample; else the other way

  int64_t token_blocks() const { return (length + item_tokens - 1) / item_tokens; }
  int64_t sample_blocks() const { return (batch + item_samples - 1) / item_samples; }
  int64_t items() const { return token_blocks() * sample_blocks(); }
};

// An item is a block of columns of one row.
struct SumBatch : args::SumBatch {
  static constexpr int64_t kBlock = 2048;  // sums that stay in L1

  int64_t blocks() const { return (columns + kBlock - 1) / kBlock; }
  int64_t items() const { return rows * blocks(); }
};

// An item is a row of x.
struct AddPositions : args::AddPositions {
  bool non_temporal;
};

// The terms of a row are at the offsets terms[first[row]], ..., terms[first[row + 1] - 1] of grad. An item is
// a block of channels of a row.
struct SumPositions : args::SumPositions {
  static constexpr int64_t kBlock = 512;  // sums that stay in L1
  const int64_t* first;
  const int64_t* terms;

  int64_t blocks() const { return (dim + kBlock - 1) / kBlock; }
  int64_t items() const { return rows * blocks(); }
};

}  // namespace posenc_ext::cpu
