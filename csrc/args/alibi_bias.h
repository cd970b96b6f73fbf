// Kernel arguments of ALiBi's slopes. Those of the bias are BiasForward and BiasBackward.
#pragma once

#include "args/relative_bias.h"
#include "core/alibi.h"

namespace posenc_ext::args {

struct AlibiSlopes {
  core::DType dtype;
  void* out;
  int64_t stride;
  int64_t heads;
};

}  // namespace posenc_ext::args
