// Bodies of the ALiBi kernels.
#pragma once

#include <type_traits>

#include "core/fast_rows.h"
#include "cuda/kernels/alibi_bias.h"
#include "cuda/kernels/bias.cuh"

namespace posenc_ext::cuda {
namespace {

// The product of a slope and a distance is rounded once, to T. While lengths and offset stay below this,
// float32 gives the same bits as float64: the product fits its 24 bits, or T is float32 itself. Most devices
// are slow at float64.
template <class T>
constexpr int64_t kFloatDistance = 0;
template <>
constexpr int64_t kFloatDistance<float> = int64_t{1} << 24;
template <>
constexpr int64_t kFloatDistance<Half> = int64_t{1} << 13;
template <>
constexpr int64_t kFloatDistance<BFloat16> = int64_t{1} << 16;

__device__ __forceinline__ float bias_of(float slope, int32_t distance) {
  return 0.0f - slope * static_cast<float>(distance);
}
__device__ __forceinline__ double bias_of(double slope, int64_t distance) {
  return core::alibi_bias(slope, static_cast<double>(distance));
}

// What a number of an element, and of its line, are divided by.
struct AlibiDivides {
  Divide keys, queries;
};

// A walk over the output, element by element.
template <class T, class Number>
struct AlibiWalk {
  using Int = std::conditional_t<std::is_same_v<Number, float>, int32_t, int64_t>;
  Int queries, keys, offset, q, k;
  int64_t head;
  Number slope;

  __device__ __forceinline__ AlibiWalk(const AlibiForward& a, const AlibiDivides& by, int64_t first)
      : queries(static_cast<Int>(a.queries)),
        keys(static_cast<Int>(a.keys)),
        offset(static_cast<Int>(a.distance.q_offset)) {
    const int64_t line = by.keys.quotient(first);
    head = by.queries.quotient(line);
    k = static_cast<Int>(first - line * a.keys);
    q = static_cast<Int>(line - head * a.queries);
    load_slope(a);
  }
  __device__ __forceinline__ void load_slope(const AlibiForward& a) {
    slope = static_cast<Number>(widen(static_cast<const T*>(a.slopes)[head * a.slope_stride]));
  }
  __device__ __forceinline__ T next(const AlibiForward& a) {
    const T value = round_to<T>(bias_of(slope, a.distance.steps(k - q - offset)));
    if (++k < keys) return value;
    k = 0;
    if (++q < queries) return value;
    q = 0;
    if (++head < a.heads) load_slope(a);
    return value;
  }
};

// 1 launch. Writes heads x queries x keys elements, reads next to nothing: no byte more than it must. A
// thread owns 16-byte pieces of the output, neighbouring threads neighbouring pieces; only the first and the
// last may be cut.
template <class T, class Number>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    alibi_forward_kernel(const __grid_constant__ AlibiForward a, const __grid_constant__ AlibiDivides by) {
  constexpr int kWidth = Pack<T>::kWidth;
  const int64_t count = a.heads * a.queries * a.keys;
  T* const out = static_cast<T*>(a.out);
  const int64_t before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) / sizeof(T) % kWidth);
  const int64_t step = gridDim.x * int64_t{blockDim.x} * kWidth;
  for (int64_t i = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) * kWidth - before; i < count; i += step) {
    AlibiWalk<T, Number> walk(a, by, max_of<int64_t>(i, 0));
    if (i >= 0 && i + kWidth <= count) {
      Pack<T> pack;
#pragma unroll
      for (int n = 0; n < kWidth; ++n) pack.value[n] = walk.next(a);
      pack.store(out + i);
    } else {
      for (int64_t n = max_of<int64_t>(i, 0); n < min_of(i + kWidth, count); ++n) out[n] = walk.next(a);
    }
  }
}

// 1 launch, or 2 where planes are large. Reads heads x queries x keys elements, writes a number per head: no
// byte more than it must, but for the sums of pieces in between. A unit, a warp's
// work, is a piece of a head's plane; the lanes walk over its pairs, and their sums are added in a fixed
// order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    alibi_backward_kernel(const __grid_constant__ AlibiBackward a, const __grid_constant__ Pieces pieces,
                          const __grid_constant__ PlaneWalk walk) {
  const int64_t plane = a.queries * a.keys;
  for (int64_t unit = this_warp(); unit < a.heads * pieces.count; unit += warp_count()) {
    const int64_t head = unit / pieces.count, first = (unit - head * pieces.count) * pieces.size;
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    const int64_t last = min_of(plane, first + pieces.size);
    const Pair from{first / a.keys, first % a.keys};
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < last - first; i += kWarp) {
      const Pair at = walk.after(from, i);
      sum +=
          -a.distance(at.query, at.key) * to_double(grad[at.query * a.query_stride + at.key * a.key_stride]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x != 0) continue;
    if (pieces.count == 1) {
      static_cast<T*>(a.out)[head] = round_to<T>(sum);
    } else {
      a.partial[unit] = sum;
    }
  }
}

// Launch 2 of 2, where planes are cut. Reads the sums of the pieces, writes a number per head. A warp owns a
// head; its lanes walk over the pieces, and their sums are added in a fixed order.
__global__ void __launch_bounds__(kThreads)
    alibi_reduce_kernel(const __grid_constant__ AlibiBackward a, const __grid_constant__ Pieces pieces) {
  for (int64_t head = this_warp(); head < a.heads; head += warp_count()) {
    double sum = 0.0;
    for (int64_t piece = threadIdx.x; piece < pieces.count; piece += kWarp) {
      sum += a.partial[head * pieces.count + piece];
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) store_as(a.dtype, a.out, head, sum);
  }
}

// 1 launch. Writes a number per head: a thread each.
__global__ void __launch_bounds__(kThreads) alibi_slopes_kernel(const __grid_constant__ AlibiSlopes a) {
  for (int64_t head = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; head < a.heads;
       head += gridDim.x * int64_t{blockDim.x}) {
    store_as(a.dtype, a.out, head * a.stride, alibi_slope(head, a.heads));
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
