// Memory for results on the CPU: how it is allocated, and how it is written.
#pragma once

#include <ATen/core/Tensor.h>

namespace posenc_ext::cpu {

// A new contiguous tensor. From 4 MiB on it asks for huge pages: with fresh pages of 4 KiB, page faults take
// longer than any kernel (docs/decisions/008-huge-pages.md). POSENC_THP=0 does not ask.
at::Tensor new_result(at::IntArrayRef sizes, at::ScalarType type);

// Asks for huge pages for memory that was allocated elsewhere; pages that are present stay as they are.
void prepare_result(const at::Tensor& out);

// Whether to write `out` with non-temporal stores: from 1 / share of the last-level cache on, and 4 MiB
// (docs/decisions/007-non-temporal-stores.md). POSENC_NT=0: never; 1: always.
bool wants_non_temporal_stores(const at::Tensor& out, size_t share = 2);

}  // namespace posenc_ext::cpu
