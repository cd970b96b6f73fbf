// Numbers as an unevaluated sum of two floats (about 48 bits): the sums and products that devices slow at
// float64 round once all the same.
#pragma once

#include "core/scalar.h"

namespace posenc_ext::core {

POSENC_HD float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

struct FloatPair {
  float hi, lo;
};

POSENC_HD FloatPair to_float_pair(double x) {
  const float hi = static_cast<float>(x);
  return {hi, static_cast<float>(x - static_cast<double>(hi))};
}

// Are both parts ordinary floats, and their products with ordinary numbers?
POSENC_HD bool fits_float_pair(double x) { return x == 0.0 || (fabs(x) >= 0x1p-60 && fabs(x) <= 0x1p60); }

POSENC_HD FloatPair two_sum(float a, float b) {
  const float sum = a + b;
  const float b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

// x * y, where x is one float.
POSENC_HD FloatPair multiply(float x, FloatPair y) {
  const float product = x * y.hi;
  return {product, fused_multiply_add(x, y.lo, fused_multiply_add(x, y.hi, -product))};
}

POSENC_HD FloatPair multiply(FloatPair x, FloatPair y) {
  const FloatPair product = multiply(x.hi, y);
  return {product.hi, fused_multiply_add(x.lo, y.hi, product.lo)};
}

POSENC_HD FloatPair add(FloatPair x, float y) {
  const FloatPair sum = two_sum(x.hi, y);
  return {sum.hi, x.lo + sum.lo};
}

POSENC_HD FloatPair add(FloatPair x, FloatPair y) {
  const FloatPair sum = two_sum(x.hi, y.hi);
  return {sum.hi, (x.lo + y.lo) + sum.lo};
}

// x * x_scale + y, times retained_scale where that is asked for: what each step rounds off is carried along.
POSENC_HD FloatPair scaled_sum(float x, FloatPair x_scale, float y, bool scaled, FloatPair retained_scale) {
  const FloatPair sum = add(multiply(x, x_scale), y);
  return scaled ? multiply(sum, retained_scale) : sum;
}

// The pair, rounded once. Infinities and NaN are in `hi` alone: then `lo` has no meaning.
template <class T>
POSENC_HD T round_pair(FloatPair x) {
  const float near = x.hi + x.lo;
  const float whole = fabsf(x.hi) < HUGE_VALF ? near : x.hi;
  if constexpr (sizeof(T) == sizeof(float)) {
    return round_to<T>(whole);
  } else {
    // Rounded to odd: a float whose last bit is set where anything is left rounds on to fewer bits as the sum
    // does.
    const float rest = (x.hi - near) + x.lo;
    const uint32_t bits = bit_cast<uint32_t>(whole);
    const uint32_t toward = (bit_cast<uint32_t>(rest) ^ bits) >> 31 != 0 ? 0xffffffffu : 1u;
    const bool inexact = fabsf(rest) > 0.0f && fabsf(whole) < HUGE_VALF && (bits & 1) == 0;
    return round_to<T>(bit_cast<float>(inexact ? bits + toward : bits));
  }
}

}  // namespace posenc_ext::core
