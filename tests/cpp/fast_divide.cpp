// core/fast_divide.h against the division of the processor: every divisor at its edges, all small numbers,
// random ones.
#include "core/fast_divide.h"

#include <cstdio>
#include <random>
#include <vector>

namespace {

using namespace posenc_ext::core;

int64_t checked = 0;

bool check(const FastDivide& divide, uint32_t n) {
  ++checked;
  const uint32_t quotient = divide.quotient(n);
  if (quotient == n / divide.divisor && divide.remainder(n, quotient) == n % divide.divisor) return true;
  std::printf("FAILED %u / %u\n", n, divide.divisor);
  return false;
}

// Around the multiples of the divisor, of which the last below 2^32 is the hardest, and around 2^31 and 2^32.
bool check_edges(uint32_t divisor, std::mt19937& random) {
  const FastDivide divide = make_fast_divide(divisor);
  const uint64_t multiples[] = {0,
                                1,
                                2,
                                (uint64_t{1} << 32) / divisor,
                                (uint64_t{1} << 31) / divisor,
                                random() % ((uint64_t{1} << 32) / divisor + 1)};
  for (const uint64_t multiple : multiples) {
    const uint32_t n = static_cast<uint32_t>(multiple * divisor);
    for (const uint32_t near : {n - 1, n, n + 1}) {
      if (!check(divide, near)) return false;
    }
  }
  for (const uint32_t n :
       {0x7fffffffu, 0x80000000u, 0xfffffffeu, 0xffffffffu, static_cast<uint32_t>(random())}) {
    if (!check(divide, n)) return false;
  }
  return true;
}

// Beyond 32 bits the processor divides.
bool check_wide() {
  for (const int64_t end : {int64_t{1000}, kFastLimit - 1, kFastLimit, kFastLimit + 1, int64_t{1} << 40}) {
    for (const int64_t divisor : {int64_t{1}, int64_t{49}, kFastLimit - 1, kFastLimit, kFastLimit + 5}) {
      const Divide divide = make_divide(divisor, end);
      for (const int64_t n : {int64_t{0}, end / 2, end - 1}) {
        ++checked;
        if (divide.quotient(n) == n / divisor) continue;
        std::printf("FAILED %lld / %lld\n", static_cast<long long>(n), static_cast<long long>(divisor));
        return false;
      }
    }
  }
  return true;
}

}  // namespace

int main() {
  if (!check_wide()) return 1;
  std::mt19937 random(5);
  for (uint32_t divisor = 1; divisor <= 300; ++divisor) {
    const FastDivide divide = make_fast_divide(divisor);
    for (uint32_t n = 0; n < 100000; ++n) {
      if (!check(divide, n)) return 1;
    }
  }
  for (uint32_t divisor = 1; divisor < 2000000; ++divisor) {
    if (!check_edges(divisor, random)) return 1;
  }
  for (int i = 0; i < 32; ++i) {  // powers of two and their neighbours, and the largest
    for (const uint32_t divisor :
         {(1u << i) - 1, 1u << i, (1u << i) + 1, 0xffffffffu - static_cast<uint32_t>(i)}) {
      if (divisor != 0 && !check_edges(divisor, random)) return 1;
    }
  }
  for (int i = 0; i < 1000000; ++i) {
    const uint32_t divisor = static_cast<uint32_t>(random()) >> (random() % 31);
    if (divisor != 0 && !check_edges(divisor, random)) return 1;
  }
  std::printf("%lld quotients\n", static_cast<long long>(checked));
  return 0;
}
