// Sums of long rows.
#pragma once

#include "core/host_device.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// The sum of term(i) for i < count in lanes, which are added at the end: the order is the same for every
// level, and vectors fit it.
template <class Sum, class Term>
inline Sum lane_sum(int64_t count, Term term) {
  constexpr int64_t kLanes = 32;
  Sum lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t n = 0; n < kLanes; ++n) lane[n] += term(i + n);
  }
  for (int64_t n = 0; i + n < count; ++n) lane[n] += term(i + n);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t n = 0; n < half; ++n) lane[n] += lane[n + half];
  }
  return lane[0];
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
