// ALiBi as a source of rows, and its adjoint: dot products of rows with distances.
#pragma once

#include "args/alibi_bias.h"
#include "cpu/kernels/bias_rows-inl.h"
#include "cpu/simd/lane_sum-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Calls f(distance of i keys after `rel`), in doubles where these hold it: they are faster than 64-bit
// integers.
template <class F>
inline auto with_distance(const AlibiScheme& s, int64_t rel, F f) {
  constexpr int64_t kExact = int64_t{1} << 52;
  if (-kExact < rel && rel < kExact) {
    return f([=, from = static_cast<double>(rel)](int32_t i) { return s.distance(from + i); });
  }
  return f([=](int32_t i) { return static_cast<double>(s.distance(rel + i)); });
}

template <class T>
struct AlibiStrip {
  const AlibiScheme& scheme;
  const BiasForward& a;
  const T* slope_at;  // of the head

  void set_head(int64_t head) { slope_at = static_cast<const T*>(a.table) + head * a.head_stride; }

  void fill(int64_t first, int64_t last, T* to) const {
    constexpr int64_t kStep = int64_t{1} << 20;
    const double slope = to_double(*slope_at);
    int64_t rel = 1 - last - scheme.q_offset;
    for (int64_t left = last - first - 1 + scheme.keys(); left > 0;
         left -= kStep, rel += kStep, to += kStep) {
      const int32_t count = static_cast<int32_t>(min_of(left, kStep));
      with_distance(scheme, rel, [=](auto distance) {
        for (int32_t i = 0; i < count; ++i) to[i] = round_to<T>(core::alibi_bias(slope, distance(i)));
      });
    }
  }
};

// A product of a distance below this and a gradient narrower than a double is exact in double.
constexpr int64_t kExactProduct = int64_t{1} << 29;

// The sum of distance * gradient over a row of at most kStripKeys keys, in 32 lanes: what is beyond the last
// key adds zeros.
template <bool kExact, class T>
POSENC_ALONE double row_sum(const T* grad, const double* distance, int64_t count) {
  constexpr int kWidth = 8, kVectors = 4;
  const auto add = [=](Vec<double, kWidth> sum, int64_t k, Vec<T, kWidth> g) POSENC_LAMBDA {
    const auto d = load<kWidth>(distance + k);
    return kExact ? add_exact_product(d, to_double(g), sum) : sum + d * to_double(g);
  };
  Vec<double, kWidth> sum[kVectors] = {};
  int64_t k = 0;
  for (; k + kVectors * kWidth <= count; k += kVectors * kWidth) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n)
      sum[n] = add(sum[n], k + n * kWidth, load<kWidth>(grad + k + n * kWidth));
  }
  for (int n = 0; k < count; ++n, k += kWidth) {
    sum[n] = add(sum[n], k, load_some<kWidth>(grad + k, min_of<int64_t>(kWidth, count - k)));
  }
  return sum_of((sum[0] + sum[2]) + (sum[1] + sum[3]));
}

constexpr int64_t kStripQueries = 64, kStripKeys = 2048;

// sums[i] -= that of query q0 + i; of a row longer than a strip of distances the parts are added in turn.
template <class T>
void sum_block(const AlibiScheme& s, const BiasBackward& a, const T* grad, int64_t q0, int64_t queries,
               double* sums) {
  double strip[kStripQueries + kStripKeys + 8];
  T copy[kStripKeys];
  for (int64_t k0 = 0; k0 < s.keys(); k0 += kStripKeys) {
    const int64_t count = min_of(kStripKeys, s.keys() - k0), rel = k0 - (q0 + queries - 1) - s.q_offset;
    const int32_t values = static_cast<int32_t>(count + queries - 1);
    with_distance(s, rel, [&](auto distance) {
      for (int32_t i = 0; i < values; ++i) strip[i] = distance(i);
    });
    for (int32_t i = 0; i < 8; ++i) strip[values + i] = 0.0;
    const bool exact = sizeof(T) < sizeof(double) && -kExactProduct < rel && rel + values < kExactProduct;
    for (int64_t i = 0; i < queries; ++i) {
      const T* row = grad + i * a.query_stride + k0 * a.key_stride;
      if (a.key_stride != 1) {
        for (int64_t k = 0; k < count; ++k) copy[k] = row[k * a.key_stride];
        row = copy;
      }
      const double* distance = strip + (queries - 1 - i);
      sums[i] -= exact ? row_sum<true>(row, distance, count) : row_sum<false>(row, distance, count);
    }
  }
}

// partial[head, q] = the sum over the batch and k of -distance(q, k) * grad[sample, head, q, k]; an item is
// one query of one head.
template <class T>
void alibi_backward_typed(const AlibiScheme& s, const BiasBackward& a, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end;) {
    const int64_t head = item / s.queries(), q = item - head * s.queries();
    const int64_t queries = min_of(min_of(end - item, s.queries() - q), kStripQueries);
    double* sums = static_cast<double*>(a.partial) + item;
    for (int64_t i = 0; i < queries; ++i) sums[i] = 0.0;
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride + q * a.query_stride;
    for (int64_t sample = 0; sample < a.batch; ++sample, grad += a.batch_stride) {
      sum_block(s, a, grad, q, queries, sums);
    }
    item += queries;
  }
}

void alibi_forward(const AlibiScheme& s, const BiasForward& a, bool non_temporal, int64_t begin,
                   int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, copy_rows<scalar_t, StripSource<scalar_t, AlibiStrip<scalar_t>>>(
                                     s, a, non_temporal, begin, end))
}

void alibi_backward(const AlibiScheme& s, const BiasBackward& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, alibi_backward_typed<scalar_t>(s, a, begin, end))
}

// out[head] = the sum over q of partial[head, q]; an item is one head.
void alibi_reduce(const AlibiScheme& s, const BiasBackward& a, int64_t begin, int64_t end) {
  for (int64_t head = begin; head < end; ++head) {
    const double* partial = static_cast<const double*>(a.partial) + head * s.queries();
    const double sum = lane_sum<double>(s.queries(), [partial](int64_t q) { return partial[q]; });
    POSENC_DISPATCH_DTYPE(a.dtype, static_cast<scalar_t*>(a.out)[head] = round_to<scalar_t>(sum))
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
