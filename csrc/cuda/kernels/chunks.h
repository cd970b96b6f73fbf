// Long sums are split into chunks: by their length alone, so that results do not depend on the device.
#pragma once

#include "args/relative_bias.h"

namespace posenc_ext::cuda {

using args::Chunks;

// Chunks of at least `min_size`, at most `max_count` of them: as small as occupies a warp's lanes, as many as
// fill the largest devices.
inline Chunks split(int64_t length, int64_t min_size = 1024, int64_t max_count = 1024) {
  const int64_t size = core::max_of(min_size, (length + max_count - 1) / max_count);
  return {size, (length + size - 1) / size};
}

}  // namespace posenc_ext::cuda
