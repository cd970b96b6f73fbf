// Bodies of the kernels for the bias of any index.
#pragma once

#include <type_traits>

#include "cuda/kernels/bias.cuh"
#include "cuda/kernels/gather_bias.h"

namespace posenc_ext::cuda {
namespace {

// Rows that an index names. It is read once per group of heads.
template <class T>
struct IndexSource : TableRow<T> {
  Index index;
  int64_t rows;

  __device__ __forceinline__ int64_t at(int64_t sample, int64_t first) const {
    return sample * index.plane() + first;
  }
  __device__ __forceinline__ int64_t number(int64_t at, int i) const {
    const int64_t row = load_index(index.data, index.is_int64, index.at.offset(at + i));
    const bool index_is_a_row_of_the_table = row >= 0 && row < rows;
    POSENC_KERNEL_ASSERT(index_is_a_row_of_the_table);
    return index_is_a_row_of_the_table ? row * this->row_stride : 0;
  }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kSortingBlocks = 2;  // half of a multiprocessor's 1024 threads; more would spill
#else
constexpr int kSortingBlocks = kHalfResident;
#endif
constexpr int kPassRows = 1024;  // of the table, that a block of the backward kernel sums at a time

// The places of a tile, those of the first row first, then those of the next, each row's in ascending order.
struct RowOrder {
  static constexpr int kWarpPlaces = kPlaceTile / kWarpsPerBlock;  // that each warp looks at
  int16_t row[kPlaceTile];                   // of a place; negative where it is none of these rows
  uint16_t next[kWarpsPerBlock][kPassRows];  // places of a row that a warp has, then where its next one goes
  uint16_t start[kPassRows + 1];             // of each row, in `place`
  uint16_t place[kPlaceTile];
  int total[kWarpsPerBlock];

  // Of `count` places, for the block, whose warps have set the rows of theirs. The last tile's order is safe
  // until all warps are here.
  __device__ __forceinline__ void sort(int count) {
    const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
    for (int i = lane; i < kPassRows; i += kWarp) next[warp][i] = 0;
    __syncwarp();
    walk(
        count, [](int, int, int) {},
        [&](int, int own, int same) { next[warp][own] += static_cast<uint16_t>(same); });
    __syncthreads();
    // A thread owns neighbouring rows.
    constexpr int kOwn = kPassRows / kThreads;
    const int first = (warp * kWarp + lane) * kOwn;
    int owned = 0;
    for (int w = 0; w < kWarpsPerBlock; ++w) {
      for (int i = 0; i < kOwn; ++i) owned += next[w][first + i];
    }
    int before = owned;  // summed over the lanes up to this one
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, offset);
      if (lane >= offset) before += other;
    }
    if (lane == kWarp - 1) total[warp] = before;
    before -= owned;
    __syncthreads();
    for (int w = 0; w < warp; ++w) before += total[w];
#pragma unroll 1
    for (int i = first; i < first + kOwn; ++i) {
      start[i] = static_cast<uint16_t>(before);
#pragma unroll 1
      for (int w = 0; w < kWarpsPerBlock; ++w) {
        const int own = next[w][i];
        next[w][i] = static_cast<uint16_t>(before);
        before += own;
      }
    }
    if (first + kOwn == kPassRows) start[kPassRows] = static_cast<uint16_t>(before);
    __syncthreads();
    walk(
        count, [&](int i, int own, int rank) { place[next[warp][own] + rank] = static_cast<uint16_t>(i); },
        [&](int, int own, int same) { next[warp][own] += static_cast<uint16_t>(same); });
    __syncthreads();
  }

 private:
  // A warp walks over its places, 32 at a time: every(place, row, rank among those of the same row), then for
  // the first of these first(place, row, their number).
  template <class Every, class First>
  __device__ __forceinline__ void walk(int count, Every every, First first) {
    const int lane = static_cast<int>(threadIdx.x), begin = static_cast<int>(threadIdx.y) * kWarpPlaces;
#pragma unroll 1
    for (int i = begin + lane; i - lane < min_of(count, begin + kWarpPlaces); i += kWarp) {
      const int own = row[i];
      const uint32_t same = __match_any_sync(0xffffffffu, own);
      const int rank = __popc(same & ((1u << lane) - 1u));
      if (own >= 0) every(i, own, rank);
      __syncwarp();
      if (own >= 0 && rank == 0) first(i, own, __popc(same));
      __syncwarp();
    }
  }
};

// What sums over the places of an index read: at(place, head) is the term of a place, for heads from this one
// on.
template <class T>
struct GradPlaces {
  using Type = T;
  const T* grad;
  int64_t head_stride;
  FastStrided places;

