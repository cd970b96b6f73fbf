// A tensor's geometry without torch: the offset of the i-th element in row-major order.
#pragma once

#include "core/fast_divide.h"

namespace posenc_ext::core {

constexpr int32_t kMaxDims = 8;

struct Strided {
  int32_t dims;
  int64_t size[kMaxDims];
  int64_t stride[kMaxDims];

  POSENC_HD int64_t offset(int64_t i) const {
    int64_t result = 0;
    for (int32_t d = dims - 1; d > 0; --d) {
      result += (i % size[d]) * stride[d];
      i /= size[d];
    }
    return dims > 0 ? result + i * stride[0] : 0;
  }
};

// The same of fewer than 2^32 elements, without a division.
struct FastStrided {
  int32_t dims;
  FastDivide size[kMaxDims];
  int64_t stride[kMaxDims];

  POSENC_HD int64_t offset(uint32_t i) const {
    int64_t result = 0;
    for (int32_t d = dims - 1; d > 0; --d) {
      const uint32_t next = size[d].quotient(i);
      result += static_cast<int64_t>(size[d].remainder(i, next)) * stride[d];
      i = next;
    }
    return dims > 0 ? result + static_cast<int64_t>(i) * stride[0] : 0;
  }
};

inline FastStrided make_fast_strided(const Strided& s) {
  FastStrided fast{s.dims, {}, {}};
  for (int32_t d = 0; d < s.dims; ++d) {
    fast.size[d] = make_fast_divide(static_cast<uint32_t>(s.size[d]));
    fast.stride[d] = s.stride[d];
  }
  return fast;
}

}  // namespace posenc_ext::core
