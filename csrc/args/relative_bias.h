// CPU kernels of the relative-position biases, for every scheme of core/schemes.h.
#pragma once

#include "core/scalar.h"
#include "core/schemes.h"

namespace posenc_ext::args {

// Queries that share a strip of rows, few enough for it to stay in the caches.
constexpr int64_t kStretchQueries = 512;

// Heads whose tables are turned around together: a line of a table is read, or written, once for as many.
constexpr int64_t kHeadsAtOnce = 4;

constexpr int64_t kMaxMove = 64;    // bytes
constexpr int64_t kSmallWidth = 8;  // windows as wide as this sum up their adjoint in registers
constexpr int64_t kLineSlack = 8;   // sums beyond a line's, to which the end of its last run adds zeros

template <class Scheme>
int64_t max_strip(const Scheme& s) {
  return core::min_of(kStretchQueries, s.queries()) - 1 + s.keys();
}

// out[head, query, key] = table[row(query, key), head]; an item is one query of one head.
struct BiasForward {
  int64_t element_size;  // a gather copies bits: only the size of an element matters
  const void* table;
  int64_t row_stride, head_stride;
  bool past_caches;  // write with non-temporal stores
  void* out;         // contiguous

  // Memory that a call needs to itself.
  template <class Scheme>
  int64_t scratch_bytes(const Scheme& s) const {
    return (s.rows() + max_strip(s)) * element_size;
  }
  // Reversed tables of some heads, and a row in whole lines; a move may reach beyond it.
  int64_t scratch_bytes(const core::WindowScheme& s) const {
    return (kHeadsAtOnce * s.rows() + s.keys()) * element_size + 2 * kMaxMove;
  }
};

// Sums of one head over one block of the parts that its queries fall into; an item is such a block. Blocks
// are cut by size, never by thread count.
struct BiasBackward {
  // Queries; of windows, lines of cells that differ on the last axis alone.
  template <class Scheme>
  static int64_t parts(const Scheme& s) {
    return s.queries();
  }
  static int64_t parts(const core::WindowScheme& s) { return s.window[0] * s.window[1]; }

  core::DType dtype;
  const void* grad;
  int64_t head_stride, query_stride, key_stride;
  int64_t heads;
  int64_t parts_per_block, blocks;  // per head
  void* partial;  // [heads, blocks, rows], rows in descending order, accumulator type; unused for one block
  void* out;      // contiguous [rows, heads]; written where there is one block

  template <class Scheme>
  int64_t scratch_bytes(const Scheme& s, int64_t sum_size) const {
    return (s.rows() + max_strip(s)) * sum_size;
  }
  // Of a head's gradient, where small windows may turn all of it to floats first.
  int64_t widened_elements(const core::WindowScheme& s) const {
    constexpr int64_t kMost = 65 * 65;  // with the rest, this fits memory that needs no allocation
    const bool half = dtype == core::DType::float16 || dtype == core::DType::bfloat16;
    return half && s.queries() * s.keys() <= kMost ? s.queries() * s.keys() : 0;
  }
  // Small windows: sums of one head and a little more, rounded ones of some heads, and one that is widened.
  // Others: the sums of a line and a little more, and where they are expanded of each of its cells.
  int64_t scratch_bytes(const core::WindowScheme& s, int64_t sum_size) const {
    const int64_t small = kHeadsAtOnce * s.rows() + 2 * kSmallWidth + widened_elements(s);
    const int64_t cells = s.is_expanded() ? s.window[2] * s.keys() : 0;
    const int64_t large = s.runs().outer * s.line_span() + kLineSlack + cells;
    return (s.rows() + core::max_of(small, large)) * sum_size;
  }
};

// table [rows, heads] of any strides -> contiguous [heads, rows], rows in descending order.
struct ReverseTable {
  int64_t element_size;
  int64_t rows;
  const void* table;
  int64_t row_stride, head_stride;
  void* reversed_table;
};

// out[row, head] = the partial sums of that head, added in the order of blocks; an item is one head.
struct BiasReduce {
  core::DType dtype;
  int64_t rows, heads, blocks;
  const void* partial;
  void* out;  // contiguous [rows, heads]
};

}  // namespace posenc_ext::args
