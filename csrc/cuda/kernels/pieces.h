// Long sums are cut into pieces: by their length alone, so that results do not depend on the device.
#pragma once

#include "core/host_device.h"

namespace posenc_ext::cuda {

struct Pieces {
  int64_t size, count;
};

// As small as keeps a warp's lanes busy, as many as fill the largest devices.
inline Pieces cut(int64_t length) {
  constexpr int64_t kMinSize = 1024, kMaxCount = 1024;
  const int64_t size = core::max_of(kMinSize, (length + kMaxCount - 1) / kMaxCount);
  return {size, (length + size - 1) / size};
}

}  // namespace posenc_ext::cuda
