// Bodies of the sinusoid kernels. Rows are cut into tiles of pairs: a block makes the exact frequencies of
// its tile once, two products each, into shared memory, and then walks over rows. Values of float32 and the
// half types come from core/phase.h in integers and float32; float64, derivatives, and frequencies out of the
// ordinary come from core/sinusoid.h.
#pragma once

#include <type_traits>

#include "core/phase.h"
#include "cuda/kernels/sinusoidal.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kTilePairs = 32;
constexpr int kBackwardTilePairs = 1024;  // all of them, up to dim 2048

// Pairs and, where dim is odd, one more slot for the extra channel.
POSENC_HD int64_t slots(const Sinusoid& s) { return s.pairs() + s.dim % 2; }

// A pair's frequency as the values of this type need it.
template <class Real>
struct Frequency;

template <>
struct Frequency<double> {
  DoubleDouble turns;  // quarter turns per position
  double factor;       // of the derivative

  __device__ __forceinline__ void set(DoubleDouble f, int32_t order) {
    *this = {f, derivative_factor(f, order)};
  }
};

template <>
struct alignas(kVectorBytes) Frequency<float> {
  FixedFrequency fixed;
  DoubleDouble turns;

  __device__ __forceinline__ void set(DoubleDouble f, int32_t) { *this = {to_fixed(f), f}; }
};

// kExact: to the last bit those of the CPU, in hundreds of instructions; else from `digits`. Out of line: it
// runs once per block.
template <bool kExact, class Real>
__device__ __noinline__ void load_frequencies(const Sinusoid& s, const FrequencyDigits& digits, int32_t order,
                                              int64_t first, int count, Frequency<Real>* table) {
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int j = thread; j < count; j += threads) {
    DoubleDouble f{0.0, 0.0};
    if (first + j < s.frequencies()) f = kExact ? frequency(s, first + j) : frequency(s, digits, first + j);
    table[j].set(f, order);
  }
}

// A position both ways; what is not used is not computed.
struct Position {
  Steps steps;
  double value;
};

__device__ __forceinline__ Position whole_position(int64_t start, int64_t i) {
  // Added without a sign, which may wrap: to a number far beyond those that steps can hold.
  const uint64_t sum = static_cast<uint64_t>(start) + static_cast<uint64_t>(i);
  return {to_steps(static_cast<int64_t>(sum)), position_after(start, i)};
}

__device__ __forceinline__ Position any_position(double p) { return {to_steps(p), p}; }

__device__ __forceinline__ Position position_of(const Positions& p, int64_t i) {
  if (p.data == nullptr) return whole_position(p.start, i);
  return any_position(load_position(p.data, p.type, p.at.offset(i)));
}

__device__ __forceinline__ QuarterTurns reduce_any(double p, DoubleDouble f, bool huge) {
  return huge ? reduce<true>(p, f) : reduce<false>(p, f);
}

__device__ __forceinline__ SineCosine encode_pair(DoubleDouble f, double p, bool huge, int32_t order) {
  const QuarterTurns turns = reduce_any(p, f, huge);
  const SineCosine rest = sine_cosine(turns);
  return {sine_at(rest, turns.quadrant, order), sine_at(rest, turns.quadrant, order + 1)};
}

template <class Pairs>
__device__ __forceinline__ void encode(const Sinusoid& s, const Frequency<double>* frequencies,
                                       const Position& p, int32_t order, Pairs& pairs) {
  const bool huge = needs_huge_reduction(s, p.value);
#pragma unroll
  for (int i = 0; i < Pairs::kPairs; ++i) {
    const SineCosine value = encode_pair(frequencies[i].turns, p.value, huge, order);
    pairs.sine[i] = value.sine;
    pairs.cosine[i] = value.cosine;
  }
  if (order == 0) return;
#pragma unroll
  for (int i = 0; i < Pairs::kPairs; ++i) {
    pairs.sine[i] *= frequencies[i].factor;
    pairs.cosine[i] *= frequencies[i].factor;
  }
}

