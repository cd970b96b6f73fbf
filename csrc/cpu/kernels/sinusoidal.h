// CPU kernels of the sinusoids: plain pointers in, plain pointers out. Each works on the items [begin, end).
#pragma once

#include "core/scalar.h"
#include "core/sinusoid.h"
#include "core/strided.h"
#include "cpu/kernels/levels.h"

namespace posenc_ext::cpu {

// core::frequency of every pair, kept apart as high and low parts so that loops over pairs vectorise.
struct Frequencies {
  core::Sinusoid spec;
  const double* hi;
  const double* lo;
};

struct Positions {
  const void* data;  // null: position of item i is start + i
  core::PositionType type;
  core::Strided at;
  int64_t start;
};

// out[i, c] for items i: the encoding of position i, or its derivative of this order in the position.
struct SinusoidRows {
  Frequencies frequencies;
  Positions positions;
  int32_t order;
  core::DType dtype;
  void* out;
  int64_t row_stride;
};

// A table of float32 or less by angle addition. Rows go in blocks of 2 kReach around an anchor, which stands
// at a multiple of that many positions: sin(a +- b) = sin a cos b +- cos a sin b, where a is the angle of the
// anchor and b that of 1 to kReach steps. So a row's values depend on its position and not on how the work is
// cut. An item is a block.
struct SinusoidTable {
  static constexpr int64_t kReach = 16, kBlock = 2 * kReach;
  static constexpr int64_t kMinLength = 2 * kBlock;  // shorter ones cost less row by row
  static constexpr int64_t kMaxPosition = int64_t{1}
                                          << 51;  // every position and every difference is a double
  Frequencies frequencies;
  int64_t start, length;
  const double* steps;  // sinusoid_steps
  core::DType dtype;
  void* out;
  int64_t row_stride;
  bool past_caches;

  // Channels as they are kept, in whole octets.
  static int64_t width(int64_t dim) { return (dim + 7) / 8 * 8; }
  static int64_t steps_size(int64_t dim) { return (2 * kReach + 1) * width(dim); }
  static int64_t block_of(int64_t position) {
    const int64_t shifted = position + kReach - 1;
    return shifted / kBlock - (shifted % kBlock < 0);
  }
  int64_t first_block() const { return block_of(start); }
  int64_t blocks() const { return block_of(start + length - 1) - first_block() + 1; }
};

// out[i] = sum over channels c of grad[i, c] * (derivative of order `order` at position i)
struct SinusoidBackward {
  Frequencies frequencies;
  Positions positions;
  int32_t order;
  core::DType grad_dtype;
  const void* grad;
  core::Strided grad_row;
  int64_t grad_channel_stride;
  core::DType dtype;
  void* out;
};

#define POSENC_DECLARE(level)                                                  \
  namespace level {                                                            \
  void sinusoid_rows(const SinusoidRows&, int64_t begin, int64_t end);         \
  void sinusoid_steps(const Frequencies&, double* steps);                      \
  void sinusoid_table(const SinusoidTable&, int64_t begin, int64_t end);       \
  void sinusoid_backward(const SinusoidBackward&, int64_t begin, int64_t end); \
  }
POSENC_LEVELS(POSENC_DECLARE)
#undef POSENC_DECLARE

}  // namespace posenc_ext::cpu
