// Numbers as an unevaluated sum of two doubles (about 106 bits). Dekker 1971, Knuth; Hida, Li and Bailey
// 2001.
#pragma once

#include "core/host_device.h"

namespace posenc_ext::core {

struct DoubleDouble {
  double hi, lo;
};

POSENC_HD DoubleDouble quick_two_sum(double a, double b) {  // needs |a| >= |b|
  const double sum = a + b;
  return {sum, b - (sum - a)};
}

POSENC_HD DoubleDouble two_sum(double a, double b) {
  const double sum = a + b;
  const double b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

POSENC_HD DoubleDouble two_product(double a, double b) {
  const double product = a * b;
  return {product, fused_multiply_add(a, b, -product)};
}

POSENC_HD DoubleDouble add(DoubleDouble a, DoubleDouble b) {
  DoubleDouble high = two_sum(a.hi, b.hi);
  const DoubleDouble low = two_sum(a.lo, b.lo);
  high = quick_two_sum(high.hi, high.lo + low.hi);
  return quick_two_sum(high.hi, high.lo + low.lo);
}

POSENC_HD DoubleDouble multiply(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble p = two_product(a.hi, b.hi);
  return quick_two_sum(p.hi, p.lo + fused_multiply_add(a.hi, b.lo, a.lo * b.hi));
}

POSENC_HD DoubleDouble divide(DoubleDouble a, double b) {
  const double first = a.hi / b;
  const double rest = fused_multiply_add(-first, b, a.hi) + a.lo;
  return quick_two_sum(first, rest / b);
}

POSENC_HD DoubleDouble ln_2() { return {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56}; }
POSENC_HD DoubleDouble half_pi() { return {0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54}; }
POSENC_HD DoubleDouble two_over_pi() { return {0x1.45f306dc9c883p-1, -0x1.6b01ec5417056p-55}; }

// 2^x: Taylor series of e^a on |a| < 0.011, then five squarings. Relative error under 2^-98.
POSENC_HD DoubleDouble exp_2(DoubleDouble x) {
  const double whole = floor(x.hi + 0.5);
  DoubleDouble a = multiply(add(x, {-whole, 0.0}), ln_2());
  a = {a.hi * 0.03125, a.lo * 0.03125};
  DoubleDouble term = a, sum = a;
  for (int i = 2; i <= 13; ++i) {
    term = divide(multiply(term, a), static_cast<double>(i));
    sum = add(sum, term);
  }
  DoubleDouble power = add({1.0, 0.0}, sum);
  for (int i = 0; i < 5; ++i) power = multiply(power, power);
  const int exponent = static_cast<int>(whole);
  return {ldexp(power.hi, exponent), ldexp(power.lo, exponent)};
}

// log2(x): one Newton step from the double logarithm doubles its digits.
POSENC_HD DoubleDouble log_2(double x) {
  const double guess = log2(x);
  const DoubleDouble ratio = multiply(exp_2({-guess, 0.0}), {x, 0.0});
  const DoubleDouble error = add(ratio, {-1.0, 0.0});
  return add(DoubleDouble{guess, 0.0}, {error.hi / ln_2().hi, error.lo / ln_2().hi});
}

}  // namespace posenc_ext::core
