// Dropout as the CPU kernels take it.
#pragma once

#include "core/philox.h"

namespace posenc_ext::args {

struct SeededDropout {
  core::Dropout dropout;
  const int64_t* seed;  // read by the kernel; null: no dropout

  bool drops() const { return seed != nullptr; }
};

}  // namespace posenc_ext::args
