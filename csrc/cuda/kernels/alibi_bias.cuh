// Bodies of the ALiBi kernels.
#pragma once

#include <type_traits>

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

// A pair's number is its distance.
template <class T, class Real>
struct AlibiSource {
  using Number = Real;
  using Int = std::conditional_t<std::is_same_v<Real, float>, int32_t, int64_t>;
  AlibiScheme scheme;
  PlaneWalk walk;
  const T* slopes;
  int64_t slope_stride;

  __device__ __forceinline__ Pair at(int64_t /*sample*/, int64_t first) const {
    return {first / scheme.keys(), first % scheme.keys()};
  }
  __device__ __forceinline__ Real number(const Pair& at, int i) const {
    const Pair pair = walk.after(at, i);
    return static_cast<Real>(scheme.distance(static_cast<Int>(pair.key - pair.query - scheme.q_offset)));
  }
  __device__ __forceinline__ T value(Real distance, int64_t head) const {
    return round_to<T>(Real{0} - static_cast<Real>(widen(slopes[head * slope_stride])) * distance);
  }
};

// 1 launch, or 2 where planes are large. Reads heads x queries x keys elements, writes a number per head: no
// byte more than it must, except for the sums of chunks in between. A unit, a warp's
// work, is a chunk of a head's plane; the lanes walk over its pairs, and their sums are added in a fixed
// order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    alibi_backward_kernel(const __grid_constant__ AlibiScheme scheme, const __grid_constant__ BiasBackward a,
                          const __grid_constant__ Chunks chunks, const __grid_constant__ PlaneWalk walk) {
  const int64_t plane = scheme.queries() * scheme.keys();
  for (int64_t unit = this_warp(); unit < a.heads * chunks.count; unit += warp_count()) {
    const int64_t head = unit / chunks.count, first = (unit - head * chunks.count) * chunks.size;
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    const int64_t last = min_of(plane, first + chunks.size);
    const Pair from{first / scheme.keys(), first % scheme.keys()};
    double sum = 0.0;
    for (int64_t sample = 0; sample < a.batch; ++sample, grad += a.batch_stride) {
      for (int64_t i = threadIdx.x; i < last - first; i += kWarp) {
        const Pair at = walk.after(from, i);
        sum += -scheme.distance(at.query, at.key) *
               to_double(grad[at.query * a.query_stride + at.key * a.key_stride]);
      }
    }
    sum = warp_sum(sum);
    if (threadIdx.x != 0) continue;
    if (chunks.count == 1) {
      static_cast<T*>(a.out)[head] = round_to<T>(sum);
    } else {
      static_cast<double*>(a.partial)[unit] = sum;
    }
  }
}

// Launch 2 of 2, where planes are split. Reads the sums of the chunks, writes a number per head. A warp owns
// a head; its lanes walk over the chunks, and their sums are added in a fixed order.
__global__ void __launch_bounds__(kThreads)
    alibi_reduce_kernel(const __grid_constant__ BiasBackward a, const __grid_constant__ Chunks chunks) {
  for (int64_t head = this_warp(); head < a.heads; head += warp_count()) {
    double sum = 0.0;
    for (int64_t chunk = threadIdx.x; chunk < chunks.count; chunk += kWarp) {
      sum += static_cast<const double*>(a.partial)[head * chunks.count + chunk];
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
