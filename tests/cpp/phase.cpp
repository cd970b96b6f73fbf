// The sinusoids of core/phase.h, which CUDA kernels compute, against 113-bit arithmetic: every whole position
// up to 2^24 for some frequencies, random ones of every kind, and those nearest to a zero of a sine or
// cosine. Prints the largest error in ulp; fails beyond what the issue allows, 1 ulp of float32 and 0.501 of
// halves.
#include "core/phase.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "core/scalar.h"
#include "quad.h"

namespace {

using namespace posenc_ext::core;

struct Errors {
  double f32 = 0.0, f16 = 0.0, bf16 = 0.0;
  double pair = 0.0;  // of the unrounded pairs, relative, in 2^-26
  int64_t values = 0;

  void add(FloatPair got, Quad exact) {
    const Quad error = (static_cast<Quad>(got.hi) + got.lo - exact) / exact;
    if (exact != 0) pair = std::max(pair, static_cast<double>(POSENC_QUAD(fabs)(error)) * 0x1p26);
  }

  // `exact` and `rest` sum to the right value.
  void add(float got, double exact, double rest) {
    ++values;
    f32 = std::max(f32, distance(got, exact, rest, 24, -149));
    f16 = std::max(f16, distance(to_double(round_to<Half>(got)), exact, rest, 11, -24));
    bf16 = std::max(bf16, distance(to_double(round_to<BFloat16>(got)), exact, rest, 8, -133));
  }
  static double distance(double got, double exact, double rest, int digits, int smallest) {
    const int exponent = exact == 0.0 ? smallest : std::max(std::ilogb(exact) + 1 - digits, smallest);
    return std::fabs((got - exact) - rest) * std::ldexp(1.0, -exponent);
  }
  bool print(const char* what) const {
    std::printf(
        "%-44s %10lld values, largest error in ulp: float32 %.4f, float16 %.5f, bfloat16 %.5f; "
        "relative, before rounding: %.3f 2^-26\n",
        what, static_cast<long long>(values), f32, f16, bf16, pair);
    return f32 <= 1.0 && f16 <= 0.501 && bf16 <= 0.501 && pair <= 1.5;
  }
};

struct Spec {
  const char* name;
  int64_t dim;
  double base, shift, scale;
};
const Spec kSpecs[] = {{"transformer", 512, 10000.0, 0.0, 1.0},
                       {"diffusion", 320, 10000.0, 1.0, 1000.0},
                       {"tensor2tensor", 1024, 10000.0, 1.0, 1.0},
                       {"base 500, scale -0.37", 64, 500.0, 0.0, -0.37},
                       {"base 1e7", 4096, 1e7, 0.0, 1.0},
                       {"scale 1e-7", 64, 10000.0, 0.0, 1e-7}};  // angles near zero that no position reduces

struct Pair {
  Quad turns;  // per position
  DoubleDouble quarters;
  FixedFrequency fixed;
};

std::vector<Pair> pairs_of(const Spec& spec) {
  const Sinusoid s =
      make_sinusoid(spec.dim, spec.base, spec.shift, spec.scale, Layout::interleaved, Odd::error);
  if (!has_fixed_frequencies(s)) std::printf("FAILED %s has no fixed frequencies\n", spec.name), std::exit(1);
  const FrequencyDigits digits = make_digits(s);
  std::vector<Pair> pairs;
  for (int64_t j = 0; j < s.pairs(); ++j) {
    const Quad exponent = -static_cast<Quad>(j) / (static_cast<double>(spec.dim / 2) - spec.shift);
    const DoubleDouble f = frequency(s, digits, j);
    pairs.push_back({POSENC_QUAD(pow)(spec.base, exponent) * spec.scale / (2 * kPi), f, to_fixed(f)});
  }
  return pairs;
}

FloatAngle angle_of(double p, const Pair& pair) {
  const Steps steps = to_steps(p);
  return steps.exact ? reduce(steps, pair.fixed) : to_floats(reduce<false>(p, pair.quarters));
}

FloatSineCosine of_kernel(double p, const Pair& pair) { return sine_cosine(angle_of(p, pair)); }

void against_quad(Errors& errors, double p, const Pair& pair) {
  const Quad turns = static_cast<Quad>(p) * pair.turns;
  Quad sine, cosine;
  POSENC_QUAD(sincos)((turns - POSENC_QUAD(rint)(turns)) * (2 * kPi), &sine, &cosine);
  const FloatSineCosine got = of_kernel(p, pair);
  const double s = static_cast<double>(sine), c = static_cast<double>(cosine);
  errors.add(got.sine, s, static_cast<double>(sine - s));
  errors.add(got.cosine, c, static_cast<double>(cosine - c));
  // As the gradient takes them: of any order.
  const FloatAngle angle = angle_of(p, pair);
  const FloatPairSineCosine rest = sine_cosine_pairs(angle);
  const Quad orders[] = {sine, cosine, -sine, -cosine};
  for (int32_t order = 0; order < 5; ++order) errors.add(sine_at(rest, angle, order), orders[order % 4]);
}

// Every position, or every `step`-th.
bool test_every_position(int64_t step) {
  bool fine = true;
  const std::vector<Pair> pairs = pairs_of(kSpecs[0]);
  for (const int64_t j : {int64_t{0}, int64_t{77}, int64_t{255}}) {
    const Pair& pair = pairs[static_cast<size_t>(j)];
    Errors errors;
    for (int64_t p = 0; p <= int64_t{1} << 24; p += step) {
      const QuarterTurns turns = reduce<false>(static_cast<double>(p), pair.quarters);
      const SineCosine exact = sine_cosine(turns);  // to 2^-52
      const FloatSineCosine got = sine_cosine(reduce(to_steps(p), pair.fixed));
      errors.add(got.sine, sine_at(exact, turns.quadrant, 0), 0.0);
      errors.add(got.cosine, sine_at(exact, turns.quadrant, 1), 0.0);
    }
    char what[64];
    std::snprintf(what, sizeof(what), "every position, pair %lld of 256", static_cast<long long>(j));
    fine = errors.print(what) && fine;
  }
  return fine;
}

bool test_random_positions(const Spec& spec, int count) {
  const std::vector<Pair> pairs = pairs_of(spec);
  std::mt19937_64 random(7);
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  Errors whole, beyond, fractions;
  for (int i = 0; i < count; ++i) {
    const Pair& pair = pairs[random() % pairs.size()];
    const double sign = random() % 2 == 0 ? 1.0 : -1.0;
    against_quad(whole, sign * static_cast<double>(random() % ((1 << 24) + 1)), pair);
    against_quad(whole, std::floor(std::exp2(24.0 * uniform())), pair);
    against_quad(beyond, sign * std::floor(std::exp2(24.0 + 12.0 * uniform())), pair);
    against_quad(fractions, sign * static_cast<float>(std::exp2(44.0 * uniform() - 20.0)), pair);
    against_quad(fractions, sign * std::exp2(44.0 * uniform() - 20.0), pair);
  }
  std::printf("%s:\n", spec.name);
  bool fine = whole.print("  whole positions to 2^24");
  fine = beyond.print("  whole positions to 2^36") && fine;
  return fractions.print("  fractions, float32 and float64, to 2^24") && fine;
}

// Of every pair: the denominators of the convergents of quarter turns per position. No smaller position is
// nearer to a zero of the sine or the cosine.
bool test_near_zeros(const Spec& spec) {
  Errors errors;
  double nearest = 1.0;
  for (const Pair& pair : pairs_of(spec)) {
    Quad rest = POSENC_QUAD(fabs)(4 * pair.turns);
    Quad before = 1, position = 0;
    while (true) {
      const Quad whole = POSENC_QUAD(floor)(rest), next = whole * position + before;
      if (next > 0x1p24) break;
      before = position;
      position = next;
      for (Quad p = position; p <= 0x1p24 && p <= 3 * position && p > 0; p += position) {
        against_quad(errors, static_cast<double>(p), pair);
        against_quad(errors, -static_cast<double>(p), pair);
        const Quad quarters = 4 * p * pair.turns;
        nearest =
            std::min(nearest, static_cast<double>(POSENC_QUAD(fabs)(quarters - POSENC_QUAD(rint)(quarters))));
      }
      rest = 1 / (rest - whole);
    }
  }
  std::printf("%s, nearest to a zero: %.3g quarter turns\n", spec.name, nearest);
  return errors.print("  whole positions to 2^24 nearest to zeros");
}

// The steps of a stored position, made without float64, are those of its value: floats of every exponent, and
// integers where 32 bits end.
bool test_stored_positions() {
  int64_t wrong = 0;
  const auto check = [&](const void* data, PositionType type) {
    const double value = load_position(data, type, 0);
    const Steps got = load_steps(data, type, 0), wanted = to_steps(value);
    const bool same = got.exact == wanted.exact && got.negative == wanted.negative &&
                      (!got.exact || (got.count == wanted.count && got.shift == wanted.shift) ||
                       std::ldexp(got.count, -got.shift) == std::ldexp(wanted.count, -wanted.shift));
    wrong += !same && !(std::isnan(value) && !got.exact);
  };
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 4099) {
    const uint32_t pattern = static_cast<uint32_t>(bits);
    for (const uint32_t cut : {pattern, pattern & 0xffffff00u, pattern & 0xffff0000u})
      check(&cut, PositionType::f32);
  }
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const uint16_t pattern = static_cast<uint16_t>(bits);
    for (const PositionType type : {PositionType::f16, PositionType::bf16, PositionType::i16,
                                    PositionType::u16, PositionType::u8, PositionType::i8})
      check(&pattern, type);
  }
  for (int bit = 0; bit < 64; ++bit) {
    for (const uint64_t near : {(uint64_t{1} << bit) - 1, uint64_t{1} << bit, (uint64_t{1} << bit) + 1,
                                0 - (uint64_t{1} << bit), ~(uint64_t{1} << bit)}) {
      for (const PositionType type : {PositionType::i64, PositionType::u64, PositionType::i32,
                                      PositionType::u32, PositionType::f64, PositionType::f32})
        check(&near, type);
    }
  }
  if (wrong != 0) std::printf("FAILED %lld stored positions\n", static_cast<long long>(wrong));
  return wrong == 0;
}

