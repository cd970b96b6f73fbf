// Arguments of the sinusoid kernels.
#pragma once

#include "core/scalar.h"
#include "core/sinusoid.h"
#include "core/strided.h"

namespace posenc_ext::args {

// core::frequency of every pair, high and low parts in separate arrays, so that loops over pairs vectorise;
// zeros fill the last sixteen, so that they run on whole vectors.
struct Frequencies {
  core::Sinusoid spec;
  const double* hi;
  const double* lo;
};

// Sines and cosines of sixteen pairs at a position.
struct alignas(64) SixteenPairs {
  double sine[16], cosine[16];
};

// The same of an anchor, and the size below which a sum's sine is in doubt.
struct alignas(64) AnchorPairs {
  SixteenPairs at;
  float doubt[16];
};

// Whole positions by angle addition, sin(a +- b) = sin a cos b +- cos a sin b: a is the angle of an anchor,
// one of which is in the middle of every kBlock positions, and b that of 0 to kReach steps. So a value
// depends on its position and on nothing else.
struct AngleSteps {
  static constexpr int64_t kReach = 16, kBlock = 2 * kReach;
  int64_t sixteens;            // of pairs; zeros fill the last
  const SixteenPairs* steps;   // of the first sixteen pairs 0 to kReach steps, and so on
  const float* doubt;          // what the longest step adds to the size below which a sine is in doubt
  const AnchorPairs* anchors;  // cached, of positions [0, near): all sixteens of the first, and so on
  int64_t near;

  static int64_t block_of(int64_t position) { return position / kBlock - (position % kBlock < 0); }
  static int64_t anchor_of(int64_t block) { return block * kBlock + kReach; }
  const SixteenPairs* steps_of(int64_t sixteen) const { return steps + sixteen * (kReach + 1); }
};

struct Positions {
  const void* data;  // null: position of item i is start + i
  core::PositionType type;
  core::Strided at;
  int64_t start;
};

// out[i, c] for i < count: the encoding of position i, or its derivative of this order in the position.
struct SinusoidRows {
  core::Sinusoid spec;
  Positions positions;
  int32_t order;
  core::DType dtype;
  void* out;
  int64_t row_stride, channel_stride;
  int64_t count;
};

// A table of float32 or less by angle addition. An item is a block.
struct SinusoidTable {
  static constexpr int64_t kMinLength = 2 * AngleSteps::kBlock;  // shorter ones cost less row by row
  static constexpr int64_t kMaxPosition = int64_t{1}
                                          << 51;  // every position and every difference is a double
  Frequencies frequencies;
  AngleSteps angles;
  int64_t start, length;
  core::DType dtype;
  void* out;
  int64_t row_stride;
  bool non_temporal;

  int64_t first_block() const { return AngleSteps::block_of(start); }
  int64_t blocks() const { return AngleSteps::block_of(start + length - 1) - first_block() + 1; }
};

// out[i] = sum over channels c of grad[i, c] * (derivative of order `order` at position i), i < count
struct SinusoidBackward {
  core::Sinusoid spec;
  Positions positions;
  int32_t order;
  core::DType grad_dtype;
  const void* grad;
  core::Strided grad_row;
  int64_t grad_channel_stride;
  core::DType dtype;
  void* out;
  int64_t count;
};

}  // namespace posenc_ext::args
