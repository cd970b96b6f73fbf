// Where T5's logarithmic buckets begin. Host only: made once, in the arithmetic of the source, so that
// kernels compare integers and every device agrees with it.
#pragma once

#include <cmath>

#include "core/schemes.h"

namespace posenc_ext::core {

// The bucket of a distance >= exact as transformers computes it, in float32, before the last bucket caps it.
inline int64_t t5_bucket_in_float(int64_t distance, int64_t buckets, int64_t exact, int64_t max_distance) {
  const float ratio = static_cast<float>(distance) / static_cast<float>(exact);
  const float whole =
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  return exact + static_cast<int64_t>(std::log(ratio) / whole * static_cast<float>(buckets - exact));
}

inline T5Scheme make_t5_scheme(int64_t num_rows, bool bidirectional, int64_t max_distance) {
  T5Scheme scheme{};
  scheme.num_rows = num_rows;
  scheme.bidirectional = bidirectional;
  scheme.buckets = bidirectional ? num_rows / 2 : num_rows;
  scheme.exact = scheme.buckets / 2;
  for (int64_t i = 0; i < scheme.thresholds(); ++i) {
    int64_t low = scheme.exact, high = max_distance;  // the first distance whose bucket is beyond exact + i
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (t5_bucket_in_float(middle, scheme.buckets, scheme.exact, max_distance) > scheme.exact + i) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    scheme.threshold[i] = low;
  }
  return scheme;
}

}  // namespace posenc_ext::core
