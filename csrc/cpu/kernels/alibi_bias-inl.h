// Bodies of the ALiBi kernels.
#pragma once

#include "args/alibi_bias.h"
#include "cpu/simd/lane_sum-inl.h"
#include "cpu/simd/level.h"
#include "cpu/simd/line-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Calls f(distance of i keys after `rel`), in doubles where these hold it: they are faster than 64-bit
// integers.
template <class F>
inline auto with_distance(const AlibiDistance& d, int64_t rel, F f) {
  constexpr int64_t kExact = int64_t{1} << 52;
  if (-kExact < rel && rel < kExact) {
    return f([=, from = static_cast<double>(rel)](int32_t i) { return d.steps(from + i); });
  }
  return f([=](int32_t i) { return static_cast<double>(d.steps(rel + i)); });
}

// A query's row is that of the query before it, one key further: a strip of values serves some queries of a
// head, for some keys.
constexpr int64_t kStripQueries = 64, kStripKeys = 2048;

template <class T>
void alibi_block(const AlibiForward& a, double slope, int64_t q0, int64_t queries, T* out) {
  T strip[kStripQueries + kStripKeys];
  for (int64_t k0 = 0; k0 < a.keys; k0 += kStripKeys) {
    const int64_t count = min_of(kStripKeys, a.keys - k0), last = q0 + queries - 1;
    const int32_t values = static_cast<int32_t>(count + queries - 1);
    with_distance(a.distance, k0 - last - a.distance.q_offset, [&](auto distance) {
      for (int32_t i = 0; i < values; ++i) strip[i] = round_to<T>(core::alibi_bias(slope, distance(i)));
    });
    for (int64_t i = 0; i < queries; ++i) {
      const T* from = strip + (queries - 1 - i);
      T* to = out + i * a.keys + k0;
      if (a.past_caches) {
        stream_row(to, from, count);
      } else {
        copy_row(to, from, count);
      }
    }
  }
}

template <class T>
void alibi_forward_typed(const AlibiForward& a, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end;) {
    const int64_t q = item % a.queries, queries = min_of(min_of(end - item, a.queries - q), kStripQueries);
    const double slope = to_double(static_cast<const T*>(a.slopes)[item / a.queries * a.slope_stride]);
    alibi_block(a, slope, q, queries, static_cast<T*>(a.out) + item * a.keys);
    item += queries;
  }
  if (a.past_caches) finish_streams();
}

// A product of a distance below this and a gradient narrower than a double is exact in double.
constexpr int64_t kExactProduct = int64_t{1} << 29;

// The sum of distance * gradient over a row of at most kStripKeys keys, in 32 lanes: what is beyond the last
// key adds zeros. Meanwhile the rows that follow in memory are fetched: the hardware looks less far ahead.
template <bool kExact, class T>
POSENC_ALONE double row_sum(const T* grad, const double* distance, int64_t count) {
  constexpr int64_t kOctets = 4, kLanes = kOctets * kOctet;
  constexpr int64_t kAhead = 8192 / static_cast<int64_t>(sizeof(T));
  const Row<T, SideBySide> row{grad, {}};
  const auto add = [=](Doubles sum, int64_t k, int64_t n) {
    const Doubles d = widen(Octet<double>::load(distance + k)), g = to_double(row.load(k, n));
    return kExact ? add_exact_product(sum, d, g) : sum + d * g;
  };
  Doubles sum[kOctets];
  for (Doubles& lanes : sum) lanes = all_of(0.0);
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (int64_t i = 0; i < kLanes; i += kLineElements<T>) __builtin_prefetch(grad + k + i + kAhead);
#pragma GCC unroll 4
    for (int64_t o = 0; o < kOctets; ++o) sum[o] = add(sum[o], k + o * kOctet, kOctet);
  }
  for (int64_t o = 0; k < count; ++o, k += kOctet) sum[o] = add(sum[o], k, min_of(kOctet, count - k));
  return sum_of((sum[0] + sum[2]) + (sum[1] + sum[3]));
}

template <class T>
inline void copy_side_by_side(const T* from, int64_t stride, int64_t count, T* to) {
  if (stride == 0) {  // as the gradient of a sum: its one value is read once
    const T value = *from;
    for (int64_t i = 0; i < count; ++i) to[i] = value;
  } else {
#pragma GCC unroll 8
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
  }
}

// sums[i] = that of query q0 + i; of a row longer than a strip the parts are added in turn.
template <class T>
void sum_block(const AlibiBackward& a, const T* grad, int64_t q0, int64_t queries, double* sums) {
  double strip[kStripQueries + kStripKeys + kOctet];
  T copy[kStripKeys];
  for (int64_t i = 0; i < queries; ++i) sums[i] = 0.0;
  for (int64_t k0 = 0; k0 < a.keys; k0 += kStripKeys) {
    const int64_t count = min_of(kStripKeys, a.keys - k0), last = q0 + queries - 1;
    const int64_t rel = k0 - last - a.distance.q_offset;
    const int32_t values = static_cast<int32_t>(count + queries - 1);
    with_distance(a.distance, rel, [&](auto distance) {
      for (int32_t i = 0; i < values; ++i) strip[i] = distance(i);
    });
    for (int32_t i = 0; i < kOctet; ++i) strip[values + i] = 0.0;
    const bool exact = sizeof(T) < sizeof(double) && -kExactProduct < rel && rel + values < kExactProduct;
    for (int64_t i = 0; i < queries; ++i) {
      const T* row = grad + i * a.query_stride + k0 * a.key_stride;
      if (a.key_stride != 1) {
        copy_side_by_side(row, a.key_stride, count, copy);
        row = copy;
      }
      const double* distance = strip + (queries - 1 - i);
      sums[i] -= exact ? row_sum<true>(row, distance, count) : row_sum<false>(row, distance, count);
    }
  }
}

template <class T>
void alibi_backward_typed(const AlibiBackward& a, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end;) {
    const int64_t q = item % a.queries, queries = min_of(min_of(end - item, a.queries - q), kStripQueries);
    const T* grad = static_cast<const T*>(a.grad) + item / a.queries * a.head_stride + q * a.query_stride;
    sum_block(a, grad, q, queries, a.partial + item);
    item += queries;
  }
}

void alibi_forward(const AlibiForward& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, alibi_forward_typed<scalar_t>(a, begin, end))
}

void alibi_backward(const AlibiBackward& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, alibi_backward_typed<scalar_t>(a, begin, end))
}

void alibi_reduce(const AlibiReduce& a, int64_t begin, int64_t end) {
  for (int64_t head = begin; head < end; ++head) {
    const double* partial = a.partial + head * a.queries;
    const double sum = lane_sum<double>(a.queries, [partial](int64_t q) { return partial[q]; });
    POSENC_DISPATCH_DTYPE(a.dtype, static_cast<scalar_t*>(a.out)[head] = round_to<scalar_t>(sum))
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
