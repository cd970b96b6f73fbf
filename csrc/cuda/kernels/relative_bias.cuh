// Bodies of the relative-position bias kernels, for any scheme.
#pragma once

#include "cuda/kernels/bias.cuh"
#include "cuda/kernels/relative_bias.h"

namespace posenc_ext::cuda {
namespace {

// The rows of a scheme.
template <class T, class Scheme>
struct SchemeSource : TableRow<T> {
  Scheme scheme;
  PlaneWalk walk;

  __device__ __forceinline__ Pair at(int64_t /*sample*/, int64_t first) const {
    return {first / scheme.keys(), first % scheme.keys()};
  }
  __device__ __forceinline__ int64_t number(const Pair& at, int i) const {
    const Pair pair = walk.after(at, i);
    return scheme.row(pair.query, pair.key) * this->row_stride;
  }
};

// 1 launch, or 2 where rows are long. Must read heads x queries x keys elements and write rows x heads, and
// does; long rows are cut in pieces, each of which writes a sum that the second launch reads. A unit, a
// warp's work, is a piece of a row x up to kHeadsPerWarp heads; the lanes walk over the piece's slots, and
// their sums are added in a fixed order. Where rows are whole, the warps of a block own neighbouring rows,
// whose pairs are in neighbouring elements of the gradient: a sector that one warp brings into the cache
// serves the others. Where rows are cut, they own neighbouring pieces, so that no few warps own all of a long
// row.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    bias_backward_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasBackward a,
                         const __grid_constant__ Pieces pieces, int64_t units) {
  const int64_t rows = scheme.rows();
  for (int64_t unit = this_warp(); unit < units; unit += warp_count()) {
    const int64_t piece = unit % pieces.count, row = unit / pieces.count % rows;
    const auto slots = scheme.slots(row);
    const int64_t first = piece * pieces.size;
    if (piece > 0 && first >= slots.count) continue;
    const int64_t last = min_of(slots.count, first + pieces.size);
    const int64_t head = unit / pieces.count / rows * kHeadsPerWarp<T>;
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    HeadSums<T> sums(a.heads - head);
    for (int64_t sample = 0; sample < a.batch; ++sample, grad += a.batch_stride) {
      for (int64_t i = first + threadIdx.x; i < last; i += kWarp) {
        const Pair pair = scheme.pair(slots, i);
        if (pair.query == kNoPair) continue;
        sums.add(grad + pair.query * a.query_stride + pair.key * a.key_stride, a.head_stride);
      }
    }
    const int64_t to = row * a.heads + head;
    sums.total(true, [&](int h, accumulator_t<T> total) {
      if (pieces.count == 1) {
        static_cast<T*>(a.out)[to + h] = round_to<T>(total);
      } else {
        static_cast<accumulator_t<T>*>(a.partial)[(to + h) * pieces.count + piece] = total;
      }
    });
  }
}

// Launch 2 of 2, where rows are cut. Reads the sums of the pieces, writes rows x heads. A warp owns a row and
// a head; its lanes walk over the pieces, and their sums are added in a fixed order.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads)
    bias_reduce_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasBackward a,
                       const __grid_constant__ Pieces pieces) {
  using Sum = accumulator_t<T>;
  const int64_t count = scheme.rows() * a.heads;
  for (int64_t i = this_warp(); i < count; i += warp_count()) {
    const int64_t own = (scheme.slots(i / a.heads).count + pieces.size - 1) / pieces.size;
    const Sum* partial = static_cast<const Sum*>(a.partial) + i * pieces.count;
    Sum sum = 0;
    for (int64_t piece = threadIdx.x; piece < own; piece += kWarp) sum += partial[piece];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) static_cast<T*>(a.out)[i] = round_to<T>(sum);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
