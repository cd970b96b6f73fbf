// Kernel arguments of the bias of any index.
#pragma once

#include "args/relative_bias.h"
#include "core/strided.h"

namespace posenc_ext::args {

// [samples, queries, keys]; the keys of a query of a sample are a line.
struct Index {
  const void* data;  // int32 or int64
  bool is_int64;
  core::Strided at;
  int64_t key_stride;
  int64_t samples, queries, keys;

  POSENC_HD int64_t plane() const { return queries * keys; }
  POSENC_HD int64_t lines() const { return samples * queries; }
};

// out[sample, head, query, key] = table[index[sample, query, key], head]
struct GatherForward {
  Index index;
  core::DType dtype;
  const void* table;  // [rows, heads]
  int64_t row_stride, head_stride;
  int64_t rows, heads;
  void* out;  // contiguous
};

// out[row, head] = the sum of grad[sample, head, query, key] over all places whose index is the row
struct GatherBackward {
  Index index;
  int64_t rows, heads;
  core::DType dtype;
  const void* grad;
  core::Strided grad_at;  // without heads
  int64_t grad_key_stride;
  int64_t head_stride;
  void* partial;  // the sums of the chunks that the index is split into, in the accumulator's type
  void* out;      // contiguous
};

}  // namespace posenc_ext::args
