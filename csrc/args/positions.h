// CPU kernels on given positions: plain pointers in, plain pointers out.
#pragma once

#include "args/dropout.h"
#include "args/sinusoidal.h"

namespace posenc_ext::args {

// y[i] = dropout(x[i] * x_scale + table[position i]); an item is a row of x.
struct AddPositions {
  core::DType dtype;
  int64_t dim;
  const void* x;
  core::Strided x_at;  // of its rows
  int64_t x_channel_stride;
  double x_scale;
  Positions positions;  // rows of the table
  const void* table;
  int64_t table_row_stride, table_channel_stride;
  SeededDropout dropout;
  void* out;  // contiguous
  bool past_caches;
};

// out[row] = the sum of grad at the offsets terms[first[row]], ..., terms[first[row + 1] - 1], in this order;
// an item is a block of channels of a row.
struct SumPositions {
  static constexpr int64_t kBlock = 512;  // sums that stay in L1
  core::DType dtype;
  int64_t rows, dim;
  const int64_t* first;
  const int64_t* terms;
  const void* grad;
  int64_t channel_stride;
  void* out;  // contiguous

  int64_t blocks() const { return (dim + kBlock - 1) / kBlock; }
  int64_t items() const { return rows * blocks(); }
};

}  // namespace posenc_ext::args
