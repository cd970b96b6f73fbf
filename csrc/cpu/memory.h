// Memory for results on the CPU: how it is asked for, and how it is best written.
#pragma once

#include <ATen/core/Tensor.h>

namespace posenc_ext::cpu {

// A new contiguous tensor. Large memory that is fresh from the system is to come in huge pages: 4 KiB at a
// time, its page faults would take longer than any kernel. POSENC_THP=0 leaves it as it is.
at::Tensor new_result(at::IntArrayRef sizes, at::ScalarType type);

// The same advice for memory that somebody else allocated and nobody has touched; none for other memory.
void prepare_result(const at::Tensor& out);

// Whether to write `out` past the caches: where it would push out half of the last one and its pages are
// there already. POSENC_NT=0: never; 1: always.
// `share`: of the last cache, one part in this many is what a result must fill. Rows that are not written in
// order gain from it sooner.
bool writes_past_caches(const at::Tensor& out, size_t share = 2);

}  // namespace posenc_ext::cpu
