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

// A pair's frequency as values of this type need it.
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

// And as sums of float pairs need it.
template <>
struct Frequency<FloatPair> {
  FixedFrequency fixed;
  FloatPair factor;

  __device__ __forceinline__ void set(DoubleDouble f, int32_t order) {
    *this = {to_fixed(f), to_float_pair(derivative_factor(f, order))};
  }
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

// Position i as steps, and as a number.
__device__ __forceinline__ Steps steps_of(const Positions& p, int64_t i) {
  if (p.data != nullptr) return load_steps(p.data, p.type, p.at.offset(i));
  // Added without a sign, which may wrap: to a number far beyond those that steps can hold.
  return to_steps(static_cast<int64_t>(static_cast<uint64_t>(p.start) + static_cast<uint64_t>(i)));
}

__device__ __forceinline__ double position_of(const Positions& p, int64_t i) {
  return p.data == nullptr ? position_after(p.start, i) : load_position(p.data, p.type, p.at.offset(i));
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
__device__ __forceinline__ void encode(const Sinusoid& s, const Frequency<double>* frequencies, double p,
                                       int32_t order, Pairs& pairs) {
  const bool huge = needs_huge_reduction(s, p);
#pragma unroll
  for (int i = 0; i < Pairs::kPairs; ++i) {
    const SineCosine value = encode_pair(frequencies[i].turns, p, huge, order);
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
__device__ __forceinline__ void encode(const Frequency<float>* frequencies, const Steps& p, Pairs& pairs) {
#pragma unroll
  for (int i = 0; i < Pairs::kPairs; ++i) {
    const FloatSineCosine value = sine_cosine(reduce(p, frequencies[i].fixed));
    pairs.sine[i] = value.sine;
    pairs.cosine[i] = value.cosine;
  }
}

// Where a pair's sine and cosine stand in a row. In 32 bits where float32 serves, for then there are fewer
// than FrequencyDigits::kPairs of them.
template <class Real>
struct Channels {
  using Int = std::conditional_t<std::is_same_v<Real, double>, int64_t, int32_t>;
  Int sine, cosine;  // the extra channel of an odd dim has no cosine: -1

  __device__ __forceinline__ Channels(const Sinusoid& s, Int j) {
    const Places at = places(s);
    const bool pair = j < static_cast<Int>(s.pairs());
    sine = pair ? static_cast<Int>(at.sine) + j * static_cast<Int>(at.step) : static_cast<Int>(at.extra);
    cosine = pair ? static_cast<Int>(at.cosine) + j * static_cast<Int>(at.step) : Int{-1};
  }
};

// The pairs a thread owns of a row, and how it touches their channels. This one takes any row, one channel at
// a time; the dtype is looked at for each, which costs little beside uncoalesced accesses and saves a kernel
// per dtype.
template <class Number>
struct OnePair {
  using Real = Number;
  static constexpr bool kExact = std::is_same_v<Real, double>;
  static constexpr int kPairs = 1;
  Real sine[kPairs], cosine[kPairs];

  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid& s, const Channels<Real>& at, const Row& row) const {
    const Real first = at.cosine >= 0 || s.odd == Odd::sin ? sine[0] : Real{0};
#pragma unroll 1  // one after the other: half the registers
    for (int i = 0; i < (at.cosine >= 0 ? 2 : 1); ++i) {
      row.one(i == 0 ? at.sine : at.cosine, i == 0 ? first : cosine[0]);
    }
  }
};

// Rows made of 16-byte vectors. Where sines and cosines alternate, a vector holds both of half as many pairs;
// else the sines of the pairs are one vector and the cosines another.
template <class T, bool kAlternating>
struct Vectors {
  using Element = T;
  using Real = accumulator_t<T>;
  static constexpr bool kExact = std::is_same_v<Real, double>;
  static constexpr int kWidth = Pack<T>::kWidth;
  static constexpr int kPairs = kAlternating ? kWidth / 2 : kWidth;
  Real sine[kPairs], cosine[kPairs];

  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid&, const Channels<Real>& at, const Row& row) const {
    if constexpr (kAlternating) {
      Real both[kWidth];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        both[2 * i] = sine[i];
        both[2 * i + 1] = cosine[i];
      }
      row.template many<T>(at.sine, both);
    } else {
      row.template many<T>(at.sine, sine);
      row.template many<T>(at.cosine, cosine);
    }
  }
};

// Pairs that a thread gives to one row after another. Sixteen values leave too few registers for the rest:
// they stand in shared memory.
template <class Pairs>
struct KeptPairs {
  static constexpr bool kShared = Pairs::kPairs == 8;
  using Shared = float[kShared ? 2 : 1][kShared ? Pairs::kPairs : 1][kShared ? kThreads : 1];
  Shared& shared;
  int thread;
  Pairs own;

