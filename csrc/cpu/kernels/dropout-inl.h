// Rounding and dropout of what a kernel stores.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/simd/level.h"
#include "cpu/simd/line-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
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

// Elements whose fate one word of bits holds, and the counters that it takes.
constexpr int64_t kWord = 64, kWordCounters = kWord / kDrawsPerCounter;

struct Words {
  Lanes c0, c1, c2, c3;
};

// Vectors of counters that take turns, so that no product waits for the one before.
constexpr int64_t kInTurn = 4;

// core::philox_4x32_10 of kLanes counters in each of `count` vectors. Words stand in the low halves of lanes;
// the high halves hold what no product looks at.
template <size_t count>
inline void philox(uint64_t key, Words (&w)[count]) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10  // kPhiloxRounds: in a loop, four vectors of counters do not stay in registers
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (size_t r = 0; r < count; ++r) {
      const Lanes p0 = multiply_words(w[r].c0, Lanes{} + uint64_t{kPhiloxM0});
      const Lanes p1 = multiply_words(w[r].c2, Lanes{} + uint64_t{kPhiloxM1});
      w[r].c0 = (p1 >> 32) ^ w[r].c1 ^ k0;
      w[r].c2 = (p0 >> 32) ^ w[r].c3 ^ k1;
      w[r].c1 = p1;
      w[r].c3 = p0;
    }
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
}

// Which counter from the first a lane works on, such that kept_bits finds draws in order.
#if POSENC_VECTOR_BYTES == 64
constexpr Lanes kLaneCounter = {0, 4, 1, 5, 2, 6, 3, 7};
#elif POSENC_VECTOR_BYTES == 32
constexpr Lanes kLaneCounter = {0, 1, 2, 3};
#else
constexpr Lanes kLaneCounter = {0, 1};
#endif

// A bit for each draw of kLanes counters: whether it is `below` or more.
inline uint64_t kept_bits(const Words& w, uint16_t below) {
  const Lanes low = (w.c0 & 0xffffffffu) | (w.c1 << 32), high = (w.c2 & 0xffffffffu) | (w.c3 << 32);
#if POSENC_VECTOR_BYTES == 64
  const __m512i a = reinterpret_cast<__m512i>(low), b = reinterpret_cast<__m512i>(high);
  const __m512i bound = _mm512_set1_epi16(static_cast<int16_t>(below));
  return _mm512_cmpge_epu16_mask(_mm512_unpacklo_epi64(a, b), bound) |
         uint64_t{_mm512_cmpge_epu16_mask(_mm512_unpackhi_epi64(a, b), bound)} << 32;
#elif POSENC_VECTOR_BYTES == 32
  const __m256i a = reinterpret_cast<__m256i>(low), b = reinterpret_cast<__m256i>(high);
  const __m256i bound = _mm256_set1_epi16(static_cast<int16_t>(below));
  const auto kept = [&](__m256i draws) { return _mm256_cmpeq_epi16(_mm256_max_epu16(draws, bound), draws); };
  const __m256i bytes =
      _mm256_packs_epi16(kept(_mm256_unpacklo_epi64(a, b)), kept(_mm256_unpackhi_epi64(a, b)));
  return static_cast<uint32_t>(_mm256_movemask_epi8(bytes));
#else
  uint64_t bits = 0;
  for (int64_t i = 0; i < kLanes * kDrawsPerCounter; ++i) {
    const uint64_t four = i / 4 % 2 == 0 ? low[i / 8] : high[i / 8];
    bits |= uint64_t{static_cast<uint16_t>(four >> (16 * (i % 4))) >= below} << i;
  }
  return bits;
#endif
}

