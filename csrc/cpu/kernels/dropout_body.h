// Rounding and dropout of what a kernel stores; compiled once per CPU level by level_*.cpp, inside the
// level's namespace, before the bodies that use it.

namespace {

using namespace posenc_ext::core;

// Factors for `count` elements from linear index `first`: the dropout scale where kept, zero where dropped.
constexpr int64_t kDropoutBlock = 256;

inline void dropout_factors(const SeededDropout& d, int64_t first, int64_t count, double* factor) {
  constexpr int64_t kCounters = kDropoutBlock / kDrawsPerCounter + 1;
  uint32_t word[4 * kCounters];
  uint16_t draw[kDrawsPerCounter * kCounters];
  const int64_t first_counter = first / kDrawsPerCounter;
  const int64_t counters = (first + count - 1) / kDrawsPerCounter - first_counter + 1;
  const uint64_t seed = static_cast<uint64_t>(*d.seed);
  for (int64_t i = 0; i < counters; ++i) {
    const Philox4 random = philox_4x32_10(seed, static_cast<uint64_t>(first_counter + i));
    for (int w = 0; w < 4; ++w) word[4 * i + w] = random.word[w];
  }
  for (int64_t i = 0; i < 4 * counters; ++i) {
    draw[2 * i] = static_cast<uint16_t>(word[i]);
    draw[2 * i + 1] = static_cast<uint16_t>(word[i] >> 16);
  }
  const uint16_t* own = draw + first % kDrawsPerCounter;
  const double scale = d.dropout.scale;
  const uint32_t threshold = d.dropout.threshold;
  for (int64_t i = 0; i < count; ++i) factor[i] = own[i] >= threshold ? scale : 0.0;
}

// y[c] = round(term(c) * factor), where term gives the value before dropout and `first` is y's linear index.
template <class T, class Term>
inline void store_row(const SeededDropout& d, int64_t first, int64_t count, T* y, Term term) {
  if (d.seed == nullptr) {
    for (int64_t c = 0; c < count; ++c) y[c] = round_to<T>(term(c));
    return;
  }
  double factor[kDropoutBlock];
  for (int64_t c0 = 0; c0 < count; c0 += kDropoutBlock) {
    const int64_t block = min_of(kDropoutBlock, count - c0);
    dropout_factors(d, first + c0, block, factor);
    // A select, not a product: what is dropped is zero, also where the term is infinite.
    for (int64_t c = 0; c < block; ++c) {
      y[c0 + c] = round_to<T>(factor[c] != 0.0 ? term(c0 + c) * factor[c] : 0.0);
    }
  }
}

}  // namespace
