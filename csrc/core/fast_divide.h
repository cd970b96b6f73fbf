// Division by a number that is known before the kernel starts, as a multiplication. Granlund and Montgomery
// 1994, "Division by invariant integers using multiplication".
#pragma once

#include "core/host_device.h"

namespace posenc_ext::core {

struct PlainDivide {
  using Int = int64_t;
  int64_t divisor;

  POSENC_HD int64_t quotient(int64_t n) const { return n / divisor; }
  POSENC_HD int64_t remainder(int64_t n, int64_t its_quotient) const { return n - its_quotient * divisor; }
};

struct FastDivide {
  using Int = uint32_t;
  uint32_t divisor, multiplier, shift;

  // n / divisor, for every n below 2^32.
  POSENC_HD uint32_t quotient(uint32_t n) const {
    const uint32_t high = static_cast<uint32_t>((uint64_t{n} * multiplier) >> 32);
    return static_cast<uint32_t>((uint64_t{high} + n) >> shift);
  }
  POSENC_HD uint32_t remainder(uint32_t n, uint32_t its_quotient) const { return n - its_quotient * divisor; }
};

inline FastDivide make_fast_divide(uint32_t divisor) {
  uint32_t shift = 0;
  while ((uint64_t{1} << shift) < divisor) ++shift;
  const uint64_t multiplier = (((uint64_t{1} << shift) - divisor) << 32) / divisor + 1;
  return {divisor, static_cast<uint32_t>(multiplier), shift};
}

// What a kernel counts in 32 bits has to stay below this.
constexpr int64_t kFastLimit = int64_t{1} << 32;

// n / divisor for 0 <= n < `end`, by multiplication where the end allows it: the same way for all n.
struct Divide {
  int64_t divisor;
  FastDivide fast;
  bool fits;

  POSENC_HD int64_t quotient(int64_t n) const {
    return fits ? int64_t{fast.quotient(static_cast<uint32_t>(n))} : n / divisor;
  }
};

inline Divide make_divide(int64_t divisor, int64_t end) {
  const bool fits = divisor > 0 && divisor < kFastLimit && end <= kFastLimit;
  return {divisor, make_fast_divide(fits ? static_cast<uint32_t>(divisor) : 1), fits};
}

}  // namespace posenc_ext::core
