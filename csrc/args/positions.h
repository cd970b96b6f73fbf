// Arguments of the kernels on given positions.
#pragma once

#include "args/dropout.h"
#include "args/sinusoidal.h"

namespace posenc_ext::args {

// y[i] = dropout(x[i] * x_scale + table[position i]) for rows i < count of x
struct AddPositions {
  core::DType dtype;
  int64_t count, rows, dim;  // rows: of the table
  const void* x;
  core::Strided x_at;  // of its rows
  int64_t x_channel_stride;
  double x_scale;
  Positions positions;
  const void* table;
  int64_t table_row_stride, table_channel_stride;
  SeededDropout dropout;
  void* out;  // contiguous
};

// out[row] = the sum of the rows i < count of grad whose position is `row`, in their order
struct SumPositions {
  core::DType dtype;
  int64_t count, rows, dim;
  const void* grad;
  core::Strided grad_at;  // of its rows
  int64_t channel_stride;
  void* out;  // contiguous
};

}  // namespace posenc_ext::args
