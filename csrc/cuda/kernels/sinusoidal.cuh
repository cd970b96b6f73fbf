// Bodies of the kernels of sinusoids and of their gradient in the positions.
#pragma once

#include "cuda/kernels/sinusoid_pairs.cuh"

namespace posenc_ext::cuda {
namespace {

constexpr int kBackwardTilePairs = 1024;  // all of them, up to dim 2048

struct EncodingRow {
  DType dtype;
  void* out;
  int64_t first;  // element of `out`
  int64_t channel_stride;

  template <class T, class Real, int kWidth>
  __device__ __forceinline__ void many(int64_t c, const Real (&value)[kWidth]) const {
    store_rounded(static_cast<T*>(out) + first + c, value);
  }
  template <class Real>
  __device__ __forceinline__ void one(int64_t c, Real value) const {
    store_as(dtype, out, first + c * channel_stride, value);
  }
};

// 1 launch. Must write rows x dim elements and read a position per row; reads a position once per tile of
// pairs, from cache. A block owns a tile of pairs and a stretch of rows; threadIdx.x is a group of pairs,
// threadIdx.y a row, so that neighbouring threads write neighbouring vectors.
template <class Pairs>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    sinusoid_rows_kernel(const __grid_constant__ SinusoidRows a, const __grid_constant__ Split split,
                         const __grid_constant__ FrequencyDigits digits) {
  using Int = typename Channels<typename Pairs::Real>::Int;
  __shared__ Frequency<typename Pairs::Real> frequencies[kTilePairs];
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  for (Int unit = blockIdx.x; unit < static_cast<Int>(split.units); unit += gridDim.x) {
    const Int tiles = static_cast<Int>(split.tiles);
    const Int first_pair = unit % tiles * kTilePairs;
    __syncthreads();  // the last unit's frequencies are done with
    load_frequencies<Pairs::kExact>(a.spec, digits, a.order, first_pair, kTilePairs, frequencies);
    __syncthreads();
    const Int pair = first_pair + in_tile;
    if (pair >= slots(a.spec)) continue;
    const Channels<typename Pairs::Real> at(a.spec, pair);
    const int64_t first = int64_t{unit / tiles} * split.stretch_rows;
    const int rows = static_cast<int>(min_of<int64_t>(a.count - first, split.stretch_rows));
    const auto row_at = [&](int n) {
      return EncodingRow{a.dtype, a.out, (first + n) * a.row_stride, a.channel_stride};
    };
    bool far = false;
    for (int n = static_cast<int>(threadIdx.y); n < rows; n += static_cast<int>(blockDim.y)) {
      Pairs pairs;
      if constexpr (Pairs::kExact) {
        const double p = checked(position_of(a.positions, first + n), a.positions.type);
        encode(a.spec, frequencies + in_tile, p, a.order, pairs);
      } else {
        const Steps p = steps_of(a.positions, first + n);
        far = far || !p.exact;
        if (!p.exact) continue;
        encode(frequencies + in_tile, p, pairs);
      }
      pairs.give(a.spec, at, row_at(n));
    }
    if constexpr (!Pairs::kExact) {
      if (!far)
        continue;  // the other rows have a loop of their own, so as not to take registers from this one
      for (int n = static_cast<int>(threadIdx.y); n < rows; n += static_cast<int>(blockDim.y)) {
        if (steps_of(a.positions, first + n).exact) continue;
        const double p = checked(position_of(a.positions, first + n), a.positions.type);
        give_far<Pairs::kPairs>(a.spec, frequencies + in_tile, pair, p, row_at(n));
      }
    }
  }
}

// The derivatives of a pair's sine and cosine, and the sum of what they are multiplied by.
struct DoubleSlopes {
  using Grad = double;
  double sine, cosine, sum = 0.0;

  __device__ __forceinline__ void set(DoubleDouble f, double factor, double p, bool huge, int32_t order) {
    const SineCosine value = encode_pair(f, p, huge, order);
    sine = value.sine * factor;
    cosine = value.cosine * factor;
  }
  __device__ __forceinline__ void add(double grad, double slope) { sum += grad * slope; }
};

// To 1.5 * 2^-26 of each product's size, for the halves and for float32.
struct FloatSlopes {
  using Grad = float;
  FloatPair sine, cosine, sum{0.0f, 0.0f};

