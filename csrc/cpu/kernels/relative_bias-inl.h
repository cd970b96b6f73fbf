// The kernels of the relative-position biases.
#pragma once

#include "cpu/kernels/bias_rows-inl.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/strip_bias-inl.h"
#include "cpu/kernels/window_bias-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// The source of a scheme's rows, and its adjoint: by strips, unless it says otherwise.
template <class T, class Scheme>
struct SchemeRows {
  using Source = StripSource<T, TableStrip<T, Scheme>>;
  using Sums = StripSums<T, Scheme>;
};
template <class T>
struct SchemeRows<T, WindowScheme> {
  using Source = WindowSource<T>;
  using Sums = WindowSums<T>;
};

template <class Scheme>
void bias_forward(const Scheme& s, const BiasForward& a, bool non_temporal, int64_t begin, int64_t end) {
  POSENC_DISPATCH_BITS(a.dtype, using Source = typename SchemeRows<bits_t, Scheme>::Source;
                       copy_rows<bits_t, Source>(s, a, non_temporal, begin, end))
}

template <class Scheme>
int64_t bias_parts(const Scheme& s) {
  return SchemeRows<float, Scheme>::Sums::parts(s);
}

template <class Scheme>
void bias_backward(const Scheme& s, const BiasBackward& a, const Chunks& blocks, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, using Sums = typename SchemeRows<scalar_t, Scheme>::Sums;
                        sum_rows<scalar_t, Sums>(s, a, blocks, begin, end))
}

template <class... All>
constexpr SchemeTable<BiasKernels> bias_kernels(SchemeList<All...>) {
  return {BiasKernels<All>{bias_forward<All>, bias_parts<All>, bias_backward<All>}...};
}

template <class T>
void bias_reduce_typed(const BiasReduce& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  for (int64_t head = begin; head < end; ++head) {
    const Sum* partial = static_cast<const Sum*>(a.partial) + head * a.blocks * a.rows;
    T* out = static_cast<T*>(a.out) + head * a.head_stride;
    for (int64_t row = 0; row < a.rows; ++row) {
      Sum sum = partial[row];
      for (int64_t block = 1; block < a.blocks; ++block) sum += partial[block * a.rows + row];
      out[row * a.row_stride] = round_to<T>(sum);
    }
  }
}

void bias_reduce(const BiasReduce& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, bias_reduce_typed<scalar_t>(a, begin, end))
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
