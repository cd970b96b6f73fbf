// Bodies of the relative-position bias kernels.
#pragma once

#include "cpu/kernels/small_window-inl.h"
#include "cpu/kernels/strip_bias-inl.h"
#include "cpu/kernels/window_lines-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <class T>
void bias_backward_typed(const WindowScheme& s, const BiasBackward& a, void* scratch, int64_t begin,
                         int64_t end) {
  if (is_small(s)) return small_window_backward<T>(s, a, scratch, begin, end);
  lines_backward<T>(s, a, scratch, begin, end);
}

template <class T>
void bias_reduce_typed(const BiasReduce& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  for (int64_t head = begin; head < end; ++head) {
    const Sum* partial = static_cast<const Sum*>(a.partial) + head * a.blocks * a.rows;
    T* out = static_cast<T*>(a.out) + head;
    for (int64_t row = 0; row < a.rows; ++row) {
      Sum sum = partial[a.rows - 1 - row];
      for (int64_t block = 1; block < a.blocks; ++block) sum += partial[block * a.rows + a.rows - 1 - row];
      out[row * a.heads] = round_to<T>(sum);
    }
  }
}

template <class Scheme>
void bias_forward(const Scheme& scheme, const BiasForward& a, void* scratch, int64_t begin, int64_t end) {
  if (a.element_size == 8) return bias_forward_typed<uint64_t>(scheme, a, scratch, begin, end);
  if (a.element_size == 4) return bias_forward_typed<uint32_t>(scheme, a, scratch, begin, end);
  bias_forward_typed<uint16_t>(scheme, a, scratch, begin, end);
}

template <class Scheme>
void bias_backward(const Scheme& scheme, const BiasBackward& a, void* scratch, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, bias_backward_typed<scalar_t>(scheme, a, scratch, begin, end))
}

void bias_reduce(const BiasReduce& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, bias_reduce_typed<scalar_t>(a, begin, end))
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
