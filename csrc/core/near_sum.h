// When x * x_scale + encoding, computed in float32, rounds to a half type as it does in float64.
//
// With s and e as a high and a low float each (what is left is below 2^-48 of them), the float sum is
//   t = fma(x, s_hi, e_hi) + fma(x, s_lo, e_lo).
// Its errors, with M = |x s| + |e| and units in the last place of t, which are at least 2^-24 |t|: half a
// unit of the first fma's result, which may be in the binade above that of t, so one unit; half a unit of the
// last sum; and of the parts left out and of the second fma at most 3.1 * 2^-48 M. Let |e| <= 16 and |t|
// round to 2^-14 or more: then M <= |t| + 33, so the second fma is below 2^-4 |t|, as the first result's
// place asks, and the last error is below a tenth of a unit. What float64 rounds off is far less. Together
// below 1.7 units: so unless t is within 1 unit of the middle between two values of the half type, both round
// alike.
//
// A product alone, t = fma(x, s_hi, x * s_lo), is off by half a unit and 2^-21 of one more, one near zero by
// a unit: so are products of BFloat16, whose middles end in the same bits however small they are.
#pragma once

#include "core/scalar.h"

namespace posenc_ext::core {

template <class T>
struct NearSum;

template <>
struct NearSum<BFloat16> {
  static constexpr int kCut = 16;                                    // bits that rounding takes from a float
  static constexpr uint16_t kSmallest = 0x3880, kInfinity = 0x7f80;  // bits of 2^-14 and of infinity
};

template <>
struct NearSum<Half> {
  static constexpr int kCut = 13;
  static constexpr uint16_t kSmallest = 0x0400, kInfinity = 0x7c00;
};

// In doubt is a t whose bits + kToMiddle have none of kAroundMiddle set: it is near a middle, from 2 units
// below to 1 above. And one that rounds to what is no number, or below the bits of the smallest that the
// bound allows: of sums kSmallest, of products of BFloat16 zero.
template <class T>
constexpr uint32_t kToMiddle = (1u << (NearSum<T>::kCut - 1)) + 2;
template <class T>
constexpr uint32_t kAroundMiddle = (1u << NearSum<T>::kCut) - 4;

// Outside are 16 bits b with 2 b - 2 kSmallest >= kTwiceRange, modulo 2^16: twice the bits lose the sign.
template <class T, uint16_t kSmallest>
constexpr uint16_t kTwiceRange = 2 * (NearSum<T>::kInfinity - kSmallest);

// What the bound asks of x_scale, so that its low part has all its bits, and of the factor of encodings,
// which are at most one.
POSENC_HD bool is_near(double x_scale, double factor) {
  return fabs(x_scale) >= 0x1p-64 && fabs(x_scale) <= 0x1p64 && factor <= 16;
}

}  // namespace posenc_ext::core