template <class Pairs>
__device__ __forceinline__ void encode(const Sinusoid& s, const Frequency<float>* frequencies,
                                       const Position& p, int32_t, Pairs& pairs) {
  const bool huge = !p.steps.exact && needs_huge_reduction(s, p.value);
#pragma unroll
  for (int i = 0; i < Pairs::kPairs; ++i) {
    // Both ways are straight code; a row takes one of them.
    const FloatAngle angle = p.steps.exact ? reduce(p.steps, frequencies[i].fixed)
                                           : to_floats(reduce_any(p.value, frequencies[i].turns, huge));
    const FloatSineCosine value = sine_cosine(angle);
    pairs.sine[i] = value.sine;
    pairs.cosine[i] = value.cosine;
  }
}

// The pairs a thread owns of a row, and how it touches their channels. This one takes any row, one channel at
// a time; the dtype is looked at for each, which costs little beside uncoalesced accesses and saves a kernel
// per dtype.
template <class Number>
struct OnePair {
  using Real = Number;
  static constexpr int kMinBlocks = 2;  // per multiprocessor: 128 registers a thread, which needs no spill
  static constexpr bool kExact = std::is_same_v<Real, double>;
  static constexpr int kPairs = 1;
  Real sine[kPairs], cosine[kPairs];

  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid& s, const Places& at, int64_t j, const Row& row) const {
    if (j < s.pairs()) {
      row.one(at.sine + j * at.step, sine[0]);
      row.one(at.cosine + j * at.step, cosine[0]);
    } else {
      row.one(at.extra, s.odd == Odd::sin ? sine[0] : Real{0});
    }
  }
};

// Rows made of 16-byte vectors. Where sines and cosines alternate, a vector holds both of half as many pairs;
// else the sines of the pairs are one vector and the cosines another.
template <class T, bool kAlternating>
struct Vectors {
  using Real = accumulator_t<T>;
  static constexpr int kMinBlocks = 3;  // 80 registers a thread
  static constexpr bool kExact = std::is_same_v<Real, double>;
  static constexpr int kWidth = Pack<T>::kWidth;
  static constexpr int kPairs = kAlternating ? kWidth / 2 : kWidth;
  Real sine[kPairs], cosine[kPairs];

  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid&, const Places& at, int64_t j, const Row& row) const {
    if constexpr (kAlternating) {
      Real both[kWidth];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        both[2 * i] = sine[i];
        both[2 * i + 1] = cosine[i];
      }
      row.template many<T>(2 * j, both);
    } else {
      row.template many<T>(at.sine + j, sine);
      row.template many<T>(at.cosine + j, cosine);
    }
  }
};

// Threads of a block: x walks over the groups of pairs of a tile, y over rows.
template <class Pairs>
dim3 threads_for() {
  constexpr int kPerTile = kTilePairs / Pairs::kPairs;
  return dim3(kPerTile, kThreads / kPerTile);
}

// Work cut into units: tiles of pairs x stretches of rows x chunks of the batch.
struct Split {
  int64_t tiles, stretches, chunks;
  int64_t stretch_rows, chunk_samples;

  POSENC_HD int64_t units() const { return tiles * stretches * chunks; }
};

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
__global__ void __launch_bounds__(kThreads, Pairs::kMinBlocks)
    sinusoid_rows_kernel(const __grid_constant__ SinusoidRows a, const __grid_constant__ Split split,
                         const __grid_constant__ FrequencyDigits digits) {
  __shared__ Frequency<typename Pairs::Real> frequencies[kTilePairs];
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  const Places at = places(a.spec);
  for (int64_t unit = blockIdx.x; unit < split.units(); unit += gridDim.x) {
    const int64_t first_pair = unit % split.tiles * kTilePairs;
    __syncthreads();  // the last unit's frequencies are done with
    load_frequencies<Pairs::kExact>(a.spec, digits, a.order, first_pair, kTilePairs, frequencies);
    __syncthreads();
    if (first_pair + in_tile >= slots(a.spec)) continue;
    const int64_t first = unit / split.tiles * split.stretch_rows;
    const int64_t last = min_of(a.count, first + split.stretch_rows);
    for (int64_t row = first + threadIdx.y; row < last; row += blockDim.y) {
      Pairs pairs;
      encode(a.spec, frequencies + in_tile, position_of(a.positions, row), a.order, pairs);
      pairs.give(a.spec, at, first_pair + in_tile,
                 EncodingRow{a.dtype, a.out, row * a.row_stride, a.channel_stride});
    }
  }
}

