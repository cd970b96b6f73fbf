// Sinusoids: which channel holds what, exact frequencies, exact reduction, one polynomial pair.
//   w_j = base^(-j / (n - freq_shift)), n = dim / 2;   angle = scale * p * w_j   (Vaswani et al. 2017)
#pragma once

#include "core/double_double.h"

namespace posenc_ext::core {

enum class Layout : int32_t { interleaved, concat, concat_cos_first };
enum class Odd : int32_t { error, zero, sin };

// How a row of channels encodes a position.
struct EncodingSpec {
  int64_t dim;
  double base, freq_shift, scale;
  Layout layout;
  Odd odd;
};

// The same, as kernels evaluate it.
struct Sinusoid {
  int64_t dim;
  Layout layout;
  Odd odd;
  DoubleDouble rate;  // log2(base) / (n - freq_shift)
  DoubleDouble turn;  // scale * 2 / pi: quarter turns per position at w = 1
  double fastest;     // the largest |frequency|

  POSENC_HD int64_t pairs() const { return dim / 2; }
  POSENC_HD int64_t frequencies() const { return pairs() + (dim % 2 != 0 && odd == Odd::sin); }
};

// The frequency of pair j in quarter turns per position: reduction to a quadrant is then rounding to an
// integer.
POSENC_HD DoubleDouble frequency(const Sinusoid& s, int64_t j) {
  if (j == 0) return s.turn;
  return multiply(exp_2(multiply({-static_cast<double>(j), 0.0}, s.rate)), s.turn);
}

POSENC_HD Sinusoid make_sinusoid(int64_t dim, double base, double freq_shift, double scale, Layout layout,
                                 Odd odd) {
  const DoubleDouble divisor = two_sum(static_cast<double>(dim / 2), -freq_shift);
  // divisor.lo is zero for every freq_shift that anybody writes; the quotient is exact enough without it.
  Sinusoid s{dim, layout, odd, divide(log_2(base), divisor.hi), multiply({scale, 0.0}, two_over_pi()), 0.0};
  // They fall from pair to pair, or with a base below 1 rise.
  const double first = fabs(s.turn.hi), last = fabs(frequency(s, max_of<int64_t>(s.frequencies(), 1) - 1).hi);
  s.fastest = first > last ? first : last;  // not a number where the last one is none
  return s;
}

POSENC_HD Sinusoid make_sinusoid(const EncodingSpec& s) {
  return make_sinusoid(s.dim, s.base, s.freq_shift, s.scale, s.layout, s.odd);
}

// What is in channel c: the sine (phase 0) or the cosine (phase 1) of a pair, or a zero (phase -1).
struct Channel {
  int64_t pair;
  int32_t phase;
};

POSENC_HD Channel channel(const Sinusoid& s, int64_t c) {
  const int64_t n = s.pairs();
  if (s.dim % 2 != 0 && s.odd == Odd::zero && c == s.dim - 1) return {0, -1};
  if (s.layout == Layout::interleaved) return {c / 2, static_cast<int32_t>(c % 2)};
  if (s.layout == Layout::concat) {
    const int64_t sines = s.frequencies();
    return c < sines ? Channel{c, 0} : Channel{c - sines, 1};
  }
  return c < n ? Channel{c, 1} : Channel{c - n, 0};
}

// Its inverse: where the sines and the cosines of a row begin, the step from pair to pair, and the extra
// channel of an odd dim.
struct ChannelOffsets {
  int64_t sine, cosine, step, extra;
};

POSENC_HD ChannelOffsets channel_offsets(const Sinusoid& s) {
  const int64_t last = s.dim - 1;
  if (s.layout == Layout::interleaved) return {0, 1, 2, last};
  if (s.layout == Layout::concat) return {0, s.frequencies(), 1, s.odd == Odd::sin ? s.pairs() : last};
  return {s.pairs(), 0, 1, last};
}

// The i-th position from `start`; in double, which holds every position below 2^53 and cannot overflow.
POSENC_HD double position_after(int64_t start, int64_t i) {
  return static_cast<double>(start) + static_cast<double>(i);
}

// An angle in quarter turns: a quadrant (the two low bits count) and a rest in [-1/2, 1/2].
struct QuarterTurns {
  uint64_t quadrant;
  double hi, lo;
};

// Beyond this many quarter turns the rounding below needs its input brought near zero first.
constexpr double kMaxFastTurns = 0x1p50;

// remainder(x, 4.0), except for the sign of zero: every step is exact, and without the library's loop.
POSENC_HD double remainder_4(double x) { return x - 4.0 * rint(0.25 * x); }

// p * f, reduced. Exact except for one rounding of the low part, about 2^-52 of it: the rest keeps its
// relative precision near zero.
template <bool kHuge>
POSENC_HD QuarterTurns reduce(double p, DoubleDouble f) {
  double hi = p * f.hi;
  double lo = fused_multiply_add(p, f.lo, fused_multiply_add(p, f.hi, -hi));
  if (kHuge) {
    const DoubleDouble near_zero = two_sum(remainder_4(hi), remainder_4(lo));
    hi = near_zero.hi;
    lo = near_zero.lo;
  }
  const double magic = 0x1.8p52;  // adding it rounds to an integer and leaves that in the low bits
  const double shifted = hi + magic;
  const double rest = hi - (shifted - magic);
  const DoubleDouble sum = two_sum(rest, lo);
  return {bit_cast<uint64_t>(shifted), sum.hi, sum.lo};
}

POSENC_HD bool needs_huge_reduction(const Sinusoid& s, double p) {
  return !(fabs(p * s.fastest) < kMaxFastTurns);
}

struct SineCosine {
  double sine, cosine;
};

// (sin a - a) / a^3 and (cos a - 1 + a^2/2) / a^4 for |a| <= pi/4, of a^2: the minimax polynomials of
// fdlibm's k_sin.c and k_cos.c (Sun Microsystems 1993); what they leave of sin a / a and of cos a is below
// 2^-58.
POSENC_HD double sine_tail(double square) {
  double s = 1.58969099521155010221e-10;
  s = fused_multiply_add(s, square, -2.50507602534068634195e-08);
  s = fused_multiply_add(s, square, 2.75573137070700676789e-06);
  s = fused_multiply_add(s, square, -1.98412698298579493134e-04);
  s = fused_multiply_add(s, square, 8.33333333332248946124e-03);
  return fused_multiply_add(s, square, -1.66666666666666324348e-01);
}

POSENC_HD double cosine_tail(double square) {
  double c = -1.13596475577881948265e-11;
  c = fused_multiply_add(c, square, 2.08757232129817482790e-09);
  c = fused_multiply_add(c, square, -2.75573143513906633035e-07);
  c = fused_multiply_add(c, square, 2.48015872894767294178e-05);
  c = fused_multiply_add(c, square, -1.38888888888741095749e-03);
  return fused_multiply_add(c, square, 4.16666666666666019037e-02);
}

// sin and cos of the rest, within an ulp: the angle's low part is added to first order.
POSENC_HD SineCosine sine_cosine(const QuarterTurns& t) {
  const DoubleDouble to_radians = half_pi();
  const double a = t.hi * to_radians.hi;
  const double a_low = fused_multiply_add(
      t.hi, to_radians.lo,
      fused_multiply_add(t.lo, to_radians.hi, fused_multiply_add(t.hi, to_radians.hi, -a)));
  const double square = a * a;
  // cos a = 1 - a^2/2 + a^4 c - a a_low; what the first subtraction loses is added back.
  const double half = 0.5 * square;
  const double head = 1.0 - half;
  const double lost =
      ((1.0 - head) - half) + fused_multiply_add(square * square, cosine_tail(square), -a * a_low);
  // sin a = a + (a^3 s + a_low (1 - a^2/2))
  const double tail = fused_multiply_add(a * square, sine_tail(square), a_low * head);
  return {a + tail, head + lost};
}

// The same without the low parts, for results that are rounded to float32 or less: relative error below
// 2^-51.
POSENC_HD SineCosine short_sine_cosine(const QuarterTurns& t) {
  const double a = t.hi * half_pi().hi;
  const double square = a * a;
  return {fused_multiply_add(a * square, sine_tail(square), a),
          fused_multiply_add(square * square, cosine_tail(square), fused_multiply_add(-0.5, square, 1.0))};
}

// sin(angle + phase quarter turns)
POSENC_HD double sine_at(const SineCosine& rest, uint64_t quadrant, int32_t phase) {
  const uint64_t turns = quadrant + static_cast<uint64_t>(static_cast<int64_t>(phase));
  const double value = (turns & 1) != 0 ? rest.cosine : rest.sine;
  return bit_cast<double>(bit_cast<uint64_t>(value) ^ ((turns & 2) << 62));
}

// d^order/dp^order sin(w p) = w^order sin(w p + order quarter turns): this is w^order, with w in radians per
// position.
POSENC_HD double derivative_factor(DoubleDouble f, int32_t order) {
  const double w = f.hi * half_pi().hi;
  double factor = 1.0;
  for (int32_t i = 0; i < order; ++i) factor *= w;
  return factor;
}

}  // namespace posenc_ext::core
