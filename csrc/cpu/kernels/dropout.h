// Dropout as the CPU kernels take it.
#pragma once

#include "core/philox.h"

namespace posenc_ext::cpu {

// The seed is read where it lies. Or what is kept is known already: a bit per element, in the result's order.
struct SeededDropout {
  core::Dropout dropout;
  const int64_t* seed;
  const uint8_t* mask;

  bool drops() const { return seed != nullptr || mask != nullptr; }
};

}  // namespace posenc_ext::cpu
