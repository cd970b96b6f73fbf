// e^x for x <= 0, as softmax takes it: the same bits on every CPU level and, in float32, on CUDA.
//
// x = n ln 2 + r with |r| <= ln(2)/2 (Cody and Waite 1980), and e^r = 1 + r + r^2 q(r), where q is a minimax
// polynomial in float32 (error 2^-28) and Taylor's in float64 (2^-57). All products are fused. Over every
// float32 the error is at most 1.012 units in the last place, and the result is monotonic
// (tests/cpp/exp.cpp); over a million float64 numbers it is below 1. Where e^x would be subnormal it is 0.
#pragma once

#include "core/float_pair.h"

namespace posenc_ext::core {

template <class T>
struct Exp;

template <>
struct Exp<float> {
  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kRound = 0x1.8p+23f;  // added, it rounds to an integer in the last bits
  static constexpr float kLn2Hi = 0x1.62e4p-1f, kLn2Lo = 0x1.7f7d1cp-20f;
  static constexpr float kLeast = -0x1.5d588p+6f;  // about ln(2^-126)
  static constexpr float kQ[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558aap-5f, 0x1.12398cp-7f,
                                 0x1.6a5426p-10f};
};

template <>
struct Exp<double> {
  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kRound = 0x1.8p+52;
  static constexpr double kLn2Hi = 0x1.62e42fefa0000p-1, kLn2Lo = 0x1.cf79abc9e3b3ap-40;
  static constexpr double kLeast = -0x1.6232bdd7abcd2p+9;  // about ln(2^-1022)
  static constexpr double kQ[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                  1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                  1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

// x * 2^n, where the last bits of `rounded` are n; and x, or 0 where y < least.
POSENC_HD float times_power(float x, float rounded) {
  return bit_cast<float>(bit_cast<uint32_t>(x) + (bit_cast<uint32_t>(rounded) << 23));
}
POSENC_HD double times_power(double x, double rounded) {
  return bit_cast<double>(bit_cast<uint64_t>(x) + (bit_cast<uint64_t>(rounded) << 52));
}
template <class T>
POSENC_HD T zero_below(T x, T y, T least) {
  return y < least ? T(0) : x;
}

// kQ[i] + r * (kQ[i + 1] + ...), by Horner's rule. No loop: device code reads an array of constants only at
// constant indices.
template <class T, int i, class Number>
POSENC_HD Number exp_terms(Number r) {
  constexpr T kOwn = Exp<T>::kQ[i];
  if constexpr ((i + 2) * sizeof(T) == sizeof(Exp<T>::kQ)) {
    constexpr T kLast = Exp<T>::kQ[i + 1];
    return fused_multiply_add(r, kLast, kOwn);
  } else {
    return fused_multiply_add(exp_terms<T, i + 1>(r), r, kOwn);
  }
}

// T: float or double. Number: T, or a vector of T with its own functions of the names above.
template <class T, class Number>
POSENC_HD Number exp_of_negative(Number x) {
  using C = Exp<T>;
  const Number rounded = fused_multiply_add(x, T(C::kLog2E), T(C::kRound));
  const Number n = rounded - T(C::kRound);
  const Number r = fused_multiply_add(n, T(-C::kLn2Lo), fused_multiply_add(n, T(-C::kLn2Hi), x));
  const Number power = fused_multiply_add(r * r, exp_terms<T, 0>(r), r) + T(1);
  // Of a NaN the last bits are any; the smaller of it and a number is the number, 0 in these bits.
  return zero_below(times_power(power, min_of(rounded, T(C::kRound))), x, T(C::kLeast));
}

}  // namespace posenc_ext::core
