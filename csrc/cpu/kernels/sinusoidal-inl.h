// Bodies of the sinusoid kernels.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/simd/level.h"
#include "cpu/simd/vec-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Pairs worked on at a time: the arrays below stay in L1.
constexpr int64_t kPairBlock = 128;

// Loops over pairs run on whole groups of this many, whatever the vectors of a level hold.
constexpr int64_t kPairGroup = 8;

struct PairBlock {
  alignas(64) double sine[kPairBlock];
  alignas(64) double cosine[kPairBlock];
};

// kShort: for results of less than double's precision.
template <bool kShort, bool kHuge>
void encode_groups(const double* __restrict hi, const double* __restrict lo, int64_t count, double p,
                   int32_t order, PairBlock& out) {
  for (int64_t first = 0; first < count; first += kPairGroup) {
    for (int64_t i = first; i < first + kPairGroup; ++i) {
      const QuarterTurns turns = reduce<kHuge>(p, {hi[i], lo[i]});
      const SineCosine rest = kShort ? short_sine_cosine(turns) : sine_cosine(turns);
      out.sine[i] = sine_at(rest, turns.quadrant, order);
      out.cosine[i] = sine_at(rest, turns.quadrant, order + 1);
    }
  }
}

// sin and cos of the angles of `count` pairs at position p, or their derivatives of this order.
template <bool kShort>
void encode_pairs(const double* hi, const double* lo, int64_t count, double p, int32_t order, bool huge,
                  PairBlock& out) {
  const int64_t whole = (count + kPairGroup - 1) / kPairGroup * kPairGroup;
  huge ? encode_groups<kShort, true>(hi, lo, whole, p, order, out)
       : encode_groups<kShort, false>(hi, lo, whole, p, order, out);
  if (order == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    const double factor = derivative_factor({hi[i], lo[i]}, order);
    out.sine[i] *= factor;
    out.cosine[i] *= factor;
  }
}

// Calls put(first, count, block) for one block of pairs after another of the encoding of position p. `count`
// is that of sines; a last one without a cosine is the extra channel of an odd dim.
template <bool kShort, class Put>
inline void encode_blocks(const Frequencies& f, double p, int32_t order, Put put) {
  const bool huge = needs_huge_reduction(f.spec, p);
  const int64_t sines = f.spec.frequencies();
  PairBlock block;
  for (int64_t j = 0; j < sines; j += kPairBlock) {
    const int64_t count = min_of(kPairBlock, sines - j);
    encode_pairs<kShort>(f.hi + j, f.lo + j, count, p, order, huge, block);
    put(j, count, block);
  }
}

// Calls put(channel, value) for every channel of the encoding of position p.
template <class Put>
inline void encode_row(const Frequencies& f, double p, int32_t order, Put put) {
  const Sinusoid& s = f.spec;
  const ChannelOffsets at = channel_offsets(s);
  encode_blocks<false>(f, p, order, [&](int64_t j, int64_t count, const PairBlock& block) {
    const int64_t both = min_of(count, s.pairs() - j);
    if (at.step == 2) {
      for (int64_t i = 0; i < both; ++i) {
        put(2 * (j + i), block.sine[i]);
        put(2 * (j + i) + 1, block.cosine[i]);
      }
    } else {
      for (int64_t i = 0; i < both; ++i) put(at.sine + j + i, block.sine[i]);
      for (int64_t i = 0; i < both; ++i) put(at.cosine + j + i, block.cosine[i]);
    }
    if (both < count) put(at.extra, block.sine[both]);
  });
  if (s.dim % 2 != 0 && s.odd == Odd::zero) put(at.extra, 0.0);
}

inline double position_of(const Positions& p, int64_t i) {
  if (p.data == nullptr) return position_after(p.start, i);
  return load_position(p.data, p.type, p.at.offset(i));
}

template <class T>
constexpr bool kShortFor = sizeof(T) < sizeof(double);

// The sum over a row of grad * encoding. Eight sums, so that the additions are vectors of them and do not
// wait for each other; every level adds in this order.
constexpr int64_t kSums = kPairGroup;

template <class T>
double sinusoid_dot(const SinusoidBackward& a, int64_t i) {
  const Sinusoid& s = a.frequencies.spec;
  const ChannelOffsets at = channel_offsets(s);
  const T* grad = static_cast<const T*>(a.grad) + a.grad_row.offset(i);
  const int64_t stride = a.grad_channel_stride;
  double sums[kSums] = {};
  const auto dot = [&](int64_t j, int64_t count, const PairBlock& block) {
    const int64_t both = min_of(count, s.pairs() - j), whole = both / kSums * kSums;
    const T* sine_grad = grad + (at.sine + at.step * j) * stride;
    const T* cosine_grad = grad + (at.cosine + at.step * j) * stride;
    const int64_t step = at.step * stride;
    const auto add = [&](int64_t k, int64_t i) {
      sums[k] +=
          to_double(sine_grad[i * step]) * block.sine[i] + to_double(cosine_grad[i * step]) * block.cosine[i];
    };
    for (int64_t i = 0; i < whole; i += kSums) {
      for (int64_t k = 0; k < kSums; ++k) add(k, i + k);
    }
    for (int64_t i = whole; i < both; ++i) add(i - whole, i);
    if (both < count) sums[0] += to_double(grad[at.extra * stride]) * block.sine[both];
  };
  const double p = position_of(a.positions, i);
  if (kShortFor<T> && a.dtype != DType::float64) {
    encode_blocks<true>(a.frequencies, p, a.order, dot);
  } else {
    encode_blocks<false>(a.frequencies, p, a.order, dot);
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

void sinusoid_backward(const SinusoidBackward& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    double sum = 0.0;
    POSENC_DISPATCH_DTYPE(a.grad_dtype, sum = sinusoid_dot<scalar_t>(a, i))
    POSENC_DISPATCH_DTYPE(a.dtype, static_cast<scalar_t*>(a.out)[i] = round_to<scalar_t>(sum))
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
