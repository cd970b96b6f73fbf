// Bodies of the kernels of softmax with a bias, for any scheme: a warp owns a row of scores. Sums over a row
// have one order: key k is in lane k % 32, and lanes are added by halves. In float32 most rows have it on the
// CPU, too.
#pragma once

#include <limits>

#include "core/exp.h"
#include "cuda/kernels/bias_softmax.h"
#include "cuda/kernels/gather_bias.cuh"
#include "cuda/kernels/relative_bias.cuh"

namespace posenc_ext::cuda {
namespace {

// Elements of a row that a lane has in registers (with more in float64, the constants of exp spill), how many
// it loads at a time, and those of its warp.
template <class Sum>
constexpr int kOwn = sizeof(Sum) == 8 ? 2 : 16;
template <class Sum>
constexpr int kGroup = 16 / static_cast<int>(sizeof(Sum));
template <class Sum>
constexpr int kChunk = kOwn<Sum> * kWarp;

// ---- The bias

// Of a table, the values of a head that a block has in shared memory: 16 KiB, so that half of the threads of
// every arch are resident. Each pair gathers one of them.
template <class Sum>
constexpr int kStagedRows = 16384 / static_cast<int>(sizeof(Sum));
template <class Scheme>
constexpr bool kGathers = !std::is_same_v<Scheme, DiagonalScheme> && !std::is_same_v<Scheme, PairScheme>;

template <class Sum>
struct Column {
  const Sum* values;
  int64_t row_stride;
  const Sum* staged;
  bool is_staged;

  __device__ __forceinline__ Sum operator[](int64_t row) const {
    return is_staged ? staged[row] : __ldg(values + row * row_stride);
  }
};

// The bias of a query, by key. Here of diagonals and pairs, whose values are next to each other.
template <class Sum, class Scheme>
struct BiasRow {
  const Sum* values;

  __device__ __forceinline__ BiasRow(const Scheme& scheme, const Column<Sum>& column, int64_t query)
      : values(column.values + scheme.row(query, 0)) {}
  __device__ __forceinline__ Sum operator()(int key) const { return __ldg(values + key); }
};

// The row of a window is a part that depends on the query plus one that depends on the key.
template <class Sum>
struct BiasRow<Sum, DeviceWindow> {
  const DeviceWindow& scheme;
  const Column<Sum>& column;
  uint32_t of_prefix, of_query;
  bool is_patch;

  __device__ __forceinline__ BiasRow(const DeviceWindow& scheme, const Column<Sum>& column, int64_t query)
      : scheme(scheme), column(column), is_patch(query >= scheme.prefix_tokens) {
    const uint32_t rows = static_cast<uint32_t>(scheme.rows()), prefix = prefix_tokens();
    of_prefix = rows - (is_patch ? 2 : 1);
    of_query = is_patch ? row(static_cast<uint32_t>(query) - prefix, 0) - row(0, 0) : rows - 3;
  }
  __device__ __forceinline__ Sum operator()(int key) const {
    const uint32_t k = static_cast<uint32_t>(key), prefix = prefix_tokens();
    const uint32_t of_patch = of_query + (is_patch ? row(0, k - prefix) : 0);
    return column[k < prefix ? of_prefix : of_patch];
  }

 private:
  __device__ __forceinline__ uint32_t prefix_tokens() const {
    return static_cast<uint32_t>(scheme.prefix_tokens);
  }
  __device__ __forceinline__ uint32_t row(uint32_t q, uint32_t k) const {
    return static_cast<uint32_t>(scheme.fast.row(q, k));
  }
};

template <class Sum>
struct BiasRow<Sum, IndexScheme> {
  const IndexScheme& scheme;
  const Column<Sum>& column;
  int64_t first;
  mutable bool index_is_a_row_of_the_table = true;  // asserted after the row: a call would spill registers

