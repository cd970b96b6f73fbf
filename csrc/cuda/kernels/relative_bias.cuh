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

// What sums over the pairs of rows read: at(sample, head, pair) is the term of a pair, for heads from this
// one on. kBatched: whether there are several samples.
template <class T>
struct GradTerms {
  using Type = T;
  using Out = T;
  static constexpr bool kBatched = false;
  const T* grad;
  int64_t head_stride, query_stride, key_stride;

  __device__ __forceinline__ GradTerm<T> at(int64_t /*sample*/, int64_t head, const Pair& pair) const {
    return {grad + head * head_stride + pair.query * query_stride + pair.key * key_stride, head_stride};
  }
};

// out[row, head] is the sum over the batch and the pairs of the row. partial: [rows, heads, chunks].
struct RowSums {
  int64_t batch, heads;
  void* partial;
  void* out;
  int64_t row_stride, head_stride;
};

// 1 launch, or 2 where rows are long. Must read heads x queries x keys elements of each sample and write rows
// x heads, and does; long rows are split in chunks, each of which writes a sum that the second launch reads.
// A unit, a warp's work, is a chunk of a row x up to kHeadsPerWarp heads; the lanes walk over the chunk's
// slots, those of a sample after those of the one before, and their sums are added in a fixed order. Where
// rows are whole, or there are samples, the warps of a block own neighbouring rows, whose pairs are in
// neighbouring elements: a sector that one warp brings into the cache serves the others. Where rows of one
// sample are split, they own neighbouring chunks, so that no few warps own all of a long row.
template <class Terms, class Scheme>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    bias_backward_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ Terms terms,
                         const __grid_constant__ RowSums a, const __grid_constant__ Chunks chunks,
                         int64_t units) {
  using T = typename Terms::Type;
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows();
  for (int64_t unit = this_warp(); unit < units; unit += warp_count()) {
    const int64_t chunk = Terms::kBatched ? unit / rows % chunks.count : unit % chunks.count;
    const int64_t row = Terms::kBatched ? unit % rows : unit / chunks.count % rows;
    const auto slots = scheme.slots(row);
    const int64_t first = chunk * chunks.size;
    if (chunk > 0 && first >= a.batch * slots.count) continue;
    const int64_t last = min_of(a.batch * slots.count, first + chunks.size);
    const int64_t head = unit / chunks.count / rows * kHeadsPerWarp<T>;
    HeadSums<T> sums(a.heads - head);
    // The sample and slot of a lane's element, and how far the next one is.
    const int64_t count = max_of<int64_t>(1, slots.count);
    int64_t sample = Terms::kBatched ? (first + threadIdx.x) / count : 0;
    int64_t slot = first + threadIdx.x - sample * count;
    const int samples = count > kWarp || !Terms::kBatched ? 0 : kWarp / static_cast<int>(count);
    for (int64_t i = first + threadIdx.x; i < last; i += kWarp) {
      const Pair pair = scheme.pair(slots, slot);
      if (pair.query != kNoPair) sums.add(terms.at(sample, head, pair));
      sample += samples;
      slot += kWarp - samples * count;
      if (Terms::kBatched && slot >= count) slot -= count, ++sample;
    }
    sums.total(true, [&](int h, Sum total) {
      if (chunks.count == 1) {
        static_cast<typename Terms::Out*>(a.out)[row * a.row_stride + (head + h) * a.head_stride] =
            round_to<typename Terms::Out>(total);
      } else {
        static_cast<Sum*>(a.partial)[(row * a.heads + head + h) * chunks.count + chunk] = total;
      }
    });
  }
}

// Launch 2 of 2, where rows are split. Reads the sums of the chunks, writes rows x heads. A warp owns a row
// and a head; its lanes walk over the chunks, and their sums are added in a fixed order.
template <class Out, class Scheme>
__global__ void __launch_bounds__(kThreads)
    bias_reduce_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ RowSums a,
                       const __grid_constant__ Chunks chunks) {
  using Sum = accumulator_t<Out>;
  const int64_t count = scheme.rows() * a.heads;
  for (int64_t i = this_warp(); i < count; i += warp_count()) {
    const int64_t row = i / a.heads, head = i - row * a.heads;
    const int64_t own = (a.batch * scheme.slots(row).count + chunks.size - 1) / chunks.size;
    const Sum* partial = static_cast<const Sum*>(a.partial) + i * chunks.count;
    Sum sum = 0;
    for (int64_t chunk = threadIdx.x; chunk < own; chunk += kWarp) sum += partial[chunk];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) {
      static_cast<Out*>(a.out)[row * a.row_stride + head * a.head_stride] = round_to<Out>(sum);
    }
  }
}

template <class Terms, class Scheme>
void launch_row_sums(const Scheme& scheme, const Terms& terms, const RowSums& sums, cudaStream_t stream) {
  const Chunks chunks = split_rows(scheme, sums.batch);
  auto device = make_device_scheme(scheme);
  const int64_t units =
      chunks.count * scheme.rows() * divide_up(sums.heads, kHeadsPerWarp<typename Terms::Type>);
  launch_warps(bias_backward_kernel<Terms, decltype(device)>, units, stream, device, terms, sums, chunks,
               units);
  if (chunks.count == 1) return;
  launch_warps(bias_reduce_kernel<typename Terms::Out, decltype(device)>, scheme.rows() * sums.heads, stream,
               device, sums, chunks);
}

}  // namespace
}  // namespace posenc_ext::cuda
