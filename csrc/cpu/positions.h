// Positions in memory: what no check of shapes sees.
#pragma once

#include <ATen/core/Tensor.h>

namespace posenc_ext::cpu {

// An error where a double does not hold one of the positions p, ..., p + length - 1 of an integer p of 64
// bits.
void check_exact(const char* op, const at::Tensor& positions, int64_t length = 1);

// An error that names the first position that is no row.
void check_rows(const char* op, const at::Tensor& positions, int64_t rows);

}  // namespace posenc_ext::cpu
