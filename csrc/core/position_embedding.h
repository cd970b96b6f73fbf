// The sum of a token and its position embedding, rounded once by whoever stores it.
#pragma once

#include "core/scalar.h"

namespace posenc_ext::core {

// Without scale or dropout float32 serves the half types as float64 would: a sum of two of them, rounded to
// 24 bits, rounds on to their 8 or 11 bits as the exact sum does (24 >= 2 * 11 + 2; Figueroa 1995).
template <class T>
POSENC_HD auto plain_sum(T x, T pos) {
  return widen(x) + widen(pos);
}

template <class T, class Double>
POSENC_HD Double scaled_plus(T x, Double x_scale, T pos) {
  return fused_multiply_add(to_double(x), x_scale, to_double(pos));
}

}  // namespace posenc_ext::core
