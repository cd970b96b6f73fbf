// Bodies of the kernels for the bias of any index.
#pragma once

#include <type_traits>

#include "cuda/kernels/bias.cuh"
#include "cuda/kernels/gather_bias.h"

namespace posenc_ext::cuda {
namespace {

__device__ __forceinline__ int64_t load_index(const void* index, bool wide, int64_t i) {
  return wide ? static_cast<const int64_t*>(index)[i] : int64_t{static_cast<const int32_t*>(index)[i]};
}

// 1 launch. Must write samples x heads x pairs elements and read the index and the table; reads the index
// once per group of heads, and an element of the table per element, from cache but for the first time, in the
// table's order. A unit, a block's work, is kPlaneTile pairs of a sample x a group of heads: the block reads
// their rows, a thread a pair, then brings them through shared memory.
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    gather_forward_kernel(const __grid_constant__ GatherForward a, const __grid_constant__ BiasSplit split) {
  __shared__ GatherTile<T> shared;
  const int64_t tiles_per_sample = split.tiles / a.samples;
  for (int64_t unit = blockIdx.x; unit < split.tiles * split.groups; unit += gridDim.x) {
    const int64_t group = unit / split.tiles, tile = unit - group * split.tiles;
    const int64_t sample = tile / tiles_per_sample, first = (tile - sample * tiles_per_sample) * kPlaneTile;
    const int count = static_cast<int>(min_of<int64_t>(kPlaneTile, a.plane - first));
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      int64_t row = load_index(a.index, a.wide, a.index_at.offset(sample * a.plane + first + i));
      const bool index_is_a_row_of_the_table = row >= 0 && row < a.rows;
      POSENC_KERNEL_ASSERT(index_is_a_row_of_the_table);
      if (!index_is_a_row_of_the_table) row = 0;
      shared.offset[i] = row * a.row_stride;
    }
    __syncthreads();
    const int64_t first_head = group * split.group_heads;
    shared.copy(static_cast<const T*>(a.table), a.head_stride, first_head,
                min_of(a.heads, first_head + split.group_heads), count,
                static_cast<T*>(a.out) + sample * a.heads * a.plane + first, a.plane, split);
  }
}

// The sum over the lanes of a warp, in all of them.
__device__ __forceinline__ int total_of_lanes(int own) {
#pragma unroll
  for (int bit = 1; bit < kWarp; bit *= 2) own += __shfl_xor_sync(0xffffffffu, own, bit);
  return own;
}

// Where the values of `row` and above begin in the sorted index; for a warp, which looks at 32 places at a
// time.
__device__ __forceinline__ int64_t first_place(const GatherBackward& a, int64_t row) {
  int64_t low = 0, high = a.count;
  while (low < high) {
    const int64_t step = (high - low + kWarp - 1) / kWarp;
    const int64_t probe = low + threadIdx.x * step + (step - 1);
    const int below = total_of_lanes(probe < high && load_index(a.sorted, a.wide, probe) < row ? 1 : 0);
    const int64_t last = min_of(high, low + (below + 1) * step - 1);
    low = min_of(high, low + below * step);
    high = last;
  }
  return low;
}

// The sum of a row whose values lie within one piece is final. Of one whose values do not, the piece where it
// begins gives its sum to the upper half of `partial`, each other one to the lower half.
template <class T>
__device__ __forceinline__ accumulator_t<T>* partial_of(const GatherBackward& a, const Pieces& pieces,
                                                        bool upper, int64_t head) {
  return static_cast<accumulator_t<T>*>(a.partial) + ((upper ? a.heads : 0) + head) * pieces.count;
}

// Launch 1 of 2, after the sort of the index. Must read the gradient's heads x places elements; reads them in
// the order of the rows, and the sorted index and its places once per kHeadsPerWarp heads; writes the sums of
// rows or of their parts. A unit, a warp's work, is a piece of the sorted index x up to kHeadsPerWarp heads;
// the warp goes from row to row, its lanes walk over the row's values, and their sums are added in a fixed
// order.
template <class T>
__global__ void __launch_bounds__(kThreads, std::is_same_v<T, double> ? 2 : 3)
    gather_backward_kernel(const __grid_constant__ GatherBackward a, const __grid_constant__ Pieces pieces,
                           int64_t units) {
  if (blockIdx.x == 0 && threadIdx.x == 0 && threadIdx.y == 0) {
    // Of ascending values the first and the last tell it of all.
    const bool index_is_a_row_of_the_table =
        load_index(a.sorted, a.wide, 0) >= 0 && load_index(a.sorted, a.wide, a.count - 1) < a.rows;
    POSENC_KERNEL_ASSERT(index_is_a_row_of_the_table);
  }
  for (int64_t unit = this_warp(); unit < units; unit += warp_count()) {
    const int64_t piece = unit % pieces.count, head = unit / pieces.count * kHeadsPerWarp;
    // Places of the sorted index are below 2^31.
    const int begin = static_cast<int>(piece * pieces.size);
    const int end = static_cast<int>(min_of(a.count, begin + pieces.size));
    for (int i = begin; i < end;) {
      const int64_t row = load_index(a.sorted, a.wide, i);
      const int first = i;
      HeadSums<T> sums(a.heads - head);
      int own = 0;
      for (int64_t n = i + threadIdx.x; n < end && load_index(a.sorted, a.wide, n) == row;
           n += kWarp, ++own) {
        sums.add(static_cast<const T*>(a.grad) + head * a.head_stride + a.grad_at.offset(a.place[n]),
                 a.head_stride);
      }
      i += total_of_lanes(own);
      const bool began_before = first == begin && first > 0 && load_index(a.sorted, a.wide, first - 1) == row;
      const bool goes_on = i == end && end < a.count && load_index(a.sorted, a.wide, end) == row;
      const bool is_a_row = row >= 0 && row < a.rows;
      sums.total([&](int h, accumulator_t<T> total) {
        if (!is_a_row) return;
        if (!began_before && !goes_on) {
          static_cast<T*>(a.out)[row * a.heads + head + h] = round_to<T>(total);
        } else {
          partial_of<T>(a, pieces, !began_before, head + h)[piece] = total;
        }
      });
    }
  }
}

// Launch 2 of 2. Writes the elements that the kernel above has not: those of rows without a value, and those
// of rows in several pieces, from the sums of their parts. A warp owns a row; its lanes walk over the pieces,
// and their sums are added in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_reduce_kernel(const __grid_constant__ GatherBackward a, const __grid_constant__ Pieces pieces) {
  for (int64_t row = this_warp(); row < a.rows; row += warp_count()) {
    const int64_t first = first_place(a, row), last = first_place(a, row + 1);
    const int64_t first_piece = first / pieces.size, last_piece = (last - 1) / pieces.size;
    if (first < last && first_piece == last_piece) continue;
    for (int64_t head = 0; head < a.heads; ++head) {
      accumulator_t<T> sum = 0;
      if (first < last) {
        for (int64_t piece = first_piece + threadIdx.x; piece <= last_piece; piece += kWarp) {
          sum += partial_of<T>(a, pieces, piece == first_piece, head)[piece];
        }
      }
      sum = warp_sum(sum);
      if (threadIdx.x == 0) static_cast<T*>(a.out)[row * a.heads + head] = round_to<T>(sum);
    }
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
