// Bodies of the position-embedding kernels.
#pragma once

#include "core/fast_divide.h"
#include "core/sums.h"
#include "cuda/kernels/position_embedding.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kSquare = 32;    // tokens and channels of the transposed kernel's tiles
constexpr int kSumSlices = 8;  // threadIdx.y of the kernels that sum

// Tokens [first, last), split into chunks of samples. A thread's column is what it owns of the tokens'
// channels.
struct TokenSplit {
  int64_t first, last;
  int64_t chunks, chunk_samples;
  Divide columns, token_columns;  // of all tokens, of one
};

// Where a token of the result comes from.
struct Source {
  const void* data;
  int64_t offset;  // of its first channel in sample 0
  int64_t batch_stride, channel_stride;
  bool scaled;         // of x, else of prefix tokens
  bool embedded;       // else pos is not added
  int64_t pos_offset;  // of its row of pos
};

__device__ __forceinline__ Source source_of(const AddPositionEmbedding& a, int64_t token) {
  const Tokens* from = &a.x;
  int64_t own = token - a.prefix_length;
  if (own < 0) {
    int32_t i = 0;
    while (token >= a.prefix_end[i]) ++i;
    from = &a.prefix[i];
    own = i == 0 ? token : token - a.prefix_end[i - 1];
  }
  return {from->data,
          own * from->token_stride,
          from->batch_stride,
          from->channel_stride,
          token >= a.prefix_length && a.x_scale != 1.0,
          token >= a.first_embedded,
          (token - a.first_embedded) * a.pos_token_stride};
}

// x (times its scale) and pos (where it is added), times the scale of dropout, before they are rounded.
template <class T, class Real>
__device__ __forceinline__ Real embedded(const Scales<Real>& scales, T x, bool scaled, bool embedded, T pos,
                                         bool drops) {
  const Real value =
      embedded ? scaled_sum<Real>(widen(x), scaled ? scales.x : Real{1}, widen(pos)) : Real{widen(x)};
  return drops ? value * scales.retained : value;
}
template <class T>
__device__ __forceinline__ FloatPair embedded(const Scales<FloatPair>& scales, T x, bool scaled,
                                              bool embedded, T pos, bool drops) {
  const FloatPair one{1.0f, 0.0f};
  if (embedded) return scaled_sum(widen(x), scaled ? scales.x : one, widen(pos), drops, scales.retained);
  return multiply(widen(x), drops ? scales.retained : one);
}

// 1 launch (2 with prefix tokens before a transposed x). Must read and write batch x tokens x dim elements,
// and read pos once; reads pos once a chunk of samples, mostly from cache. A thread owns a vector of channels
// of a token and walks over the samples of a chunk.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    add_position_embedding_kernel(const __grid_constant__ AddPositionEmbedding a,
                                  const __grid_constant__ TokenSplit split,
                                  const __grid_constant__ Scales<Real> scales) {
  constexpr int kWidth = Pack<T>::kWidth;
  const uint64_t seed = seed_of(a.dropout);
  const bool drops = a.dropout.seed != nullptr;
  const int64_t vectors = split.token_columns.divisor, columns = split.columns.divisor;
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < columns * split.chunks; i += step) {
    const int64_t chunk = split.columns.quotient(i), column = i - chunk * columns;
    const int64_t token = split.token_columns.quotient(column), c = (column - token * vectors) * kWidth;
    const Source source = source_of(a, split.first + token);
    const T* x = static_cast<const T*>(source.data) + source.offset + c;
    int64_t out = (split.first + token) * a.out_token_stride + c;
    Pack<T> pos{};
    if (source.embedded) pos = Pack<T>::load(static_cast<const T*>(a.pos) + source.pos_offset + c);
    const int64_t first = chunk * split.chunk_samples;
    const int64_t last = min_of(a.batch, first + split.chunk_samples);
    x += first * source.batch_stride;
    out += first * a.out_batch_stride;
    for (int64_t b = first; b < last; ++b, x += source.batch_stride, out += a.out_batch_stride) {
      Pack<T> pack = Pack<T>::load(x);
      if (!drops && !source.scaled) {
        if (source.embedded) {
#pragma unroll
          for (int n = 0; n < kWidth; ++n) {
            pack.value[n] = round_to<T>(plain_sum(pack.value[n], pos.value[n]));
          }
        }
      } else {
        Real value[kWidth];
#pragma unroll
        for (int n = 0; n < kWidth; ++n) {
          value[n] = embedded(scales, pack.value[n], source.scaled, source.embedded, pos.value[n], drops);
        }
        if (drops) clear_dropped(a.dropout.dropout, seed, out, value);
#pragma unroll
        for (int n = 0; n < kWidth; ++n) pack.value[n] = rounded<T>(value[n]);
      }
      pack.store(static_cast<T*>(a.out) + out);
    }
  }
}

