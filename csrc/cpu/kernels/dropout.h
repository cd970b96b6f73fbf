// Dropout as the CPU kernels take it.
#pragma once

#include "core/philox.h"

namespace posenc_ext::cpu {

// The seed is read where it lies; null means no dropout.
struct SeededDropout {
  core::Dropout dropout;
  const int64_t* seed;

  bool drops() const { return seed != nullptr; }
};

}  // namespace posenc_ext::cpu
