// From an op's dropout arguments to what its kernel takes.
#pragma once

#include "args/dropout.h"
#include "ops/dropout.h"

namespace posenc_ext::cpu {

using namespace args;

inline SeededDropout seeded(double dropout_p, const std::optional<at::Tensor>& seed) {
  return {core::make_dropout(dropout_p),
          ops::drops(dropout_p, seed) ? seed->const_data_ptr<int64_t>() : nullptr};
}

}  // namespace posenc_ext::cpu