  __device__ __forceinline__ void encode(const Frequency<float>* frequencies, const Steps& p) {
    if constexpr (!kShared) {
      cuda::encode(frequencies, p, own);
    } else {
#pragma unroll 2
      for (int i = 0; i < Pairs::kPairs; ++i) {
        const FloatSineCosine value = sine_cosine(reduce(p, frequencies[i].fixed));
        shared[0][i][thread] = value.sine;
        shared[1][i][thread] = value.cosine;
      }
    }
  }
  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid& s, const Channels<typename Pairs::Real>& at,
                                       const Row& row) const {
    if constexpr (!kShared) {
      own.give(s, at, row);
    } else {
#pragma unroll 1
      for (int part = 0; part < 2; ++part) {
        float value[Pairs::kPairs];
#pragma unroll
        for (int i = 0; i < Pairs::kPairs; ++i) value[i] = shared[part][i][thread];
        row.template many<typename Pairs::Element>(part == 0 ? at.sine : at.cosine, value);
      }
    }
  }
};

// Gives `row` its pairs from `first` on, at a position that is no number of steps: seldom, and in float64.
template <int kPairs, class Row>
__device__ __forceinline__ void give_far(const Sinusoid& s, const Frequency<float>* frequencies,
                                         int32_t first, double p, const Row& row) {
  const bool huge = needs_huge_reduction(s, p);
#pragma unroll 1
  for (int i = 0; i < kPairs; ++i) {
    const FloatSineCosine value = sine_cosine(to_floats(reduce_any(p, frequencies[i].turns, huge)));
    OnePair<float>{{value.sine}, {value.cosine}}.give(s, Channels<float>(s, first + i), row);
  }
}

// Threads of a block: x walks over the groups of pairs of a tile, y over rows.
template <class Pairs>
dim3 threads_for() {
  constexpr int kPerTile = kTilePairs / Pairs::kPairs;
  return dim3(kPerTile, kThreads / kPerTile);
}

// Work cut into units: tiles of pairs x stretches of rows x chunks of the batch.
struct Split {
  int64_t tiles, stretches, units;
  int32_t stretch_rows, chunk_samples;
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
        encode(a.spec, frequencies + in_tile, position_of(a.positions, first + n), a.order, pairs);
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
        give_far<Pairs::kPairs>(a.spec, frequencies + in_tile, pair, position_of(a.positions, first + n),
                                row_at(n));
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
  const Places at = places(a.spec);
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
  // To the halves a second rounding, of float32, does not show.
  template <class T>
  __device__ __forceinline__ float sum(float x, float encoding) const {
    if constexpr (std::is_same_v<T, float>) {
      return round_pair<float>(scaled_sum(x, scales.x, encoding, a.dropout.seed != nullptr, scales.kept));
    } else {
      const float value = fused_multiply_add(x, scales.x.hi, encoding);
      return a.dropout.seed != nullptr ? value * scales.kept.hi : value;
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
  __shared__ typename KeptPairs<Pairs>::Shared kept;
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
        KeptPairs<Pairs> pairs{kept, thread, {}};
        bool skipped = false;
        if constexpr (Pairs::kExact) {
          encode(a.spec, frequencies + in_tile,
                 added_position(a, block.first_position + n, block.first_sample + sample), 0, pairs.own);
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
          give_far<Pairs::kPairs>(a.spec, frequencies + in_tile, pair, added_position(a, l, own), row);
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
__device__ __forceinline__ FloatPair scaled(const ScaleDropout&, FloatPair scale, float x) {
  return multiply(x, scale);
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

// The same where x does not lie in vectors; a thread owns an element.
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
