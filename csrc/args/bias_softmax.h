// Kernel arguments of softmax(scores * scale + bias + mask), where the bias is never stored.
#pragma once

#include "args/gather_bias.h"
#include "args/relative_bias.h"

namespace posenc_ext::args {

// Besides the schemes of core/schemes.h, what a bias may be given as. row(q, k): which of a head's values is
// that of a pair.

// A value for each diagonal: of the bias of T5, of ALiBi, and of every other that depends on key - query.
struct DiagonalScheme {
  int64_t query_count, key_count;

  POSENC_HD int64_t rows() const { return query_count + key_count - 1; }
  POSENC_HD int64_t queries() const { return query_count; }
  POSENC_HD int64_t keys() const { return key_count; }
  POSENC_HD int64_t row(int64_t q, int64_t k) const { return query_count - 1 - q + k; }

  // The pairs of a diagonal, from the first query on.
  static constexpr bool slots_fit = true;
  struct Slots {
    int64_t count, first_query, first_key;
  };
  POSENC_HD Slots slots(int64_t row) const {
    const int64_t q = core::max_of<int64_t>(0, query_count - 1 - row), k = row - (query_count - 1) + q;
    return {core::min_of(query_count - q, key_count - k), q, k};
  }
  POSENC_HD core::Pair pair(const Slots& s, int64_t i) const { return {s.first_query + i, s.first_key + i}; }
  int64_t max_slots() const { return core::min_of(query_count, key_count); }
};

// The row of a table for each pair.
struct IndexScheme {
  Index index;  // of one sample
  int64_t num_rows;

  POSENC_HD int64_t rows() const { return num_rows; }
  POSENC_HD int64_t queries() const { return index.queries; }
  POSENC_HD int64_t keys() const { return index.keys; }
  POSENC_HD int64_t row(int64_t q, int64_t k) const {
    const int64_t at = index.at.offset(q * index.keys) + k * index.key_stride;
    return index.is_int64 ? static_cast<const int64_t*>(index.data)[at]
                          : static_cast<const int32_t*>(index.data)[at];
  }
};

// A value for each pair.
struct PairScheme {
  int64_t query_count, key_count;

  POSENC_HD int64_t rows() const { return query_count * key_count; }
  POSENC_HD int64_t queries() const { return query_count; }
  POSENC_HD int64_t keys() const { return key_count; }
  POSENC_HD int64_t row(int64_t q, int64_t k) const { return q * key_count + k; }
};

using SoftmaxSchemes = core::SchemeList<core::WindowScheme, DiagonalScheme, IndexScheme, PairScheme>;

// What hides keys from queries.
struct Mask {
  enum class Kind : int32_t { none, shown, added, regions };
  Kind kind;
  const void* data;  // bool: whether a key is shown; what is added, in the accumulator's type; or int32
                     // regions [windows, keys]
  core::Strided batch;
  int64_t head_stride, query_stride;  // keys are adjacent
  int64_t windows;                    // of regions: sample i is window i % windows
  bool causal;                        // keys after query + q_offset are hidden
  int64_t q_offset;

  // Added to a score whose query is in another region than the key: what Swin adds (Liu et al. 2021).
  static constexpr float kOtherRegion = -100.0f;

  // How many keys, from the first on, a causal mask shows.
  POSENC_HD int64_t shown(int64_t query, int64_t keys) const {
    if (!causal) return keys;
    return core::min_of(keys, core::max_of<int64_t>(0, query + q_offset + 1));
  }
};

// Scores, grad, results are contiguous [batch, heads, queries, keys].
struct BiasSoftmax {
  core::DType dtype;
  int64_t batch;
  const void* scores;
  double scale;
  BiasForward bias;  // its table in the accumulator's type; without a result
  Mask mask;
  int64_t first_sample;  // of those that the mask has
  void* out;             // scores themselves, or no element of them

  // The same of a part of the samples and heads; scores and out are to be set.
  BiasSoftmax of_tile(int64_t sample, int64_t samples, int64_t head, int64_t heads) const {
    const int64_t sum_size = core::element_size(bias.dtype);
    BiasSoftmax tile = *this;
    tile.batch = samples;
    tile.first_sample = first_sample + sample;
    tile.bias.heads = heads;
    tile.bias.table = static_cast<const char*>(bias.table) + head * bias.head_stride * sum_size;
    if (mask.kind == Mask::Kind::shown || mask.kind == Mask::Kind::added) {
      const int64_t size = mask.kind == Mask::Kind::shown ? 1 : sum_size;
      tile.mask.data = static_cast<const char*>(mask.data) + head * mask.head_stride * size;
    }
    return tile;
  }
};

struct BiasSoftmaxBackward {
  core::DType dtype;
  int64_t batch, heads;
  const void* grad;
  const void* result;  // of the forward call
  double scale;
  void* grad_scores;
  void* partial;     // [heads, blocks, rows], in the accumulator's type
  void* grad_table;  // in the accumulator's type; null: not needed, for pairs
  int64_t row_stride, head_stride;
  bool non_temporal;     // stores of grad_scores, on the CPU
  void* dots = nullptr;  // on CUDA: [batch, heads, queries] in the accumulator's type, sums of result * grad
};

}  // namespace posenc_ext::args
