// From an op's dropout arguments to what its kernel takes.
#pragma once

#include "args/dropout.h"
#include "ops/dropout.h"

namespace posenc_ext::cpu {

using namespace args;

inline SeededDropout seeded(double dropout_p, const std::optional<at::Tensor>& seed) {
  SeededDropout result{core::make_dropout(dropout_p), nullptr, {}};
  if (!ops::drops(dropout_p, seed)) return result;
  if (seed->scalar_type() == at::kByte) {
    result.mask = {seed->const_data_ptr<uint8_t>(), seed->numel()};
  } else {
    result.seed = seed->const_data_ptr<int64_t>();
  }
  return result;
}

}  // namespace posenc_ext::cpu
