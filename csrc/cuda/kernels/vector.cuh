// What kernels share: 16-byte vectors, dropout of a vector, sums over a warp.
#pragma once

#include "core/philox.h"
#include "core/scalar.h"
#include "cuda/kernels/launch.h"
#include "cuda/kernels/sinusoidal.h"

namespace posenc_ext::cuda {
namespace {

constexpr int kVectorBytes = 16;

template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];
};

template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}

template <class T, int kWidth>
__device__ __forceinline__ void store(T* to, const Pack<T, kWidth>& pack) {
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0; }

inline bool is_aligned(int64_t elements, int64_t element_size) { return elements * element_size % kVectorBytes == 0; }

// core::keeps() for the kWidth elements from linear index `first`, a multiple of kWidth: one counter serves them all.
template <int kWidth>
__device__ __forceinline__ void drop(const core::Dropout& dropout, uint64_t seed, int64_t first,
                                     double (&value)[kWidth]) {
  static_assert(core::kDrawsPerCounter % kWidth == 0);
  const core::Philox4 random = core::philox_4x32_10(seed, static_cast<uint64_t>(first) / core::kDrawsPerCounter);
  // Shifts instead of random.word[slot / 2]: an index known only at run time would send the words to local memory.
  const uint64_t low = random.word[0] | static_cast<uint64_t>(random.word[1]) << 32;
  const uint64_t high = random.word[2] | static_cast<uint64_t>(random.word[3]) << 32;
  const int first_slot = kWidth == core::kDrawsPerCounter ? 0 : static_cast<int>(first % core::kDrawsPerCounter);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const int slot = first_slot + i;
    const uint32_t draw = static_cast<uint32_t>((slot < 4 ? low : high) >> (16 * (slot % 4))) & 0xffffu;
    value[i] = draw >= dropout.threshold ? value[i] * dropout.scale : 0.0;
  }
}

// The sum over the lanes of a warp, in lane 0; always added in the same order.
template <class Sum>
__device__ __forceinline__ Sum warp_sum(Sum sum) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  return sum;
}

}  // namespace
}  // namespace posenc_ext::cuda
