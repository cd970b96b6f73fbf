// CPU kernels of the bias of any index. Work is cut into lines: the K pairs of one query of one sample.
#pragma once

#include "core/scalar.h"
#include "core/strided.h"

namespace posenc_ext::args {

struct LinesOfIndex {
  const void* data;  // int32 or int64
  bool wide;         // int64
  core::Strided line;
  int64_t key_stride;
  int64_t queries, keys;  // a line's place in the result: sample line / queries, query line % queries
};

// out[sample, head, query, key] = table[index[sample, query, key], head]; an item is one line.
struct GatherForward {
  LinesOfIndex index;
  int64_t element_size;        // a gather copies bits: only the size of an element matters
  const void* reversed_table;  // [heads, rows], rows in descending order, as for the schemes
  int64_t rows, heads;
  void* out;         // contiguous
  bool past_caches;  // how it is written
};

// Sums of one head over one block of lines, per row; an item is such a block. Blocks are cut by size, never
// by thread count; BiasReduce adds them.
struct GatherBackward {
  LinesOfIndex index;
  int64_t lines, lines_per_block, blocks;
  int64_t rows;
  core::DType dtype;
  const void* grad;
  core::Strided sample;  // of the gradient's batch dimensions
  int64_t head_stride, query_stride, key_stride;
  void* partial;  // [heads, blocks, rows], rows in descending order, accumulator type
};

}  // namespace posenc_ext::args
