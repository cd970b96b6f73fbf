// What the bias kernels share. Index arithmetic costs more than the copy or the sum it serves, so kernels do
// it once for several heads.
#pragma once

#include "core/fast_divide.h"
#include "cuda/kernels/chunks.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kPlaneTile = 512;  // (query, key) pairs per block of a forward kernel
// Of a backward kernel: to find a pair of the index once for all of them, and to keep half of the threads
// resident.
template <class T>
constexpr int kHeadsPerWarp = sizeof(T) == 8 ? 4 : 8;
constexpr int kWarpsPerBlock = kThreads / kWarp;

// Heads of a tile that pass through shared memory together: 16 kB of them.
template <class T>
constexpr int kStagedHeads = 32 / static_cast<int>(sizeof(T));

// Tiles of pairs x groups of heads, so that small planes fill the device too.
struct BiasSplit {
  int64_t heads, plane;
  int64_t sample_tiles, tiles, groups, group_heads;
  FastDivide staged_heads;
  bool head_fast;  // heads are closer in the table than rows
};

// As few groups as occupy the device: each finds its rows anew.
template <class T>
BiasSplit split_heads(int64_t samples, int64_t heads, int64_t plane, bool head_fast) {
  const int64_t sample_tiles = divide_up(plane, kPlaneTile), tiles = samples * sample_tiles;
  const int64_t wanted = max_of<int64_t>(1, 2 * multiprocessors() / tiles);
  const int64_t group_heads = divide_up(heads, min_of(heads, wanted));
  const int64_t staged = divide_up(group_heads, divide_up(group_heads, kStagedHeads<T>));
  return {heads,
          plane,
          sample_tiles,
          tiles,
          divide_up(heads, group_heads),
          group_heads,
          make_fast_divide(static_cast<uint32_t>(staged)),
          head_fast};
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

// A tile of the result on its way through shared memory, where the order of the table, rows of heads, turns
// into the order of the result, planes of pairs.
template <class T, class Source>
struct BiasTile {
  static constexpr int kWidth = Pack<T>::kWidth;
  static constexpr int kPitch = kPlaneTile + kWidth;  // neighbouring heads begin four banks apart
  typename Source::Number number[kPlaneTile];         // of a pair, from which the values of all heads follow
  alignas(kVectorBytes) T value[kStagedHeads<T>][kPitch];

  // out[head, i] = source.value(number[i], head) for i < count and the heads [head, last_head), `plane`
  // elements from each other in `out`. For the block; the numbers must be in place.
  __device__ __forceinline__ void copy(const Source& source, int64_t head, int64_t last_head, int count,
                                       T* out, int64_t plane, const BiasSplit& split) {
    const int staged = static_cast<int>(split.staged_heads.divisor);
    for (; head < last_head; head += staged) {
      const int heads = static_cast<int>(min_of<int64_t>(staged, last_head - head));
      T* const first_out = out + head * plane;
      // Where a head's stretch of the result is in its first vector; its elements are at the same place here.
      const uint32_t first_before = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(first_out) / sizeof(T));
      const uint32_t step_before = static_cast<uint32_t>(plane);
      const auto before = [&](int h) {
        return static_cast<int>((first_before + static_cast<uint32_t>(h) * step_before) % kWidth);
      };
      if (split.head_fast) {
        for (int i = static_cast<int>(threadIdx.x); i < count * staged; i += kThreads) {
          const int pair = static_cast<int>(split.staged_heads.quotient(static_cast<uint32_t>(i)));
          const int h = i - pair * staged;
          if (h < heads) value[h][before(h) + pair] = source.value(number[pair], head + h);
        }
      } else {
        for (int i = static_cast<int>(threadIdx.x); i < heads * kPlaneTile; i += kThreads) {
          const int h = i / kPlaneTile, pair = i % kPlaneTile;
          if (pair < count) value[h][before(h) + pair] = source.value(number[pair], head + h);
        }
      }
      __syncthreads();
      constexpr int kVectors = kPitch / kWidth;  // of a head; only its first and last may be cut
      for (int i = static_cast<int>(threadIdx.x); i < heads * kVectors; i += kThreads) {
        const int h = i / kVectors, first = i % kVectors * kWidth, skip = before(h);
        T* const to = first_out + h * plane - skip;
        if (first >= skip && first + kWidth <= skip + count) {
          copy_vector(&value[h][first], to + first);
        } else {
          for (int n = max_of(first, skip); n < min_of(first + kWidth, skip + count); ++n)
            to[n] = value[h][n];
        }
      }
      __syncthreads();  // the values, and after the last heads the numbers, are done with
    }
  }
};