// Whether elements are kept, a bit for each of kWords * kWord elements of each of kRows. The first of each
// row stand `apart` in linear order, all at multiples of eight.
template <int kRows, int64_t kWords>
inline void draw_words(const SeededDropout& d, int64_t first, int64_t apart,
                       uint64_t (&words)[kRows][kWords]) {
  const uint64_t key = static_cast<uint64_t>(*d.seed);
  // In 16 bits, which lack the threshold 2^16: then nothing is kept.
  const uint16_t below = static_cast<uint16_t>(min_of(d.dropout.threshold, uint32_t{0xffff}));
  const uint64_t all = d.dropout.threshold > 0xffff ? 0 : ~uint64_t{0};
  uint64_t* word = words[0];
  for (int64_t i = 0; i < kRows * kWords; ++i) word[i] = 0;
  constexpr int64_t kVectors = kRows * kWords * (kWordCounters / kLanes);
  constexpr int64_t kTurns = kVectors < kInTurn ? kVectors : kInTurn;
  for (int64_t v = 0; v < kVectors; v += kTurns) {
    Words w[kTurns];
    for (int64_t i = 0; i < kTurns; ++i) {
      const int64_t k = (v + i) / (kWordCounters / kLanes), part = (v + i) % (kWordCounters / kLanes);
      const int64_t element = first + k / kWords * apart + k % kWords * kWord;
      w[i].c0 = kLaneCounter + (static_cast<uint64_t>(element / kDrawsPerCounter) + part * kLanes);
      w[i].c1 = w[i].c0 >> 32;
      w[i].c2 = w[i].c3 = Lanes{};
    }
    philox(key, w);
    for (int64_t i = 0; i < kTurns; ++i) {
      const int64_t k = (v + i) / (kWordCounters / kLanes), part = (v + i) % (kWordCounters / kLanes);
      word[k] |= (kept_bits(w[i], below) & all) << (kDrawsPerCounter * kLanes * part);
    }
  }
}

// The bits of up to kStoreBlock elements that may begin anywhere.
constexpr int64_t kStoreBlock = 256;

struct Keep {
  static constexpr int kWords = kStoreBlock / kWord + 1;
  uint64_t words[kWords + 1] = {};
  int64_t before;

  void fill(const SeededDropout& d, int64_t first, int64_t count) {
    before = first % kDrawsPerCounter;
    const int64_t needed = (before + count + kWord - 1) / kWord;
    int64_t i = 0;
    for (; i + 4 <= needed; i += 4) draw<4>(d, first - before, i);
    for (; i < needed; ++i) draw<1>(d, first - before, i);
  }

  template <int64_t count>
  void draw(const SeededDropout& d, int64_t first, int64_t i) {
    uint64_t some[1][count];
    draw_words(d, first + i * kWord, 0, some);
    memcpy(words + i, some, sizeof(some));
  }

  // Those of the elements [c, c + 8).
  uint8_t operator()(int64_t c) const {
    const int64_t at = before + c, shift = at % kWord;
    const uint64_t next = shift == 0 ? 0 : words[at / kWord + 1] << (kWord - shift);
    return static_cast<uint8_t>(words[at / kWord] >> shift | next);
  }
};

// y[c, c + n) = round(term(c, n)), then dropout, where terms are eight doubles and `first` is the linear
// index of y[0].
template <class T, class Term>
inline void store_row(const SeededDropout& d, bool past_caches, int64_t first, int64_t count, T* y,
                      Term term) {
  if (!d.drops()) {
    write_row(past_caches, count, y, [=](int64_t c, int64_t n) { return Octet<T>::round(term(c, n)); });
    return;
  }
  const Doubles scale = all_of(d.dropout.scale);
  Keep keep;
  for (int64_t c0 = 0; c0 < count; c0 += kStoreBlock) {
    const int64_t block = min_of(kStoreBlock, count - c0);
    keep.fill(d, first + c0, block);
    // Bits, not a product with zero: the term may be infinite.
    write_row(past_caches, block, y + c0, [=, &keep](int64_t c, int64_t n) {
      return Octet<T>::round(term(c0 + c, n) * scale).keep(keep(c));
    });
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
