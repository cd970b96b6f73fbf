// Counter-based dropout: whether element i is retained depends on the seed and i alone, never on threads,
// blocks or devices. Philox4x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; 16
// bits per element.
#pragma once

#include "core/host_device.h"

namespace posenc_ext::core {

constexpr int kPhiloxRounds = 10;
constexpr uint64_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;  // multipliers of words 0 and 2
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;  // steps of the key's words

// Four random words. Each is in the low 32 bits of a Word, or of each of its lanes; above them is anything.
template <class Word>
struct Philox4 {
  Word c0, c1, c2, c3;

  // The eight draws of 16 bits: slots 0 to 3, and 4 to 7.
  POSENC_HD Word low() const { return (c0 & 0xffffffffu) | (c1 << 32); }
  POSENC_HD Word high() const { return (c2 & 0xffffffffu) | (c3 << 32); }
};

POSENC_HD uint64_t multiply_low_words(uint64_t a, uint64_t b) { return (a & 0xffffffffu) * b; }

// Word: uint64_t, or a vector of them with its own multiply_low_words(): then each lane is a counter.
template <class Word>
POSENC_HD Philox4<Word> philox_4x32_10(uint64_t key, Word counter) {
  Word c0 = counter, c1 = counter >> 32, c2{}, c3{};
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#if !defined(__CUDACC__)
#pragma GCC unroll 10  // kPhiloxRounds: in a loop, vectors do not stay in registers
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Word p0 = multiply_low_words(c0, kPhiloxM0);
    const Word p1 = multiply_low_words(c2, kPhiloxM1);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return {c0, c1, c2, c3};
}

struct Dropout {
  uint32_t threshold;  // a draw of 16 bits below this drops the element; 0 means no dropout
  double scale;        // of what is retained: 1 / (1 - p); finite where nothing is
};

POSENC_HD Dropout make_dropout(double p) {
  return {static_cast<uint32_t>(p * 65536.0 + 0.5), p < 1.0 ? 1.0 / (1.0 - p) : 0.0};
}

constexpr int64_t kDrawsPerCounter = 8;

POSENC_HD bool retains(const Dropout& dropout, uint64_t seed, int64_t i) {
  const auto random = philox_4x32_10(seed, static_cast<uint64_t>(i / kDrawsPerCounter));
  const int64_t slot = i % kDrawsPerCounter;
  return (((slot < 4 ? random.low() : random.high()) >> (16 * (slot % 4))) & 0xffffu) >= dropout.threshold;
}

}  // namespace posenc_ext::core
