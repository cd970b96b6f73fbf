// Counter-based dropout: whether element i is kept depends on the seed and i alone, never on threads, blocks
// or devices. Philox4x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; 16 bits per
// element.
#pragma once

#include "core/host_device.h"

namespace posenc_ext::core {

struct Philox4 {
  uint32_t word[4];
};

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;  // multipliers of words 0 and 2
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;  // steps of the key's words

POSENC_HD Philox4 philox_4x32_10(uint64_t key, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t{kPhiloxM0} * c0;
    const uint64_t p1 = uint64_t{kPhiloxM1} * c2;
    const uint32_t next0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t next2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = next0;
    c2 = next2;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return {{c0, c1, c2, c3}};
}

struct Dropout {
  uint32_t threshold;  // a draw of 16 bits below this drops the element; 0 means no dropout
  double scale;        // of what is kept: 1 / (1 - p); finite where nothing is
};

POSENC_HD Dropout make_dropout(double p) {
  return {static_cast<uint32_t>(p * 65536.0 + 0.5), p < 1.0 ? 1.0 / (1.0 - p) : 0.0};
}

constexpr int64_t kDrawsPerCounter = 8;

POSENC_HD uint32_t draw_of(const Philox4& random, int64_t slot) {
  return (random.word[slot / 2] >> (16 * (slot % 2))) & 0xffffu;
}

POSENC_HD bool keeps(const Dropout& dropout, uint64_t seed, int64_t i) {
  const Philox4 random = philox_4x32_10(seed, static_cast<uint64_t>(i / kDrawsPerCounter));
  return draw_of(random, i % kDrawsPerCounter) >= dropout.threshold;
}

}  // namespace posenc_ext::core
