// Rounding and dropout of what a kernel stores; compiled once per CPU level by level_*.cpp, inside the
// level's namespace, before the bodies that use it.

namespace {

// Counters worked on at a time, one per lane of 64 bits.
typedef uint64_t Lanes __attribute__((vector_size(POSENC_VECTOR_BYTES)));
constexpr int64_t kLanes = POSENC_VECTOR_BYTES / 8;

// The products of the low words of every lane; the high words are left out of account.
inline Lanes multiply_words(Lanes a, Lanes b) {
#if !defined(__x86_64__)
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#elif POSENC_VECTOR_BYTES == 64
  return reinterpret_cast<Lanes>(
      _mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif POSENC_VECTOR_BYTES == 32
  return reinterpret_cast<Lanes>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return reinterpret_cast<Lanes>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#endif
}

// core::philox_4x32_10 for kLanes counters from `counter`: eight draws of 16 bits each, in order. Words stand
// in the low halves of lanes; the high halves hold what no product looks at.
inline void philox_draws(uint64_t key, uint64_t counter, uint64_t* draws) {
  Lanes c0, c2 = {}, c3 = {};
  for (int64_t i = 0; i < kLanes; ++i) c0[i] = counter + static_cast<uint64_t>(i);
  Lanes c1 = c0 >> 32;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Lanes p0 = multiply_words(c0, Lanes{} + uint64_t{kPhiloxM0});
    const Lanes p1 = multiply_words(c2, Lanes{} + uint64_t{kPhiloxM1});
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  const Lanes low = (c0 & 0xffffffffu) | (c1 << 32), high = (c2 & 0xffffffffu) | (c3 << 32);
  for (int64_t i = 0; i < kLanes; ++i) {
    draws[2 * i] = low[i];
    draws[2 * i + 1] = high[i];
  }
}

// Which of up to kStoreBlock elements are kept: all ones, or zero, per element.
constexpr int64_t kStoreBlock = 256;

struct Keep {
  uint16_t mask[kStoreBlock + kDrawsPerCounter * (kLanes + 1)];

  // Masks of `count` elements from linear index `first`.
  const uint16_t* fill(const SeededDropout& d, int64_t first, int64_t count) {
    const int64_t before = first % kDrawsPerCounter;
    const uint64_t counter = static_cast<uint64_t>(first / kDrawsPerCounter);
    const int64_t counters = (before + count + kDrawsPerCounter - 1) / kDrawsPerCounter;
    const uint64_t seed = static_cast<uint64_t>(*d.seed);
    const uint32_t threshold = d.dropout.threshold;
    uint64_t draws[2 * kLanes];
    for (int64_t i = 0; i < counters; i += kLanes) {
      philox_draws(seed, counter + static_cast<uint64_t>(i), draws);
      memcpy(mask + kDrawsPerCounter * i, draws, sizeof(draws));
    }
    // In 16 bits, which lack the threshold 2^16: then nothing is kept.
    const uint16_t below = static_cast<uint16_t>(min_of(threshold, uint32_t{0xffff}));
    const uint16_t all = threshold > 0xffff ? 0 : 0xffff;
    for (int64_t i = 0; i < kDrawsPerCounter * counters; ++i) {
      mask[i] = mask[i] >= below ? all : uint16_t{0};
    }
    return mask + before;
  }
};

// y[c, c + n) = round(term(c, n)), then dropout, where terms are eight doubles and `first` is the linear
// index of y[0].
template <class T, class Term>
inline void store_row(const SeededDropout& d, bool past_caches, int64_t first, int64_t count, T* y,
                      Term term) {
  if (d.seed == nullptr) {
    write_row(past_caches, count, y, [=](int64_t c, int64_t n) { return Octet<T>::round(term(c, n)); });
    return;
  }
  const Doubles scale = all_of(d.dropout.scale);
  Keep keep;
  for (int64_t c0 = 0; c0 < count; c0 += kStoreBlock) {
    const int64_t block = min_of(kStoreBlock, count - c0);
    const uint16_t* mask = keep.fill(d, first + c0, block);
    // A mask, not a product with zero: the term may be infinite.
    write_row(past_caches, block, y + c0,
              [=](int64_t c, int64_t n) { return Octet<T>::round(term(c0 + c, n) * scale).keep(mask + c); });
  }
}

}  // namespace
