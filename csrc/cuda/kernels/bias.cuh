// What the bias kernels share. Index arithmetic costs more than the copy or the sum it serves, so kernels do
// it once for several heads.
#pragma once

#include "cuda/kernels/pieces.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kPlaneTile = 1024;   // (query, key) pairs per block of a forward kernel
constexpr int kHeadsInFlight = 2;  // threadIdx.y of a forward kernel
constexpr int kHeadsPerWarp = 8;   // of a backward kernel
constexpr int kWarpsPerBlock = kThreads / kWarp;
constexpr int64_t kBlocksPerMultiprocessor = 8;

// Tiles of pairs x groups of heads, so that small planes fill the device too.
struct BiasSplit {
  int64_t tiles, groups, group_heads;
};

// As few groups as keep the device busy: each finds its rows anew.
inline BiasSplit split_heads(int64_t tiles, int64_t heads) {
  const int64_t wanted = max_of<int64_t>(1, 2 * multiprocessors() / tiles);
  const int64_t group_heads = divide_up(heads, min_of(heads, wanted));
  return {tiles, divide_up(heads, group_heads), group_heads};
}

// A kernel whose threadIdx.x is a lane and whose warps loop over units.
template <class... Parameters, class... Arguments>
void launch_warps(void (*kernel)(Parameters...), int64_t units, cudaStream_t stream,
                  const Arguments&... arguments) {
  const int64_t blocks = clamped_grid(divide_up(units, kWarpsPerBlock), kBlocksPerMultiprocessor);
  launch(kernel, blocks, dim3(kWarp, kWarpsPerBlock), stream, arguments...);
}

// The calling warp among those of the grid, and how many there are.
__device__ __forceinline__ int64_t this_warp() { return blockIdx.x * int64_t{kWarpsPerBlock} + threadIdx.y; }
__device__ __forceinline__ int64_t warp_count() { return gridDim.x * int64_t{kWarpsPerBlock}; }

// out[i] = table[offset[i]], i < count. threadIdx.x walks over the 16-byte pieces of this stretch of the
// output, wherever it starts; only its first and last piece may be cut.
template <class T>
__device__ __forceinline__ void gather_stretch(const T* table, const int64_t* offset, int count, T* out) {
  constexpr int kWidth = Pack<T>::kWidth;
  const int before = static_cast<int>(reinterpret_cast<uintptr_t>(out) / sizeof(T) % kWidth);
  for (int i = static_cast<int>(threadIdx.x) * kWidth - before; i < count;
       i += static_cast<int>(blockDim.x) * kWidth) {
    if (i >= 0 && i + kWidth <= count) {
      Pack<T> pack;
#pragma unroll
      for (int n = 0; n < kWidth; ++n) pack.value[n] = table[offset[i + n]];
      pack.store(out + i);
    } else {
      for (int n = max_of(i, 0); n < min_of(i + kWidth, count); ++n) out[n] = table[offset[n]];
    }
  }
}

// What a lane has summed, for each head of its warp.
template <class T>
struct HeadSums {
  using Sum = accumulator_t<T>;
  int64_t heads;  // from the warp's first to the last there is
  Sum sum[kHeadsPerWarp] = {};

  __device__ __forceinline__ explicit HeadSums(int64_t count) : heads(count) {}

  __device__ __forceinline__ void add(const T* from, int64_t head_stride) {
#pragma unroll
    for (int h = 0; h < kHeadsPerWarp; ++h) {
      if (h < heads) sum[h] += widen(from[h * head_stride]);
    }
  }

  // Calls give(head, total) in one lane.
  template <class Give>
  __device__ __forceinline__ void total(Give give) const {
#pragma unroll
    for (int h = 0; h < kHeadsPerWarp; ++h) {
      const Sum all = warp_sum(sum[h]);
      if (threadIdx.x == 0 && h < heads) give(h, all);
    }
  }
};

}  // namespace
}  // namespace posenc_ext::cuda
