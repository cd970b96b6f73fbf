// CUDA kernels of the sinusoids: plain device pointers and a stream. Counterpart of cpu/kernels/sinusoidal.h.
#pragma once

#include <cuda_runtime_api.h>

#include "core/scalar.h"
#include "core/sinusoid.h"
#include "core/strided.h"
#include "cuda/kernels/dropout.h"

namespace posenc_ext::cuda {

struct Positions {
  const void* data;  // null: position of item i is start + i
  core::PositionType type;
  core::Strided at;
  int64_t start;
};

// out[i, c] for i < count: the encoding of position i, or its derivative of this order in the position.
struct SinusoidRows {
  core::Sinusoid spec;
  Positions positions;
  int32_t order;
  core::DType dtype;
  void* out;
  int64_t row_stride, channel_stride;
  int64_t count;
};

// out[i] = sum over channels c of grad[i, c] * (derivative of order `order` at position i), i < count
struct SinusoidBackward {
  core::Sinusoid spec;
  Positions positions;
  int32_t order;
  core::DType grad_dtype;
  const void* grad;
  core::Strided grad_row;
  int64_t grad_channel_stride;
  core::DType dtype;
  void* out;
  int64_t count;
};

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
  void* out;  // channels lie side by side
  int64_t out_batch_stride, out_length_stride;
};

// y[i] = x[i] * scale, then dropout, for i < total
struct ScaleDropout {
  double scale;
  SeededDropout dropout;
  core::DType dtype;
  const void* x;
  core::Strided at;
  int64_t total;
  void* out;  // contiguous
};

// Each needs at least one element of work.
void sinusoid_rows(const SinusoidRows&, cudaStream_t);
void sinusoid_backward(const SinusoidBackward&, cudaStream_t);
void add_sinusoidal(const AddSinusoidal&, cudaStream_t);
void scale_dropout(const ScaleDropout&, cudaStream_t);

}  // namespace posenc_ext::cuda
