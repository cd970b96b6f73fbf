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

  // What is this far ahead of element c, in most cases in the next row. Without it add 512x32x512 takes 1.15
  // times as long, its gradient in bfloat16 1.1 times, and the backward pass of the ViT add 2.7 times
  // (AVX-512).
  void prefetch(int64_t c, int64_t bytes) const {
    __builtin_prefetch(first + c * stride + bytes / static_cast<int64_t>(sizeof(T)));
  }

  // Elements [c, c + count) of it; zeros follow.
  template <int N>
  Vec<T, N> elements(int64_t c, int64_t count) const {
    if (stride == 1 && count == N) return POSENC_LEVEL::load<N>(first + c);
    return load_some<N>(first + c * stride, count, stride);
  }
  template <class Sum, int N>
  Vec<Sum, N> load(int64_t c, int64_t count) const {
    return convert<Sum>(widen(elements<N>(c, count)));
  }
};

// Rows of x, of what is added to them and of the sums: how many, and their distances.
struct Rows {
  int64_t count, x_stride, addend_stride, y_stride;
};

// y[r, c] = dropout(x[r, c] * x_scale + addend[r, c]) for all rows and all c < count, where `first` is the
// linear index of y[0, 0].
template <class Sum, class T, class Stride, class A, class AddendStride>
POSENC_ALONE POSENC_FLATTEN void add_rows(const SeededDropout& d, bool non_temporal, Rows rows, int64_t first,
                                          int64_t count, T* y, StridedRow<T, Stride> x, double x_scale,
                                          StridedRow<A, AddendStride> addend) {
  constexpr int N = kLineElements<T>;
  const Sum scale = static_cast<Sum>(x_scale);
  for (int64_t r = 0; r < rows.count; ++r) {
    store_row(d, static_cast<Sum>(d.dropout.scale), non_temporal, first, count, y, [=](int64_t c, int64_t n) {
      x.prefetch(c, 4096);
      return multiply_add_by(x.template load<Sum, N>(c, n), scale, addend.template load<Sum, N>(c, n));
    });
    first += rows.y_stride, y += rows.y_stride;
    x.first += rows.x_stride, addend.first += rows.addend_stride;
  }
}

// y[c] = dropout(x[c] * x_scale)
template <class Sum, class T, class Stride>
POSENC_ALONE POSENC_FLATTEN void scale_row(const SeededDropout& d, bool non_temporal, int64_t first,
                                           int64_t count, T* y, StridedRow<T, Stride> x, double x_scale) {
  constexpr int N = kLineElements<T>;
  const double kept = d.drops() ? d.dropout.scale : 1.0;
  constexpr bool kOneProduct = std::is_same_v<Sum, float>;
  const Sum scale = static_cast<Sum>(kOneProduct ? x_scale * kept : x_scale);
  store_row(d, static_cast<Sum>(kOneProduct ? 1.0 : kept), non_temporal, first, count, y,
            [=](int64_t c, int64_t n) {
              x.prefetch(c, 4096);
              return x.template load<Sum, N>(c, n) * scale;
            });
}

// y[r, c] = x[r, c] * x_scale + addend[c] for kGroup rows of whole lines and all c < count. Rows in four
// places of memory at once take two thirds of the time that they take one after the other (ViT add, AVX-512).
constexpr int64_t kGroup = 4;

template <class Sum, class T, class A>
POSENC_ALONE POSENC_FLATTEN void add_group(bool non_temporal, int64_t count, T* y, int64_t y_stride,
                                           const T* x, int64_t x_stride, double x_scale, const A* addend) {
  constexpr int N = kLineElements<T>;
  const Sum scale = static_cast<Sum>(x_scale);
  const StridedRow<A, Contiguous> shared{addend, {}};
  for (int64_t c = 0; c < count; c += N) {
    const auto term = shared.template load<Sum, N>(c, N);
    for (int64_t r = 0; r < kGroup; ++r) {
      const StridedRow<T, Contiguous> row{x + r * x_stride, {}};
      row.prefetch(c, 2048);
      const auto sum = round_to<T>(multiply_add_by(row.template load<Sum, N>(c, N), scale, term));
      T* to = y + r * y_stride + c;
      non_temporal ? stream(to, sum) : store(to, sum);
    }
  }
}

// Whether add_group() serves rows of `count` elements at `y` and beyond.
template <class T>
inline bool can_group(const SeededDropout& d, bool non_temporal, int64_t count, const T* y) {
  return !d.drops() && count % kLineElements<T> == 0 &&
         (!non_temporal || reinterpret_cast<uintptr_t>(y) % kLine == 0);
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