// 1 launch. Must write samples x heads x pairs elements and read the source; reads an element of a table per
// element, from cache except the first time, in the table's order. A unit, a block's work, is kPlaneTile
// pairs of a sample x a group of heads: the block finds their numbers, a thread a pair, without a division,
// then brings their values through shared memory. A source has
//   Number, value(number, head)           the value of a pair
//   at(sample, first), number(at, i)      the number of the i-th pair after `first` in the plane of a sample
template <class T, class Source>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    bias_forward_kernel(const __grid_constant__ Source source, const __grid_constant__ BiasSplit split,
                        T* out) {
  __shared__ BiasTile<T, Source> shared;
  for (int64_t unit = blockIdx.x; unit < split.tiles * split.groups; unit += gridDim.x) {
    const int64_t group = unit / split.tiles, tile = unit - group * split.tiles;
    const int64_t sample = tile / split.sample_tiles,
                  first = (tile - sample * split.sample_tiles) * kPlaneTile;
    const int count = static_cast<int>(min_of<int64_t>(kPlaneTile, split.plane - first));
    const auto at = source.at(sample, first);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads)
      shared.number[i] = source.number(at, i);
    __syncthreads();
    const int64_t head = group * split.group_heads;
    shared.copy(source, head, min_of(split.heads, head + split.group_heads), count,
                out + sample * split.heads * split.plane + first, split.plane, split);
  }
}

// The value of a row of a table [rows, heads], whose number is its offset.
template <class T>
struct TableRow {
  using Number = int64_t;
  const T* table;
  int64_t row_stride, head_stride;

  __device__ __forceinline__ T value(int64_t offset, int64_t head) const {
    return table[offset + head * head_stride];
  }
};

template <class T, class Source>
void launch_forward(const Source& source, int64_t samples, int64_t heads, int64_t plane, bool head_fast,
                    void* out, cudaStream_t stream) {
  const BiasSplit split = split_heads<T>(samples, heads, plane, head_fast);
  const int64_t blocks = clamped_grid(split.tiles * split.groups, kBlocksPerMultiprocessor);
  launch(bias_forward_kernel<T, Source>, blocks, dim3(kThreads), stream, source, split, static_cast<T*>(out));
}

// What a sum over pairs adds for one of them: term(h), for head h of a warp. Here an element of a gradient.
template <class T>
struct GradTerm {
  const T* grad;
  int64_t head_stride;

  __device__ __forceinline__ accumulator_t<T> operator()(int h) const { return widen(grad[h * head_stride]); }
};

// What a lane has summed, for each head of its warp.
template <class T>
struct HeadSums {
  using Sum = accumulator_t<T>;
  static constexpr int kHeads = kHeadsPerWarp<T>;
  int heads;  // from the warp's first to its last, or the last there is
  Sum sum[kHeads] = {};

  __device__ __forceinline__ explicit HeadSums(int64_t count)
      : heads(static_cast<int>(min_of<int64_t>(kHeads, count))) {}

  template <class Term>
  __device__ __forceinline__ void add(const Term& term) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h < heads) sum[h] += term(h);
    }
  }

  // Calls give(head, total) in one lane, the first; which has all of it where others have nothing to add.
  template <class Give>
  __device__ __forceinline__ void total(bool others, Give give) const {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const Sum all = others ? warp_sum(sum[h]) : sum[h];
      if (threadIdx.x == 0 && h < heads) give(h, all);
    }
  }
};

}  // namespace
}  // namespace posenc_ext::cuda
