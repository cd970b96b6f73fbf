// The encodings of the first positions, computed once per convention and kept: what a small call would take
// longest for.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "cpu/frequencies.h"

namespace posenc_ext::cpu {

struct Encodings {
  std::shared_ptr<const FrequencyTable> table;
  Frequencies frequencies;
  int64_t positions;  // [0, positions) are kept
  at::Tensor kept;    // a row of float64 each; aligned to lines, as a vector's memory is not
};

std::shared_ptr<const Encodings> encodings(int64_t dim, double base, double freq_shift, core::Layout layout,
                                           core::Odd odd);

}  // namespace posenc_ext::cpu
