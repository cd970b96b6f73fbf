// What kernels share: 16-byte vectors, dropout of a vector, sums over a warp.
#pragma once

#include "args/dropout.h"
#include "core/float_pair.h"
#include "core/philox.h"
#include "cuda/kernels/launch.h"

namespace posenc_ext::cuda {
namespace {

constexpr int kVectorBytes = 16;

// kWidth elements in 16 bytes. Moved by intrinsics and taken apart by shifts: an assignment, even of a uint4,
// gets split into chunks. What is loaded must not be written by the same kernel.
template <class T>
struct Pack {
  static constexpr int kBytes = static_cast<int>(sizeof(T));
  static constexpr int kWidth = kVectorBytes / kBytes;
  T value[kWidth];

  static __device__ __forceinline__ Pack load(const T* from) {
    const uint4 whole = __ldg(reinterpret_cast<const uint4*>(from));
    const uint32_t word[] = {whole.x, whole.y, whole.z, whole.w};
    Pack pack;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if constexpr (kBytes == 8) {
        pack.value[i] = core::bit_cast<T>(word[2 * i] | static_cast<uint64_t>(word[2 * i + 1]) << 32);
      } else if constexpr (kBytes == 4) {
        pack.value[i] = core::bit_cast<T>(word[i]);
      } else {
        pack.value[i] = core::bit_cast<T>(static_cast<uint16_t>(word[i / 2] >> (16 * (i % 2))));
      }
    }
    return pack;
  }

  __device__ __forceinline__ void store(T* to) const {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kBytes == 8) {
        word[i] = static_cast<uint32_t>(core::bit_cast<uint64_t>(value[i / 2]) >> (32 * (i % 2)));
      } else if constexpr (kBytes == 4) {
        word[i] = core::bit_cast<uint32_t>(value[i]);
      } else {
        word[i] = core::bit_cast<uint16_t>(value[2 * i]) |
                  static_cast<uint32_t>(core::bit_cast<uint16_t>(value[2 * i + 1])) << 16;
      }
    }
    __stwb(reinterpret_cast<uint4*>(to), make_uint4(word[0], word[1], word[2], word[3]));
  }
};

// 16 bytes from shared to global memory.
template <class T>
__device__ __forceinline__ void copy_vector(const T* from, T* to) {
  __stwb(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(from));
}

template <class T, class Real, int kWidth>
__device__ __forceinline__ void load_widened(const T* from, Real (&value)[kWidth]) {
  static_assert(kWidth == Pack<T>::kWidth);
  const Pack<T> pack = Pack<T>::load(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) value[i] = core::widen(pack.value[i]);
}

template <class T, class Real>
__device__ __forceinline__ T rounded(Real value) {
  return core::round_to<T>(value);
}
template <class T>
__device__ __forceinline__ T rounded(core::FloatPair value) {
  if constexpr (sizeof(T) == sizeof(double))
    return static_cast<double>(value.hi) + value.lo;
  else
    return core::round_pair<T>(value);
}

template <class T, class Real, int kWidth>
__device__ __forceinline__ void store_rounded(T* to, const Real (&value)[kWidth]) {
  static_assert(kWidth == Pack<T>::kWidth);
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) pack.value[i] = rounded<T>(value[i]);
  pack.store(to);
}

// Element i of an array of int64 where it is wide, else of int32.
__device__ __forceinline__ int64_t load_index(const void* index, bool wide, int64_t i) {
  return wide ? static_cast<const int64_t*>(index)[i] : int64_t{static_cast<const int32_t*>(index)[i]};
}

// Element i of an array of this dtype.
template <class Real>
__device__ __forceinline__ Real load_as(core::DType dtype, const void* from, int64_t i) {
  Real value = 0;
  POSENC_DISPATCH_DTYPE(dtype, value = static_cast<Real>(core::widen(static_cast<const scalar_t*>(from)[i])))
  return value;
}

template <class Real>
__device__ __forceinline__ void store_as(core::DType dtype, void* to, int64_t i, Real value) {
  POSENC_DISPATCH_DTYPE(dtype, static_cast<scalar_t*>(to)[i] = rounded<scalar_t>(value))
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

inline bool is_aligned(int64_t elements, int64_t element_size) {
  return elements * element_size % kVectorBytes == 0;
}

__device__ __forceinline__ uint64_t seed_of(const args::SeededDropout& d) {
  return d.seed != nullptr ? static_cast<uint64_t>(*d.seed) : 0;
}

// Of x, and of what dropout retains: as doubles, or float pairs.
template <class Number>
struct Scales {
  Number x, retained;
};

inline Scales<core::FloatPair> to_float_pairs(const Scales<double>& s) {
  return {core::to_float_pair(s.x), core::to_float_pair(s.retained)};
}

// core::retains() for the kWidth elements from linear index `first`, a multiple of kWidth: one counter serves
// them all. Sets those that are dropped to zero.
template <class Real, int kWidth>
__device__ __forceinline__ void clear_dropped(const core::Dropout& dropout, uint64_t seed, int64_t first,
                                              Real (&value)[kWidth]) {
  static_assert(core::kDrawsPerCounter % kWidth == 0);
  const auto random = core::philox_4x32_10(seed, static_cast<uint64_t>(first) / core::kDrawsPerCounter);
  const uint64_t low = random.low(), high = random.high();
  const int first_slot =
      kWidth == core::kDrawsPerCounter ? 0 : static_cast<int>(first % core::kDrawsPerCounter);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const int slot = first_slot + i;
    const uint32_t draw = static_cast<uint32_t>((slot < 4 ? low : high) >> (16 * (slot % 4))) & 0xffffu;
    if (draw < dropout.threshold) value[i] = Real{};
  }
}

// Dropout of the same: what is retained is scaled.
template <int kWidth>
__device__ __forceinline__ void drop(const core::Dropout& dropout, uint64_t seed, int64_t first,
                                     double (&value)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) value[i] *= dropout.scale;
  clear_dropped(dropout, seed, first, value);
}

// All lanes' values put together by f, by halves, in each of them. f gives the same for (a, b) and (b, a).
template <class T, class F>
__device__ __forceinline__ T warp_total(T value, F f) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) value = f(value, __shfl_xor_sync(0xffffffffu, value, bits));
  return value;
}

// The sum over the lanes of a warp, in lane 0; always added in the same order.
template <class Sum>
__device__ __forceinline__ Sum warp_sum(Sum sum) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  return sum;
}
__device__ __forceinline__ core::FloatPair warp_sum(core::FloatPair sum) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float hi = __shfl_down_sync(0xffffffffu, sum.hi, offset);
    sum = core::add(sum, core::FloatPair{hi, __shfl_down_sync(0xffffffffu, sum.lo, offset)});
  }
  return sum;
}

}  // namespace
}  // namespace posenc_ext::cuda
