// CPU kernels of the relative-position biases, for every scheme of core/schemes.h.
#pragma once

#include "core/scalar.h"
#include "core/schemes.h"
#include "cpu/kernels/levels.h"

namespace posenc_ext::cpu {

// out[head, query, key] = table[row(query, key), head]; an item is one query of one head.
struct BiasForward {
  int64_t element_size;        // a gather copies bits: only the size of an element matters
  const void* reversed_table;  // [heads, rows], rows in descending order: a run with step -1 is then one copy
  void* out;                   // contiguous
};

// table [rows, heads] of any strides -> contiguous [heads, rows], rows in descending order.
struct ReverseTable {
  int64_t element_size;
  int64_t rows;
  const void* table;
  int64_t row_stride, head_stride;
  void* reversed_table;
};

// Partial sums of one head over one block of queries; an item is such a block. Blocks are cut by size, never
// by thread count.
struct BiasBackward {
  static constexpr int64_t kBlockElements = 32768;
  core::DType dtype;
  const void* grad;
  int64_t head_stride, query_stride, key_stride;
  int64_t blocks;  // per head
  void* partial;   // [heads, blocks, rows], rows in descending order, accumulator type

  static int64_t queries_per_block(int64_t keys) { return core::max_of<int64_t>(1, kBlockElements / keys); }
};

// out[row, head] = the partial sums of that head, added in the order of blocks; an item is one head.
struct BiasReduce {
  core::DType dtype;
  int64_t rows, heads, blocks;
  const void* partial;
  void* out;  // contiguous [rows, heads]
};

#define POSENC_DECLARE(level)                                          \
  namespace level {                                                    \
  void reverse_table(const ReverseTable&, int64_t begin, int64_t end); \
  void bias_reduce(const BiasReduce&, int64_t begin, int64_t end);     \
  }
POSENC_LEVELS(POSENC_DECLARE)
#undef POSENC_DECLARE

#define POSENC_DECLARE_SCHEME(level, Scheme)                                                \
  namespace level {                                                                         \
  void bias_forward(const core::Scheme&, const BiasForward&, int64_t begin, int64_t end);   \
  void bias_backward(const core::Scheme&, const BiasBackward&, int64_t begin, int64_t end); \
  }
#define POSENC_DECLARE(Scheme)            \
  POSENC_DECLARE_SCHEME(baseline, Scheme) \
  POSENC_DECLARE_SCHEME(avx2, Scheme)     \
  POSENC_DECLARE_SCHEME(avx512, Scheme)
POSENC_SCHEMES(POSENC_DECLARE)
#undef POSENC_DECLARE
#undef POSENC_DECLARE_SCHEME

}  // namespace posenc_ext::cpu