  __device__ __forceinline__ BiasRow(const IndexScheme& scheme, const Column<Sum>& column, int64_t query)
      : scheme(scheme), column(column), first(scheme.index.at.offset(query * scheme.keys())) {}
  __device__ __forceinline__ Sum operator()(int key) const {
    const Index& index = scheme.index;
    const int64_t row = load_index(index.data, index.is_int64, first + key * index.key_stride);
    const bool is_row = row >= 0 && row < scheme.rows();
    index_is_a_row_of_the_table = index_is_a_row_of_the_table && is_row;
    return column[is_row ? row : 0];
  }
};

// ---- Rows

// Calls f(i, key) for the elements that a lane has of the keys [first, count), as far as its warp has any:
// also for keys beyond the count.
template <class Sum, class F>
__device__ __forceinline__ void for_own_keys(int first, int count, F f) {
#pragma unroll
  for (int group = 0; group < kOwn<Sum>; group += kGroup<Sum>) {
    if (first + group * kWarp >= count) break;
#pragma unroll
    for (int i = group; i < group + kGroup<Sum>; ++i) f(i, first + i * kWarp + static_cast<int>(threadIdx.x));
  }
}

// What softmax is taken of, in registers: -infinity beyond the keys that are shown.
template <class T, class Bias>
struct SoftmaxRow {
  using Sum = accumulator_t<T>;
  const T* scores;
  Sum scale;
  const Bias& bias;
  const Mask& mask;
  int64_t mask_at;  // of added or shown keys: where the row begins; of regions: where those of the window do
  int64_t query;
  int count;

