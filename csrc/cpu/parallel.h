// Threads: how a range of items is split. Never by what an item computes, so results do not depend on it.
#pragma once

#include <c10/util/FunctionRef.h>

#include "core/host_device.h"

namespace posenc_ext::cpu {

// Bytes copied below which waking another thread costs more than it saves: 256 KiB, or POSENC_GRAIN_KIB.
int64_t grain_bytes();

// The least items of this many bytes that a thread takes.
inline int64_t grain(int64_t bytes_per_item) {
  return core::max_of<int64_t>(1, grain_bytes() / core::max_of<int64_t>(1, bytes_per_item));
}

// f(begin, end) on ranges that make up [0, items), of at least `grain` items each. As at::parallel_for, which
// is not called, as its OpenMP pragma would have clang start a second run-time (libomp) next to torch's.
void parallel_ranges(int64_t items, int64_t grain, c10::function_ref<void(int64_t, int64_t)> f);

// For arithmetic, of which an element takes about as long as eight bytes of a copy.
template <class F>
void parallel_for(int64_t items, int64_t elements_per_item, F f) {
  parallel_ranges(items, grain(8 * elements_per_item), f);
}

}  // namespace posenc_ext::cpu
