// Rounding and dropout of what a kernel stores.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/simd/level.h"
#include "cpu/simd/store-inl.h"
#include "cpu/simd/vec-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <int N>
inline Vec<uint64_t, N> multiply_low_words(Vec<uint64_t, N> a, uint64_t b) {
  return multiply_low_words(a, broadcast<N>(b));
}

// The draws of up to kBlock elements: 16 bits each.
struct Draws {
  static constexpr int64_t kBlock = 256;
  // Counters in four native vectors, so that no product waits for the one before.
  static constexpr int64_t kCounters = POSENC_VECTOR_BYTES / 2;
  alignas(64) uint16_t draw[kBlock + 64];  // vectors may read beyond the block

  // Of the elements from `first` on, which is a multiple of eight.
  void fill(const SeededDropout& d, int64_t first, int64_t count) {
    const uint64_t counter = static_cast<uint64_t>(first / kDrawsPerCounter);
    const int64_t counters = (count + kDrawsPerCounter - 1) / kDrawsPerCounter;
    int64_t i = 0;
    for (; i + kCounters <= counters; i += kCounters) fill<kCounters>(d, counter, i);
    for (; i < counters; i += 8) fill<8>(d, counter, i);
    if (d.dropout.threshold > 0xffff) memset(draw, 0, sizeof(draw));  // all is dropped
  }

  template <int N>
  void fill(const SeededDropout& d, uint64_t counter, int64_t i) {
    const auto random = philox_4x32_10(static_cast<uint64_t>(*d.seed),
                                       lanes<uint64_t, N>() + (counter + static_cast<uint64_t>(i)));
    store(reinterpret_cast<uint64_t*>(draw + i * kDrawsPerCounter), interleave(random.low(), random.high()));
  }
};

// y[c, c + n) = round(term(c, n) * scale), then dropout, for all c < count. Terms are vectors of Sum; `first`
// is the linear index of y[0]. With dropout, `scale` is that of the elements it retains.
template <class Sum, class T, class Term>
inline void store_row(const SeededDropout& d, Sum scale, bool non_temporal, int64_t first, int64_t count,
                      T* y, Term term) {
  constexpr int N = kLineElements<T>;
  if (!d.drops()) {
    write_row<N>(non_temporal, count, y, [=](int64_t c, int64_t n) { return round_to<T>(term(c, n)); });
    return;
  }
  using Bits = std::make_unsigned_t<MaskOf<T>>;
  const auto least = broadcast<N>(static_cast<Bits>(min_of(d.dropout.threshold, 0xffffu)));
  Draws draws;
  for (int64_t begin = 0, block; begin < count; begin += block) {
    const int64_t before = (first + begin) % kDrawsPerCounter;
    block = min_of(Draws::kBlock - before, count - begin);
    draws.fill(d, first + begin - before, before + block);
    write_row<N>(non_temporal, block, y + begin, [=, &draws](int64_t c, int64_t n) {
      const auto retained = convert<Bits>(load<N>(draws.draw + before + c)) >= least;
      const auto sum = round_to<T>(term(begin + c, n) * scale);
      // Bits, not a product with zero: the term may be infinite.
      return cast_bits<T>(cast_bits<Bits>(sum) & cast_bits<Bits>(retained));
    });
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
