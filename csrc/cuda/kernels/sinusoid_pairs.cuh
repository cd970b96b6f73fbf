// What the sinusoid kernels share: pairs of a sine and a cosine, and how work is split. Rows are split into
// tiles of pairs: a block makes the exact frequencies of its tile once, two products each, into shared
// memory, and then walks over rows. Values of float32 and the half types come from core/phase.h in integers
// and float32; float64, derivatives, and frequencies out of the ordinary come from core/sinusoid.h.
#pragma once

#include <type_traits>

#include "core/phase.h"
#include "cuda/kernels/sinusoidal.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kTilePairs = 32;

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

// A position of 64 bits that a double may not hold is a failed assertion on the device.
__device__ __forceinline__ double checked(double p, PositionType type) {
  const bool position_is_below_2_to_the_53rd =
      (type != PositionType::i64 && type != PositionType::u64) || fabs(p) < 0x1p53;
  POSENC_KERNEL_ASSERT(position_is_below_2_to_the_53rd);
  return p;
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

// Where a pair's sine and cosine are in a row. In 32 bits where float32 serves, for then there are fewer
// than FrequencyDigits::kPairs of them.
template <class Real>
struct Channels {
  using Int = std::conditional_t<std::is_same_v<Real, double>, int64_t, int32_t>;
  Int sine, cosine;  // the extra channel of an odd dim has no cosine: -1

  __device__ __forceinline__ Channels(const Sinusoid& s, Int j) {
    const ChannelOffsets at = channel_offsets(s);
    const bool pair = j < static_cast<Int>(s.pairs());
    sine = pair ? static_cast<Int>(at.sine) + j * static_cast<Int>(at.step) : static_cast<Int>(at.extra);
    cosine = pair ? static_cast<Int>(at.cosine) + j * static_cast<Int>(at.step) : Int{-1};
  }
};

// The pairs a thread owns of a row, and how it touches their channels. This one takes any row, one channel at
// a time; the dtype is looked at for each, which costs little next to uncoalesced accesses and saves a kernel
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
// they are in shared memory.
template <class Pairs>
struct SharedPairs {
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

// Work split into units: tiles of pairs x stretches of rows x chunks of the batch.
struct Split {
  int64_t tiles, stretches, units;
  int32_t stretch_rows, chunk_samples;
};

}  // namespace
}  // namespace posenc_ext::cuda