  __device__ __forceinline__ void load(int first, Sum (&x)[kOwn<Sum>]) const {
    constexpr Sum kLeast = -std::numeric_limits<Sum>::infinity();
    for_own_keys<Sum>(first, count,
                      [&](int i, int key) { x[i] = key < count ? widen(scores[key]) * scale : kLeast; });
    for_own_keys<Sum>(first, count, [&](int i, int key) {
      if (key < count) x[i] += bias(key);
    });
    switch (mask.kind) {
      case Mask::Kind::none:
        break;
      case Mask::Kind::shown: {
        const uint8_t* shown = static_cast<const uint8_t*>(mask.data) + mask_at;
        for_own_keys<Sum>(first, count, [&](int i, int key) {
          if (key < count && __ldg(shown + key) == 0) x[i] = kLeast;
        });
      } break;
      case Mask::Kind::added: {
        const Sum* added = static_cast<const Sum*>(mask.data) + mask_at;
        for_own_keys<Sum>(first, count, [&](int i, int key) {
          if (key < count) x[i] += __ldg(added + key);
        });
      } break;
      case Mask::Kind::regions: {
        const int32_t* regions = static_cast<const int32_t*>(mask.data) + mask_at;
        const int32_t own = __ldg(regions + query);
        for_own_keys<Sum>(first, count, [&](int i, int key) {
          if (key < count && __ldg(regions + key) != own) x[i] += Sum(Mask::kOtherRegion);
        });
      } break;
    }
  }
};

// Of `keys` elements, those that are not shown are 0; all are NaN where none is shown, or one is NaN or
// infinity: as torch.softmax. Rows longer than registers are loaded three times. `out` may be the scores:
// each lane reads an element for the last time before it writes it.
template <class T, class Bias>
__device__ __forceinline__ void softmax_row(const SoftmaxRow<T, Bias>& row, int keys, T* out) {
  using Sum = accumulator_t<T>;
  constexpr Sum kInfinity = std::numeric_limits<Sum>::infinity();
  const int count = row.count, lane = static_cast<int>(threadIdx.x);
  const bool is_long = count > kChunk<Sum>;
  Sum x[kOwn<Sum>] = {};
  Sum largest = -kInfinity, sum = 0;
#pragma unroll 1
  for (int pass = 0; pass < 3; ++pass) {
#pragma unroll 1
    for (int first = 0; first < count; first += kChunk<Sum>) {
      if (pass == 0 || is_long) row.load(first, x);
      if (pass == 0) {
        for_own_keys<Sum>(first, count, [&](int i, int) { largest = max_or_nan(x[i], largest); });
        continue;
      }
      if (pass == 1 || is_long) {
        for_own_keys<Sum>(first, count, [&](int i, int) { x[i] = exp_of_negative<Sum>(x[i] - largest); });
      }
      if (pass == 1) {
        for_own_keys<Sum>(first, count, [&](int i, int) { sum += x[i]; });
      } else {
        for_own_keys<Sum>(first, count, [&](int i, int key) {
          if (key < count) out[key] = round_to<T>(x[i] * sum);
        });
      }
    }
    if (pass == 0) {
      largest = warp_total(largest, [](Sum a, Sum b) { return max_or_nan(a, b); });
      if (!(largest > -kInfinity && largest < kInfinity)) {
        for (int key = lane; key < keys; key += kWarp)
          out[key] = round_to<T>(std::numeric_limits<Sum>::quiet_NaN());
        return;
      }
    } else if (pass == 1) {
      sum = Sum(1) / warp_total(sum, [](Sum a, Sum b) { return a + b; });
    }
  }
  for (int key = count + lane; key < keys; key += kWarp) out[key] = T{};
}

// How rows are dealt out: the rows of a head are split into tiles.
struct SoftmaxSplit {
  int64_t tile_rows, tiles;
  Divide queries, windows;
};

// 1 launch. Must read scores and write the result, and does, in whole warps' widths; rows of more than kChunk
// keys are read three times, twice from cache. A unit, a block's work, is a tile of the rows of a head in all
// samples, a warp a row: the values of the head are staged in shared memory where they fit.
template <class T, class Scheme>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    bias_softmax_kernel(const __grid_constant__ Scheme scheme, const __grid_constant__ BiasSoftmax a,
                        const __grid_constant__ SoftmaxSplit split) {
  using Sum = accumulator_t<T>;
  using Bias = BiasRow<Sum, Scheme>;
  __shared__ Sum staged[kGathers<Scheme> ? kStagedRows<Sum> : 1];
  const int64_t queries = scheme.queries(), rows = a.batch * queries;
  const int keys = static_cast<int>(scheme.keys());
  const bool is_staged = kGathers<Scheme> && scheme.rows() <= kStagedRows<Sum>;
  for (int64_t unit = blockIdx.x; unit < a.bias.heads * split.tiles; unit += gridDim.x) {
    const int64_t head = unit / split.tiles, first = (unit - head * split.tiles) * split.tile_rows;
    const Sum* values = static_cast<const Sum*>(a.bias.table) + head * a.bias.head_stride;
    if (is_staged) {
      __syncthreads();  // the values of the last unit are done with
      const int thread = static_cast<int>(threadIdx.y * kWarp + threadIdx.x);
      for (int i = thread; i < static_cast<int>(scheme.rows()); i += kThreads)
        staged[i] = __ldg(values + i * a.bias.row_stride);
      __syncthreads();
    }
    const Column<Sum> column{values, a.bias.row_stride, staged, is_staged};
    const int count = static_cast<int>(min_of(rows - first, split.tile_rows));
    for (int i = static_cast<int>(threadIdx.y); i < count; i += kWarpsPerBlock) {
      const int64_t sample = split.queries.quotient(first + i), query = first + i - sample * queries;
      const int64_t at = ((sample * a.bias.heads + head) * queries + query) * keys;
      const int64_t mask_at =
          a.mask.kind == Mask::Kind::none ? 0
          : a.mask.kind == Mask::Kind::regions
              ? (sample - split.windows.quotient(sample) * a.mask.windows) * keys
              : a.mask.batch.offset(sample) + head * a.mask.head_stride + query * a.mask.query_stride;
      const Bias bias(scheme, column, query);
      softmax_row(SoftmaxRow<T, Bias>{static_cast<const T*>(a.scores) + at, static_cast<Sum>(a.scale), bias,
                                      a.mask, mask_at, query, static_cast<int>(a.mask.shown(query, keys))},
                  keys, static_cast<T*>(a.out) + at);
      if constexpr (std::is_same_v<Scheme, IndexScheme>) {
        POSENC_KERNEL_ASSERT(bias.index_is_a_row_of_the_table);
      }
    }
  }
}

// ---- Gradients

// Launch 1. Must read grad and result and write the gradient of the scores; does, and reads the former two
// again from cache; writes a number per row, the sum of result * grad, for the gradient of the table.
template <class T>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    softmax_backward_kernel(const __grid_constant__ BiasSoftmaxBackward a, int64_t rows, int keys) {
  using Sum = accumulator_t<T>;
  const int lane = static_cast<int>(threadIdx.x);
  for (int64_t row = this_warp(); row < rows; row += warp_count()) {
    const T* grad = static_cast<const T*>(a.grad) + row * keys;
    const T* result = static_cast<const T*>(a.result) + row * keys;
    Sum dot = 0;
#pragma unroll 4
    for (int key = lane; key < keys; key += kWarp) dot += widen(result[key]) * widen(grad[key]);
    dot = warp_total(dot, [](Sum x, Sum y) { return x + y; });
    if (lane == 0) static_cast<Sum*>(a.dots)[row] = dot;
    T* out = static_cast<T*>(a.grad_scores) + row * keys;
#pragma unroll 4
    for (int key = lane; key < keys; key += kWarp) {
      out[key] = round_to<T>(widen(result[key]) * (widen(grad[key]) - dot) * static_cast<Sum>(a.scale));
    }
  }
}

// The gradient of the bias of a pair: result * (grad - dot), of its row. For head h from one on.
template <class T>
struct SoftmaxTerm {
  using Sum = accumulator_t<T>;
  const T* grad;
  const T* result;
  const Sum* dot;
  int64_t head_stride, dot_stride;

