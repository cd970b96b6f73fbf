// Dropout as the CUDA kernels take it.
#pragma once

#include "core/philox.h"

namespace posenc_ext::cuda {

// The seed is read where it lies, on the device; null means no dropout. It is a tensor that at::randint drew
// there, so that the host never waits for it, and a replayed CUDA graph, whose randint draws anew, drops
// anew.
struct SeededDropout {
  core::Dropout dropout;
  const int64_t* seed;
};

}  // namespace posenc_ext::cuda
