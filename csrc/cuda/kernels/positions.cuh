// Bodies of the kernels on given positions; included by position_embedding.cu.
#pragma once

#include "cuda/kernels/position_embedding.cuh"

namespace posenc_ext::cuda {
namespace {

// kWidth neighbouring channels: one, or a vector.
template <class T, int kWidth>
__device__ __forceinline__ void load_channels(const T* from, T (&value)[kWidth]) {
  if constexpr (kWidth == 1) {
    value[0] = *from;
  } else {
    const Pack<T> pack = Pack<T>::load(from);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] = pack.value[n];
  }
}

template <class T, int kWidth>
__device__ __forceinline__ void store_channels(T* to, const T (&value)[kWidth]) {
  if constexpr (kWidth == 1) {
    *to = value[0];
  } else {
    Pack<T> pack;
#pragma unroll
    for (int n = 0; n < kWidth; ++n) pack.value[n] = value[n];
    pack.store(to);
  }
}

template <class T, class Real, int kWidth>
__device__ __forceinline__ void add_rows(const AddPositions& a, const Divide& columns,
                                         const Scales<Real>& scales) {
  const uint64_t seed = seed_of(a.dropout);
  const bool drops = a.dropout.seed != nullptr, scaled = a.x_scale != 1.0;
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < a.count * columns.divisor; i += step) {
    const int64_t token = columns.quotient(i), c = (i - token * columns.divisor) * kWidth;
    const bool wide = a.positions.type == PositionType::i64;
    int64_t row = load_index(a.positions.data, wide, a.positions.at.offset(token));
    const bool position_is_a_row_of_pos_embed = row >= 0 && row < a.rows;
    POSENC_KERNEL_ASSERT(position_is_a_row_of_pos_embed);
    if (!position_is_a_row_of_pos_embed) row = 0;
    T x[kWidth], pos[kWidth];
    load_channels(static_cast<const T*>(a.x) + a.x_at.offset(token) + c * a.x_channel_stride, x);
    load_channels(static_cast<const T*>(a.table) + row * a.table_row_stride + c * a.table_channel_stride,
                  pos);
    const int64_t out = token * a.dim + c;
    if (!drops && !scaled) {
#pragma unroll
      for (int n = 0; n < kWidth; ++n) x[n] = round_to<T>(plain_sum(x[n], pos[n]));
    } else {
      Real value[kWidth];
#pragma unroll
      for (int n = 0; n < kWidth; ++n) value[n] = embedded(scales, x[n], scaled, true, pos[n], drops);
      if (drops) clear_dropped(a.dropout.dropout, seed, out, value);
#pragma unroll
      for (int n = 0; n < kWidth; ++n) x[n] = rounded<T>(value[n]);
    }
    store_channels(static_cast<T*>(a.out) + out, x);
  }
}

// 1 launch. Must read and write count x dim elements, and read a row of pos_embed and a position for each row
// of x; reads a position once per vector, from cache. A thread owns a vector of channels of a row.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    add_positions_kernel(const __grid_constant__ AddPositions a, const __grid_constant__ Divide columns,
                         const __grid_constant__ Scales<Real> scales) {
  add_rows<T, Real, Pack<T>::kWidth>(a, columns, scales);
}

// The same for any strides; a thread owns an element.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    add_positions_strided_kernel(const __grid_constant__ AddPositions a,
                                 const __grid_constant__ Divide columns,
                                 const __grid_constant__ Scales<Real> scales) {
  add_rows<T, Real, 1>(a, columns, scales);
}

// The first place in a sorted array of a value that is not below this one.
__device__ __forceinline__ int64_t lower_bound(const int64_t* sorted, int64_t count, int64_t value) {
  int64_t first = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    const bool below = sorted[first + half] < value;
    first = below ? first + half + 1 : first;
    count = below ? count - half - 1 : half;
  }
  return first;
}

template <class T, int kWidth>
__device__ __forceinline__ void sum_rows(const SumPositions& a, const Divide& columns) {
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < a.rows * columns.divisor; i += step) {
    const bool positions_are_rows_of_pos_embed = a.sorted[0] >= 0 && a.sorted[a.count - 1] < a.rows;
    POSENC_KERNEL_ASSERT(positions_are_rows_of_pos_embed);
    const int64_t row = columns.quotient(i), c = (i - row * columns.divisor) * kWidth;
    const int64_t end = lower_bound(a.sorted, a.count, row + 1);
    accumulator_t<T> sum[kWidth] = {};
#pragma unroll 4
    for (int64_t n = lower_bound(a.sorted, a.count, row); n < end; ++n) {
      T grad[kWidth];
      load_channels(static_cast<const T*>(a.grad) + a.grad_at.offset(a.order[n]) + c * a.channel_stride,
                    grad);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum[k] += widen(grad[k]);
    }
    T value[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) value[k] = round_to<T>(sum[k]);
    store_channels(static_cast<T*>(a.out) + row * a.dim + c, value);
  }
}

// 1 launch, after a stable sort of the positions. Must read count x dim elements and write rows x dim; reads
// the order once per vector, from cache. A thread owns a vector of channels of a row of pos_embed, finds the
// row's terms by bisection and adds them in their order, so a row that has most of the terms takes longest.
template <class T>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    sum_positions_kernel(const __grid_constant__ SumPositions a, const __grid_constant__ Divide columns) {
  sum_rows<T, Pack<T>::kWidth>(a, columns);
}

// The same for any strides; a thread owns an element.
template <class T>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    sum_positions_strided_kernel(const __grid_constant__ SumPositions a,
                                 const __grid_constant__ Divide columns) {
  sum_rows<T, 1>(a, columns);
}

}  // namespace
}  // namespace posenc_ext::cuda
