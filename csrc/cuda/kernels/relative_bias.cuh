// Bodies of the relative-position bias kernels, for any scheme. Index arithmetic costs more than the copy or
// the sum it serves, so kernels do it once for several heads.
#pragma once

#include "cuda/kernels/relative_bias.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kPlaneTile = 1024;   // (query, key) pairs per block
constexpr int kHeadsInFlight = 2;  // threadIdx.y of the forward kernel
constexpr int kHeadsPerWarp = 8;   // of the backward kernel
constexpr int kWarpsPerBlock = kThreads / kWarp;

// Heads are cut into groups so that small windows fill the device too.
struct BiasSplit {
  int64_t tiles, groups, group_heads;
};

// Reads pairs elements of the table (from cache, but for the first time) and writes heads x pairs elements. A
// block finds the rows of kPlaneTile pairs, then copies them for each head of its group: threadIdx.x walks
// over the 16-byte pieces of that head's stretch of the output, wherever it starts; only its first and last
// piece may be cut.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads, 4)
    bias_forward_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasForward a,
                        const __grid_constant__ BiasSplit split) {
  constexpr int kWidth = Pack<T>::kWidth;
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
      const T* table = static_cast<const T*>(a.table) + head * a.head_stride;
      T* out = static_cast<T*>(a.out) + head * plane + first;
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
  }
}

// Work cut into units: a piece of a row x a group of kHeadsPerWarp heads.
struct BiasBackwardSplit {
  RowPieces row;
  int64_t units;
};

// Reads heads x queries x keys elements; writes rows x heads, or as many sums per piece. A warp owns a piece
// of a row and up to kHeadsPerWarp heads; its lanes walk over the piece's slots, and partial sums are added
// in lane order. Where rows are whole, the warps of a block own neighbouring rows, whose pairs lie in
// neighbouring elements of the gradient: a sector that one warp brings into the cache serves the others.
// Where rows are cut, they own neighbouring pieces, so that a long row does not stay with a few warps.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads, 2)
    bias_backward_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasBackward a,
                         const __grid_constant__ BiasBackwardSplit split) {
  using Sum = accumulator_t<T>;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t rows = scheme.rows(), pieces = split.row.pieces;
  for (int64_t unit = blockIdx.x * int64_t{kWarpsPerBlock} + threadIdx.y; unit < split.units;
       unit += gridDim.x * int64_t{kWarpsPerBlock}) {
    const int64_t piece = unit % pieces, row = unit / pieces % rows;
    const int64_t first = piece * split.row.slots, slots = scheme.slots(row);
    if (first >= slots && piece > 0) continue;
    const int64_t last = min_of(slots, first + split.row.slots);
    const int64_t head = unit / pieces / rows * kHeadsPerWarp;
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    Sum sum[kHeadsPerWarp] = {};
    for (int64_t i = first + lane; i < last; i += kWarp) {
      const Pair pair = scheme.slot(row, i);
      if (pair.query == kNoPair) continue;
      const T* from = grad + pair.query * a.query_stride + pair.key * a.key_stride;
#pragma unroll
      for (int h = 0; h < kHeadsPerWarp; ++h) {
        if (head + h < a.heads) sum[h] += widen(from[h * a.head_stride]);
      }
    }
    const int64_t to = row * a.heads + head;
#pragma unroll
    for (int h = 0; h < kHeadsPerWarp; ++h) {
      const Sum total = warp_sum(sum[h]);
      if (lane != 0 || head + h >= a.heads) continue;
      if (pieces == 1) {
        static_cast<T*>(a.out)[to + h] = round_to<T>(total);
      } else {
        static_cast<Sum*>(a.partial)[(to + h) * pieces + piece] = total;
      }
    }
  }
}

// Reads the sums of the pieces, writes rows x heads. A warp owns a row and a head; its lanes walk over the
// pieces, and their sums are added in lane order.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads)
    bias_reduce_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasBackward a,
                       const __grid_constant__ RowPieces cut) {
  using Sum = accumulator_t<T>;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t count = scheme.rows() * a.heads;
  for (int64_t i = blockIdx.x * int64_t{kWarpsPerBlock} + threadIdx.y; i < count;
       i += gridDim.x * int64_t{kWarpsPerBlock}) {
    const int64_t pieces = (scheme.slots(i / a.heads) + cut.slots - 1) / cut.slots;
    const Sum* partial = static_cast<const Sum*>(a.partial) + i * cut.pieces;
    Sum sum = 0;
    for (int64_t piece = lane; piece < pieces; piece += kWarp) sum += partial[piece];
    sum = warp_sum(sum);
    if (lane == 0) static_cast<T*>(a.out)[i] = round_to<T>(sum);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
