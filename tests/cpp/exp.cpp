// core::exp_of_negative of every float32 that is at most 0, and of every NaN, at the level that this is
// compiled for: the same bits as a vector and as a number, monotonic, and within the bounds that
// csrc/core/exp.h states. Of float64: random numbers and the ends of its range. Prints a hash of the results
// of each exponent, to be compared between levels. Arguments: a number of threads; "errors", to compare with
// e^x.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "cpu/simd/vec-inl.h"

namespace {

using namespace posenc_ext;
using namespace posenc_ext::cpu::POSENC_LEVEL;

constexpr int kChunk = 4096;
constexpr uint32_t kMantissas = 1 << 23;

// Results of x.
template <class T>
void vectors(const T* x, T* y) {
  constexpr int N = 64 / sizeof(T);
  for (int i = 0; i < kChunk; i += N) store(y + i, exp_of_negative<T>(load<N>(x + i)));
}

template <class T>
void numbers(const T* x, T* y) {
  for (int i = 0; i < kChunk; ++i) y[i] = exp_of_negative<T>(x[i]);
}

struct Found {
  double error = 0.0, above = 0.0, below = 0.0;  // in units of the last place
  float at = 0.0f;                               // x of the largest error
  // The largest x whose result is 0; the least whose result is not.
  float zero = -std::numeric_limits<float>::infinity(), least = 0.0f;
  int64_t differ = 0, increase = 0, wrong = 0;

