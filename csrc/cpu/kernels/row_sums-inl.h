// Rows of a gradient added to sums, and those written out.
#pragma once

#include "args/relative_bias.h"
#include "cpu/simd/level.h"
#include "cpu/simd/store-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <class T, class Sum>
inline void add_row(const T* __restrict grad, int64_t stride, int64_t count, Sum* __restrict sum) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) sum[i] += widen(grad[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) sum[i] += widen(grad[i * stride]);
  }
}

// The sums of a block, all zero: the call's own, where a head has but one block.
template <class Sum>
inline Sum* clear_sums(const BiasBackward& a, int64_t item, int64_t rows, void* scratch) {
  Sum* sums = a.blocks == 1 ? static_cast<Sum*>(scratch) : static_cast<Sum*>(a.partial) + item * rows;
  for (int64_t row = 0; row < rows; ++row) sums[row] = Sum(0);
  return sums;
}

// One head's column of the table's gradient; `sums` has rows in descending order.
template <class T>
inline void write_sums(const accumulator_t<T>* sums, int64_t rows, int64_t heads, T* out) {
  for (int64_t row = 0; row < rows; ++row) out[row * heads] = round_to<T>(sums[rows - 1 - row]);
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