// One element of the result, from operands of any strides.
template <class T, class Real>
__device__ __forceinline__ T embed_element(const AddPositionEmbedding& a, const Scales<Real>& scales,
                                           uint64_t seed, int64_t out, T x, bool scaled, bool adds, T pos) {
  const bool drops = a.dropout.seed != nullptr;
  if (!drops && !scaled) return adds ? round_to<T>(plain_sum(x, pos)) : x;
  Real value[1] = {embedded(scales, x, scaled, adds, pos, drops)};
  if (drops) clear_dropped(a.dropout.dropout, seed, out, value);
  return rounded<T>(value[0]);
}

// The same for any strides; a thread owns an element of a token.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads)
    add_position_embedding_strided_kernel(const __grid_constant__ AddPositionEmbedding a,
                                          const __grid_constant__ TokenSplit split,
                                          const __grid_constant__ Scales<Real> scales) {
  const uint64_t seed = seed_of(a.dropout);
  const int64_t columns = split.columns.divisor;
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < columns * split.chunks; i += step) {
    const int64_t chunk = split.columns.quotient(i), column = i - chunk * columns;
    const int64_t token = split.token_columns.quotient(column), c = column - token * a.dim;
    const Source source = source_of(a, split.first + token);
    const T* x = static_cast<const T*>(source.data) + source.offset + c * source.channel_stride;
    T pos{};
    if (source.embedded) pos = static_cast<const T*>(a.pos)[source.pos_offset + c * a.pos_channel_stride];
    const int64_t first = chunk * split.chunk_samples;
    const int64_t last = min_of(a.batch, first + split.chunk_samples);
    for (int64_t b = first; b < last; ++b) {
      const int64_t out = b * a.out_batch_stride + (split.first + token) * a.out_token_stride + c;
      static_cast<T*>(a.out)[out] = embed_element(a, scales, seed, out, x[b * source.batch_stride],
                                                  source.scaled, source.embedded, pos);
    }
  }
}

// 1 launch. Reads and writes what the kernel above does, a sample at a time, so pos comes from cache. The
// tokens of an x whose channels are further apart than its tokens (an image, channels first): a block reads a
// square along the tokens into shared memory and writes it along the channels.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    add_position_embedding_transposed_kernel(const __grid_constant__ AddPositionEmbedding a,
                                             const __grid_constant__ Scales<Real> scales) {
  __shared__ T square[kSquare][kSquare + 1];
  const uint64_t seed = seed_of(a.dropout);
  const int64_t tokens = a.length - a.prefix_length;
  const int64_t token_tiles = (tokens + kSquare - 1) / kSquare, tiles = (a.dim + kSquare - 1) / kSquare;
  const int across = static_cast<int>(threadIdx.x), down = static_cast<int>(threadIdx.y);
  for (int64_t unit = blockIdx.x; unit < a.batch * token_tiles * tiles; unit += gridDim.x) {
    const int64_t b = unit / (token_tiles * tiles), tile = unit - b * token_tiles * tiles;
    const int64_t first_token = tile / tiles * kSquare, first_channel = tile % tiles * kSquare;
    const T* x = static_cast<const T*>(a.x.data) + b * a.x.batch_stride;
    __syncthreads();  // the last unit's square is done with
    for (int i = down; i < kSquare; i += static_cast<int>(blockDim.y)) {
      const int64_t token = first_token + across, c = first_channel + i;
      if (token < tokens && c < a.dim) {
        square[i][across] = x[token * a.x.token_stride + c * a.x.channel_stride];
      }
    }
    __syncthreads();
    for (int i = down; i < kSquare; i += static_cast<int>(blockDim.y)) {
      const int64_t token = first_token + i, c = first_channel + across;
      if (token >= tokens || c >= a.dim) continue;
      const int64_t row = token + a.prefix_length - a.first_embedded;
      const T pos = static_cast<const T*>(a.pos)[row * a.pos_token_stride + c * a.pos_channel_stride];
      const int64_t out = b * a.out_batch_stride + (token + a.prefix_length) * a.out_token_stride + c;
      static_cast<T*>(a.out)[out] =
          embed_element(a, scales, seed, out, square[across][i], a.x_scale != 1.0, true, pos);
    }
  }
}

