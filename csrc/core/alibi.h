// ALiBi: a penalty on distance, one slope per head. Press et al. 2022, "Train short, test long".
#pragma once

#include "core/double_double.h"

namespace posenc_ext::core {

struct AlibiScheme {
  int64_t query_count, key_count, q_offset;
  bool causal;  // keys ahead of the query have distance 0

  POSENC_HD int64_t queries() const { return query_count; }
  POSENC_HD int64_t keys() const { return key_count; }

  // rel = key - query - q_offset
  template <class Number>
  POSENC_HD Number distance(Number rel) const {
    return rel <= 0 ? -rel : causal ? 0 : rel;
  }
  POSENC_HD double distance(int64_t q, int64_t k) const {
    return static_cast<double>(distance(k - q - q_offset));
  }
};

POSENC_HD double alibi_bias(double slope, double distance) { return 0.0 - slope * distance; }  // 0, not -0

// 2^(-8 (i + 1) / n) for n heads, a power of two; else those of the next lower power of two, then every
// second slope of the doubled one.
POSENC_HD double alibi_slope(int64_t head, int64_t num_heads) {
  int64_t power = 1;
  while (power <= num_heads / 2) power *= 2;
  const int64_t eighths = head < power ? 2 * (head + 1) : 2 * (head - power) + 1;  // of the doubled sequence
  return exp_2({-4.0 * static_cast<double>(eighths) / static_cast<double>(power), 0.0}).hi;
}

}  // namespace posenc_ext::core
