// Bodies of the kernels for the bias of any index.
#pragma once

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

// Writes rows + 1 numbers, each found by bisection in the sorted index: a thread per row.
__global__ void __launch_bounds__(kThreads) gather_starts_kernel(const __grid_constant__ GatherBackward a) {
  const int64_t begin = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (begin == 0) {
    // Of ascending values the first and the last tell it of all.
    const bool index_is_a_row_of_the_table =
        load_index(a.sorted, a.wide, 0) >= 0 && load_index(a.sorted, a.wide, a.count - 1) < a.rows;
    POSENC_KERNEL_ASSERT(index_is_a_row_of_the_table);
  }
  for (int64_t row = begin; row <= a.rows; row += gridDim.x * int64_t{blockDim.x}) {
    int64_t low = 0, high = a.count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (load_index(a.sorted, a.wide, middle) < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    a.starts[row] = low;
  }
}

// The sum of a row that lies within one piece is final. Of one that does not, the piece where it begins gives
// its sum to the upper half of `partial`, each other one to the lower half.
struct RowPlace {
  int64_t first, last;              // values of the row: [first, last)
  int64_t first_piece, last_piece;  // where the first and the last value stand

  __device__ __forceinline__ RowPlace(const GatherBackward& a, const Pieces& pieces, int64_t row)
      : first(a.starts[row]),
        last(a.starts[row + 1]),
        first_piece(first / pieces.size),
        last_piece((last - 1) / pieces.size) {}
};

template <class T>
__device__ __forceinline__ accumulator_t<T>* partial_of(const GatherBackward& a, const Pieces& pieces,
                                                        bool upper, int64_t head) {
  return static_cast<accumulator_t<T>*>(a.partial) + ((upper ? a.heads : 0) + head) * pieces.count;
}

// Reads the sorted index, its places, and heads x places elements of the gradient, in the order of the rows;
// writes the sums of rows or of their parts. A unit, a warp's work, is a piece of the sorted index x up to
// kHeadsPerWarp heads; the warp goes from row to row, its lanes walk over the row's values, and their sums
// are added in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    gather_backward_kernel(const __grid_constant__ GatherBackward a, const __grid_constant__ Pieces pieces,
                           int64_t units) {
  const int64_t inside_first = a.starts[0], inside_last = a.starts[a.rows];
  for (int64_t unit = this_warp(); unit < units; unit += warp_count()) {
    const int64_t piece = unit % pieces.count, head = unit / pieces.count * kHeadsPerWarp;
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    const int64_t end = min_of(inside_last, (piece + 1) * pieces.size);
    int64_t i = max_of(inside_first, piece * pieces.size);
    while (i < end) {
      const int64_t row = load_index(a.sorted, a.wide, i);
      const RowPlace at(a, pieces, row);
      const int64_t row_end = min_of(end, at.last);
      HeadSums<T> sums(a.heads - head);
      for (int64_t n = i + threadIdx.x; n < row_end; n += kWarp) {
        sums.add(grad + a.grad_at.offset(a.place[n]), a.head_stride);
      }
      i = row_end;
      sums.total([&](int h, accumulator_t<T> total) {
        if (at.first_piece == at.last_piece) {
          static_cast<T*>(a.out)[row * a.heads + head + h] = round_to<T>(total);
        } else {
          partial_of<T>(a, pieces, piece == at.first_piece, head + h)[piece] = total;
        }
      });
    }
  }
}

// Writes the rows x heads elements that the kernel above has not: those of rows without a value, and those of
// rows in several pieces, from the sums of their parts. A warp owns a row and a head; its lanes walk over the
// pieces, and their sums are added in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_reduce_kernel(const __grid_constant__ GatherBackward a, const __grid_constant__ Pieces pieces) {
  for (int64_t i = this_warp(); i < a.rows * a.heads; i += warp_count()) {
    const int64_t head = i % a.heads;
    const RowPlace at(a, pieces, i / a.heads);
    if (at.first < at.last && at.first_piece == at.last_piece) continue;
    accumulator_t<T> sum = 0;
    if (at.first < at.last) {
      for (int64_t piece = at.first_piece + threadIdx.x; piece <= at.last_piece; piece += kWarp) {
        sum += partial_of<T>(a, pieces, piece == at.first_piece, head)[piece];
      }
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) static_cast<T*>(a.out)[i] = round_to<T>(sum);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
