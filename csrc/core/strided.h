// A tensor's geometry without torch: the offset of the i-th element in row-major order.
#pragma once

#include "core/host_device.h"

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

// The same elements in as few dimensions as hold them: each costs a division per element.
inline Strided collapsed(const Strided& s) {
  Strided out{};
  for (int32_t d = 0; d < s.dims; ++d) {
    if (s.size[d] == 1) continue;
    const int32_t last = out.dims - 1;
    if (last >= 0 && out.stride[last] == s.size[d] * s.stride[d]) {
      out.size[last] *= s.size[d];
      out.stride[last] = s.stride[d];
    } else {
      out.size[out.dims] = s.size[d];
      out.stride[out.dims++] = s.stride[d];
    }
  }
  return out;
}

}  // namespace posenc_ext::core