// Zero, its sign, and positions that are not numbers.
bool test_special_positions() {
  const Pair pair = pairs_of(kSpecs[0])[3];
  const auto sine = [&](double p) {
    return to_steps(p).exact ? of_kernel(p, pair) : sine_cosine(to_floats(reduce<true>(p, pair.quarters)));
  };
  bool fine = !std::signbit(sine(0.0).sine) && std::signbit(sine(-0.0).sine) && sine(-0.0).sine == 0.0f &&
              sine(0.0).cosine == 1.0f && sine(-0.0).cosine == 1.0f;
  for (const double p : {HUGE_VAL, -HUGE_VAL, std::nan("")})
    fine = fine && std::isnan(sine(p).sine) && std::isnan(sine(p).cosine);
  if (!fine) std::puts("FAILED special positions");
  return fine;
}

}  // namespace

// phase [share]: a share of the positions, 1 in so many; for slow machines.
int main(int count, char** arguments) {
  const int share = count > 1 ? std::atoi(arguments[1]) : 1;
  bool fine = test_special_positions();
  fine = test_stored_positions() && fine;
  fine = test_every_position(share) && fine;
  for (const Spec& spec : kSpecs) {
    fine = test_random_positions(spec, 20000 / share) && fine;
    fine = test_near_zeros(spec) && fine;
  }
  std::puts(fine ? "passed" : "FAILED");
  return fine ? 0 : 1;
}
