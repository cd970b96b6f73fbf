// Bodies of the kernels that add the encoding to x, and that scale and drop.
#pragma once

#include "core/sums.h"
#include "cuda/kernels/sinusoid_pairs.cuh"

namespace posenc_ext::cuda {
namespace {

struct SumRow {
  const AddSinusoidal& a;
  const Scales<FloatPair>& scales;
  int64_t x_first, out_first;  // elements of a.x and a.out
  uint64_t seed;

  __device__ __forceinline__ void next_sample() {
    x_first += a.x_batch_stride;
    out_first += a.out_batch_stride;
  }

  template <class T, int kWidth>
  __device__ __forceinline__ void many(int64_t c, const double (&encoding)[kWidth]) const {
    double value[kWidth];
    load_widened(static_cast<const T*>(a.x) + x_first + c, value);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value[i] = scaled_sum(value[i], a.x_scale, encoding[i]);
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, out_first + c, value);
    store_rounded(static_cast<T*>(a.out) + out_first + c, value);
  }
  template <class T, int kWidth>
  __device__ __forceinline__ void many(int64_t c, const float (&encoding)[kWidth]) const {
    const Pack<T> x = Pack<T>::load(static_cast<const T*>(a.x) + x_first + c);
    float value[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value[i] = sum<T>(widen(x.value[i]), encoding[i]);
    if (a.dropout.seed != nullptr) clear_dropped(a.dropout.dropout, seed, out_first + c, value);
    store_rounded(static_cast<T*>(a.out) + out_first + c, value);
  }
  __device__ __forceinline__ void one(int64_t c, double encoding) const {
    const double x = load_as<double>(a.dtype, a.x, x_first + c * a.x_channel_stride);
    double value[1] = {scaled_sum(x, a.x_scale, encoding)};
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, out_first + c, value);
    store_as(a.dtype, a.out, out_first + c, value[0]);
  }
  __device__ __forceinline__ void one(int64_t c, float encoding) const {
    const float x = load_as<float>(a.dtype, a.x, x_first + c * a.x_channel_stride);
    float value[1] = {sum<float>(x, encoding)};
    if (a.dropout.seed != nullptr) clear_dropped(a.dropout.dropout, seed, out_first + c, value);
    store_as(a.dtype, a.out, out_first + c, value[0]);
  }

