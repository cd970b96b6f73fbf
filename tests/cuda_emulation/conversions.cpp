// The conversions of core/scalar.h, written out for the host, against the CUDA headers' own for half and
// bfloat16, which is what the device branches of core/scalar.h call.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>

#include "core/scalar.h"

namespace {

using namespace posenc_ext::core;

int64_t failures = 0;

void expect(bool right, const char* what, uint32_t input) {
  if (right || ++failures > 10) return;
  std::printf("FAILED %s of %08x\n", what, input);
}

void check_float(uint32_t bits) {
  const float x = bit_cast<float>(bits);
  const uint16_t half = __half_as_ushort(__float2half_rn(x)),
                 brain = __bfloat16_as_ushort(__float2bfloat16_rn(x));
  if (std::isnan(x)) {  // which NaN is left open
    expect(std::isnan(to_float(Rounding<Half>::from(x))), "half", bits);
    expect(std::isnan(to_float(Rounding<BFloat16>::from(x))), "bfloat16", bits);
    return;
  }
  expect(Rounding<Half>::from(x).bits == half, "half", bits);
  expect(Rounding<BFloat16>::from(x).bits == brain, "bfloat16", bits);
}

}  // namespace

int main() {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float wide = __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
    const float ours = to_float(Half{static_cast<uint16_t>(bits)});
    expect(std::isnan(wide) ? std::isnan(ours) : bit_cast<uint32_t>(wide) == bit_cast<uint32_t>(ours),
           "float", bits);
  }
  // Every float near a boundary of rounding: all upper halves with the lower halves where something happens.
  const uint32_t lows[] = {0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001,
                           0x7fff, 0x8000, 0x8001, 0xa000, 0xcfff, 0xefff, 0xf000, 0xf001, 0xffff};
  for (uint32_t high = 0; high < 0x10000u; ++high) {
    for (const uint32_t low : lows) check_float(high << 16 | low);
  }
  for (uint64_t i = 0; i < 4000000; ++i) check_float(static_cast<uint32_t>(i * 0x9E3779B97F4A7C15u >> 32));
  std::printf("%lld failures\n", static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
