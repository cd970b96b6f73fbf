// The rule on an index that only its values can break.
#pragma once

#include <ATen/core/Tensor.h>

namespace posenc_ext::cpu {

// An error that names the first value outside the table.
void check_range(const char* op, const at::Tensor& index, int64_t rows);

}  // namespace posenc_ext::cpu
