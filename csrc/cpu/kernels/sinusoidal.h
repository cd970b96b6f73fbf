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
  int64_t row_stride, channel_stride;
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
  void sinusoid_backward(const SinusoidBackward&, int64_t begin, int64_t end); \
  }
POSENC_LEVELS(POSENC_DECLARE)
#undef POSENC_DECLARE

}  // namespace posenc_ext::cpu