  __device__ __forceinline__ void set(const Frequency<FloatPair>& f, const Steps& p, int32_t order) {
    const FloatAngle angle = reduce(p, f.fixed);
    const FloatPairSineCosine rest = sine_cosine_pairs(angle);
    sine = multiply(sine_at(rest, angle, order), f.factor);
    cosine = multiply(sine_at(rest, angle, order + 1), f.factor);
  }
  __device__ __forceinline__ void add(float grad, FloatPair slope) {
    sum = core::add(sum, multiply(grad, slope));
  }
};

// Adds the products of pair j, whose slopes are set.
template <class Slopes>
__device__ __forceinline__ void add_pair(const SinusoidBackward& a, int64_t grad, int64_t j, Slopes& slopes) {
  const auto load = [&](int64_t c) {
    return load_as<typename Slopes::Grad>(a.grad_dtype, a.grad, grad + c * a.grad_channel_stride);
  };
  const ChannelOffsets at = channel_offsets(a.spec);
  if (j < a.spec.pairs()) {
    slopes.add(load(at.sine + j * at.step), slopes.sine);
    slopes.add(load(at.cosine + j * at.step), slopes.cosine);
  } else if (a.spec.odd == Odd::sin) {
    slopes.add(load(at.extra), slopes.sine);
  }
}

// A lane's share of the sum of a row whose position is no number of steps: seldom, and in float64.
__device__ __forceinline__ double far_sum(const SinusoidBackward& a, const FrequencyDigits& digits,
                                          int64_t row) {
  const double p = position_of(a.positions, row);
  const bool huge = needs_huge_reduction(a.spec, p);
  const int64_t grad = a.grad_row.offset(row);
  DoubleSlopes slopes;
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < slots(a.spec); j += kWarp) {
    const DoubleDouble f = frequency(digits, static_cast<int32_t>(j));
    slopes.set(f, derivative_factor(f, a.order), p, huge, a.order);
    add_pair(a, grad, j, slopes);
  }
  return slopes.sum;
}

// 1 launch. Reads rows x dim elements and one position per row, writes one element per row: no byte more than
// it must. A warp owns a row, its lanes walk over the pairs, and their sums are added in a fixed order. Rows
// wider than the table in shared memory have the table recomputed for every block of rows.
template <class Real>
__global__ void __launch_bounds__(kThreads, kHalfResident)
    sinusoid_backward_kernel(const __grid_constant__ SinusoidBackward a,
                             const __grid_constant__ FrequencyDigits digits) {
  constexpr bool kDouble = std::is_same_v<Real, double>;
  __shared__ Frequency<Real> frequencies[kBackwardTilePairs];
  const Sinusoid& s = a.spec;
  const int lane = static_cast<int>(threadIdx.x);
  const bool one_tile = slots(s) <= kBackwardTilePairs;
  const int64_t begin = blockIdx.x * int64_t{blockDim.y}, step = gridDim.x * int64_t{blockDim.y};
  for (int64_t first_row = begin; first_row < a.count; first_row += step) {
    const int64_t row = first_row + threadIdx.y;
    const bool has_row = row < a.count;
    const int64_t grad = has_row ? a.grad_row.offset(row) : 0;
    std::conditional_t<kDouble, DoubleSlopes, FloatSlopes> slopes;
    std::conditional_t<kDouble, double, Steps> p{};
    bool near = has_row, huge = false;
    if constexpr (kDouble) {
      if (has_row) p = position_of(a.positions, row);
      huge = needs_huge_reduction(s, p);
    } else {
      if (has_row) p = steps_of(a.positions, row);
      near = near && p.exact;
    }
    for (int64_t first = 0; first < slots(s); first += kBackwardTilePairs) {
      const int count = static_cast<int>(min_of<int64_t>(kBackwardTilePairs, slots(s) - first));
      if (!one_tile || first_row == begin) {
        __syncthreads();  // the last tile's frequencies are done with
        load_frequencies<false>(s, digits, a.order, first, count, frequencies);
        __syncthreads();
      }
      if (!near) continue;
      for (int in_tile = lane; in_tile < count; in_tile += kWarp) {
        const Frequency<Real>& f = frequencies[in_tile];
        if constexpr (kDouble) {
          slopes.set(f.turns, f.factor, p, huge, a.order);
        } else {
          slopes.set(f, p, a.order);
        }
        add_pair(a, grad, first + in_tile, slopes);
      }
    }
    if constexpr (!kDouble) {
      if (has_row && !near) slopes.sum = to_float_pair(far_sum(a, digits, row));
    }
    const Real sum = warp_sum(slopes.sum);
    if (lane == 0 && has_row) store_as(a.dtype, a.out, row, sum);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