// 1 launch. Reads rows x dim elements and one position per row, writes one element per row: no byte more than
// it must. A warp owns a row, its lanes walk over the pairs, and their sums are added in a fixed order. Rows
// wider than the table in shared memory have the table recomputed for every block of rows.
__global__ void __launch_bounds__(kThreads, 2)
    sinusoid_backward_kernel(const __grid_constant__ SinusoidBackward a,
                             const __grid_constant__ FrequencyDigits digits) {
  __shared__ Frequency<double> frequencies[kBackwardTilePairs];
  const Sinusoid& s = a.spec;
  const Places at = places(s);
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stride = a.grad_channel_stride, pairs = s.pairs();
  const bool one_tile = slots(s) <= kBackwardTilePairs;
  const int64_t begin = blockIdx.x * int64_t{blockDim.y}, step = gridDim.x * int64_t{blockDim.y};
  for (int64_t first_row = begin; first_row < a.count; first_row += step) {
    const int64_t row = first_row + threadIdx.y;
    const bool has_row = row < a.count;
    const double p = has_row ? position_of(a.positions, row).value : 0.0;
    const bool huge = needs_huge_reduction(s, p);
    const int64_t grad = has_row ? a.grad_row.offset(row) : 0;
    double sum = 0.0;
    for (int64_t first = 0; first < slots(s); first += kBackwardTilePairs) {
      const int count = static_cast<int>(min_of<int64_t>(kBackwardTilePairs, slots(s) - first));
      if (!one_tile || first_row == begin) {
        __syncthreads();  // the last tile's frequencies are done with
        load_frequencies<false>(s, digits, a.order, first, count, frequencies);
        __syncthreads();
      }
      if (!has_row) continue;
      for (int in_tile = lane; in_tile < count; in_tile += kWarp) {
        const int64_t j = first + in_tile;
        const Frequency<double> f = frequencies[in_tile];
        const SineCosine value = encode_pair(f.turns, p, huge, a.order);
        const double sine = value.sine * f.factor, cosine = value.cosine * f.factor;
        if (j < pairs) {
          sum += load_as(a.grad_dtype, a.grad, grad + (at.sine + j * at.step) * stride) * sine;
          sum += load_as(a.grad_dtype, a.grad, grad + (at.cosine + j * at.step) * stride) * cosine;
        } else {
          sum += load_as(a.grad_dtype, a.grad, grad + at.extra * stride) * (s.odd == Odd::sin ? sine : 0.0);
        }
      }
    }
    sum = warp_sum(sum);
    if (lane == 0 && has_row) store_as(a.dtype, a.out, row, sum);
  }
}

// Of x, and of what dropout keeps.
struct FloatScales {
  FloatPair x, kept;
};

struct SumRow {
  const AddSinusoidal& a;
  const FloatScales& scales;
  int64_t x_first, out_first;  // elements of a.x and a.out
  uint64_t seed;

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
    const double x = load_as(a.dtype, a.x, x_first + c * a.x_channel_stride);
    double value[1] = {scaled_sum(x, a.x_scale, encoding)};
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, out_first + c, value);
    store_as(a.dtype, a.out, out_first + c, value[0]);
  }
  __device__ __forceinline__ void one(int64_t c, float encoding) const {
    const double x = load_as(a.dtype, a.x, x_first + c * a.x_channel_stride);
    float value[1] = {sum<float>(static_cast<float>(x), encoding)};
    if (a.dropout.seed != nullptr) clear_dropped(a.dropout.dropout, seed, out_first + c, value);
    store_as(a.dtype, a.out, out_first + c, value[0]);
  }

 private:
  // To the halves a second rounding, of float32, does not show.
  template <class T>
  __device__ __forceinline__ float sum(float x, float encoding) const {
    if constexpr (std::is_same_v<T, float>) {
      return scaled_sum(x, scales.x, encoding, a.dropout.seed != nullptr, scales.kept);
    } else {
      const float value = fused_multiply_add(x, scales.x.hi, encoding);
      return a.dropout.seed != nullptr ? value * scales.kept.hi : value;
    }
  }
};

