// Sinusoids for devices that are slow at float64: an exact phase in integers, then float32. A position times
// a frequency, mod 1 turn, is an integer product of fixed-point words; what is left after whole quarter turns
// keeps its leading 30 bits however near to zero it is. Sines and cosines are within an ulp of float32: the
// largest error that tests/cpp/phase.cpp finds is 0.752.
#pragma once

#include "core/float_pair.h"
#include "core/sinusoid.h"

namespace posenc_ext::core {

POSENC_HD int32_t leading_zeros(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __clz(static_cast<int>(x));
#else
  return x == 0 ? 32 : __builtin_clz(x);
#endif
}

POSENC_HD uint64_t join(uint32_t high, uint32_t low) { return static_cast<uint64_t>(high) << 32 | low; }

// ---- frequencies

// Of pair j = j0 + 32 j1 + 1024 j2 the frequency is the product of three digits, made on the host: the power
// that frequency(s, j) computes takes a device 700 operations in float64. Relative error under 2^-94.
struct FrequencyDigits {
  static constexpr int kRadix = 32, kDigits = 3;
  static constexpr int64_t kPairs = int64_t{kRadix} * kRadix * kRadix;
  DoubleDouble digit[kDigits][kRadix];
};

inline FrequencyDigits make_digits(const Sinusoid& s) {
  FrequencyDigits digits{};
  double step = -1.0;  // of the digit's place
  for (int place = 0; place < FrequencyDigits::kDigits; ++place, step *= FrequencyDigits::kRadix) {
    DoubleDouble* power = digits.digit[place];
    power[0] = place == 0 ? s.turn : DoubleDouble{1.0, 0.0};
    for (int bit = 1; bit < FrequencyDigits::kRadix; bit *= 2) {
      const DoubleDouble factor = exp_2(multiply({step * bit, 0.0}, s.rate));
      for (int i = 0; i < bit; ++i) power[bit + i] = multiply(power[i], factor);
    }
  }
  return digits;
}

POSENC_HD DoubleDouble frequency(const FrequencyDigits& digits, int32_t j) {
  return multiply(multiply(digits.digit[0][j % 32], digits.digit[1][j / 32 % 32]), digits.digit[2][j / 1024]);
}

POSENC_HD DoubleDouble frequency(const Sinusoid& s, const FrequencyDigits& digits, int64_t j) {
  return j < digits.kPairs ? frequency(digits, static_cast<int32_t>(j)) : frequency(s, j);
}

// A frequency in turns per position, in two's complement mod 2^32: word i counts 2^(-32 i) turns.
struct FixedFrequency {
  uint32_t word[4];
};

// Turns of a number of quarter turns >= 0, in units of 2^-96, rounded down.
POSENC_HD unsigned __int128 fixed_turns(double quarter_turns) {
  const uint64_t bits = bit_cast<uint64_t>(quarter_turns);
  const uint64_t mantissa = (bits & ((uint64_t{1} << 52) - 1)) | uint64_t{1} << 52;
  const int32_t shift = static_cast<int32_t>(bits >> 52 & 0x7ff) - 1023 - 52 - 2 + 96;
  if (shift >= 128 || shift <= -64) return 0;  // whole numbers of 2^32 turns; nothing
  const unsigned __int128 wide = mantissa;
  return shift >= 0 ? wide << shift : wide >> -shift;
}

POSENC_HD FixedFrequency to_fixed(DoubleDouble f) {
  unsigned __int128 turns = fixed_turns(fabs(f.hi));
  const unsigned __int128 low = fixed_turns(fabs(f.lo));
  turns = (f.hi < 0.0) == (f.lo < 0.0) ? turns + low : turns - low;
  if (f.hi < 0.0) turns = -turns;
  return {{static_cast<uint32_t>(turns >> 96), static_cast<uint32_t>(turns >> 64),
           static_cast<uint32_t>(turns >> 32), static_cast<uint32_t>(turns)}};
}

// Are the fixed-point words of every frequency as good as float32 needs? Else float64 serves.
inline bool has_fixed_frequencies(const Sinusoid& s) {
  const int64_t count = s.frequencies();
  if (count > FrequencyDigits::kPairs) return false;
  const double first = fabs(s.turn.hi), last = first * exp2(-static_cast<double>(count) * s.rate.hi);
  return min_of(first, last) > 0x1p-40 && max_of(first, last) < 0x1p20;
}

// ---- positions

// A position as a number of steps of 2^-shift, 0 <= shift < 32, where there is one: every whole number below
// 2^32 in magnitude, every float32 in [2^-8, 2^32), zero.
struct Steps {
  uint32_t count;
  int32_t shift;
  bool negative, exact;
};

POSENC_HD Steps to_steps(int64_t p) {
  const uint64_t magnitude = p < 0 ? -static_cast<uint64_t>(p) : static_cast<uint64_t>(p);
  return {static_cast<uint32_t>(magnitude), 0, p < 0, magnitude >> 32 == 0};
}

POSENC_HD Steps to_steps(double p) {
  const uint64_t bits = bit_cast<uint64_t>(p);
  const bool negative = bits >> 63 != 0;
  if (p == 0.0) return {0, 0, negative, true};
  const int32_t exponent = static_cast<int32_t>(bits >> 52 & 0x7ff) - 1023;
  const uint64_t mantissa = (bits & ((uint64_t{1} << 52) - 1)) | uint64_t{1} << 52;
  const int32_t cut = exponent < 0 ? 21 - exponent : 21;  // bits of the mantissa below a step
  if (exponent > 31 || cut > 52 || (mantissa & ((uint64_t{1} << cut) - 1)) != 0)
    return {0, 0, negative, false};
  return {static_cast<uint32_t>(mantissa >> cut), exponent < 0 ? 31 : 31 - exponent, negative, true};
}

POSENC_HD Steps to_steps(float p) {
  const uint32_t bits = bit_cast<uint32_t>(p);
  const bool negative = bits >> 31 != 0;
  if (p == 0.0f) return {0, 0, negative, true};
  const int32_t exponent = static_cast<int32_t>(bits >> 23 & 0xff) - 127;
  const uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
  if (exponent >= 0) return {mantissa << 8, 31 - exponent, negative, exponent <= 31};
  const int32_t cut = -8 - exponent;  // bits of the mantissa below a step
  if (cut <= 0) return {mantissa << -cut, 31, negative, true};
  return {cut < 24 ? mantissa >> cut : 0, 31, negative, cut < 24 && (mantissa & ((1u << cut) - 1)) == 0};
}

// The steps of a stored position, without float64 unless it is one.
POSENC_HD Steps load_steps(const void* data, PositionType type, int64_t i) {
  switch (type) {
    case PositionType::u8:
      return to_steps(int64_t{static_cast<const uint8_t*>(data)[i]});
    case PositionType::i8:
      return to_steps(int64_t{static_cast<const int8_t*>(data)[i]});
    case PositionType::i16:
      return to_steps(int64_t{static_cast<const int16_t*>(data)[i]});
    case PositionType::i32:
      return to_steps(int64_t{static_cast<const int32_t*>(data)[i]});
    case PositionType::i64:
      return to_steps(static_cast<const int64_t*>(data)[i]);
    case PositionType::u16:
      return to_steps(int64_t{static_cast<const uint16_t*>(data)[i]});
    case PositionType::u32:
      return to_steps(int64_t{static_cast<const uint32_t*>(data)[i]});
    case PositionType::u64:  // beyond 2^32 there are none
      return to_steps(
          static_cast<int64_t>(min_of<uint64_t>(static_cast<const uint64_t*>(data)[i], uint64_t{1} << 32)));
    case PositionType::f64:
      return to_steps(static_cast<const double*>(data)[i]);
    case PositionType::f32:
      return to_steps(static_cast<const float*>(data)[i]);
    case PositionType::f16:
      return to_steps(to_float(static_cast<const Half*>(data)[i]));
    default:
      return to_steps(to_float(static_cast<const BFloat16*>(data)[i]));
  }
}

// ---- angles

// An angle as a quadrant (the two low bits count) and a rest of at most pi/4 in radians, the sum of two
// floats; `sign` is the sign bit of the rest.
struct FloatAngle {
  uint32_t quadrant, sign;
  float hi, lo;
};

// p * f. The phase is exact to p * 2^-95 turns; the rest, relative to itself, to 2^-30.
POSENC_HD FloatAngle reduce(const Steps& p, const FixedFrequency& f) {
  // The product, in words of the frequency's weights, of which what is whole turns falls off the top.
  uint64_t sum = uint64_t{p.count} * f.word[3];
  const uint32_t w3 = static_cast<uint32_t>(sum);
  sum = uint64_t{p.count} * f.word[2] + (sum >> 32);
  const uint32_t w2 = static_cast<uint32_t>(sum);
  sum = uint64_t{p.count} * f.word[1] + (sum >> 32);
  const uint32_t w1 = static_cast<uint32_t>(sum);
  const uint32_t w0 = p.count * f.word[0] + static_cast<uint32_t>(sum >> 32);
  uint32_t high = static_cast<uint32_t>(join(w0, w1) >> p.shift);
  uint32_t middle = static_cast<uint32_t>(join(w1, w2) >> p.shift);
  uint32_t low = static_cast<uint32_t>(join(w2, w3) >> p.shift);

  const uint32_t quadrant = (high + 0x20000000u) >> 30;
  high -= quadrant << 30;  // the rest, in two's complement
  const uint32_t minus = 0u - (high >> 31);
  high ^= minus;
  middle ^= minus;
  low ^= minus;

  // Its leading 32 bits, and their weight.
  const bool tiny = high == 0;
  const uint32_t first = tiny ? middle : high, second = tiny ? low : middle;
  const int32_t zeros = leading_zeros(first);
  const uint32_t leading = static_cast<uint32_t>((join(first, second) << zeros) >> 32);
  const uint32_t radians = static_cast<uint32_t>((uint64_t{leading} * 0xC90FDAA2u) >> 32);  // 2^32 pi/4
  const uint32_t exponent = static_cast<uint32_t>(127 - 29 - (tiny ? 32 : 0) - zeros);
  // 23 bits and 9 as floats: added to 2^23 they are its low bits.
  const float hi = bit_cast<float>(0x4B000000u | radians >> 9) - 0x1p23f;
  const float lo = bit_cast<float>(0x4B000000u | (radians & 0x1ffu)) - 0x1p23f;
  const uint32_t flip = p.negative ? 0xffffffffu : 0u;
  return {(quadrant ^ flip) - flip, (minus ^ flip) & 0x80000000u, hi * bit_cast<float>((exponent + 9) << 23),
          lo * bit_cast<float>(exponent << 23)};
}

// The same from float64, for any position.
POSENC_HD FloatAngle to_floats(const QuarterTurns& t) {
  const double angle = fused_multiply_add(t.hi, half_pi().hi, t.lo * half_pi().hi);
  const float hi = static_cast<float>(angle);
  return {static_cast<uint32_t>(t.quadrant), 0, hi, static_cast<float>(angle - static_cast<double>(hi))};
}

// ---- sines

struct FloatSineCosine {
  float sine, cosine;
};

struct FloatPairSineCosine {
  FloatPair sine, cosine;
};

// sin and cos of the angle: minimax polynomials on |a| <= pi/4 (cut terms under 2^-33). As pairs they are
// right to 1.5 * 2^-26 of themselves.
POSENC_HD FloatPairSineCosine sine_cosine_pairs(const FloatAngle& t) {
  const float a = t.hi, square = a * a;
  float s = 0x1.6cd85ap-19f;
  s = fused_multiply_add(s, square, -0x1.a00f9ep-13f);
  s = fused_multiply_add(s, square, 0x1.111108p-7f);
  s = fused_multiply_add(s, square, -0x1.555556p-3f);
  float c = 0x1.9a0232p-16f;
  c = fused_multiply_add(c, square, -0x1.6c0c8cp-10f);
  c = fused_multiply_add(c, square, 0x1.55554ap-5f);

  // cos a = 1 - a^2/2 + a^4 c - a lo; what rounding takes from the square and the subtraction is added back.
  const float head = fused_multiply_add(-0.5f, square, 1.0f);
  float tail = fused_multiply_add(-0.5f, square, 1.0f - head);
  tail = fused_multiply_add(-0.5f, fused_multiply_add(a, a, -square), tail);
  tail = fused_multiply_add(-a, t.lo, tail);
  const FloatPair cosine{head, fused_multiply_add(square * square, c, tail)};
  // sin a = a + (a^3 s + lo cos a)
  const float tail_of_sine = fused_multiply_add(a * square, s, t.lo * (cosine.hi + cosine.lo));
  return {{a, tail_of_sine}, cosine};
}

// The same rounded: only the last addition of each shows. Of the whole angle, its quadrant and sign included.
POSENC_HD FloatSineCosine sine_cosine(const FloatAngle& t) {
  const FloatPairSineCosine rest = sine_cosine_pairs(t);
  const float sine = rest.sine.hi + rest.sine.lo, cosine = rest.cosine.hi + rest.cosine.lo;
  const float signed_sine = bit_cast<float>(bit_cast<uint32_t>(sine) ^ t.sign);
  const bool odd = (t.quadrant & 1) != 0;
  const float first = odd ? cosine : signed_sine, second = odd ? signed_sine : cosine;
  return {bit_cast<float>(bit_cast<uint32_t>(first) ^ (t.quadrant & 2) << 30),
          bit_cast<float>(bit_cast<uint32_t>(second) ^ ((t.quadrant + 1) & 2) << 30)};
}

// sin(angle + phase quarter turns)
POSENC_HD FloatPair sine_at(const FloatPairSineCosine& rest, const FloatAngle& t, int32_t phase) {
  const uint32_t turns = t.quadrant + static_cast<uint32_t>(phase);
  const bool odd = (turns & 1) != 0;
  const uint32_t sign = (turns & 2) << 30 ^ (odd ? 0u : t.sign);
  const FloatPair value = odd ? rest.cosine : rest.sine;
  return {bit_cast<float>(bit_cast<uint32_t>(value.hi) ^ sign),
          bit_cast<float>(bit_cast<uint32_t>(value.lo) ^ sign)};
}

}  // namespace posenc_ext::core
