// Bodies of the relative-position bias kernels, for any scheme.
#pragma once

#include "cuda/kernels/bias.cuh"
#include "cuda/kernels/relative_bias.h"

namespace posenc_ext::cuda {
namespace {

// Reads pairs elements of the table (from cache, but for the first time) and writes heads x pairs elements. A
// block finds the rows of kPlaneTile pairs, then copies them for each head of its group; threadIdx.y is a
// head, threadIdx.x walks over its stretch of the output.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads, 4)
    bias_forward_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasForward a,
                        const __grid_constant__ BiasSplit split) {
  __shared__ int64_t offset[kPlaneTile];  // of a pair's row in the table
  const int64_t keys = scheme.keys(), plane = scheme.queries() * keys;
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  for (int64_t unit = blockIdx.x; unit < split.tiles * split.groups; unit += gridDim.x) {
    const int64_t first = unit % split.tiles * kPlaneTile;
    const int count = static_cast<int>(min_of<int64_t>(kPlaneTile, plane - first));
    __syncthreads();  // the last unit's offsets are done with
    for (int i = thread; i < count; i += kThreads) {
      const int64_t query = (first + i) / keys;
      offset[i] = scheme.row(query, first + i - query * keys) * a.row_stride;
    }
    __syncthreads();
    const int64_t first_head = unit / split.tiles * split.group_heads;
    const int64_t last_head = min_of(a.heads, first_head + split.group_heads);
    for (int64_t head = first_head + threadIdx.y; head < last_head; head += blockDim.y) {
      gather_stretch(static_cast<const T*>(a.table) + head * a.head_stride, offset, count,
                     static_cast<T*>(a.out) + head * plane + first);
    }
  }
}

// Reads heads x queries x keys elements; writes rows x heads, or as many sums per piece. A unit, a warp's
// work, is a piece of a row x up to kHeadsPerWarp heads; the lanes walk over the piece's slots, and their
// sums are added in a fixed order. Where rows are whole, the warps of a block own neighbouring rows, whose
// pairs lie in neighbouring elements of the gradient: a sector that one warp brings into the cache serves the
// others. Where rows are cut, they own neighbouring pieces, so that no few warps own all of a long row.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads, 2)
    bias_backward_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasBackward a,
                         const __grid_constant__ Pieces pieces, int64_t units) {
  const int64_t rows = scheme.rows();
  for (int64_t unit = this_warp(); unit < units; unit += warp_count()) {
    const int64_t piece = unit % pieces.count, row = unit / pieces.count % rows;
    const int64_t first = piece * pieces.size, slots = scheme.slots(row);
    if (piece > 0 && first >= slots) continue;
    const int64_t last = min_of(slots, first + pieces.size);
    const int64_t head = unit / pieces.count / rows * kHeadsPerWarp;
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    HeadSums<T> sums(a.heads - head);
    for (int64_t i = first + threadIdx.x; i < last; i += kWarp) {
      const Pair pair = scheme.slot(row, i);
      if (pair.query == kNoPair) continue;
      sums.add(grad + pair.query * a.query_stride + pair.key * a.key_stride, a.head_stride);
    }
    const int64_t to = row * a.heads + head;
    sums.total([&](int h, accumulator_t<T> total) {
      if (pieces.count == 1) {
        static_cast<T*>(a.out)[to + h] = round_to<T>(total);
      } else {
        static_cast<accumulator_t<T>*>(a.partial)[(to + h) * pieces.count + piece] = total;
      }
    });
  }
}

// Reads the sums of the pieces, writes rows x heads. A warp owns a row and a head; its lanes walk over the
// pieces, and their sums are added in a fixed order.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads)
    bias_reduce_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasBackward a,
                       const __grid_constant__ Pieces pieces) {
  using Sum = accumulator_t<T>;
  const int64_t count = scheme.rows() * a.heads;
  for (int64_t i = this_warp(); i < count; i += warp_count()) {
    const int64_t own = (scheme.slots(i / a.heads) + pieces.size - 1) / pieces.size;
    const Sum* partial = static_cast<const Sum*>(a.partial) + i * pieces.count;
    Sum sum = 0;
    for (int64_t piece = threadIdx.x; piece < own; piece += kWarp) sum += partial[piece];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) static_cast<T*>(a.out)[i] = round_to<T>(sum);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
