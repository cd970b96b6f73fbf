// Threads: how a range of items is cut. Never by what an item computes, so results do not depend on it.
#pragma once

#include <ATen/Parallel.h>

#include "core/host_device.h"

namespace posenc_ext::cpu {

// Elements below which waking another thread costs more than it saves.
constexpr int64_t kGrainElements = 32768;

template <class F>
void parallel_for(int64_t items, int64_t elements_per_item, F f) {
  const int64_t grain =
      core::max_of<int64_t>(1, kGrainElements / core::max_of<int64_t>(1, elements_per_item));
  at::parallel_for(0, items, grain, f);
}

}  // namespace posenc_ext::cpu
