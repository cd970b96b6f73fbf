// Arguments of the kernels that add the encoding to x.
#pragma once

#include "args/dropout.h"
#include "args/sinusoidal.h"

namespace posenc_ext::args {

// y[b, l, :] = dropout(x[b, l, :] * x_scale + encoding(start + l + offset[b]))
struct AddSinusoidal {
  core::Sinusoid spec;
  int64_t batch, length;
  int64_t start;
  const void* offsets;  // null: all samples start alike
  core::PositionType offset_type;
  int64_t offset_stride;
  double x_scale;
  SeededDropout dropout;
  core::DType dtype;
  const void* x;
  int64_t x_batch_stride, x_length_stride, x_channel_stride;
  void* out;  // adjacent channels; x itself, or no element of it
  int64_t out_batch_stride, out_length_stride;
};

}  // namespace posenc_ext::args
