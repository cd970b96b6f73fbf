// x * x_scale + addend, times the scale of dropout: what sums are computed in before they are rounded to
// their dtype.
//
// float64 and float32 are summed in float64 (on CUDA float32 in pairs of floats), the half types in float32,
// by the same steps on CPUs and on CUDA. With e the addend, k the scale of dropout (1 without it) and t the
// exact sum, float32 rounds x_scale, e, k, the fused sum and its product with k, each by at most 2^-24 of its
// size. So what is rounded to the half type is within
//   2^-24 ((|x x_scale| + |e|) k + 3 |t|) + 2^-149 k
// of t, where the last term is of subnormal numbers. |t| is below 2^11 units in its last place: the result is
// within 0.501 of them and 2^-24 (|x x_scale| + |e|) k of t. The latter shows only where x x_scale and e
// cancel, and is zero where both factors are float32.
#pragma once

#include <type_traits>

#include "core/float_pair.h"

namespace posenc_ext::core {

template <class T>
constexpr bool kIsHalf = sizeof(T) < sizeof(float);

template <class T>
using sum_t = std::conditional_t<kIsHalf<T>, float, double>;

template <class Sum>
POSENC_HD Sum scaled_sum(Sum x, Sum x_scale, Sum addend) {
  return fused_multiply_add(x, x_scale, addend);
}

// x + pos needs no float64 for float32, nor is a sum of halves in float32 rounded twice: rounded to 24 bits
// it rounds on to 8 or 11 bits as the exact sum does (24 >= 2 * 11 + 2; Figueroa 1995).
template <class T>
POSENC_HD auto plain_sum(T x, T pos) {
  return widen(x) + widen(pos);
}

}  // namespace posenc_ext::core