 private:
  template <class T>
  __device__ __forceinline__ float sum(float x, float encoding) const {
    if constexpr (std::is_same_v<T, float>) {
      return round_pair<float>(scaled_sum(x, scales.x, encoding, a.dropout.seed != nullptr, scales.retained));
    } else {
      const float value = scaled_sum(x, scales.x.hi, encoding);
      return a.dropout.seed != nullptr ? value * scales.retained.hi : value;
    }
  }
};

__device__ __forceinline__ double added_position(const AddSinusoidal& a, int64_t l, int64_t sample) {
  const double p = position_after(a.start, l);
  if (a.offsets == nullptr) return p;
  return p + load_position(a.offsets, a.offset_type, sample * a.offset_stride);
}

__device__ __forceinline__ Steps added_steps(const AddSinusoidal& a, int64_t l, int64_t sample) {
  if (a.offsets == nullptr) return steps_of({nullptr, PositionType::i64, {}, a.start}, l);
  return to_steps(added_position(a, l, sample));
}

__device__ __forceinline__ SumRow sum_row(const AddSinusoidal& a, const Scales<FloatPair>& scales, int64_t l,
                                          int64_t sample, uint64_t seed) {
  return {a, scales, sample * a.x_batch_stride + l * a.x_length_stride,
          sample * a.out_batch_stride + l * a.out_length_stride, seed};
}

// A block's stretch of positions and chunk of the batch.
struct AddUnit {
  int64_t first_position, first_sample;
  int rows, samples;
  int sharing;  // samples that share an encoding: all of the chunk, or one where each has its own offset
};

__device__ __forceinline__ AddUnit add_unit(const AddSinusoidal& a, const Split& split, int64_t i) {
  const int64_t first_position = i % split.stretches * split.stretch_rows;
  const int64_t first_sample = i / split.stretches * split.chunk_samples;
  const int samples = static_cast<int>(min_of<int64_t>(a.batch - first_sample, split.chunk_samples));
  return {first_position, first_sample,
          static_cast<int>(min_of<int64_t>(a.length - first_position, split.stretch_rows)), samples,
          a.offsets != nullptr ? 1 : samples};
}

// 1 launch. Reads and writes batch x length x dim elements: no byte more than it must. A block owns a tile of
// pairs, a stretch of positions and a chunk of the batch; a thread encodes its pairs of a position once and
// adds them to every sample of the chunk (anew for each where samples have offsets).
template <class Pairs>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    add_sinusoidal_kernel(const __grid_constant__ AddSinusoidal a, const __grid_constant__ Split split,
                          const __grid_constant__ Scales<FloatPair> scales,
                          const __grid_constant__ FrequencyDigits digits) {
  using Int = typename Channels<typename Pairs::Real>::Int;
  __shared__ Frequency<typename Pairs::Real> frequencies[kTilePairs];
  __shared__ AddUnit block;  // in shared memory, for want of registers
  __shared__ typename SharedPairs<Pairs>::Shared shared;
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  const uint64_t seed = seed_of(a.dropout);
  for (Int unit = blockIdx.x; unit < static_cast<Int>(split.units); unit += gridDim.x) {
    const Int tiles = static_cast<Int>(split.tiles);
    const Int first_pair = unit % tiles * kTilePairs;
    __syncthreads();  // the last unit is done with
    load_frequencies<Pairs::kExact>(a.spec, digits, 0, first_pair, kTilePairs, frequencies);
    if (threadIdx.x == 0 && threadIdx.y == 0) block = add_unit(a, split, unit / tiles);
    __syncthreads();
    const Int pair = first_pair + in_tile;
    if (pair >= slots(a.spec)) continue;
    const Channels<typename Pairs::Real> at(a.spec, pair);
    bool far = false;
    for (int n = static_cast<int>(threadIdx.y); n < block.rows; n += static_cast<int>(blockDim.y)) {
      SumRow row = sum_row(a, scales, block.first_position + n, block.first_sample, seed);
      for (int sample = 0; sample < block.samples;) {
        SharedPairs<Pairs> pairs{shared, thread, {}};
        bool skipped = false;
        if constexpr (Pairs::kExact) {
          encode(a.spec, frequencies + in_tile,
                 checked(added_position(a, block.first_position + n, block.first_sample + sample),
                         a.offset_type),
                 0, pairs.own);
        } else {
          const Steps p = added_steps(a, block.first_position + n, block.first_sample + sample);
          skipped = !p.exact;
          far = far || skipped;
          if (!skipped) pairs.encode(frequencies + in_tile, p);
        }
#pragma unroll 1
        for (const int end = sample + block.sharing; sample < end; ++sample, row.next_sample()) {
          if (!skipped) pairs.give(a.spec, at, row);
        }
      }
    }
    if constexpr (!Pairs::kExact) {
      if (!far)
        continue;  // the other rows have a loop of their own, so as not to take registers from this one
      for (int n = static_cast<int>(threadIdx.y); n < block.rows; n += static_cast<int>(blockDim.y)) {
        SumRow row = sum_row(a, scales, block.first_position + n, block.first_sample, seed);
        for (int sample = 0; sample < block.samples; ++sample, row.next_sample()) {
          const int64_t l = block.first_position + n, own = block.first_sample + sample;
          if (added_steps(a, l, own).exact) continue;
          const double p = checked(added_position(a, l, own), a.offset_type);
          give_far<Pairs::kPairs>(a.spec, frequencies + in_tile, pair, p, row);
        }
      }
    }
  }
}

// x times the scales, as a number that is yet to be rounded.
__device__ __forceinline__ double scaled(const ScaleDropout& a, FloatPair, double x) {
  const double value = x * a.scale;
  return a.dropout.seed != nullptr ? value * a.dropout.dropout.scale : value;
}
__device__ __forceinline__ FloatPair scaled(const ScaleDropout& a, FloatPair scale, float x) {
  const FloatPair product = multiply(x, scale);
  // Of the half types as core/sums.h has it; adding -0.0 preserves the sign of a zero.
  return a.dtype == DType::float32 ? product : FloatPair{product.hi, -0.0f};
}

// 1 launch. Reads and writes `total` elements: no byte more than it must; a thread owns a vector of T, in
// float pairs unless Real is double. `scale` is that of dropout, too.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads)
    scale_dropout_kernel(const __grid_constant__ ScaleDropout a, FloatPair scale) {
  constexpr int kWidth = Pack<T>::kWidth;
  const uint64_t seed = seed_of(a.dropout);
  const int64_t step = gridDim.x * int64_t{kThreads} * kWidth;
  for (int64_t i = (blockIdx.x * int64_t{kThreads} + threadIdx.x) * kWidth; i < a.total; i += step) {
    const T* x = static_cast<const T*>(a.x) + (a.at.dims == 1 ? i : a.at.offset(i));
    T* out = static_cast<T*>(a.out) + i;
    const int64_t count = a.total - i;
    Real from[kWidth];
    if (count >= kWidth) {
      load_widened(x, from);
    } else {  // the tail of a contiguous x
#pragma unroll
      for (int n = 0; n < kWidth; ++n) from[n] = n < count ? static_cast<Real>(widen(x[n])) : Real{0};
    }
    decltype(scaled(a, scale, from[0])) value[kWidth];
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] = scaled(a, scale, from[n]);
    if (a.dropout.seed != nullptr) clear_dropped(a.dropout.dropout, seed, i, value);
    if (count >= kWidth) {
      store_rounded(out, value);
    } else {
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        if (n < count) out[n] = rounded<T>(value[n]);
      }
    }
  }
}

// The same where x is not in whole vectors; a thread owns an element.
template <class Real>
__global__ void __launch_bounds__(kThreads)
    scale_dropout_strided_kernel(const __grid_constant__ ScaleDropout a, FloatPair scale) {
  const uint64_t seed = seed_of(a.dropout);
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < a.total; i += step) {
    const Real x = load_as<Real>(a.dtype, a.x, a.at.offset(i));
    decltype(scaled(a, scale, x)) value[1] = {scaled(a, scale, x)};
    if (a.dropout.seed != nullptr) clear_dropped(a.dropout.dropout, seed, i, value);
    store_as(a.dtype, a.out, i, value[0]);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
