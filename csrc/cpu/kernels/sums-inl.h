// Sums of two rows: core/sums.h.
#pragma once

#include "core/sums.h"
#include "cpu/kernels/dropout-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// A stride of one, known when the loop is compiled.
struct Contiguous {
  constexpr operator int64_t() const { return 1; }
};

// A row of elements in memory.
template <class T, class Stride>
struct StridedRow {
  const T* first;
  Stride stride;

  // Elements [c, c + count) of it as numbers of type Sum; what is beyond them is zero.
  template <class Sum, int N>
  Vec<Sum, N> load(int64_t c, int64_t count) const {
#ifdef PF
    __builtin_prefetch(reinterpret_cast<const char*>(first + c * stride) + PF);
#endif
    if (stride == 1 && count == N) return convert<Sum>(widen(POSENC_LEVEL::load<N>(first + c)));
    return convert<Sum>(widen(load_some<N>(first + c * stride, count, stride)));
  }
};

// y[c] = dropout(x[c] * x_scale + addend[c]) for all c < count, where `first` is the linear index of y[0].
template <class Sum, class T, class Stride, class A, class AddendStride>
POSENC_ALONE POSENC_FLATTEN void add_row(const SeededDropout& d, bool non_temporal, int64_t first, int64_t count, T* y,
                          StridedRow<T, Stride> x, double x_scale, StridedRow<A, AddendStride> addend) {
  constexpr int N = kLineElements<T>;
  const Sum scale = static_cast<Sum>(x_scale);
  store_row(d, static_cast<Sum>(d.dropout.scale), non_temporal, first, count, y, [=](int64_t c, int64_t n) {
    return multiply_add_by(x.template load<Sum, N>(c, n), scale, addend.template load<Sum, N>(c, n));
  });
}

// y[c] = dropout(x[c] * x_scale)
template <class Sum, class T, class Stride>
POSENC_ALONE POSENC_FLATTEN void scale_row(const SeededDropout& d, bool non_temporal, int64_t first, int64_t count, T* y,
                            StridedRow<T, Stride> x, double x_scale) {
  constexpr int N = kLineElements<T>;
  const double kept = d.drops() ? d.dropout.scale : 1.0;
  constexpr bool kOneProduct = std::is_same_v<Sum, float>;
  const Sum scale = static_cast<Sum>(kOneProduct ? x_scale * kept : x_scale);
  store_row(d, static_cast<Sum>(kOneProduct ? 1.0 : kept), non_temporal, first, count, y,
            [=](int64_t c, int64_t n) { return x.template load<Sum, N>(c, n) * scale; });
}

// Calls f with a number of the type that x * scale is summed in for T.
template <class T, class F>
inline void with_sum_type(double scale, F f) {
  if constexpr (kIsHalf<T>) {
    if (fits_float_pair(scale)) return f(float{});
  }
  f(double{});
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
