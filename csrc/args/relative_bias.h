// Kernel arguments of the relative-position biases: of every scheme of core/schemes.h, and of ALiBi.
#pragma once

#include "core/scalar.h"
#include "core/schemes.h"

namespace posenc_ext::args {

// out[head, query, key] = table[row(query, key), head]; or, of ALiBi, -table[0, head] * distance(query, key).
struct BiasForward {
  core::DType dtype;
  const void* table;  // [rows, heads]; of ALiBi [1, heads], the slopes
  int64_t row_stride, head_stride;
  int64_t heads;
  void* out;  // contiguous
};

// out[row, head] = the sum of grad[sample, head, query, key] over the batch and the pairs of the row; or, of
// ALiBi, of -distance(query, key) * grad[sample, head, query, key].
struct BiasBackward {
  core::DType dtype;
  const void* grad;
  int64_t batch, batch_stride;
  int64_t head_stride, query_stride, key_stride;
  int64_t heads;
  void* partial;  // sums that are added up at the end: kernels say of what
  void* out;      // contiguous [rows, heads]
};

// Where a long sum is split into chunks: by its length alone, so that results do not depend on the machine.
struct Chunks {
  int64_t size, count;
};

// out[row, head] = the sum of partial[head, block, row] over the blocks, in their order.
struct BiasReduce {
  core::DType dtype;
  int64_t rows, heads, blocks;
  const void* partial;  // in the accumulator's type
  void* out;
  int64_t row_stride, head_stride;
};

}  // namespace posenc_ext::args
