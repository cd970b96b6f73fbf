// The encodings of the first positions, computed once per convention and cached: most of the time of a small
// call.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "cpu/frequencies.h"

namespace posenc_ext::cpu {

struct CachedEncodings {
  std::shared_ptr<const FrequencyTable> table;
  Frequencies frequencies;
  int64_t positions;  // of rows: [0, positions)
  at::Tensor rows;    // float64; a tensor, as its memory is aligned to cache lines
};

std::shared_ptr<const CachedEncodings> cached_encodings(int64_t dim, double base, double freq_shift,
                                                        core::Layout layout, core::Odd odd);

}  // namespace posenc_ext::cpu
