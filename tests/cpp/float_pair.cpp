// core/float_pair.h against long double, which holds every pair: sums and products to 2^-44, and roundings of
// pairs, which have to be those of the sum.
#include "core/float_pair.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

namespace {

using namespace posenc_ext::core;

long double value_of(FloatPair x) { return static_cast<long double>(x.hi) + x.lo; }

std::mt19937_64 random_bits(3);
double uniform() { return static_cast<double>(random_bits() >> 11) * 0x1p-53 - 0.5; }
double number() { return uniform() * std::ldexp(1.0, static_cast<int>(random_bits() % 41) - 20); }

double worst = 0.0;
void expect_near(FloatPair got, long double exact, long double size) {
  worst = std::max(worst, static_cast<double>(std::fabs(value_of(got) - exact) / size));
}

int64_t failures = 0;
template <class T>
void expect_rounded(FloatPair x) {
  const double sum = static_cast<double>(value_of(x));  // exact: the parts lie within 53 bits here
  const T got = round_pair<T>(x), wanted = round_to<T>(sum);
  if (std::memcmp(&got, &wanted, sizeof(T)) == 0 || ++failures > 10) return;
  std::printf("FAILED %a + %a rounds to %a, not %a\n", x.hi, x.lo, to_double(got), to_double(wanted));
}

void expect_all_rounded(FloatPair x) {
  expect_rounded<float>(x);
  expect_rounded<Half>(x);
  expect_rounded<BFloat16>(x);
}

}  // namespace

int main() {
  for (int i = 0; i < 2000000; ++i) {
    const double x = number(), y = number();
    const FloatPair a = to_float_pair(x), b = to_float_pair(y);
    expect_near(a, x, std::fabs(x));
    const long double product = value_of(a) * value_of(b), sum = value_of(a) + value_of(b);
    expect_near(multiply(a, b), product, std::fabs(product));
    expect_near(multiply(a.hi, b), a.hi * value_of(b), std::fabs(a.hi * value_of(b)));
    expect_near(add(a, b), sum, std::fabs(value_of(a)) + std::fabs(value_of(b)));
    expect_near(add(a, b.hi), value_of(a) + b.hi, std::fabs(value_of(a)) + std::fabs(b.hi));
    // On and beside what lies half-way between two floats, two halves or two bfloat16s.
    const float cut = bit_cast<float>(bit_cast<uint32_t>(a.hi) & (i % 3 == 0   ? 0xffffffffu
                                                                  : i % 3 == 1 ? 0xfffff000u
                                                                               : 0xffff8000u));
    const float ulp = std::ldexp(1.0f, std::ilogb(cut) - 23);
    for (const float part : {0.0f, 0.5f, -0.5f, 0x1p-10f, -0x1p-10f, 0.5f - 0x1p-10f}) {
      expect_all_rounded({cut, part * ulp});
    }
  }
  for (const float special :
       {HUGE_VALF, -HUGE_VALF, 0.0f, -0.0f, 65504.0f, 65520.0f, 3.3895314e38f, 3.4028235e38f}) {
    expect_all_rounded({special, 0.0f});
  }
  const float nan = std::nanf("");
  if (round_pair<float>({HUGE_VALF, nan}) != HUGE_VALF || !std::isnan(round_pair<float>({nan, nan})) ||
      to_float(round_pair<Half>({-HUGE_VALF, nan})) != -HUGE_VALF ||
      !std::isnan(to_float(round_pair<BFloat16>({nan, 0.0f})))) {
    std::puts("FAILED infinities and NaN");
    ++failures;
  }
  std::printf("largest error 2^%.1f\n", std::log2(worst));
  return failures == 0 && worst <= 0x1p-44 ? 0 : 1;
}
