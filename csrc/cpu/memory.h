// Memory for results on the CPU: how it is allocated, and how it is best written.
#pragma once

#include <ATen/core/Tensor.h>

namespace posenc_ext::cpu {

// A new contiguous tensor, in huge pages if it is large: see prepare_result().
at::Tensor new_result(at::IntArrayRef sizes, at::ScalarType type);

// Asks for huge pages where `out` is large, unless POSENC_THP=0. Allocators return fresh memory for large
// results, whose page faults, 4 KiB at a time, take longer than any kernel: add 512x32x512 takes 3.8 times as
// long.
void prepare_result(const at::Tensor& out);

// Whether to write `out` with non-temporal stores: where it is larger than 1 / `share` of the last-level
// cache. Without them add 512x32x512 and window 32x32 take 1.5 times as long, table 5000x512 1.4 times.
// POSENC_NT=0: never; 1: always.
bool wants_non_temporal_stores(const at::Tensor& out, size_t share = 4);

// Of a bias, which is read next: ALiBi 512x512 of 12 heads takes half the time in a cache of 32 MiB.
constexpr size_t kBiasShare = 2;

}  // namespace posenc_ext::cpu
