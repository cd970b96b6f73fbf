// Threads: how a range of items is cut. Never by what an item computes, so results do not depend on it.
#pragma once

#include <ATen/Parallel.h>

#include "core/host_device.h"

namespace posenc_ext::cpu {

// Bytes copied below which waking another thread costs more than it saves: 256 KiB, or POSENC_GRAIN_KIB.
int64_t grain_bytes();

// The least items of this many bytes that a thread takes.
inline int64_t grain(int64_t bytes_per_item) {
  return core::max_of<int64_t>(1, grain_bytes() / core::max_of<int64_t>(1, bytes_per_item));
}

// For arithmetic, of which an element takes about as long as eight bytes of a copy.
template <class F>
void parallel_for(int64_t items, int64_t elements_per_item, F f) {
  at::parallel_for(0, items, grain(8 * elements_per_item), f);
}

}  // namespace posenc_ext::cpu