  __device__ __forceinline__ GradTerm<T> at(uint32_t place, int64_t head) const {
    return {grad + head * head_stride + places.offset(place), head_stride};
  }
};

// Launch 1 of 2. Must read the gradient's heads x places elements and the index; reads the index once per
// kHeadsPerWarp heads and kPassRows rows, and the gradient in the order of the rows within tiles that caches
// hold; writes a sum per chunk, row and head, no more of them than terms. A unit, a block's work, is a chunk
// of the places x up to kPassRows rows x up to kHeadsPerWarp heads. The block brings the places of a tile
// into the order of their rows; then a warp owns a row, its lanes walk over its places, and their sums are
// added in a fixed order.
template <class Terms>
__global__ void __launch_bounds__(kThreads, kSortingBlocks)
    gather_backward_kernel(const __grid_constant__ GatherBackward a,
                           const __grid_constant__ FastStrided index_at, const __grid_constant__ Terms terms,
                           const __grid_constant__ Chunks chunks, int64_t passes, int64_t units) {
  using T = typename Terms::Type;
  using Sum = accumulator_t<T>;
  __shared__ RowOrder tile;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int64_t chunk = unit % chunks.count, first_row = unit / chunks.count % passes * kPassRows;
    const int64_t head = unit / chunks.count / passes * kHeadsPerWarp<T>;
    const int rows = static_cast<int>(min_of<int64_t>(kPassRows, a.rows - first_row));
    // Places are below 2^31.
    const int begin = static_cast<int>(chunk * chunks.size);
    const int end = static_cast<int>(min_of(a.index.lines() * a.index.keys, begin + chunks.size));
    for (int first = begin; first < end; first += min_of(kPlaceTile, end - first)) {
      const int count = min_of(kPlaceTile, end - first);
      for (int n = static_cast<int>(threadIdx.x); n < RowOrder::kWarpPlaces; n += kWarp) {
        const int i = static_cast<int>(threadIdx.y) * RowOrder::kWarpPlaces + n;
        int64_t row = -1;
        if (i < count) {
          row = load_index(a.index.data, a.index.is_int64, index_at.offset(static_cast<uint32_t>(first + i)));
          const bool index_is_a_row_of_the_table = row >= 0 && row < a.rows;
          POSENC_KERNEL_ASSERT(index_is_a_row_of_the_table);
          row -= first_row;
        }
        tile.row[i] = static_cast<int16_t>(row >= 0 && row < rows ? row : -1);
      }
      tile.sort(count);
      for (int row = static_cast<int>(threadIdx.y); row < rows; row += kWarpsPerBlock) {
        const int own = tile.start[row + 1] - tile.start[row];
        HeadSums<T> sums(a.heads - head);
        for (int i = static_cast<int>(threadIdx.x); i < own; i += kWarp) {
          const uint32_t place = static_cast<uint32_t>(first + tile.place[tile.start[row] + i]);
          sums.add(terms.at(place, head));
        }
        Sum* const to = static_cast<Sum*>(a.partial) + (chunk * a.rows + first_row + row) * a.heads + head;
        const bool adds = first > begin;  // to what the same lane has written
        sums.total(own > 1, [&](int h, Sum total) { to[h] = adds ? to[h] + total : total; });
      }
    }
  }
}

// Launch 2 of 2. Reads the sums of the chunks, writes rows x heads. A thread sums every 8th chunk of an
// element; the sums of a block's 8 are added in their order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_reduce_kernel(const __grid_constant__ GatherBackward a, const __grid_constant__ Chunks chunks) {
  using Sum = accumulator_t<T>;
  __shared__ Sum partial[kWarpsPerBlock][kWarp];
  const int64_t count = a.rows * a.heads;
  for (int64_t first = blockIdx.x * int64_t{kWarp}; first < count; first += gridDim.x * int64_t{kWarp}) {
    const int64_t i = first + threadIdx.x;
    Sum sum = 0;
    if (i < count) {
      for (int64_t chunk = threadIdx.y; chunk < chunks.count; chunk += kWarpsPerBlock) {
        sum += static_cast<const Sum*>(a.partial)[chunk * count + i];
      }
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && i < count) {
      for (int w = 1; w < kWarpsPerBlock; ++w) sum += partial[w][threadIdx.x];
      static_cast<T*>(a.out)[i] = round_to<T>(sum);
    }
    __syncthreads();  // the partial sums are done with
  }
}

// `Out`: of the result.
template <class Out, class Terms>
void launch_place_sums(const GatherBackward& a, const Terms& terms, cudaStream_t stream) {
  const Chunks chunks = split_index(a.index.lines() * a.index.keys, a.rows);
  const int64_t passes = divide_up(a.rows, kPassRows);
  const int64_t units = chunks.count * passes * divide_up(a.heads, kHeadsPerWarp<typename Terms::Type>);
  const dim3 threads(kWarp, kWarpsPerBlock);
  launch(gather_backward_kernel<Terms>, clamped_grid(units, kBlocksPerMultiprocessor), threads, stream, a,
         make_fast_strided(a.index.at), terms, chunks, passes, units);
  launch(gather_reduce_kernel<Out>,
         clamped_grid(divide_up(a.rows * a.heads, kWarp), kBlocksPerMultiprocessor), threads, stream, a,
         chunks);
}

}  // namespace
}  // namespace posenc_ext::cuda