// What a thread of the kernels below owns of a row: kWidth neighbouring columns.
template <class T, int kWidth, class Load, class Store>
__device__ __forceinline__ void sum_slices(const SumBatch& a, Load load, Store store) {
  using Sum = accumulator_t<T>;
  __shared__ Sum partial[kSumSlices][kWidth][kWarp];
  const int lane = static_cast<int>(threadIdx.x), slice = static_cast<int>(threadIdx.y);
  const int64_t tiles = (a.columns + kWarp * kWidth - 1) / (kWarp * kWidth);
  for (int64_t unit = blockIdx.x; unit < a.rows * tiles; unit += gridDim.x) {
    const int64_t row = unit / tiles, column = (unit - row * tiles) * kWarp * kWidth + lane * kWidth;
    const bool owns = column < a.columns;
    Sum sum[kWidth] = {};
    if (owns) {
      const T* grad = static_cast<const T*>(a.grad) + row * a.row_stride + column * a.column_stride;
#pragma unroll 4
      for (int64_t b = slice; b < a.batch; b += kSumSlices) load(grad + b * a.batch_stride, sum);
    }
#pragma unroll
    for (int n = 0; n < kWidth; ++n) partial[slice][n][lane] = sum[n];
    __syncthreads();
    if (slice == 0 && owns) {
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        for (int s = 1; s < kSumSlices; ++s) sum[n] += partial[s][n][lane];
      }
      store(static_cast<T*>(a.out) + row * a.out_row_stride + column * a.out_column_stride, sum);
    }
    __syncthreads();  // the partial sums are done with
  }
}

// 1 launch. Reads batch x rows x columns elements, writes rows x columns: no byte more than it must. A thread
// sums every kSumSlices-th sample of a vector of columns; the sums of a block's slices are added in their
// order.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_batch_kernel(const __grid_constant__ SumBatch a) {
  constexpr int kWidth = Pack<T>::kWidth;
  using Sum = accumulator_t<T>;
  sum_slices<T, kWidth>(
      a,
      [](const T* from, Sum(&sum)[kWidth]) {
        const Pack<T> pack = Pack<T>::load(from);
#pragma unroll
        for (int n = 0; n < kWidth; ++n) sum[n] += widen(pack.value[n]);
      },
      [](T* to, const Sum(&sum)[kWidth]) {
        Pack<T> pack;
#pragma unroll
        for (int n = 0; n < kWidth; ++n) pack.value[n] = round_to<T>(sum[n]);
        pack.store(to);
      });
}

// The same for any strides; a thread owns a column.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_batch_strided_kernel(const __grid_constant__ SumBatch a) {
  using Sum = accumulator_t<T>;
  sum_slices<T, 1>(
      a, [](const T* from, Sum(&sum)[1]) { sum[0] += widen(*from); },
      [](T* to, const Sum(&sum)[1]) { *to = round_to<T>(sum[0]); });
}

}  // namespace
}  // namespace posenc_ext::cuda