  void merge(const Found& other) {
    if (other.error > error) error = other.error, at = other.at;
    above = std::max(above, other.above), below = std::max(below, other.below);
    zero = std::max(zero, other.zero), least = std::min(least, other.least);
    differ += other.differ, increase += other.increase, wrong += other.wrong;
  }
};

// The error of e^x in units in the last place of float32; std::exp adds at most 2^-28 of one.
double error_in_units(float x, float got) {
  const double exact = x > -0x1p-26f ? 1.0 + static_cast<double>(x) : std::exp(static_cast<double>(x));
  const uint64_t exponent = bit_cast<uint64_t>(exact) >> 52;
  return (got - exact) * bit_cast<double>((2 * 1023 + 23 - exponent) << 52);
}

double error_in_units(double x, double got) {
  const long double exact = std::exp(static_cast<long double>(x));
  return static_cast<double>((got - exact) * std::ldexp(1.0L, 52 - std::ilogb(exact)));
}

// Of the float32 numbers of an exponent, from the least on in magnitude; and their hash.
Found check_exponent(uint32_t exponent, uint32_t sign, bool errors, uint64_t& hash) {
  std::vector<float> x(kChunk), y(kChunk), z(kChunk);
  Found found;
  uint32_t lanes[16] = {};
  float last = std::numeric_limits<float>::infinity();
  const bool finite = exponent < 255;
  for (uint32_t first = 0; first < kMantissas; first += kChunk) {
    for (uint32_t i = 0; i < kChunk; ++i) x[i] = bit_cast<float>(sign << 31 | exponent << 23 | (first + i));
    vectors(x.data(), y.data()), numbers(x.data(), z.data());
    for (int i = 0; i < kChunk; i += 16) {
      for (int j = 0; j < 16; ++j) lanes[j] = lanes[j] * 0x01000193u + bit_cast<uint32_t>(y[i + j]);
    }
    int64_t differ = 0;
    for (int i = 0; i < kChunk; ++i) differ += bit_cast<uint32_t>(y[i]) != bit_cast<uint32_t>(z[i]);
    if (!finite) {
      for (int i = 0; i < kChunk; ++i) {
        const bool fine = std::isnan(x[i]) ? std::isnan(y[i]) && std::isnan(z[i]) : y[i] == 0.0f;
        found.wrong += !fine && !(x[i] > 0.0f);
      }
      continue;  // the bits of a NaN may be those of any
    }
    found.differ += differ;
    int64_t increase = y[0] > last;
    for (int i = 1; i < kChunk; ++i) increase += y[i] > y[i - 1];
    found.increase += increase, last = y[kChunk - 1];
    for (int i = 0; errors && i < kChunk; ++i) {
      if (y[i] == 0.0f) {
        found.zero = std::max(found.zero, x[i]);
        continue;
      }
      found.least = std::min(found.least, x[i]);
      const double error = error_in_units(x[i], y[i]);
      found.above = std::max(found.above, error), found.below = std::max(found.below, -error);
      if (!(std::fabs(error) <= found.error)) found.error = std::fabs(error), found.at = x[i];
    }
  }
  hash = 0;
  for (const uint32_t lane : lanes) hash = hash * 0x100000001b3u + lane;
  return found;
}

bool test_float(int threads, bool errors) {
  std::vector<uint64_t> hashes(257);
  std::atomic<uint32_t> next{0};
  std::mutex mutex;
  Found all;
  const auto work = [&] {
    for (uint32_t item; (item = next++) <= 256;) {  // the last: NaN without a sign
      const Found found = check_exponent(std::min(item, 255u), item <= 255, errors, hashes[item]);
      const std::lock_guard lock(mutex);
      all.merge(found);
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  for (int exponent = 0; exponent < 255; ++exponent) {
    std::printf("2^%d %016llx\n", exponent - 127, static_cast<unsigned long long>(hashes[exponent]));
  }
  std::printf(
      "float32: at most %.4f units above, %.4f below, at %a; 0 to %a, not 0 from %a; %lld bits differ from "
      "numbers, "
      "%lld increases, %lld wrong NaN or infinities\n",
      all.above, all.below, all.at, all.zero, all.least, static_cast<long long>(all.differ),
      static_cast<long long>(all.increase), static_cast<long long>(all.wrong));
  const float least = core::Exp<float>::kLeast;
  const bool within = !errors || (all.error <= 1.012 && all.least == least &&
                                  all.zero == std::nextafter(least, -1000.0f) && least > std::log(0x1p-126));
  return within && all.differ == 0 && all.increase == 0 && all.wrong == 0;
}

bool test_double() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kLeast = core::Exp<double>::kLeast;
  std::vector<double> x = {0.0,
                           -0.0,
                           -0x1p-1074,
                           -0x1p-1022,
                           -0x1p-54,
                           -0x1p-53,
                           -0x1.62e42fefa39efp-2,
                           -1.0,
                           kLeast,
                           std::nextafter(kLeast, 0.0),
                           std::nextafter(kLeast, -kInfinity),
                           -745.2,
                           -0x1p+52,
                           -std::numeric_limits<double>::max(),
                           -kInfinity,
                           std::numeric_limits<double>::quiet_NaN(),
                           bit_cast<double>(uint64_t{0x7ff8000000000001}),
                           bit_cast<double>(~uint64_t{0})};
  std::mt19937_64 random(11);
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  while (x.size() < 300 * kChunk) {
    x.push_back(-708.5 * uniform());
    x.push_back(-std::exp2(64.0 * uniform() - 54.0));
    x.push_back(-uniform());
    // Next to where n changes.
    x.push_back(-(std::floor(1022.0 * uniform()) + 0.5) * 0.6931471805599453 *
                (1.0 + (uniform() - 0.5) * 0x1p-40));
  }
  std::vector<double> y(kChunk), z(kChunk);
  double most = 0.0;
  int64_t differ = 0, wrong = 0;
  uint64_t hash = 0;
  for (size_t first = 0; first + kChunk <= x.size(); first += kChunk) {
    vectors(&x[first], y.data()), numbers(&x[first], z.data());
    for (int i = 0; i < kChunk; ++i) {
      const double at = x[first + i];
      if (std::isnan(at)) {
        wrong += !std::isnan(y[i]) || !std::isnan(z[i]);
        continue;
      }
      differ += bit_cast<uint64_t>(y[i]) != bit_cast<uint64_t>(z[i]);
      hash = (hash ^ bit_cast<uint64_t>(y[i])) * 0x100000001b3u;
      if (at < kLeast) {
        wrong += y[i] != 0.0;
      } else {
        const double error = std::fabs(error_in_units(at, y[i]));
        most = error <= most ? most : error;
      }
    }
  }
  std::printf("float64 %016llx\n", static_cast<unsigned long long>(hash));
  std::printf("float64: at most %.4f units; %lld bits differ from numbers, %lld wrong\n", most,
              static_cast<long long>(differ), static_cast<long long>(wrong));
  return most <= 1.0 && differ == 0 && wrong == 0;
}

}  // namespace

int main(int count, char** argv) {
  const bool floats = test_float(std::atoi(argv[1]), count > 2), doubles = test_double();
  std::printf(floats && doubles ? "passed\n" : "FAILED\n");
  return floats && doubles ? 0 : 1;
}
