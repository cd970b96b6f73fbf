// Arguments of the kernels that scale and drop.
#pragma once

#include "core/philox.h"
#include "core/scalar.h"
#include "core/strided.h"

namespace posenc_ext::args {

// The seed stays in its tensor, on the device: the host never waits for it, and each replay of a CUDA graph
// generates a new mask.
struct SeededDropout {
  core::Dropout dropout;
  const int64_t* seed;  // null: no dropout

  POSENC_HD bool drops() const { return seed != nullptr; }
};

// y[i] = x[i] * scale, then dropout, for i < total
struct ScaleDropout {
  double scale;
  SeededDropout dropout;
  core::DType dtype;
  const void* x;
  core::Strided at;  // of x
  int64_t total;
  void* out;  // contiguous
};

}  // namespace posenc_ext::args