__device__ __forceinline__ Position added_position(const AddSinusoidal& a, int64_t l, int64_t sample) {
  if (a.offsets == nullptr) return whole_position(a.start, l);
  return any_position(position_after(a.start, l) +
                      load_position(a.offsets, a.offset_type, sample * a.offset_stride));
}

// 1 launch. Reads and writes batch x length x dim elements: no byte more than it must. A block owns a tile of
// pairs, a stretch of positions and a chunk of the batch; a thread encodes its pairs of a position once and
// adds them to every sample of the chunk (anew for each where samples have offsets).
template <class Pairs>
__global__ void __launch_bounds__(kThreads, Pairs::kMinBlocks)
    add_sinusoidal_kernel(const __grid_constant__ AddSinusoidal a, const __grid_constant__ Split split,
                          const __grid_constant__ FloatScales scales,
                          const __grid_constant__ FrequencyDigits digits) {
  __shared__ Frequency<typename Pairs::Real> frequencies[kTilePairs];
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  const Places at = places(a.spec);
  const uint64_t seed = a.dropout.seed != nullptr ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  for (int64_t unit = blockIdx.x; unit < split.units(); unit += gridDim.x) {
    const int64_t first_pair = unit % split.tiles * kTilePairs;
    __syncthreads();  // the last unit's frequencies are done with
    load_frequencies<Pairs::kExact>(a.spec, digits, 0, first_pair, kTilePairs, frequencies);
    __syncthreads();
    if (first_pair + in_tile >= slots(a.spec)) continue;
    const int64_t first_position = unit / split.tiles % split.stretches * split.stretch_rows;
    const int64_t last_position = min_of(a.length, first_position + split.stretch_rows);
    const int64_t first_sample = unit / split.tiles / split.stretches * split.chunk_samples;
    const int64_t last_sample = min_of(a.batch, first_sample + split.chunk_samples);
    for (int64_t l = first_position + threadIdx.y; l < last_position; l += blockDim.y) {
      for (int64_t sample = first_sample; sample < last_sample;) {
        Pairs pairs;
        encode(a.spec, frequencies + in_tile, added_position(a, l, sample), 0, pairs);
        // The samples that share an encoding: all of the chunk, or one where each has its own offset.
        const int64_t end = a.offsets != nullptr ? sample + 1 : last_sample;
#pragma unroll 1
        for (; sample < end; ++sample) {
          pairs.give(a.spec, at, first_pair + in_tile,
                     SumRow{a, scales, sample * a.x_batch_stride + l * a.x_length_stride,
                            sample * a.out_batch_stride + l * a.out_length_stride, seed});
        }
      }
    }
  }
}

// 1 launch. Reads and writes `total` elements: no byte more than it must; a thread owns a vector of T.
template <class T>
__global__ void __launch_bounds__(kThreads) scale_dropout_kernel(const __grid_constant__ ScaleDropout a) {
  constexpr int kWidth = Pack<T>::kWidth;
  const uint64_t seed = a.dropout.seed != nullptr ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  const int64_t step = gridDim.x * int64_t{kThreads} * kWidth;
  for (int64_t i = (blockIdx.x * int64_t{kThreads} + threadIdx.x) * kWidth; i < a.total; i += step) {
    const T* x = static_cast<const T*>(a.x) + (a.at.dims == 1 ? i : a.at.offset(i));
    T* out = static_cast<T*>(a.out) + i;
    const int64_t count = a.total - i;
    double value[kWidth];
    if (count >= kWidth) {
      load_widened(x, value);
    } else {  // the tail of a contiguous x
#pragma unroll
      for (int n = 0; n < kWidth; ++n) value[n] = n < count ? to_double(x[n]) : 0.0;
    }
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] *= a.scale;
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, i, value);
    if (count >= kWidth) {
      store_rounded(out, value);
    } else {
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        if (n < count) out[n] = round_to<T>(value[n]);
      }
    }
  }
}

// The same where x does not lie in vectors; a thread owns an element.
__global__ void __launch_bounds__(kThreads)
    scale_dropout_strided_kernel(const __grid_constant__ ScaleDropout a) {
  const uint64_t seed = a.dropout.seed != nullptr ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < a.total; i += step) {
    double value[1] = {load_as(a.dtype, a.x, a.at.offset(i)) * a.scale};
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, i, value);
    store_as(a.dtype, a.out, i, value[0]);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