  __device__ __forceinline__ Sum operator()(int64_t h) const {
    return widen(result[h * head_stride]) * (widen(grad[h * head_stride]) - dot[h * dot_stride]);
  }
};

// Of contiguous tensors [batch, heads, queries, keys].
template <class T>
struct SoftmaxTerms {
  using Type = T;
  using Sum = accumulator_t<T>;
  using Out = Sum;
  static constexpr bool kBatched = true;
  const T* grad;
  const T* result;
  const Sum* dots;
  int64_t heads, queries, keys;

  __device__ __forceinline__ SoftmaxTerm<T> at(int64_t sample, int64_t head, const Pair& pair) const {
    const int64_t row = (sample * heads + head) * queries + pair.query, i = row * keys + pair.key;
    return {grad + i, result + i, dots + row, queries * keys, queries};
  }
};

// By place of an index that all samples share.
template <class T>
struct SoftmaxPlaces {
  using Type = T;
  SoftmaxTerms<T> terms;
  FastDivide keys, queries;

  __device__ __forceinline__ SoftmaxTerm<T> at(uint32_t place, int64_t head) const {
    const uint32_t line = keys.quotient(place), sample = queries.quotient(line);
    return terms.at(sample, head, {queries.remainder(line, sample), keys.remainder(place, line)});
  }
};

// Launch 2 of a bias given by pair, and of 3 where samples are split. A thread sums a pair over a chunk of
// the samples, in their order. partial: [chunks, heads x pairs].
template <class T>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    pair_backward_kernel(const __grid_constant__ SoftmaxTerms<T> terms, int64_t batch, accumulator_t<T>* out,
                         const __grid_constant__ Chunks chunks) {
  const int64_t plane = terms.queries * terms.keys, count = terms.heads * plane;
  for (int64_t unit = blockIdx.x * int64_t{kThreads} + threadIdx.x; unit < count * chunks.count;
       unit += gridDim.x * int64_t{kThreads}) {
    const int64_t chunk = unit / count, i = unit - chunk * count, first = chunk * chunks.size;
    const int64_t row = i / terms.keys;
    const SoftmaxTerm<T> samples{terms.grad + first * count + i, terms.result + first * count + i,
                                 terms.dots + first * terms.heads * terms.queries + row, count,
                                 terms.heads * terms.queries};
    const int64_t own = min_of(batch - first, chunks.size);
    accumulator_t<T> sum = 0;
#pragma unroll 2
    for (int64_t sample = 0; sample < own; ++sample) sum += samples(sample);
    out[unit] = sum;
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
